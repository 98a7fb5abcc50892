"""Judges VMs that travel: what was read from what, which way, and what is left of it.

From the sites alone: their snapshots, copies, machines. What people committed says which machine a
VM is (`lives.Lineage`); what reversals turned is held against the copies that were there.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator

from schemas import directions, reversals
from schemas import operations as ops
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas import scheduler_operations as sch_ops
from schemas.ids import family_of, parts_of
from shared.platforms.memory import MemoryVm
from tests.simulation.facts import Facts
from tests.simulation.lives import OTHER, Life, Lineage, Powered, ready_of, shot_of
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper


def judged(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """Everything that is not as it must be."""
    line = Lineage(Powered(world), facts)
    turns = Turns(facts)
    broken = _guests_only(world)
    broken += _read_from(world, facts, line, turns)
    broken += _turned(world, facts, line)
    broken += _home_again(facts)
    broken += _sources_kept(world, facts, line, turns)
    broken += _quarantined(facts)
    return broken + _fresh(world, facts, line, turns, temper)


class Turns:
    """When VMs changed the direction in which they are replicated, as the scheduler told."""

    def __init__(self, facts: Facts) -> None:
        self._at: dict[str, list[dt.datetime]] = defaultdict(list)
        for row, _ in facts.of(directions.VmTurned):
            self._at[parts_of(row.stream)[-1]].append(row.meta.occurred_at)

    def within(self, vm: str, since: dt.datetime, until: dt.datetime | None = None) -> bool:
        """Whether the VM turned in that time; without an end, ever since."""
        return any(since <= at and (until is None or at <= until) for at in self._at[vm])


# ── Bytes ────────────────────────────────────────────────────────────────────────────────────


def _machines(world: Plane) -> Iterator[tuple[str, MemoryVm, dict[str, bytes]]]:
    """Every machine that ever was, with its name and the disks that it began with."""
    for name, vm in world.sites["east"].vms.items():
        yield f"the original of {name}", vm, world.first[name]
    for where, site in world.sites.items():
        for made in site.every_instance:
            born = site.born.get(made.facts.instance_id)
            if born is not None:
                yield f"{made.facts.instance_id} at {where}", made.machine, born


def _guests_only(world: Plane) -> list[str]:
    """Nobody but its guest writes to a machine's disks: not to an original's either."""
    written: dict[int, list[tuple[str, int, bytes]]] = defaultdict(list)
    for vm, disk, offset, data in world.written:
        written[id(vm)].append((disk, offset, data))
    broken: list[str] = []
    for name, vm, first in _machines(world):
        disks = {disk: bytearray(content) for disk, content in first.items()}
        for disk, offset, data in written[id(vm)]:
            disks[disk][offset : offset + len(data)] = data
        if disks != vm.disks:
            broken.append(f"written: disks of {name} are not what its guest made of them")
    return broken


# ── Direction ────────────────────────────────────────────────────────────────────────────────


def _read_from(world: Plane, facts: Facts, line: Lineage, turns: Turns) -> list[str]:
    """A VM is copied from what it runs as; from an instance only once it turned, or is turning.

    So a committed failback has it copied from home again, and one that is rolled back does not.
    """
    started = {row.stream: (row, start) for row, start in facts.of(rep.IterationStarted)}
    broken: list[str] = []
    for name, site in world.sites.items():
        for shot in site.every_snapshot:
            row, start = started[shot.job]
            begun = row.meta.occurred_at
            lives = (line.at(shot.vm, begun), line.at(shot.vm, shot.at))
            if (name, shot.machine) not in [(life.site, life.machine) for life in lives]:
                broken.append(f"direction: {shot.job} reads {shot.machine} at {name}")
            since = line.since(shot.vm, begun)
            turning = start.operation == "reverse" or turns.within(shot.vm, since, begun)
            if lives[0].job and not turning:
                broken.append(f"direction: {shot.job} reads {shot.machine}, which never turned")
    return broken


def _turned(world: Plane, facts: Facts, line: Lineage) -> list[str]:
    """What turned in a reversal has a copy at the other site, as it was at a moment since."""
    turned: dict[str, set[str]] = defaultdict(set)
    broken: list[str] = []
    for row, body in facts.of(directions.VmTurned):
        if family_of(body.job) == "reversal":
            vm = parts_of(row.stream)[-1]
            turned[body.job].add(vm)
            if not _is_copied(world, facts, line.source(body.job, vm), body.job):
                broken.append(f"turned: {body.job} made no copy of {vm}")
    for row, end in facts.of(reversals.ReversalFinished):
        if end.turned != len(turned[row.stream]):
            told = sorted(turned[row.stream])
            broken.append(f"turned: {row.stream} says {end.turned} of {told}")
    return broken


def _is_copied(world: Plane, facts: Facts, life: Life, job: str) -> bool:
    history = facts.by_stream[job]
    since, until = history[0][1].requested_at, history[-1][0].meta.occurred_at
    target = OTHER[life.site]
    for copy in world.sites[target].every_copy:
        shot = shot_of(world, target, copy.mark)
        if copy.vm == life.vm and since <= copy.at <= until and shot is not None:
            mine = (shot.machine, shot.disks) == (life.machine, copy.disks)
            if mine and shot.at >= since:
                return True
    return False


def _home_again(facts: Facts) -> list[str]:
    """What a committed failback brought up is replicated the original way."""
    turned = {(body.job, parts_of(row.stream)[-1]) for row, body in facts.of(directions.VmTurned)}
    return [
        f"direction: {vm} came home by {job}, and is not replicated from there"
        for job in facts.streams(ops.RecoveryCommitted)
        if facts.by_stream[job][0][1].mode == "failback"
        for vm in ready_of(facts, job)
        if (job, vm) not in turned
    ]


def _quarantined(facts: Facts) -> list[str]:
    """While one of a plan's sites is quarantined no tick is dispatched."""
    spans: dict[str, list[tuple[dt.datetime, dt.datetime | None]]] = defaultdict(list)
    for stream in facts.streams(sch_ops.PlanQuarantined):
        opened: dict[str, dt.datetime] = {}
        for row, body in facts.by_stream[stream]:
            at = row.meta.occurred_at
            if isinstance(body, sch_ops.PlanQuarantined):
                opened.setdefault(body.site, at)
            elif isinstance(body, sch_ops.PlanQuarantineEnded) and body.site in opened:
                spans[body.plan].append((opened.pop(body.site), at))
        spans[parts_of(stream)[1]] += [(at, None) for at in opened.values()]
    ordinary = {
        row.stream
        for row, start in facts.of(rep.IterationStarted)
        if start.operation == "replication"
    }
    broken: list[str] = []
    for row, tick in facts.of(sch.IterationDispatched):
        at, plan = row.meta.occurred_at, parts_of(row.stream)[1]
        within = any(begin < at and (end is None or at < end) for begin, end in spans[plan])
        if within and tick.iteration in ordinary:
            broken.append(f"quarantine: {tick.iteration} begins though a site is quarantined")
    return broken


