"""Whatever is killed at whatever moment: nothing is lost, nothing is done twice, all ends."""

from __future__ import annotations

import pytest

from tests.acceptance import crash


def test_twelve_trials_with_kill_9_lose_and_double_nothing(
    postgres_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = crash.main(["--n", "12"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "lost=0 doubled=0 unfinished=0 " in said.out.splitlines()[-1]
