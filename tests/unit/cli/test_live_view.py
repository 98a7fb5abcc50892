"""The live view of jobs of every kind, drawn from recorded events: what a person sees at 3 a.m."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from services.cli import output
from services.cli.live import lines, parts, waits
from services.cli.live.advice import advice
from tests.unit.cli import scenes
from tests.unit.cli.scenes import SCENES, VIEWS, drawn


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Moments as clock times in UTC, wherever and whenever the test runs."""
    scenes.fix_moments(monkeypatch.setattr)
    yield


@pytest.mark.parametrize("name", SCENES)
def test_a_look_is_drawn_as_recorded(name: str) -> None:
    found = drawn(SCENES[name]())
    assert found == (VIEWS / f"{name}.txt").read_text(encoding="utf-8"), found


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", SCENES)
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    for line in drawn(SCENES[name](), width=width).splitlines():
        assert len(line) <= width, line


@pytest.mark.parametrize("height", [12, 24, 60])
def test_sixty_vms_fit_the_height_they_are_given(height: int) -> None:
    text = drawn(SCENES["many"](), height=height)
    assert len(text.splitlines()) <= height
    assert "vm-33" in text, "the one that failed is shown however little room there is"


def test_commands_are_whole_however_narrow_the_terminal_is() -> None:
    """Where one is broken, a shell that it is pasted into reads it as one."""
    text = re.sub(r" \\\n *", " ", drawn(SCENES["window"](), width=50))
    for each in advice(SCENES["window"]().job):
        assert f"    {each.command}\n" in text


def test_a_terminal_without_our_signs_gets_plain_ones() -> None:
    text = drawn(SCENES["budgets"](), encoding="latin-1")
    assert text.isascii() and "#" in text


def test_bars_of_full_and_empty_differ_without_colours() -> None:
    assert lines.bar(0).plain != lines.bar(50).plain != lines.bar(100).plain


def test_silence_is_told_and_that_the_job_goes_on() -> None:
    seen = msgspec.structs.replace(SCENES["budgets"](), silent_s=12.0)
    assert "no answer from the control plane for 12s; the job goes on" in drawn(seen)


def test_a_delay_that_is_over_is_no_reason_any_more() -> None:
    seen = SCENES["boot-delay"]()
    assert waits.of_order(seen, 2).startswith("opens in")
    later = msgspec.structs.replace(seen, now=seen.now + dt.timedelta(minutes=5))
    assert waits.of_order(later, 2) == ""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0s"), (59.6, "1m 00s"), (130, "2m 10s"), (3_900, "1h 05m"), (273_600, "3d 4h")],
)
def test_spans_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert output.span(seconds) == told


def test_what_was_committed_or_cleaned_asks_for_nothing() -> None:
    job = {**SCENES["window"]().job, "awaits_commit": False, "state": "completed", "error": None}
    assert advice(job) == []


def test_a_part_without_steps_shows_its_state() -> None:
    seen = SCENES["budgets"]()
    part = {**seen.parts[0], "steps": [], "state": "queued", "id": "x"}
    assert parts.now_of(seen, part).plain == "queued"


def test_work_that_nothing_blocks_is_no_reason_unless_nobody_takes_it_up() -> None:
    seen = SCENES["budgets"]()
    free = {**seen.queue.work[seen.parts[1]["id"]][0], "blocked_by": []}
    queue = msgspec.structs.replace(seen.queue, work={seen.parts[1]["id"]: [free]})
    seen = msgspec.structs.replace(seen, queue=queue)
    assert waits.of_part(seen, seen.parts[1]) == ""
    late = msgspec.structs.replace(seen, now=seen.now + dt.timedelta(seconds=3))
    assert waits.of_part(late, late.parts[1]) == "is number 2 in the queue"


def test_nothing_that_came_up_is_nothing_to_keep() -> None:
    job = SCENES["window"]().job
    none = {**job, "vms": {**job["vms"], "ready": 0}}
    assert any("seawall commit" in each.command for each in advice(job))
    assert not any("seawall commit" in each.command for each in advice(none))
    assert any("seawall rollback" in each.command for each in advice(none))


@pytest.mark.parametrize(
    ("ready", "unfenced", "word"), [(2, 0, True), (2, 1, False), (3, 0, False)]
)
def test_the_commit_is_named_with_the_word_that_it_wants(
    ready: int, unfenced: int, word: bool
) -> None:
    job = SCENES["window"]().job
    job = {**job, "vms": {**job["vms"], "total": 3, "ready": ready}}
    job = {**job, "facts": {**job["facts"], "source_failed": unfenced}}
    (keep,) = [each.command for each in advice(job) if "seawall commit" in each.command]
    assert keep.endswith("--without-failed") == word


@pytest.mark.parametrize(
    ("kind", "facts"), [("commit", {"without": ["db"]}), ("cleanup", {"vms": ["db"]})]
)
def test_a_removal_that_left_something_is_the_commits_to_repeat(
    kind: str, facts: dict[str, list[str]]
) -> None:
    job = {**SCENES["window"]().job, "kind": kind, "state": "failed", "awaits_commit": False}
    job = {**job, "recovery": "recovery:shop:r1", "facts": facts}
    commands = [each.command for each in advice(job)]
    assert "seawall commit recovery:shop:r1 --without-failed --wait" in commands


def test_showing_a_job_without_its_parts_says_where_their_questions_are() -> None:
    seen = SCENES["asking-vm"]()
    assert advice(seen.job)[0].command == (
        f"seawall job list --parent {seen.job['id']} --state waiting"
    )
    assert "job answer" in advice(seen.job, seen.parts)[0].command


def test_what_is_undone_by_itself_asks_for_nothing_but_watching() -> None:
    job = {**SCENES["window"]().job, "facts": {"undone_by": "rollback:shop:auto-r1"}}
    assert [each.command for each in advice(job)] == ["seawall job watch rollback:shop:auto-r1"]


@pytest.mark.parametrize(
    ("facts", "offered"),
    [
        ({"untouched": True}, ["--wait", "--leave-off --wait"]),
        ({"source_stays_off": 1}, ["--wait", "--leave-off --wait"]),
        ({}, ["--wait"]),
        ({"leave_off": True}, ["--wait"]),
        ({"leave_off": True, "left_off": ["db"]}, []),
    ],
)
def test_a_roll_back_is_offered_again_with_the_word_where_that_may_help(
    facts: dict[str, Any], offered: list[str]
) -> None:
    job = {**SCENES["rolled-back"]().job, "state": "partially-completed", "facts": facts}
    commands = [each.command for each in advice(job)]
    assert commands == [f"seawall rollback {job['recovery']} {each}" for each in offered]


def test_a_recovery_that_took_its_sources_back_is_not_offered_a_retry() -> None:
    job = {**SCENES["window"]().job, "state": "failed"}
    assert any("seawall job retry" in each.command for each in advice(job))
    back = {**job["steps"][0], "name": "restore-sources"}
    offered = advice({**job, "steps": [*job["steps"], back]})
    assert not any("seawall job retry" in each.command for each in offered)
