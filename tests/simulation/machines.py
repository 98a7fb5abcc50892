"""Judges who ran where and when, by what the sites themselves saw: no table of ours is read.

A *machine* is a source VM or an instance. Rules of product.md §5: order and delays of boots, no VM
twice in production, sources untouched by tests and back only when instances are gone.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas.ids import parts_of
from schemas.plans import TEST_NETWORK_DEFAULT
from shared.platforms.memory.site import MadeInstance
from tests.simulation import operations
from tests.simulation.facts import Fact, Facts
from tests.simulation.plane import Plane
from tests.simulation.strangers import STRANGER

SLACK: Final = dt.timedelta(milliseconds=1)
SOURCE_CALLS: Final = ("shut_down_source", "power_off_source", "power_on_source")
Times = dict[tuple[str, str], list[dt.datetime]]
"""Moments by job and VM."""


def judged(world: Plane, facts: Facts) -> list[str]:
    """Everything that is not as it must be."""
    found = Powered(world)
    broken = _order(found, facts)
    broken += _built_in_time(world, facts)
    broken += _never_twice(world, facts, found)
    broken += _one_instance(world, facts)
    broken += _sources(world, facts, found)
    return broken


class Life(msgspec.Struct, kw_only=True):
    """One machine: when it was there, and when on; an open end stands for *still*."""

    vm: str
    job: str = ""
    isolated: bool = False
    boots: dt.timedelta = dt.timedelta()
    made: dt.datetime | None = None
    gone: dt.datetime | None = None
    on: list[tuple[dt.datetime, dt.datetime | None]] = []

    def there(self, at: dt.datetime) -> bool:
        """Whether it existed."""
        begun = self.made is not None and self.made <= at
        return begun and (self.gone is None or self.gone > at)

    def up(self, at: dt.datetime) -> bool:
        """Whether its guest had booted."""
        return any(begin + self.boots <= at + SLACK for begin, _ in self.on)


class Powered:
    """The lives of all machines of a world."""

    def __init__(self, world: Plane) -> None:
        made = {each.facts.instance_id: each for each in world.sites["west"].every_instance}
        self.instances = {name: _life(each) for name, each in made.items()}
        self.sources = {name: Life(vm=name) for name in world.sites["east"].vms}
        for lives, site in ((self.sources, "east"), (self.instances, "west")):
            for turn in world.sites[site].turns:
                if turn.machine in lives:
                    _turned(lives[turn.machine], turn.what, turn.at)

    def of(self, job: str, vm: str = "") -> Iterator[Life]:
        """The instances of a recovery, of one of its VMs."""
        for life in self.instances.values():
            if life.job == job and vm in ("", life.vm):
                yield life


def _life(made: MadeInstance) -> Life:
    return Life(
        vm=made.facts.vm,
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


# ── Order ────────────────────────────────────────────────────────────────────────────────────


def _order(found: Powered, facts: Facts) -> list[str]:
    """A VM powers on when all of lower boot orders are up or given up, and delays are over.

    Looked at when its boot order opened: once open it stays so (a retried VM joins at once).
    """
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        job = row.stream
        opened = _opened(facts.by_stream[job])
        for later in start.members:
            on = [begin for life in found.of(job, later.vm) for begin, _ in life.on]
            if not on:
                continue
            at, open_at = min(on), opened.get(later.boot_order)
            if open_at is None or open_at > at + SLACK:
                broken.append(f"boot order: {later.vm} of {job} before its order was open")
                continue
            for earlier in start.members:
                if earlier.boot_order < later.boot_order:
                    broken += _after(found, facts, job, earlier, later.vm, at, open_at)
    return broken


def _opened(history: list[Fact]) -> dict[int, dt.datetime]:
    found: dict[int, dt.datetime] = {}
    for _, body in history:
        if isinstance(body, rec.BootOrderOpened):
            found.setdefault(body.boot_order, body.at)
    return found


def _after(
    found: Powered,
    facts: Facts,
    job: str,
    earlier: rec.Member,
    later: str,
    at: dt.datetime,
    open_at: dt.datetime,
) -> list[str]:
    lives = list(found.of(job, earlier.vm))
    up = any(life.up(open_at) for life in lives)
    if not up and not _given_up(facts, job, earlier.vm, open_at):
        return [f"boot order: {later} before {earlier.vm} in {job}"]
    delay = dt.timedelta(seconds=earlier.boot_delay_s)
    on = [begin for life in lives for begin, _ in life.on if begin <= open_at]
    if on and max(on) + delay > at + SLACK:
        return [f"boot delay: {later} after {earlier.vm} in {job}"]
    return []


def _given_up(facts: Facts, job: str, vm: str, at: dt.datetime) -> bool:
    """Whether the VM's recovery had ended, or people had gone on without its readiness."""
    _, plan, key = parts_of(job)
    ended = False
    for row, body in facts.by_stream.get(f"vm-recovery:{plan}:{key}:{vm}", ()):
        if row.meta.occurred_at > at + SLACK:
            break
        if isinstance(body, rec.VmFinished):
            ended = True
        elif isinstance(body, steer.VmRetried):
            ended = body.skip == "wait-ready"
    # One whose source could not be fenced is left out before it begins.
    return ended or any(
        isinstance(body, rec.MemberEnded) and body.vm == vm and body.at <= at + SLACK
        for _, body in facts.by_stream[job]
    )


