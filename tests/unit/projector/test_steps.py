"""How often a step was tried does not depend on the order in which news of it comes."""

from __future__ import annotations

import datetime as dt

import pytest

from schemas.common import ScriptReport, StepTiming
from schemas.folds import steps

NOW = dt.datetime(2026, 11, 29, 9, tzinfo=dt.UTC)
LISTED = steps.listed(("wait-ready", "post-script"))


@pytest.mark.parametrize("announced", [True, False])
def test_a_script_that_starts_once_is_one_attempt(announced: bool) -> None:
    before = steps.ended(LISTED, StepTiming(name="wait-ready", state="completed"))
    if announced:
        before = steps.next_begun(before, NOW)
    after = steps.script_begun(before, "post-script", NOW, run=1)
    assert [(step.state, step.attempts) for step in after] == [("completed", 1), ("running", 1)]


def test_a_start_given_anew_is_of_the_same_run_and_a_second_run_is_not() -> None:
    first = steps.script_begun(LISTED, "post-script", NOW, run=1)
    again = steps.script_begun(first, "post-script", NOW, run=1)
    assert again[1].attempts == 1
    report = ScriptReport(outcome="failed")
    ended = steps.script_ended(again, "post-script", report)
    assert steps.script_begun(ended, "post-script", NOW, run=2)[1].attempts == 2
