"""Find clean point: what is tested and judged, what is offered, and that nothing stays behind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import clean_points as said
from schemas import recovery, scheduler
from schemas.children import ChildEnded
from schemas.common import ScriptReport
from services.recovery.domain import clean_point
from services.recovery.domain.clean_point import CLEANUPS_MAX
from services.recovery.domain.clean_point_state import verdict_of
from shared.errors import Refused
from shared.testing.spec import received
from tests.unit.recovery.pair import (
    CLEAN,
    INFECTED,
    SEARCH,
    TIMED_OUT,
    Pair,
    checkpoint,
    search,
    searchable,
)


def infected(*numbers: int, **options: Any) -> Pair:
    pair = searchable("db", "web", **options)
    pair.verdicts |= {checkpoint(number): INFECTED for number in numbers}
    return pair


def end_of(pair: Pair) -> said.CleanPointSearchFinished:
    found: said.CleanPointSearchFinished = pair.world.event(said.CleanPointSearchFinished)
    return found


def recorded(pair: Pair) -> dict[str, str]:
    return {each.checkpoint: each.verdict for each in pair.desk.said(said.CheckpointJudged)}


def check_nothing_is_left(pair: Pair) -> None:
    assert pair.left() == {}
    assert pair.at_rest()
    assert pair.desk.modes("db") == pair.desk.modes("web") == {}
    assert pair.desk.plan.parents == {} and pair.desk.plan.recoveries == {}


def test_the_newest_clean_checkpoint_is_offered_and_every_verdict_recorded() -> None:
    pair = infected(3)
    assert search(pair).outcome == "done"
    pair.run()
    end = end_of(pair)
    assert (end.state, end.clean_point, end.problem) == ("completed", checkpoint(2), None)
    assert pair.tried == [checkpoint(3), checkpoint(2)]
    assert recorded(pair) == {checkpoint(3): "infected", checkpoint(2): "clean"}
    check_nothing_is_left(pair)


def test_a_verdict_says_by_which_job_and_script_and_when() -> None:
    pair = infected(3)
    search(pair)
    pair.run()
    judged = pair.desk.said(said.CheckpointJudged)[0]
    assert (judged.job, judged.script_sha256) == (SEARCH, "a" * 64)
    assert judged.at == pair.world.events(said.CleanPointJudged)[0].at
    assert judged.reason == "the verdict script ended with 3"


def test_one_checkpoint_is_tested_at_a_time_in_isolation() -> None:
    pair = infected(3, 2)
    search(pair)
    pair.run()
    assert pair.at_once_max == 1
    started = pair.world.events(recovery.RecoveryStarted)
    assert [each.checkpoint for each in started] == [checkpoint(n) for n in (3, 2, 1)]
    assert {(each.mode, each.parent) for each in started} == {("test", SEARCH)}


def test_the_holds_of_a_test_are_given_back_before_the_next_one_asks_for_them() -> None:
    pair = infected(3, 2)
    search(pair)
    pair.run()
    assert len(pair.tried) == 3 and pair.put_off == 0


def test_the_script_reads_the_instances_and_their_addresses_once_all_are_ready() -> None:
    pair = infected()
    search(pair)
    while not (found := [e for e in pair.world.effects.values() if e.kind == "run-verdict"]):
        assert pair.step()
    assert len(pair.world.events(recovery.MemberReady)) == 2
    context = found[0].payload.work.context
    assert (context["hook"], context["operation"]) == ("verdict", "find-clean-point")
    assert (context["job"], context["checkpoint"]) == (SEARCH, checkpoint(3))
    assert {(v["name"], v["instance_id"]) for v in context["vms"]} == {
        ("db", "i-db"),
        ("web", "i-web"),
    }
    assert all(vm["addresses"] == ["127.0.0.9"] for vm in context["vms"])


def test_only_chosen_vms_are_tested() -> None:
    pair = infected()
    search(pair, vms=("web",))
    pair.run()
    (started,) = pair.world.events(recovery.RecoveryStarted)
    assert [member.vm for member in started.members] == ["web"]
    assert end_of(pair).state == "completed"


def test_bisection_tries_the_middle_first() -> None:
    pair = infected(5, 4, checkpoints=5)
    search(pair, order="bisect")
    pair.run()
    assert pair.tried == [checkpoint(3), checkpoint(4)]
    assert (end_of(pair).clean_point, end_of(pair).state) == (checkpoint(3), "completed")
    check_nothing_is_left(pair)


def test_none_clean_is_a_failed_search_that_counts_what_it_saw() -> None:
    pair = infected(3, 2, 1)
    search(pair)
    pair.run()
    end = end_of(pair)
    assert (end.state, end.clean_point) == ("failed", "")
    assert end.problem is not None
    assert (end.problem.code, "3 infected" in end.problem.message) == ("no-clean-point", True)
    check_nothing_is_left(pair)


def test_a_bound_on_tries_says_what_was_not_tried() -> None:
    pair = infected(3, 2)
    search(pair, tries_max=2)
    pair.run()
    problem = end_of(pair).problem
    assert problem is not None and "1 not tried" in problem.message


def test_no_answer_of_the_script_is_unknown_and_the_search_goes_on() -> None:
    pair = infected()
    pair.verdicts[checkpoint(3)] = TIMED_OUT
    search(pair)
    pair.run()
    end = end_of(pair)
    assert recorded(pair) == {checkpoint(3): "unknown", checkpoint(2): "clean"}
    assert (end.state, end.clean_point) == ("partially-completed", checkpoint(2))
    assert end.problem is not None and end.problem.code == "verdict-unknown"


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (CLEAN, "clean"),
        (INFECTED, "infected"),
        (TIMED_OUT, "unknown"),
        (ScriptReport(outcome="killed", error="cancelled"), "unknown"),
        (ScriptReport(outcome="missing-runtime", error="no go here"), "unknown"),
        (ScriptReport(outcome="unknown"), "unknown"),
        (ScriptReport(outcome="failed", error="its content is not stored"), "unknown"),
    ],
)
def test_only_an_exit_code_is_an_answer(report: ScriptReport, verdict: str) -> None:
    assert verdict_of(report)[0] == verdict


def test_a_checkpoint_that_does_not_come_up_has_failed_and_is_not_offered() -> None:
    pair = infected()
    pair.fails = lambda effect: "s1-1" in effect and "create-instance" in effect
    search(pair)
    pair.run()
    end = end_of(pair)
    assert recorded(pair) == {checkpoint(3): "failed", checkpoint(2): "clean"}
    assert pair.tried == [checkpoint(2)], "what did not come up is not judged"
    assert (end.state, end.clean_point) == ("partially-completed", checkpoint(2))
    check_nothing_is_left(pair)


def test_a_checkpoint_of_which_only_some_vms_come_up_is_not_judged() -> None:
    pair = infected()
    pair.fails = lambda effect: "s1-1:web/create-instance" in effect
    search(pair)
    pair.run()
    ended = pair.world.events(said.CleanPointTestEnded)[0]
    assert (ended.state, ended.up) == ("partially-completed", False)
    assert recorded(pair) == {checkpoint(3): "failed", checkpoint(2): "clean"}
    assert pair.tried == [checkpoint(2)]
    check_nothing_is_left(pair)


def test_the_clean_test_stays_up_where_that_is_asked_for() -> None:
    pair = infected(3)
    search(pair, keep=True)
    pair.run()
    kept = "recovery:shop:s1-2"
    assert (end_of(pair).state, end_of(pair).kept) == ("completed", kept)
    assert set(pair.left()) == {kept}
    assert pair.desk.modes("db") == {kept: ("own-instance",)}
    cleanup = recovery.StartCleanup(command_id="k", job="cleanup:shop:k", recovery=kept)
    pair.world.deliver(cleanup)
    pair.run()
    check_nothing_is_left(pair)


def test_a_search_that_meets_a_test_of_others_stops_and_says_who() -> None:
    pair = infected()
    other = "recovery:shop:other"
    pair.desk.command(scheduler.Recover, plan="shop", job=other, mode="test", vms=("db",))
    pair.run()
    search(pair)
    pair.run()
    end = end_of(pair)
    assert (end.state, end.judged) == ("failed", ())
    assert end.problem is not None
    assert (end.problem.code, other in end.problem.message) == ("busy", True)


def test_a_checkpoint_that_went_away_is_passed_over() -> None:
    pair = infected()
    search(pair)
    gone = scheduler.CheckpointRecorded(
        checkpoint=checkpoint(3), state="deleted", created_at=pair.desk.now
    )
    # Retention never takes it; a log that was restored may have lost it.
    plan = pair.desk.plan
    plan.checkpoints = {k: v for k, v in plan.checkpoints.items() if k != gone.checkpoint}
    pair.desk.verify = False
    pair.run()
    assert end_of(pair).clean_point == checkpoint(2)
    assert recorded(pair) == {checkpoint(2): "clean"}
    assert end_of(pair).state == "partially-completed"


def test_what_cannot_be_cleaned_up_stops_the_search_after_a_bound_and_is_named() -> None:
    pair = infected(3)
    pair.fails = lambda effect: "delete/instance" in effect
    search(pair)
    pair.run()
    end = end_of(pair)
    left = "recovery:shop:s1-1"
    assert (end.state, end.left) == ("failed", left)
    assert end.problem is not None and end.problem.code == "left-over"
    assert len(pair.world.events(recovery.CleanupStarted)) == CLEANUPS_MAX
    assert set(pair.left()) == {left}
    assert pair.desk.plan.parents == {}, "its checkpoints may expire"


def test_a_test_that_somebody_cleans_up_meanwhile_is_not_in_the_way() -> None:
    pair = infected(3)
    search(pair)
    while not any("verdict" in effect for effect in pair.world.effects):
        assert pair.step()
    test = "recovery:shop:s1-1"
    pair.world.deliver(recovery.StartCleanup(command_id="k", job="cleanup:shop:k", recovery=test))
    pair.run()
    assert end_of(pair).state == "completed"
    check_nothing_is_left(pair)


def test_a_test_that_somebody_cancels_leaves_its_checkpoint_unknown() -> None:
    pair = infected()
    search(pair)
    while not pair.world.events(recovery.RecoveryStarted):
        assert pair.step()
    pair.cancel("recovery:shop:s1-1")
    pair.run()
    assert recorded(pair) == {checkpoint(3): "unknown", checkpoint(2): "clean"}
    check_nothing_is_left(pair)


def test_a_test_that_is_retried_as_it_ends_is_not_judged_and_is_cleaned_up() -> None:
    pair = infected()
    search(pair)
    while not (told := [m for m in pair.desk.sent if isinstance(m, ChildEnded)]):
        assert pair.step()
    taken_up = msgspec.structs.replace(pair.world.state(told[0].job), finished=None)
    state = pair.world.state(SEARCH)
    decision = clean_point.child_ended(state, taken_up, received(told[0]))
    ended, judged, cleaning = decision.events
    assert (ended.up, ended.awaits_cleanup) == (False, True)
    assert judged.verdict == "unknown"
    assert cleaning.job == told[0].job and decision.effects == ()


# ── Saga: repeats, failures, cancels, crashes ────────────────────────────────────────────────
# Every step of these refolds all streams from their events (`Pair._refold`): a crash anywhere.


def test_every_message_twice_changes_nothing() -> None:
    pair = infected(3, repeat=True)
    search(pair)
    pair.run()
    assert (end_of(pair).state, end_of(pair).clean_point) == ("completed", checkpoint(2))
    assert pair.tried == [checkpoint(3), checkpoint(2)]
    check_nothing_is_left(pair)


def steps_of_a_whole_search() -> int:
    pair = infected(3)
    search(pair)
    return pair.run()


def effects_of_a_whole_search() -> list[str]:
    pair = infected(3)
    seen: list[str] = []

    def note(effect: str) -> bool:
        seen.append(effect)
        return False

    pair.fails = note
    search(pair)
    pair.run()
    return seen


@pytest.mark.parametrize("place", range(0, 170, 3))
def test_a_cancel_at_any_step_ends_cancelled_and_cleans_up(place: int) -> None:
    pair = infected(3)
    search(pair)
    for _ in range(place):
        pair.step()
    try:
        pair.cancel(SEARCH)
    except Refused as refused:
        assert refused.code in ("unknown-job", "job-ended")
        return
    pair.run()
    assert end_of(pair).state == "cancelled"
    check_nothing_is_left(pair)


def test_the_cancelled_places_reach_past_the_end_of_a_search() -> None:
    assert 60 < steps_of_a_whole_search() < 170


@pytest.mark.parametrize("effect", effects_of_a_whole_search())
def test_an_effect_that_fails_for_good_at_any_step_leaves_nothing_or_names_it(effect: str) -> None:
    pair = infected(3)
    pair.fails = lambda each: each == effect
    search(pair)
    pair.run()
    end = end_of(pair)
    assert end.clean_point in (checkpoint(2), checkpoint(1), "")
    assert (end.state == "completed") <= (end.clean_point == checkpoint(2))
    assert set(pair.left()) <= {end.left}
    assert pair.desk.plan.parents == {}


def test_a_test_that_was_only_asked_for_is_called_off_as_soon_as_it_starts() -> None:
    pair = infected()
    search(pair)
    while not pair.world.events(said.CleanPointTestAsked):
        assert pair.step()
    pair.cancel(SEARCH)
    pair.run()
    assert pair.world.event(recovery.RecoveryFinished).state == "cancelled"
    assert not pair.world.events(recovery.MemberReady)
    check_nothing_is_left(pair)


def test_a_test_that_runs_is_called_off_with_its_search() -> None:
    pair = infected()
    search(pair)
    while not pair.world.events(said.CleanPointTestStarted):
        assert pair.step()
    pair.cancel(SEARCH)
    pair.run()
    assert pair.world.event(recovery.RecoveryFinished).state == "cancelled"
    assert not pair.world.events(recovery.MemberReady)


def test_a_cancelled_search_records_no_verdict_of_the_script_it_stopped() -> None:
    pair = infected()
    search(pair)
    while not any("verdict" in effect for effect in pair.world.effects):
        assert pair.step()
    pair.cancel(SEARCH)
    pair.run()
    assert recorded(pair) == {}
    assert end_of(pair).judged == ()


def test_a_second_cancel_changes_nothing_and_a_late_one_is_refused() -> None:
    pair = infected()
    search(pair)
    pair.step()
    pair.cancel(SEARCH)
    before = len(pair.world.log)
    pair.cancel(SEARCH)
    assert len(pair.world.log) == before
    pair.run()
    with pytest.raises(Refused, match="has ended already"):
        pair.cancel(SEARCH)


def test_the_start_of_a_script_is_on_record_before_its_process_exists() -> None:
    pair = infected()
    search(pair)
    while not any("verdict" in effect for effect in pair.world.effects):
        assert pair.step()
    pair.world.deliver(said.VerdictScriptStarted(trial=1), stream=SEARCH)
    state = pair.world.state(SEARCH)
    assert state.trial.script_started
    pair.world.deliver(said.VerdictScriptStarted(trial=2), stream=SEARCH)
    assert len(pair.world.events(said.VerdictScriptStarted)) == 1


@settings(max_examples=25)
@given(st.data(), st.sampled_from(said.SEARCH_ORDERS), st.integers(0, 250), st.booleans())
def test_any_search_ends_and_leaves_nothing_unnamed(
    data: st.DataObject, order: str, cancel_at: int, faults: bool
) -> None:
    pair = infected()
    for number in (1, 2, 3):
        report = data.draw(st.sampled_from((CLEAN, INFECTED, TIMED_OUT)))
        pair.verdicts[checkpoint(number)] = report
    pair.fails = lambda effect: faults and data.draw(st.integers(0, 19)) == 0
    search(pair, order=order)
    for place in range(5_000):
        if place == cancel_at and pair.world.state(SEARCH).started and not finished(pair):
            pair.cancel(SEARCH)
        if not any(do() for do in data.draw(st.permutations(pair.ways()))):
            break
    end = end_of(pair)
    clean = [name for name in pair.tried if pair.verdicts[name] is CLEAN]
    assert end.clean_point in (*clean, "")
    assert (end.state == "cancelled") == bool(
        pair.world.events(said.CleanPointSearchCancelRequested)
    )
    assert set(pair.left()) <= {end.left}
    assert pair.at_rest() and pair.desk.plan.parents == {}


def finished(pair: Pair) -> bool:
    return bool(pair.world.events(said.CleanPointSearchFinished))