# ── What is left ─────────────────────────────────────────────────────────────────────────────


def _sources_kept(world: Plane, facts: Facts, line: Lineage, turns: Turns) -> list[str]:
    """No instance is deleted while it is what its VM is replicated from."""
    broken: list[str] = []
    for life in Powered(world).instances.values():
        if life.gone is None or life.vm not in world.first or life.isolated:
            continue
        mine = line.at(life.vm, life.gone)
        since = line.since(life.vm, life.gone)
        is_it = (mine.site, mine.machine) == (life.site, life.machine)
        if is_it and turns.within(life.vm, since, life.gone):
            broken.append(f"cleanup: {life.machine} was deleted, which {life.vm} runs as")
    return broken


def _fresh(world: Plane, facts: Facts, line: Lineage, turns: Turns, temper: Temper) -> list[str]:
    """After the last run of the day the other site has what each VM that stays is."""
    broken: list[str] = []
    ends = [end for _, end in facts.of(rep.IterationFinished) if end.run in world.last_runs]
    copied = {end.vm: end for end in ends if end.checkpoint_at is not None}
    for vm, end in copied.items():
        _, life = line.now(vm)
        site = world.sites[life.site]
        made = site.instances.get(life.machine)
        machine = site.vms[vm] if not life.job else made.machine if made is not None else None
        copy = world.sites[OTHER[life.site]].current.get((end.plan, vm))
        if machine is None or copy is None or copy.content != machine.disks:
            broken.append(f"fresh: the copy of {vm} is not what it runs as at {life.site}")
    for run in world.last_runs:
        for vm in world.last_runs[run]:
            since, life = line.now(vm)
            stays = not life.job or turns.within(vm, since)
            if stays and vm not in copied and not temper.scripts:
                broken.append(f"fresh: {vm} was not copied at the end of the day")
    return broken
