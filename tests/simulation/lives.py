"""The lives of a world's machines, as the sites saw them, and which of them a VM is at a moment.

A *machine* is a source VM or an instance. Who a VM is follows from what people committed: its
original, until an instance took its place for good. For the judges; nothing is judged here.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from schemas import operations as ops
from schemas import recovery as rec
from schemas.plans import TEST_NETWORK_DEFAULT
from shared.platforms.memory.site import MadeInstance
from shared.testing.sites import Shot
from tests.simulation.facts import Facts
from tests.simulation.plane import Plane
from tests.simulation.plans import PREPARED

SLACK: Final = dt.timedelta(milliseconds=1)
HOME, AWAY = "east", "west"
"""The site that plans protect, and the one that they recover to."""

OTHER: Final[Mapping[str, str]] = {HOME: AWAY, AWAY: HOME}
Span = tuple[dt.datetime, dt.datetime | None]


class Life(msgspec.Struct, kw_only=True):
    """One machine: when it was there, and when on; an open end stands for *still*."""

    vm: str
    site: str
    machine: str
    name: str = ""
    job: str = ""
    isolated: bool = False
    boots: dt.timedelta = dt.timedelta()
    made: dt.datetime | None = None
    gone: dt.datetime | None = None
    on: list[Span] = []

    def there(self, at: dt.datetime) -> bool:
        """Whether it existed."""
        begun = self.made is not None and self.made <= at
        return begun and (self.gone is None or self.gone > at)

    def is_on(self, at: dt.datetime) -> bool:
        """Whether it was switched on."""
        return any(begin <= at and (end is None or end > at) for begin, end in self.on)

    def up(self, at: dt.datetime) -> bool:
        """Whether its guest had booted."""
        return any(begin + self.boots <= at + SLACK for begin, _ in self.on)


class Powered:
    """The lives of all machines of a world."""

    def __init__(self, world: Plane) -> None:
        self.sources = {
            name: Life(vm=name, site=HOME, machine=name) for name in world.sites[HOME].vms
        }
        self.instances: dict[tuple[str, str], Life] = {}
        for name, site in world.sites.items():
            for made in site.every_instance:
                self.instances[name, made.facts.instance_id] = _life(name, made)
            for turn in site.turns:
                life = self.instances.get((name, turn.machine))
                life = life or (self.sources.get(turn.machine) if name == HOME else None)
                if life is not None:
                    _turned(life, turn.what, turn.at)

    def of(self, job: str, vm: str = "") -> Iterator[Life]:
        """The instances of a recovery, of one of its VMs."""
        for life in self.instances.values():
            if life.job == job and vm in ("", life.vm):
                yield life

    def production(self, vm: str) -> list[Life]:
        """All machines that were ever the VM on a network of others."""
        lives = (*self.sources.values(), *self.instances.values())
        return [life for life in lives if life.vm == vm and not life.isolated]


def _life(site: str, made: MadeInstance) -> Life:
    return Life(
        vm=made.facts.vm,
        site=site,
        machine=made.facts.instance_id,
        name=made.facts.name,
        job=made.facts.job,
        isolated=made.facts.network == TEST_NETWORK_DEFAULT,
        boots=dt.timedelta(seconds=made.boots_in_s),
    )


def _turned(life: Life, what: str, at: dt.datetime) -> None:
    if what == "made":
        life.made = at
    if what == "on":
        life.on = [*life.on, (at, None)]
    elif what in ("off", "gone") and life.on and life.on[-1][1] is None:
        life.on = [*life.on[:-1], (life.on[-1][0], at)]
    if what == "gone":
        life.gone = at


class Lineage:
    """Which machine each VM was, from when on: its original, then what people committed."""

    def __init__(self, found: Powered, facts: Facts) -> None:
        self._facts = facts
        self._lives: dict[str, list[tuple[dt.datetime, Life]]] = defaultdict(list)
        for name, life in found.sources.items():
            self._lives[name].append((dt.datetime.min.replace(tzinfo=dt.UTC), life))
        for row, _ in facts.of(ops.RecoveryCommitted):
            at = row.meta.occurred_at
            for vm in ready_of(facts, row.stream):
                there = [life for life in found.of(row.stream, vm) if life.there(at)]
                self._lives[vm] += [(at, life) for life in there[-1:]]
        for lives in self._lives.values():
            lives.sort(key=lambda each: each[0])

    def at(self, vm: str, at: dt.datetime) -> Life:
        """What the VM was at that moment."""
        return next(life for since, life in reversed(self._lives[vm]) if since <= at)

    def since(self, vm: str, at: dt.datetime) -> dt.datetime:
        """From when on it was what it was at that moment."""
        return next(since for since, _ in reversed(self._lives[vm]) if since <= at)

    def now(self, vm: str) -> tuple[dt.datetime, Life]:
        """What it is when all is over, and since when."""
        return self._lives[vm][-1]

    def source(self, job: str, vm: str) -> Life:
        """What a recovery or a reversal found the VM to be."""
        # Not when it was asked for: a command may wait for what it builds on.
        return self.at(vm, self._facts.by_stream[job][0][0].meta.occurred_at)


def ready_of(facts: Facts, job: str) -> list[str]:
    """The VMs of a recovery that came up."""
    ends = {end.vm: end for _, end in facts.of(rec.VmFinished) if end.job == job}
    return [end.vm for end in ends.values() if end.outcome == "ready"]


def away(world: Plane, site: str, since: dt.datetime, until: dt.datetime) -> bool:
    """Whether a site could not be reached at some moment between the two."""
    return any(begin <= until and (end is None or end >= since) for begin, end in world.lost[site])


def shot_of(world: Plane, site: str, mark: str) -> Shot | None:
    """The snapshot that a copy at `site` with this mark was read from: at the other one."""
    every = world.sites[OTHER[site]].every_snapshot
    return next((shot for shot in every if shot.mark == mark), None)


def unprepared(disks: Mapping[str, bytes], *, os: str) -> dict[str, bytes]:
    """Disks of which what preparing a Windows changes is set aside, to be compared."""
    if os != "windows":
        return dict(disks)
    return {**disks, "sda": PREPARED + disks["sda"][len(PREPARED) :]}
