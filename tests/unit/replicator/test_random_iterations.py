"""Random iterations: any outcome of any step, in any order, repeated news, a cancel anywhere."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import replicator as said
from schemas.common import ScriptReport
from schemas.replicator_work import ScriptRan
from schemas.scheduler import IterationEnded
from shared.errors import Refused
from tests.unit.replicator.world import World, iteration, outcome_of, script, start

DB = iteration()
FAILURES = ("continue", "fail_vm", "stop", None)
STEPS_MAX = 300


class Watching(World):
    """Checks at the moment of asking: a switch follows the success of every disk."""

    def __init__(self, *, disk_count: int) -> None:
        super().__init__(disk_count=disk_count)
        self.copied: set[str] = set()
        self.switched = 0

    def asked(self, effect_id: str) -> None:
        if effect_id.endswith("/finalize"):
            self.switched += 1
            assert len(self.copied) == self.disk_count, "a copy lacks a disk"


def scripts_of(draw: Any) -> Any:
    if not draw(st.booleans()):
        return None
    return script(
        on_failure=draw(st.sampled_from(FAILURES)),
        retries=draw(st.integers(0, 1)),
        on_unknown=draw(st.sampled_from(("fail", "rerun"))),
    )


def settle_somehow(draw: Any, world: Watching, effect_id: str) -> Any:
    """End an effect in one of the ways it may end in; gives the outcome."""
    part = world.effects[effect_id].part
    stopped = effect_id in world.asked_to_stop
    ways = ["well", "well", "well", "failed", "failed-but-done"]
    if stopped:
        ways += ["cancelled", "cancelled-but-done"]
    if "script" in part:
        ways += ["unknown", "exit-1"]
    if part.endswith("/left"):
        ways = ["well", "failed"]
    way = draw(st.sampled_from(ways))
    if way == "well":
        if part.startswith("transfer"):
            world.copied.add(part)
        return world.settle(effect_id)
    if way == "exit-1":
        report = ScriptReport(outcome="failed", exit_code=1, error="exit code 1")
        return world.settle(effect_id, result=ScriptRan(report=report))
    if way == "unknown":
        return world.settle(effect_id, code="unknown", unknown=True)
    note_trouble(draw, world, effect_id)
    code = "cancelled" if way.startswith("cancelled") else "broken"
    return world.settle(effect_id, code=code, done=way.endswith("done"))


def note_trouble(draw: Any, world: World, effect_id: str) -> None:
    """What handlers note before they fail; a process that dies notes nothing."""
    payload = world.effects[effect_id].payload
    carried = getattr(payload, "carried", None)
    if carried is None or carried.snapshot is None or not draw(st.booleans()):
        return
    part = world.effects[effect_id].part
    note: Any = said.SnapshotOpened(snapshot=carried.snapshot, steps=carried.steps)
    if part == "finalize":
        count = len(carried.disks)
        note = said.DiskTransferred(result=carried.disks[-1], index=count, last=True)
    elif part == "remove-snapshot":
        note = said.CopyFinalized(
            checkpoint_at=carried.checkpoint_at, steps=carried.steps, disks=carried.disks
        )
    world.deliver(note, stream=effect_id.partition("/")[0])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_happens_nothing_is_left_open_and_the_end_is_told_once(data: Any) -> None:
    draw = data.draw
    world = Watching(disk_count=draw(st.integers(1, 4)))
    gated = draw(st.booleans())
    run = "replication-run:shop:t1" if gated or draw(st.booleans()) else ""
    begin = [start(pre=scripts_of(draw), post=scripts_of(draw), run=run, gated=gated)]
    if gated:
        begin.append(said.OpenGate(iteration=DB, allowed=draw(st.booleans())))
    for message in draw(st.permutations(begin)):
        maybe_cancel(draw, world)
        world.deliver(message)
        if draw(st.booleans()):
            world.deliver(message)
    for _ in range(STEPS_MAX):
        if not world.effects:
            break
        maybe_cancel(draw, world)
        effect_id = draw(st.sampled_from(sorted(world.effects)))
        ended = settle_somehow(draw, world, effect_id)
        if world.events(said.IterationFinished) and draw(st.booleans()):
            world.ended(effect_id.partition("/")[0], ended)
    check(world)


def maybe_cancel(draw: Any, world: World) -> None:
    if draw(st.integers(0, 9)):
        return
    if draw(st.booleans()):
        world.deliver(said.CancelIteration(iteration=DB))
        return
    try:
        world.deliver(said.CancelJob(command_id="c", job=DB))
    except Refused as refused:
        assert refused.code in ("unknown-job", "job-ended")


def check(world: Watching) -> None:
    assert not world.effects, "something is still to be done"
    assert not world.snapshots, "a source snapshot was left"
    assert not world.staged, "a staged generation was left"
    final = world.event(said.IterationFinished)
    ended = outcome_of(world)
    assert ended.state == final.state
    assert world.switched <= 1
    if not world.copies:
        assert final.checkpoint_at is None
    if final.state in ("completed", "partially-completed"):
        assert final.checkpoint_at is not None
        assert world.copies
    if final.state == "completed":
        assert all(step.state == "completed" for step in final.steps)
        assert final.problem is None
    cancelled = bool(world.events(said.IterationCancelRequested))
    assert (final.state == "cancelled") == cancelled
    assert set(final.leftovers) == {event.what for event in world.events(said.LeftoverRemoved)}
    names = [step.name for step in final.steps]
    assert len(names) == len(set(names))
    assert sum(isinstance(m, IterationEnded) for m in world.sent) == 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_news_repeated_under_way_do_not_double_the_end(data: Any) -> None:
    """The engine settles an outcome once; this is what one delivered twice would do."""
    draw = data.draw
    world = Watching(disk_count=draw(st.integers(1, 3)))
    world.deliver(start(post=scripts_of(draw)))
    for _ in range(STEPS_MAX):
        if not world.effects:
            break
        effect_id = draw(st.sampled_from(sorted(world.effects)))
        if world.effects[effect_id].part.startswith("transfer"):
            world.copied.add(world.effects[effect_id].part)
        ended = world.settle(effect_id)
        if draw(st.booleans()):
            world.ended(DB, ended)
    assert not world.snapshots
    assert len(world.told(IterationEnded)) == 1
