"""The broker for tests is formatted with ids that its tool takes as such."""

from __future__ import annotations

import secrets

import pytest

from shared.testing import kafka


def test_an_id_that_would_be_taken_for_an_option_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = iter([b"\xf8" * 16, b"\xfb" * 16, b"\x00" * 16])
    monkeypatch.setattr(secrets, "token_bytes", lambda count: next(drawn))
    assert kafka._cluster_id() == "A" * 22
