"""Random recoveries that people steer at random: outcomes by the text, crashes without trace.

The oracle is product.md §5 "Outcomes" written down once more, over the facts of all streams and
without any of the deciders' own sums. A restart between any two messages folds the same state.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem
from schemas.ids import family_of
from schemas.scheduler import RecoveryEnded, ReleaseHolds
from services.recovery.handlers import FAMILIES
from shared.errors import Refused
from shared.testing.spec import stored
from tests.unit.recovery.test_asking import by_hand
from tests.unit.recovery.test_random_recoveries import (
    FAILURES,
    Watching,
    check_scripts_ran_once,
    settle_one,
)
from tests.unit.recovery.world import JOB, World, enrol, header, script, start, vm

STEPS_MAX = 3_000
STEERED_MAX = 25
BUSY = Problem(code="busy", message="held by another", remedy="wait")


class Steered(Watching):
    """Boot order is watched until somebody has a VM go on, whose order is long open then."""

    def check_boot_order(self, name: str) -> None:
        if not self.events(steer.MemberRetried):
            super().check_boot_order(name)


def scripts_of(draw: Any) -> Any:
    if not draw(st.booleans()):
        return None
    return script(
        on_failure=draw(st.sampled_from(FAILURES)),
        retries=draw(st.integers(0, 1)),
        on_unknown=draw(st.sampled_from(("fail", "rerun", "prompt", "prompt"))),
        always=draw(st.booleans()),
    )


def steps_of(draw: Any, points: tuple[Any, ...]) -> tuple[Any, ...]:
    found = []
    for number in range(draw(st.integers(0, 2))):
        at = draw(st.sampled_from(points))
        order = draw(st.integers(1, 3)) if at == "before-boot-order" else None
        on_timeout = draw(st.sampled_from(("fail", "continue")))
        found.append(by_hand(at, f"m{number}", boot_order=order, on_timeout=on_timeout))
    return tuple(found)


PLAN_POINTS = ("before-pre-script", "after-pre-script", "before-boot-order", "before-post-script")


@st.composite
def recoveries(draw: Any) -> tuple[list[Any], dict[str, Any]]:
    vms = [
        vm(
            f"vm{number}",
            draw(st.integers(1, 3)),
            boot_delay_s=draw(st.sampled_from((0.0, 7.0))),
            pre_script=scripts_of(draw),
            post_script=scripts_of(draw),
            manual_steps=steps_of(draw, ("before-boot", "after-boot")),
        )
        for number in range(draw(st.integers(1, 3)))
    ]
    policy = header(
        build_ahead=draw(st.booleans()),
        pre_script=scripts_of(draw),
        post_script=scripts_of(draw),
        manual_steps=steps_of(draw, PLAN_POINTS),
    )
    return vms, {"header": policy, "on_error": draw(st.sampled_from(("continue", "stop")))}


# ── what people do ───────────────────────────────────────────────────────────────────────────


def a_command(draw: Any, world: Steered) -> Any:
    """Any command about any of the jobs, sensible or not."""
    job = draw(st.sampled_from([JOB, *(f"vm-{JOB}:{name}" for name in world.vms)]))
    question = world.state(job).question
    step = question.step if question is not None else "manual-m0"
    named: dict[type, dict[str, Any]] = {
        steer.PauseJob: {},
        steer.ResumeJob: {},
        steer.RetryJob: {},
        steer.AnswerQuestion: {
            "step": step,
            "choice": draw(st.sampled_from(("done", "failed", "skip", "rerun"))),
        },
        steer.SkipStep: {
            "step": draw(
                st.sampled_from(("wait-ready", "pre-script", "post-script", step, "power-on"))
            )
        },
    }
    kind = draw(st.sampled_from(list(named)))
    return kind(command_id=f"c{len(world.log)}", job=job, **named[kind])


def steered(draw: Any, world: Steered) -> None:
    try:
        world.deliver(a_command(draw, world))
    except Refused:
        return


def let_go_on(world: Steered) -> bool:
    """What people owe: resume what is paused. Time answers what is asked."""
    for job in (JOB, *(f"vm-{JOB}:{name}" for name in world.vms)):
        state = world.state(job)
        paused = state.paused if job == JOB else "job" in state.paused
        if paused:
            world.steer(steer.ResumeJob, job)
            return True
    return False


def advance(draw: Any, world: Steered, faults: str) -> bool:
    choices = [f"queue:{key}" for key, queue in sorted(world.queues.items()) if queue]
    choices += ["effect"] * (2 if world.effects else 0)
    choices += ["timer"] * bool(world.timers)
    if not choices:
        return False
    choice = draw(st.sampled_from(choices))
    if choice == "effect":
        settle_one(draw, world, faults)
    elif choice == "timer":
        world.fire_next_timer()
    else:
        queue = world.queues[choice.removeprefix("queue:")]
        message = queue.popleft()
        world.deliver(message)
        if draw(st.integers(0, 5)) == 0:
            check_said_twice(world, message)
    return True


def check_said_twice(world: Steered, message: Any) -> None:
    """Every message may come twice; the second time it leaves no fact."""
    before = len(world.log)
    world.deliver(message)
    assert len(world.log) == before, f"{type(message).__name__} counted twice"


def answer_holds(draw: Any, world: Steered) -> None:
    retrying = world.state(JOB).retrying
    if retrying is not None:
        world.grant_holds(problem=draw(st.sampled_from((None, None, BUSY))))


# ── the oracle ───────────────────────────────────────────────────────────────────────────────


def outcome_by_the_text(facts: list[tuple[str, Any]]) -> str:
    """product.md §5: the first rule that fits, over all facts up to an end."""
    said_by = [event for _, event in facts]
    if any(isinstance(event, said.RecoveryCancelRequested) for event in said_by):
        return "cancelled"
    looks = [event for event in said_by if isinstance(event, said.PreflightFinished)]
    if looks and looks[-1].problems:
        return "failed"
    last = {event.vm: event.outcome for event in said_by if isinstance(event, said.VmFinished)}
    attempted = [outcome for outcome in last.values() if outcome in ("ready", "failed")]
    if attempted and "ready" not in attempted:
        return "failed"
    bad = any(not well for well in last_attempts(facts).values()) or "failed" in attempted
    return "partially-completed" if bad else "completed"


def last_attempts(facts: list[tuple[str, Any]]) -> dict[tuple[str, str], bool]:
    """By stream and step, of scripts and manual steps: whether the last attempt went well."""
    well: dict[tuple[str, str], bool] = {}
    for stream, event in facts:
        match event:
            case said.PlanScriptEnded() | said.VmScriptEnded():
                if not event.again:
                    well[stream, event.step] = event.report.outcome == "done"
            case steer.RecoveryAnswered() | steer.VmAnswered():
                well[stream, event.step] = event.choice in ("done", "rerun")
            case steer.VmRetried() | steer.RecoveryReopened():
                if event.skip:
                    well[stream, event.skip] = False
    return well


def check_outcomes(world: World) -> None:
    facts = [(stream, event) for stream, event, _ in world.log]
    ends = 0
    for place, (_, event) in enumerate(facts):
        if isinstance(event, said.RecoveryFinished):
            ends += 1
            assert event.state == outcome_by_the_text(facts[:place])
    assert ends == len(world.to_scheduler(RecoveryEnded)) == len(world.to_scheduler(ReleaseHolds))


def check_refolded(world: World) -> None:
    """A process that starts now folds what this one knows, snapshot or not."""
    families = {family.name: family for family in FAMILIES}
    folded: dict[str, Any] = {}
    for stream, event, _ in world.log:
        family = families[family_of(stream)]
        before = folded[stream] if stream in folded else family.initial()
        folded[stream] = family.evolve(before, stored(event))
    for stream, state in folded.items():
        assert msgspec.to_builtins(state) == msgspec.to_builtins(world.state(stream))


# A history that fails shrinks for minutes and its seed tells as much: none is shrunk.
@settings(max_examples=120, deadline=None, phases=(Phase.generate,))
@given(st.data(), recoveries(), st.sampled_from(("none", "scripts", "all")), st.integers(0, 400))
def test_whatever_people_do_a_recovery_ends_by_the_rules_and_leaves_nothing_held(
    data: Any, recovery: tuple[list[Any], dict[str, Any]], faults: str, cancel_at: int
) -> None:
    vms, options = recovery
    world = Steered(vms)
    for each in vms:
        world.deliver(enrol(each, **options))
    world.deliver(start(*vms, **options))
    commands, draw = 0, data.draw
    for step in range(STEPS_MAX):
        if step == cancel_at and world.state(JOB).finished is None:
            world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
        if commands < STEERED_MAX and draw(st.integers(0, 4)) == 0:
            commands += 1
            steered(draw, world)
        answer_holds(draw, world)
        if step % 10 == 0:
            check_refolded(world)
        if not advance(draw, world, faults) and not let_go_on(world):
            break
    assert world.state(JOB).finished is not None, "it comes to an end"
    assert not world.effects and not any(world.queues.values())
    check_refolded(world)
    check_outcomes(world)
    check_scripts_ran_once(world)
    for name in world.vms:
        state = world.state(f"vm-{JOB}:{name}")
        assert state.finished and (state.released or not state.hold_tried)
        assert state.waits.open == 0 and state.question is None
    assert world.state(JOB).waits.open == 0
