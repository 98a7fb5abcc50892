"""Manual steps and prompts: when people are asked, what answers do, what happens without one."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.plans import RECOVERY_OPERATIONS, ManualStep
from services.recovery.domain.prompts import PROMPT_TIMEOUT_S
from shared.errors import Refused
from tests.unit.recovery.test_pausing import drain, go_to, paused
from tests.unit.recovery.test_recovery import POST, PRE, begun, launched, stream
from tests.unit.recovery.world import JOB, World, header, script, vm

DB = stream("db")
PROMPT = script(on_unknown="prompt", on_failure="stop")
PLAN_POINTS = ("before-pre-script", "after-pre-script", "before-post-script")


def by_hand(at: Any, name: str = "dns", **fields: Any) -> ManualStep:
    settings: dict[str, Any] = {"timeout_s": 600.0, "owner": "dns team", **fields}
    return ManualStep(
        name=name, text="point the name here", at=at, operations=RECOVERY_OPERATIONS, **settings
    )


def until_asked(world: World, *, settle: bool = True) -> steer.Question:
    """Let all go well until a person is asked; gives the question."""
    for _ in range(300):
        world.deliver_all()
        asked = [*world.events(steer.RecoveryAsked), *world.events(steer.VmAsked)]
        if asked:
            question: steer.Question = asked[-1].question
            return question
        if settle and world.effects:
            world.settle(next(iter(world.effects)))
        else:
            assert world.fire_next_timer(), "nobody is ever asked"
    raise AssertionError("nobody is ever asked")


def answered(world: World, choice: str, *, job: str = JOB, step: str = "manual-dns") -> World:
    world.steer(steer.AnswerQuestion, job, step=step, choice=choice)
    return world


def end_of(world: World) -> said.RecoveryFinished:
    world.run()
    finished: said.RecoveryFinished = world.event(said.RecoveryFinished)
    return finished


# ── manual steps of the plan ─────────────────────────────────────────────────────────────────


def with_step(at: str, **fields: Any) -> World:
    policy = header(
        pre_script=script(), post_script=script(), manual_steps=(by_hand(at, **fields),)
    )
    return begun(vm("db"), header=policy)


@pytest.mark.parametrize("at", PLAN_POINTS)
def test_a_step_of_the_plan_is_asked_at_its_point_and_all_waits_for_the_answer(at: str) -> None:
    world = with_step(at)
    question = until_asked(world)
    drain(world)
    after = [event.step for event in world.events(said.PlanScriptEnded)]
    expected = {"before-pre-script": [], "after-pre-script": ["pre-script"]}
    assert after == expected.get(at, ["pre-script"])
    assert bool(world.events(said.VmsLaunched)) is (at == "before-post-script")
    assert (question.owner, question.choices) == ("dns team", ("done", "failed", "skip"))
    assert end_of(answered(world, "done")).state == "completed"


@pytest.mark.parametrize(
    ("choice", "state"),
    [("done", "completed"), ("skip", "partially-completed"), ("failed", "partially-completed")],
)
def test_only_a_step_that_was_done_leaves_the_recovery_complete(choice: str, state: str) -> None:
    world = with_step("before-pre-script")
    until_asked(world)
    end = end_of(answered(world, choice))
    assert (end.state, end.ready) == (state, 1)


def test_a_failed_step_stops_the_operation_where_its_policy_says_so() -> None:
    policy = header(pre_script=script(), manual_steps=(by_hand("before-pre-script"),))
    world = begun(vm("db"), header=policy, on_error="stop")
    until_asked(world)
    end = end_of(answered(world, "failed"))
    assert not world.events(said.PlanScriptEnded) and not world.events(said.VmsLaunched)
    assert (end.state, end.problem and end.problem.code) == (
        "partially-completed",
        "manual-step-failed",
    )


def test_the_job_announces_its_manual_steps_in_their_order() -> None:
    steps = (
        by_hand("before-boot-order", "two", boot_order=2),
        by_hand("before-post-script", "last"),
        by_hand("after-pre-script", "mid"),
        by_hand("before-pre-script", "first"),
    )
    policy = header(pre_script=script(), post_script=script(), manual_steps=steps)
    world = begun(vm("db"), vm("app", 2), header=policy)
    assert world.event(said.RecoveryStarted).steps == (
        "preflight",
        "manual-first",
        "pre-script",
        "manual-mid",
        "boot-order-1",
        "manual-two",
        "boot-order-2",
        "manual-last",
        "post-script",
    )


def test_a_step_that_is_not_of_this_operation_is_not_asked() -> None:
    step = ManualStep(name="a", text="b", at="before-pre-script", operations=("failover",))
    world = begun(vm("db"), header=header(manual_steps=(step,)))
    assert end_of(world).state == "completed"
    assert not world.events(steer.RecoveryAsked)


# ── before a boot order ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_boot_order_waits_for_the_step_before_it(order: int, ahead: bool) -> None:
    steps = (by_hand("before-boot-order", boot_order=order),)
    policy = header(manual_steps=steps, build_ahead=ahead)
    world = begun(vm("db"), vm("app", 2), header=policy)
    until_asked(world)
    drain(world)
    powered = {event.vm for event in world.events(said.MemberPoweredOn)}
    assert powered == ({"db"} if order == 2 else set())
    built = {s for s, e, _ in world.log if isinstance(e, said.VmStepEnded) and e.disk}
    assert (stream("app") in built) is ahead, "building ahead does not wait for people"
    assert end_of(answered(world, "done")).ready == 2


def test_a_stop_withdraws_what_was_asked_before_an_order_that_will_not_open() -> None:
    steps = (by_hand("before-boot-order", boot_order=2),)
    db = vm("db", post_script=script(on_failure="stop"))
    world = begun(db, vm("app", 2), header=header(manual_steps=steps, post_script=script()))
    until_asked(world)
    post = go_to(world, "post-script")
    world.settle(post, code="x")
    end = end_of(world)
    assert (end.state, len(world.events(said.PlanScriptEnded))) == ("partially-completed", 1)
    assert not world.timers


@pytest.mark.parametrize("at", ["before-pre-script", "after-pre-script", "before-boot-order"])
def test_a_failed_step_that_was_gone_on_without_is_asked_again_by_a_retry(at: str) -> None:
    gate = {"boot_order": 1} if at == "before-boot-order" else {}
    world = with_step(at, **gate)
    until_asked(world)
    assert end_of(answered(world, "failed")).state == "partially-completed"
    world.steer(steer.RetryJob)
    world.grant_holds()
    drain(world)
    assert len(world.events(said.RecoveryFinished)) == 1, "it waits for the answer"
    answered(world, "done")
    world.run()
    states = [end.state for end in world.events(said.RecoveryFinished)]
    assert states == ["partially-completed", "completed"]


# ── manual steps of a VM ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at", ["before-boot", "after-boot"])
def test_a_step_of_a_vm_waits_before_or_after_its_boot_and_others_go_on(at: str) -> None:
    world = begun(vm("db", manual_steps=(by_hand(at),), post_script=script()), vm("app"))
    question = until_asked(world)
    drain(world)
    on = {event.vm for event in world.events(said.MemberPoweredOn)}
    assert on == ({"app"} if at == "before-boot" else {"app", "db"})
    assert not world.events(said.VmScriptEnded)
    assert question.step == "manual-dns"
    assert world.event(steer.MemberAsked).vm == "db"
    assert end_of(answered(world, "done", job=DB)).state == "completed"
    assert world.event(steer.MemberAnswered).vm == "db"


@pytest.mark.parametrize("at", ["before-boot", "after-boot"])
def test_a_failed_step_fails_its_vm(at: str) -> None:
    world = begun(vm("db", manual_steps=(by_hand(at),)), vm("app"))
    until_asked(world)
    end = end_of(answered(world, "failed", job=DB))
    assert (end.state, end.ready, end.failed) == ("partially-completed", 1, 1)


def test_a_skipped_step_leaves_its_vm_degraded() -> None:
    world = begun(vm("db", manual_steps=(by_hand("after-boot"),)))
    until_asked(world)
    end = end_of(answered(world, "skip", job=DB))
    assert (end.state, end.ready) == ("partially-completed", 1)
    steps = {step.name: step.state for step in world.event(said.VmFinished).steps}
    assert steps["manual-dns"] == "skipped"


# ── answers ──────────────────────────────────────────────────────────────────────────────────


def test_an_answer_names_who_gave_it() -> None:
    world = with_step("before-pre-script")
    until_asked(world)
    answered(world, "done")
    event = world.event(steer.RecoveryAnswered)
    assert (event.actor, event.timing.state) == ("seawall", "completed")


@pytest.mark.parametrize(
    ("step", "choice", "code"),
    [
        ("manual-dns", "maybe", "invalid"),
        ("manual-dns", "rerun", "invalid"),
        ("pre-script", "done", "no-question"),
    ],
)
def test_an_answer_to_what_is_not_asked_is_refused(step: str, choice: str, code: str) -> None:
    world = with_step("before-pre-script")
    until_asked(world)
    with pytest.raises(Refused) as refused:
        answered(world, choice, step=step)
    assert refused.value.code == code


def test_the_second_answer_is_refused() -> None:
    world = with_step("before-pre-script")
    until_asked(world)
    answered(world, "done")
    with pytest.raises(Refused) as refused:
        answered(world, "failed")
    assert refused.value.code == "no-question"


def test_an_answer_for_a_vm_given_to_the_recovery_says_where_it_belongs() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    with pytest.raises(Refused) as refused:
        answered(world, "done")
    assert DB in refused.value.remedy


@pytest.mark.parametrize(
    ("on_timeout", "state"), [("fail", "failed"), ("continue", "partially-completed")]
)
def test_without_an_answer_the_step_ends_as_the_plan_says(on_timeout: Any, state: str) -> None:
    step = by_hand("before-boot", on_timeout=on_timeout)
    world = begun(vm("db", manual_steps=(step,)))
    question = until_asked(world)
    assert question.until == question.at + dt.timedelta(seconds=600)
    assert end_of(world).state == state
    assert world.event(steer.VmAnswered).actor == "time-out"


def test_a_time_out_that_comes_after_the_answer_is_void() -> None:
    world = with_step("before-pre-script")
    question = until_asked(world)
    assert (JOB, "answer") in world.timers
    answered(world, "done")
    assert (JOB, "answer") not in world.timers
    before = len(world.log)
    world.deliver(steer.AnswerDue(number=question.number), stream=JOB)
    assert len(world.log) == before


def test_while_paused_nobody_new_is_asked_and_an_answer_takes_effect_at_the_resume() -> None:
    policy = header(
        pre_script=script(),
        manual_steps=(by_hand("before-pre-script"), by_hand("before-pre-script", "vip")),
    )
    world = begun(vm("db"), header=policy)
    until_asked(world)
    paused(world)
    answered(world, "done")
    assert len(world.events(steer.RecoveryAsked)) == 1 and PRE not in world.effects
    world.steer(steer.ResumeJob)
    assert [event.question.step for event in world.events(steer.RecoveryAsked)] == [
        "manual-dns",
        "manual-vip",
    ]


def test_the_time_people_took_is_counted_once_however_many_were_asked() -> None:
    world = begun(
        vm("db", manual_steps=(by_hand("before-boot"),)),
        vm("app", manual_steps=(by_hand("before-boot"),)),
    )
    for _ in range(20):
        drain(world)
    assert len(world.events(steer.MemberAsked)) == 2
    world.now += dt.timedelta(seconds=30)
    answered(world, "done", job=DB)
    world.deliver_all()
    world.now += dt.timedelta(seconds=10)
    answered(world, "done", job=stream("app"))
    end = end_of(world)
    assert end.waited_s == 40.0
    waited = {event.vm: event.waited_s for event in world.events(said.VmFinished)}
    assert waited == {"db": 30.0, "app": 40.0}


def test_a_cancel_ends_what_was_asked() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    world.steer(said.CancelRecoveryJob)
    assert end_of(world).state == "cancelled"
    assert not world.timers


def test_a_cancel_while_the_plan_asks_starts_no_script_any_more() -> None:
    world = with_step("before-pre-script")
    until_asked(world)
    world.steer(said.CancelRecoveryJob)
    assert end_of(world).state == "cancelled"
    assert not world.events(said.PlanScriptEnded) and not world.timers


# ── scripts whose end is unknown ─────────────────────────────────────────────────────────────


def cut_off(world: World, effect: str) -> World:
    world.settle(effect, code="unknown", unknown=True)
    world.deliver_all()
    return world


@pytest.mark.parametrize(
    ("choice", "state", "ready"),
    [
        ("done", "completed", 1),
        ("failed", "failed", 0),
        ("skip", "partially-completed", 1),
        ("rerun", "completed", 1),
    ],
)
def test_a_vm_script_of_unknown_end_goes_by_the_answer(
    choice: str, state: str, ready: int
) -> None:
    world = launched(vm("db", pre_script=PROMPT))
    cut_off(world, f"{DB}/pre-script")
    question = world.event(steer.VmAsked).question
    assert (question.kind, question.default) == ("unknown-script", "failed")
    assert not world.effects
    answered(world, choice, job=DB, step="pre-script")
    again = [effect for effect in world.effects if "script" in effect]
    assert again == ([f"{DB}/pre-script/2"] if choice == "rerun" else [])
    end = end_of(world)
    assert (end.state, end.ready) == (state, ready)


@pytest.mark.parametrize(
    ("choice", "launched_too", "state"),
    [
        ("done", True, "completed"),
        ("failed", False, "partially-completed"),
        ("skip", True, "partially-completed"),
        ("rerun", True, "completed"),
    ],
)
def test_a_plan_script_of_unknown_end_goes_by_the_answer(
    choice: str, launched_too: bool, state: str
) -> None:
    world = begun(vm("db"), header=header(pre_script=PROMPT))
    world.settle(f"{JOB}/preflight")
    cut_off(world, PRE)
    answered(world, choice, step="pre-script")
    if choice == "rerun":
        assert list(world.effects) == [f"{PRE}/2"]
    assert end_of(world).state == state
    assert bool(world.events(said.VmsLaunched)) is launched_too


def test_a_post_script_of_unknown_end_is_asked_about_after_a_failure_too() -> None:
    world = launched(vm("db"), header=header(post_script=PROMPT), on_error="stop")
    world.settle(go_to(world, "create-instance"), code="x")
    cut_off(world, go_to(world, "post-script"))
    assert POST not in world.effects
    answered(world, "done", step="post-script")
    assert end_of(world).state == "failed"


def test_without_an_answer_an_unknown_script_counts_as_failed() -> None:
    world = launched(vm("db", pre_script=PROMPT))
    asked_at = world.now
    cut_off(world, f"{DB}/pre-script")
    assert world.timers[DB, "answer"][0] == asked_at + dt.timedelta(seconds=PROMPT_TIMEOUT_S)
    assert end_of(world).state == "failed"


def test_an_unknown_end_without_prompt_asks_nobody() -> None:
    world = launched(vm("db", pre_script=script(on_unknown="fail")))
    cut_off(world, f"{DB}/pre-script")
    assert not world.events(steer.VmAsked)


def test_a_cancel_while_a_script_is_judged_ends_the_recovery() -> None:
    world = begun(vm("db"), header=header(pre_script=PROMPT))
    world.settle(f"{JOB}/preflight")
    cut_off(world, PRE)
    world.steer(said.CancelRecoveryJob)
    assert end_of(world).state == "cancelled"


def test_declared_repeats_count_anew_after_a_person_had_a_script_run_again() -> None:
    prompt = script(on_unknown="prompt", retries=1, on_failure="fail_vm")
    world = launched(vm("db", pre_script=prompt))
    cut_off(world, f"{DB}/pre-script")
    answered(world, "rerun", job=DB, step="pre-script")
    world.settle(f"{DB}/pre-script/2", code="x")
    assert f"{DB}/pre-script/3" in world.effects
    world.settle(f"{DB}/pre-script/3", code="x")
    assert f"{DB}/pre-script/4" not in world.effects
