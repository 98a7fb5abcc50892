"""Groups of plans: who starts when, how a group ends, that cancel and cleanup reach everybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import recovery, scheduler
from schemas import recovery_groups as said
from schemas.children import CleanupGroup
from schemas.plans import RecoveryPolicy
from shared.errors import Refused
from tests.unit.recovery.pair import Pair, with_plan
from tests.unit.scheduler.desk import definition, desk_with

GROUP = "recovery-group:shop:g1"
CLEANUP = "group-cleanup:shop:k1"
STOP = RecoveryPolicy(on_error="stop")


def plans(*, repeat: bool = False, **policies: RecoveryPolicy) -> Pair:
    """`shop` after `mail` and `dns`, `mail` after `dns` too."""
    desk = desk_with("db")
    with_plan(desk, "dns", "ns", recovery=policies.get("dns", RecoveryPolicy()))
    with_plan(desk, "mail", "mx", after=("dns",), recovery=policies.get("mail", RecoveryPolicy()))
    answered = desk.apply(definition("db", after=("mail", "dns")))
    assert answered.outcome == "done", answered
    desk.copied("db")
    return Pair(desk, repeat=repeat)


def recover(pair: Pair, **fields: Any) -> Any:
    asked = scheduler.Recover(
        command_id="x", plan="shop", job=GROUP, **({"mode": "test"} | fields)
    )
    return pair.desk.command(said.RecoverGroup, plan="shop", job=GROUP, recover=asked)


def end_of(pair: Pair) -> said.RecoveryGroupFinished:
    found: said.RecoveryGroupFinished = pair.world.event(said.RecoveryGroupFinished)
    return found


def asked(pair: Pair) -> list[str]:
    return [each.plan for each in pair.world.events(said.GroupMemberAsked)]


def clean(pair: Pair, job: str = CLEANUP) -> None:
    pair.world.deliver(CleanupGroup(command_id="k", job=job, group=GROUP))
    pair.run()


def failing(pair: Pair, plan: str, part: str = "create-instance") -> None:
    pair.fails = lambda effect: effect.startswith(f"vm-recovery:{plan}:") and part in effect


def test_each_plan_starts_when_those_it_comes_after_are_up() -> None:
    pair = plans()
    assert recover(pair).outcome == "done"
    pair.run()
    story = [
        (type(event).__name__, event.plan)
        for stream, event, _ in pair.world.log
        if stream == GROUP and isinstance(event, said.GroupMemberAsked | said.GroupMemberEnded)
    ]
    assert story == [
        (kind, plan)
        for plan in ("dns", "mail", "shop")
        for kind in ("GroupMemberAsked", "GroupMemberEnded")
    ]
    assert (end_of(pair).state, end_of(pair).problem) == ("completed", None)


def test_plans_that_need_nothing_of_each_other_start_together() -> None:
    desk = desk_with("db")
    with_plan(desk, "dns", "ns")
    with_plan(desk, "mail", "mx")
    desk.apply(definition("db", after=("mail", "dns")))
    desk.copied("db")
    pair = Pair(desk)
    recover(pair)
    while len(asked(pair)) < 2:
        assert pair.step()
    assert asked(pair) == ["mail", "dns"]
    assert not pair.world.events(said.GroupMemberEnded)


def test_rto_counts_from_the_operators_command_for_every_plan() -> None:
    pair = plans()
    recover(pair)
    asked_at = pair.desk.now
    pair.run()
    started = pair.world.events(recovery.RecoveryStarted)
    assert {each.requested_at for each in started} == {asked_at}
    assert {each.parent for each in started} == {GROUP}
    ends = [each.rto_s for each in pair.world.events(said.GroupMemberEnded)]
    assert end_of(pair).rto_s == max(ends)


def test_what_is_asked_of_the_plan_alone_is_not_asked_of_the_others() -> None:
    pair = plans()
    recover(pair, vms=("db",), on_error="stop")
    pair.run()
    asked_of = {each.plan: each for each in pair.world.events(recovery.RecoveryStarted)}
    assert {each.on_error for each in asked_of.values()} == {"stop"}
    assert [member.vm for member in asked_of["dns"].members] == ["ns"]


def test_a_plan_that_fails_stops_those_after_it_and_the_group_says_why() -> None:
    pair = plans()
    failing(pair, "mail")
    recover(pair)
    pair.run()
    assert asked(pair) == ["dns", "mail"]
    end = end_of(pair)
    assert end.state == "partially-completed"
    assert end.problem is not None
    assert (end.problem.code, "plan mail ended failed" in end.problem.message) == (
        "plan-not-usable",
        True,
    )


def test_after_trouble_nothing_new_starts_but_what_runs_goes_on_to_its_end() -> None:
    desk = desk_with("db")
    with_plan(desk, "mail", "mx")
    with_plan(desk, "dns", "ns")
    with_plan(desk, "web", "www", after=("dns",))
    assert desk.apply(definition("db", after=("mail", "web"))).outcome == "done"
    desk.copied("db")
    pair = Pair(desk)
    failing(pair, "mail")
    recover(pair)
    pair.run()
    ends = {each.plan: each.state for each in pair.world.events(said.GroupMemberEnded)}
    assert ends == {"mail": "failed", "dns": "completed"}
    assert asked(pair) == ["mail", "dns"], "web's turn had come, and the group had stopped"


def test_nothing_usable_is_a_failed_group() -> None:
    pair = plans()
    failing(pair, "dns")
    recover(pair)
    pair.run()
    assert (end_of(pair).state, asked(pair)) == ("failed", ["dns"])


@pytest.mark.parametrize(("policy", "goes_on"), [(RecoveryPolicy(), True), (STOP, False)])
def test_a_partially_completed_plan_is_usable_where_errors_may_continue(
    policy: RecoveryPolicy, goes_on: bool
) -> None:
    desk = desk_with("db")
    desk.inventory["east"] = ("db", "ns", "n2")
    desk.apply(definition("ns", "n2", name="dns", recovery=policy))
    desk.command(scheduler.RunPlan, plan="dns", job="replication-run:dns:r1")
    for vm in ("ns", "n2"):
        iteration = f"iteration:dns:{vm}:r1"
        ended = scheduler.IterationEnded(
            plan="dns", vm=vm, iteration=iteration, state="completed", checkpoint_at=desk.now
        )
        desk.tell(ended)
    desk.apply(definition("db", after=("dns",)))
    desk.copied("db")
    pair = Pair(desk)
    # The first VM is up before the second fails.
    pair.fails = lambda effect: effect.endswith(":n2/power-on")
    recover(pair)
    pair.run()
    (dns,) = [e for e in pair.world.events(said.GroupMemberEnded) if e.plan == "dns"]
    assert (dns.state, dns.usable) == ("partially-completed", goes_on)
    assert asked(pair) == (["dns", "shop"] if goes_on else ["dns"])
    assert end_of(pair).state == "partially-completed"


def test_a_plan_that_is_refused_stops_the_group_with_its_reason() -> None:
    pair = plans()
    other = "recovery:mail:other"
    pair.desk.command(scheduler.Recover, plan="mail", job=other, mode="test")
    pair.run()
    recover(pair)
    pair.run()
    end = end_of(pair)
    assert (end.state, asked(pair)) == ("partially-completed", ["dns", "mail"])
    assert end.problem is not None and end.problem.message.startswith("plan mail: VM 'mx'")


def test_a_mode_that_a_plan_is_not_ready_for_is_the_childs_refusal() -> None:
    pair = plans()
    recover(pair, mode="failback")
    pair.run()
    end = end_of(pair)
    assert (end.state, end.mode) == ("failed", "failback")
    assert end.problem is not None and end.problem.code == "not-reversed"


def test_a_group_fails_over_plan_by_plan_and_each_awaits_its_own_commit() -> None:
    pair = plans()
    recover(pair, mode="failover", last_sync=False)
    pair.run(steps_max=400, until=said.RecoveryGroupFinished)
    end = end_of(pair)
    assert (end.state, end.mode, end.awaits_cleanup) == ("completed", "failover", False)
    finished = pair.world.events(recovery.RecoveryFinished)
    assert [each.plan for each in finished] == ["dns", "mail", "shop"]
    assert all(each.awaits_commit for each in finished)


def test_a_dry_run_of_a_group_touches_nothing() -> None:
    pair = plans()
    recover(pair, dry_run=True)
    pair.run()
    assert (end_of(pair).state, end_of(pair).dry_run) == ("completed", True)
    assert asked(pair) == ["dns", "mail", "shop"] and pair.left() == {}


def test_a_cleanup_cleans_every_plan_and_gives_all_holds_back() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    assert len(pair.left()) == 3 and end_of(pair).awaits_cleanup
    clean(pair)
    assert pair.left() == {}
    assert pair.world.event(said.GroupCleanupFinished).state == "completed"
    assert pair.world.event(said.RecoveryGroupCleaned).remaining == 0
    assert pair.desk.modes("db") == {}


def test_a_cleanup_that_leaves_something_says_so_and_may_be_repeated() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    pair.fails = lambda effect: effect.startswith("cleanup:mail:") and "delete/" in effect
    clean(pair)
    end = pair.world.event(said.GroupCleanupFinished)
    assert end.state == "partially-completed" and end.problem is not None
    assert set(pair.left()) == {"recovery:mail:g1"}
    pair.fails = lambda effect: False
    clean(pair, "group-cleanup:shop:k2")
    assert pair.left() == {}
    assert pair.world.events(said.GroupCleanupFinished)[-1].state == "completed"


def test_what_a_person_cleaned_up_already_counts_as_clean() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    by_hand = recovery.StartCleanup(
        command_id="k", job="cleanup:mail:k", recovery="recovery:mail:g1"
    )
    pair.world.deliver(by_hand)
    pair.run()
    clean(pair)
    assert pair.world.event(said.GroupCleanupFinished).state == "completed"


def test_a_cancelled_cleanup_says_what_is_left() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    pair.world.deliver(CleanupGroup(command_id="k", job=CLEANUP, group=GROUP))
    pair.step()
    pair.cancel(CLEANUP)
    pair.run()
    assert pair.world.event(said.GroupCleanupFinished).state == "cancelled"
    assert pair.world.event(said.RecoveryGroupCleaned).remaining > 0
    clean(pair, "group-cleanup:shop:k2")
    assert pair.left() == {}


@pytest.mark.parametrize(
    ("when", "code"),
    [("never", "unknown-job"), ("running", "still-running"), ("cleaned", "already-cleaned")],
)
def test_a_cleanup_is_refused_where_there_is_nothing_to_clean(when: str, code: str) -> None:
    pair = plans()
    if when != "never":
        recover(pair)
        pair.step()
    if when == "cleaned":
        pair.run()
        clean(pair)
    with pytest.raises(Refused) as refused:
        clean(pair, "group-cleanup:shop:k9")
    assert refused.value.code == code


def test_every_message_twice_changes_nothing() -> None:
    pair = plans(repeat=True)
    recover(pair)
    pair.run()
    assert (end_of(pair).state, asked(pair)) == ("completed", ["dns", "mail", "shop"])
    clean(pair)
    assert pair.left() == {}


@pytest.mark.parametrize("place", range(0, 130, 3))
def test_a_cancel_at_any_step_reaches_what_runs_and_what_is_made_can_be_cleaned(
    place: int,
) -> None:
    pair = plans()
    recover(pair)
    for _ in range(place):
        pair.step()
    try:
        pair.cancel(GROUP)
    except Refused as refused:
        assert refused.code in ("unknown-job", "job-ended")
        return
    before = set(asked(pair))
    pair.run()
    assert end_of(pair).state == "cancelled"
    assert set(asked(pair)) == before, "nothing new began"
    assert pair.desk.plan.parents == {}
    if end_of(pair).awaits_cleanup:
        clean(pair)
    assert pair.left() == {} and pair.at_rest()


def test_the_cancelled_places_reach_past_the_end_of_a_group() -> None:
    pair = plans()
    recover(pair)
    assert 60 < pair.run() < 130


def test_a_plan_that_runs_is_called_off_with_its_group() -> None:
    pair = plans()
    recover(pair)
    while not pair.world.events(said.GroupMemberStarted):
        assert pair.step()
    pair.cancel(GROUP)
    pair.run()
    assert pair.world.event(recovery.RecoveryFinished).state == "cancelled"
    assert not pair.world.events(recovery.MemberReady)


def test_a_plan_that_was_only_asked_for_is_called_off_as_soon_as_it_starts() -> None:
    pair = plans()
    recover(pair)
    while not asked(pair):
        assert pair.step()
    pair.cancel(GROUP)
    pair.run()
    assert pair.world.event(recovery.RecoveryFinished).state == "cancelled"
    assert not pair.world.events(recovery.MemberReady)


@settings(max_examples=25)
@given(st.data(), st.integers(0, 150))
def test_any_group_ends_by_the_rules_and_can_be_cleaned(
    data: st.DataObject, cancel_at: int
) -> None:
    pair = plans(dns=data.draw(st.sampled_from((RecoveryPolicy(), STOP))))
    pair.fails = lambda effect: data.draw(st.integers(0, 29)) == 0
    recover(pair)
    for place in range(5_000):
        group = pair.world.state(GROUP)
        if place == cancel_at and group.started and not group.finished:
            pair.cancel(GROUP)
        if not any(do() for do in data.draw(st.permutations(pair.ways()))):
            break
    ends = {each.plan: each for each in pair.world.events(said.GroupMemberEnded)}
    for plan in asked(pair):
        needed = {"dns": (), "mail": ("dns",), "shop": ("mail", "dns")}[plan]
        assert all(ends[each].usable for each in needed)
    states = [each.state for each in ends.values()]
    if pair.world.events(said.RecoveryGroupCancelRequested):
        assert end_of(pair).state == "cancelled"
    elif states == ["completed"] * 3:
        assert end_of(pair).state == "completed"
    else:
        usable = any(state in ("completed", "partially-completed") for state in states)
        assert end_of(pair).state == ("partially-completed" if usable else "failed")
    pair.fails = lambda effect: False
    if end_of(pair).awaits_cleanup:
        clean(pair)
    assert pair.left() == {} and pair.at_rest()