def _built_in_time(world: Plane, facts: Facts) -> list[str]:
    """Without build ahead nothing of a VM is made before its boot order is open."""
    first: dict[tuple[str, str], dt.datetime] = {}
    for line in world.sites["west"].journal:
        if line["call"] in ("hold", "rebuild_disk", "create_instance"):
            first.setdefault((line["job"], line["vm"]), _at(line))
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        opened = _opened(facts.by_stream[row.stream])
        for member in start.members:
            at = first.get((row.stream, member.vm))
            open_at = opened.get(member.boot_order)
            late = open_at is None or (at is not None and at + SLACK < open_at)
            if at is not None and late and not start.header.recovery.build_ahead:
                broken.append(f"build ahead: {member.vm} of {row.stream} is built early")
    return broken


# ── Twice ────────────────────────────────────────────────────────────────────────────────────


def _never_twice(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """Two of a VM in production at a time: never, but by the word about a site that was lost."""
    lives: dict[str, list[Life]] = defaultdict(list)
    for life in (*found.sources.values(), *found.instances.values()):
        if not life.isolated and life.vm in found.sources:
            lives[life.vm].append(life)
    broken: list[str] = []
    for vm, each in lives.items():
        for one, two in _pairs(each):
            at = _together(one, two)
            if at is not None and not _by_word(world, facts, one, two):
                broken.append(f"twice: {vm} runs twice at {at}: {two.job} and {one.job or 'home'}")
    return broken


def _pairs(lives: list[Life]) -> Iterator[tuple[Life, Life]]:
    for number, one in enumerate(lives):
        for two in lives[number + 1 :]:
            yield one, two


def _together(one: Life, two: Life) -> dt.datetime | None:
    """The first moment at which both were on."""
    for begin, end in one.on:
        for other, other_end in two.on:
            at = max(begin, other)
            if all(until is None or until > at for until in (end, other_end)):
                return at
    return None


def _by_word(world: Plane, facts: Facts, one: Life, two: Life) -> bool:
    """A source beside an instance, whose operator said that it is gone, at a site that was."""
    if one.job:
        return False
    (row, start), *_ = facts.by_stream[two.job]
    until = max((begin for begin, _ in two.on), default=row.meta.occurred_at)
    away = [
        begin <= until and (end is None or end >= start.requested_at)
        for begin, end in world.lost["east"]
    ]
    return bool(start.source_gone and any(away))


def _one_instance(world: Plane, facts: Facts) -> list[str]:
    """A VM has one instance in a recovery; a retry may have made another, never both run."""
    found = Powered(world)
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        for member in start.members:
            lives = list(found.of(row.stream, member.vm))
            _, plan, key = parts_of(row.stream)
            history = facts.by_stream.get(f"vm-recovery:{plan}:{key}:{member.vm}", [])
            retried = sum(isinstance(body, steer.VmRetried) for _, body in history)
            if len(lives) > 1 + retried:
                broken.append(f"once: {member.vm} has {len(lives)} instances in {row.stream}")
            if any(_together(one, two) for one, two in _pairs(lives)):
                broken.append(f"once: {member.vm} runs twice in {row.stream}")
    return broken


# ── Sources ──────────────────────────────────────────────────────────────────────────────────


def _sources(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """Who may touch sources, and when they come back."""
    modes = {row.stream: start.mode for row, start in facts.of(rec.RecoveryStarted)}
    broken: list[str] = []
    for line in _done(world.sites["east"].journal, SOURCE_CALLS):
        _, plan, key, vm = line["key"].partition("/")[0].split(":")
        job = f"recovery:{plan}:{key}"
        if operations.of(modes[job]).ends_with == "cleanup":
            broken.append(f"source: {job} touches {vm} by {line['call']}")
        if line["call"] == "power_on_source":
            broken += _back(facts, found, job, vm, _at(line))
    broken += _off_for_good(world, facts)
    return broken + _together_or_not(world, facts, found) + _nothing_lost(world, facts, found)


def _off_for_good(world: Plane, facts: Facts) -> list[str]:
    """When all is decided a source is off only where its instance was committed."""
    moved = {
        member.vm
        for job in facts.streams(ops.RecoveryCommitted)
        for member in facts.by_stream[job][0][1].members
    }
    vms = world.sites["east"].vms.values()
    off = [vm.name for vm in vms if vm.power == "off" and vm.name not in (*moved, STRANGER)]
    return [f"source: {vm} is off, and nothing of it was committed" for vm in off]


def _back(facts: Facts, found: Powered, job: str, vm: str, at: dt.datetime) -> list[str]:
    """A source is switched on when no instance of it is left, in a roll back of none at all."""
    over = any(
        isinstance(body, rec.RecoveryFinished) and row.meta.occurred_at <= at
        for row, body in facts.by_stream[job]
    )
    left = [life for life in found.of(job, "" if over else vm) if life.there(at)]
    return [f"source: {vm} comes back beside {len(left)} instances of {job}"] if left else []


def _together_or_not(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """A migration builds nothing before all of its sources are off."""
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        made = [life.made for life in found.of(row.stream) if life.made is not None]
        if not made or not operations.of(start.mode).together:
            continue
        for member in start.members:
            source = found.sources[member.vm]
            if any(
                begin <= min(made) and (end is None or end > min(made)) for begin, end in source.on
            ):
                broken.append(f"source: {member.vm} is on while {row.stream} builds")
    return broken


def _nothing_lost(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """An instance whose last sync is called complete holds what its source held at the end."""
    broken: list[str] = []
    for made in world.sites["west"].every_instance:
        job, vm = made.facts.job, made.facts.vm
        if job not in facts.by_stream:
            continue
        synced = any(
            isinstance(body, ops.MemberSynced) and (body.vm, body.state) == (vm, "completed")
            for _, body in facts.by_stream[job]
        )
        life = found.instances[made.facts.instance_id]
        words = [
            disks
            for at, disks in world.sites["east"].last_words.get(vm, ())
            if life.made is not None and at <= life.made
        ]
        if not synced or not words or facts.by_stream[job][0][1].checkpoint != "latest":
            continue
        held = {file.removesuffix(".raw"): data for file, data in made.content.items()}
        if world.sites["east"].vms[vm].os == "windows":
            # Preparing changed the byte behind the sign of a Windows.
            held["sda"] = held["sda"][:8] + words[-1]["sda"][8:9] + held["sda"][9:]
        if held != words[-1]:
            broken.append(f"lost: {vm} in {job} is not what its source last wrote")
    return broken


def _done(journal: Iterable[dict[str, Any]], calls: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return (line for line in journal if line["call"] in calls and line["outcome"] == "ok")


def _at(line: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(line["at"])
