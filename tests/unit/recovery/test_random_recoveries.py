"""Random recoveries: any outcome of any step, in any order, with a cancel or a stop anywhere."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.common import Problem, ScriptReport
from schemas.scheduler import RecoveryEnded, ReleaseHolds
from shared.decider import Effect
from tests.unit.recovery.world import JOB, World, enrol, header, script, start, vm

FAILURES = ("continue", "fail_vm", "stop", None)
STEPS_MAX = 2_000


class Watching(World):
    """Notes what the platform was asked for, and checks boot order at every power-on."""

    def __init__(self, vms: list[Any]) -> None:
        super().__init__()
        self.vms = {each.name: each for each in vms}
        self.held: set[str] = set()
        self.released: set[str] = set()

    def asked(self, effect_id: str, effect: Effect) -> None:
        if effect.kind == "power-on":
            self.check_boot_order(effect.payload.vm)

    def facts(self, name: str, kind: type) -> list[Any]:
        stream = f"vm-{JOB}:{name}"
        return [event for s, event, _ in self.log if s == stream and isinstance(event, kind)]

    def check_boot_order(self, name: str) -> None:
        for lower in self.vms.values():
            if lower.boot_order >= self.vms[name].boot_order:
                continue
            settled = self.facts(lower.name, said.VmReady) or self.facts(
                lower.name, said.VmFinished
            )
            assert settled, f"{name} powers on before {lower.name} is ready or failed"
            for on in self.facts(lower.name, said.VmPoweredOn):
                delay = dt.timedelta(seconds=lower.boot_delay_s)
                assert self.now >= on.at + delay, f"{name} powers on before a delay is over"


def scripts_of(draw: Any) -> Any:
    if not draw(st.booleans()):
        return None
    return script(
        on_failure=draw(st.sampled_from(FAILURES)),
        retries=draw(st.integers(0, 1)),
        on_unknown=draw(st.sampled_from(("fail", "rerun"))),
        always=draw(st.booleans()),
    )


@st.composite
def recoveries(draw: Any) -> tuple[list[Any], dict[str, Any]]:
    vms = [
        vm(
            f"{draw(st.sampled_from(('vm', 'vm', 'win')))}{number}",
            draw(st.integers(1, 3)),
            boot_delay_s=draw(st.sampled_from((0.0, 0.0, 7.0))),
            pre_script=scripts_of(draw),
            post_script=scripts_of(draw),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    policy = header(
        build_ahead=draw(st.booleans()), pre_script=scripts_of(draw), post_script=scripts_of(draw)
    )
    on_error = draw(st.sampled_from(("continue", "stop")))
    return vms, {"header": policy, "on_error": on_error}


def settle_one(draw: Any, world: Watching, faults: str) -> None:
    effect_id = draw(st.sampled_from(sorted(world.effects)))
    effect = world.effects[effect_id]
    may_fail = faults == "all" or (faults == "scripts" and effect.kind == "run-script")
    ways = ["ok"] * 4 + (["failed"] if may_fail else [])
    if effect_id in world.asked_to_stop:
        ways = ["ok", "cancelled"]
    way = draw(st.sampled_from(ways))
    if effect.kind in ("release-copy", "power-off-node") and way == "failed":
        way = "ok"  # retried until it is true
    if effect.kind == "run-script" and way == "failed":
        fail_script(draw, world, effect_id)
        return
    if effect.kind == "poll-site" and way == "ok":
        poll(draw, world, effect_id)
        return
    if effect.kind == "preflight" and way == "failed":
        problem = Problem(code="no-copy", message="no copy", remedy="replicate")
        world.settle(effect_id, work.PreflightReport(problems=(problem,)))
        return
    if effect.kind == "hold-copy" and way == "ok":
        world.held.add(effect.payload.vm)
    if effect.kind == "release-copy" and way == "ok":
        world.released.add(effect.payload.vm)
    world.settle(effect_id, code="" if way == "ok" else "cancelled" if way == "cancelled" else "x")


def fail_script(draw: Any, world: Watching, effect_id: str) -> None:
    if draw(st.booleans()):
        world.settle(effect_id, code="unknown", unknown=True)
    else:
        world.settle(effect_id, work.ScriptRan(report=ScriptReport(outcome="failed", exit_code=1)))


def poll(draw: Any, world: Watching, effect_id: str) -> None:
    watched = world.effects[effect_id].payload.watched
    ready = [w for w in watched if draw(st.booleans())]
    guests = tuple(work.ReadyGuest(stream=w.stream, at=world.now) for w in ready)
    late = tuple(w.stream for w in watched if w not in ready and w.until <= world.now)
    world.settle(effect_id, work.SitePolled(ready=guests, late=late))


def advance(draw: Any, world: Watching, faults: str) -> bool:
    choices = [f"queue:{key}" for key, queue in sorted(world.queues.items()) if queue]
    choices += ["effect"] * (2 if world.effects else 0)
    if world.timers:
        choices.append("timer")
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
        if draw(st.integers(0, 9)) == 0:
            world.deliver(message)  # a duplicate changes nothing
    return True


def expected_outcome(world: Watching, ends: dict[str, said.VmFinished]) -> str:
    """The rules of product.md §5, written down a second time and from other facts."""
    if world.events(said.RecoveryCancelRequested):
        return "cancelled"
    if world.event(said.PreflightFinished).problems:
        return "failed"
    outcomes = [end.outcome for end in ends.values()]
    attempted = [each for each in outcomes if each in ("ready", "failed")]
    if attempted and "ready" not in attempted:
        return "failed"
    scripts = [*world.events(said.PlanScriptEnded), *world.events(said.VmScriptEnded)]
    troubled = any(s.report.outcome != "done" and not s.again for s in scripts)
    steps = world.events(said.VmStepEnded)
    unwell = any(s.timing.name == "validate-windows" and s.problem for s in steps)
    if troubled or unwell or "failed" in outcomes:
        return "partially-completed"
    return "completed"


@settings(max_examples=150)
@given(st.data(), recoveries(), st.sampled_from(("none", "scripts", "all")), st.integers(0, 200))
def test_any_recovery_keeps_boot_order_ends_by_the_rules_and_leaves_nothing_held(
    data: Any, recovery: tuple[list[Any], dict[str, Any]], faults: str, cancel_at: int
) -> None:
    vms, options = recovery
    world = Watching(vms)
    for each in vms:
        world.deliver(enrol(each, **options))
    world.deliver(start(*vms, **options))
    for step in range(STEPS_MAX):
        if step == cancel_at and not world.events(said.RecoveryFinished):
            world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
        if not advance(data.draw, world, faults):
            break
    assert not world.effects and not any(world.queues.values())
    ends = {name: world.facts(name, said.VmFinished)[0] for name in world.vms}
    assert all(len(world.facts(name, said.VmFinished)) == 1 for name in world.vms)
    end = world.event(said.RecoveryFinished)
    assert end.state == expected_outcome(world, ends)
    assert world.held <= world.released
    check_prep_nodes(world)
    check_scheduler(world, end)
    check_scripts_ran_once(world)


def check_scheduler(world: World, end: said.RecoveryFinished) -> None:
    (told,) = world.to_scheduler(RecoveryEnded)
    assert (told.state, told.rto_s) == (end.state, end.rto_s)
    (holds,) = world.to_scheduler(ReleaseHolds)
    assert "read-copy" in holds.modes
    assert ("own-instance" in holds.modes) is not end.awaits_cleanup


def check_prep_nodes(world: Watching) -> None:
    """Nobody sits there, every node is off, and every Windows that was made was prepared."""
    pool = world.state("prep-pool:west")
    assert pool.members == {}
    assert all(node.power == "off" and not node.doing for node in pool.nodes.values())
    done = {
        s for s, e, _ in world.log
        if isinstance(e, said.VmStepEnded) and e.timing.name == "prepare-windows"
    }  # fmt: skip
    on = {s for s, e, _ in world.log if isinstance(e, said.VmPoweredOn)}
    assert {stream for stream in on if ":win" in stream} <= done


def check_scripts_ran_once(world: World) -> None:
    runs = [(s, e.step, e.run) for s, e, _ in world.log if isinstance(e, said.VmScriptEnded)]
    assert len(runs) == len(set(runs))


@settings(max_examples=50)
@given(st.data(), recoveries())
def test_without_faults_every_recovery_completes_with_every_vm_ready(
    data: Any, recovery: tuple[list[Any], dict[str, Any]]
) -> None:
    vms, options = recovery
    vms = [msgspec.structs.replace(each, ready=each.ready) for each in vms]
    world = Watching(vms)
    for each in vms:
        world.deliver(enrol(each, **options))
    world.deliver(start(*vms, **options))
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.ready, end.failed) == ("completed", len(vms), 0)
    last = max(event.at for event in world.events(said.MemberReady))
    assert end.rto_s == (last - start(*vms).requested_at).total_seconds()
