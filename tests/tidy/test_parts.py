"""Absent parts skip with their reason, fail where they are required, and are listed at the end."""

from __future__ import annotations

import pytest

from tests import parts


@pytest.fixture(autouse=True)
def own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "absent", {})


@pytest.mark.parametrize("value", [None, "", "0"])
def test_absent_part_skips_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("REQUIRE_GO", raising=False)
    if value is not None:
        monkeypatch.setenv("REQUIRE_GO", value)
    with pytest.raises(pytest.skip.Exception, match="go is absent: not installed"):
        parts.require("go", "not installed")
    assert parts.absent == {"go": "not installed"}


def test_absent_part_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_GO", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_GO=1"):
        parts.require("go", "not installed")


def test_go_that_is_not_on_the_path_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("REQUIRE_GO", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no `go` on PATH"):
        parts.require_go()
