"""Whatever is killed at whatever moment: nothing is lost, nothing is done twice, all ends."""

from __future__ import annotations

import os
import time

import pytest

from tests.acceptance import crash
from tests.failures import failure_mode

TRIALS_S_MAX = 180.0
BUSY_LOAD_PER_CORE = 3.0
"""The trials themselves make 1 to 2: above this other work takes their time."""


@failure_mode(
    "A service",
    "dead",
    sees=(
        "Its jobs stand still for as long as its lease (15 s) unless another copy runs; "
        "scripts that were cut off are shown *unknown*."
    ),
    does=(
        "Start it again, or let the supervisor do so. Look at scripts shown *unknown* "
        "yourself: they are not run again."
    ),
)
def test_trials_with_kill_9_lose_and_double_nothing(
    postgres_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    code = crash.main(["--n", "6", "--operation", "test"])
    took_s = time.monotonic() - began
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "lost=0 doubled=0 unfinished=0 " in said.out.splitlines()[-1]
    busy = os.getloadavg()[1] > BUSY_LOAD_PER_CORE * (os.cpu_count() or 1)
    assert took_s < TRIALS_S_MAX or busy, said.err


def test_a_kill_in_every_stage_there_and_back_loses_and_doubles_nothing(
    postgres_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = crash.main(["--n", "1", "--operation", "chain"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "lost=0 doubled=0 unfinished=0 " in said.out.splitlines()[-1]
