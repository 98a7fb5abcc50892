"""Judges who ran where and when, by what the sites themselves saw: no table of ours is read.

Rules of product.md §5: order and delays of boots, no VM twice in production, sources untouched by
tests and back only when instances are gone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, Final

from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas.ids import parts_of
from tests.simulation import operations
from tests.simulation.facts import Fact, Facts
from tests.simulation.lives import SLACK, Life, Lineage, Powered, away, unprepared
from tests.simulation.plane import Plane
from tests.simulation.strangers import STRANGER

SOURCE_CALLS: Final = ("shut_down_source", "power_off_source", "power_on_source")
Times = dict[tuple[str, str], list[dt.datetime]]
"""Moments by job and VM."""


def judged(world: Plane, facts: Facts) -> list[str]:
    """Everything that is not as it must be."""
    found = Powered(world)
    line = Lineage(found, facts)
    broken = _order(found, facts)
    broken += _built_in_time(world, facts)
    broken += _never_twice(world, facts, found)
    broken += _one_instance(found, facts)
    broken += _sources(world, facts, found)
    broken += _looked_first(world, facts, found)
    broken += _off_for_good(world, facts, line)
    broken += _together_or_not(facts, found, line)
    broken += _nothing_lost(world, facts, found, line)
    return broken


# ── Order ────────────────────────────────────────────────────────────────────────────────────


def _order(found: Powered, facts: Facts) -> list[str]:
    """A VM powers on when all of lower boot orders are up or given up, and delays are over.

    Looked at when its boot order was last opened before: it is opened again for VMs that are
    retried beside those of lower orders.
    """
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        job = row.stream
        opened = _opened(facts.by_stream[job])
        for later in start.members:
            on = [begin for life in found.of(job, later.vm) for begin, _ in life.on]
            if not on:
                continue
            at = min(on)
            before = (each for each in opened.get(later.boot_order, ()) if each <= at + SLACK)
            open_at = max(before, default=None)
            if open_at is None:
                broken.append(f"boot order: {later.vm} of {job} before its order was open")
                continue
            for earlier in start.members:
                if earlier.boot_order < later.boot_order:
                    broken += _after(found, facts, job, earlier, later.vm, at, open_at)
    return broken


def _opened(history: list[Fact]) -> dict[int, list[dt.datetime]]:
    found: dict[int, list[dt.datetime]] = {}
    for _, body in history:
        if isinstance(body, rec.BootOrderOpened):
            found.setdefault(body.boot_order, []).append(body.at)
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
    left_out = False
    for row, body in facts.by_stream[job]:
        if isinstance(body, rec.MemberEnded | steer.MemberRetried) and body.vm == vm:
            if row.meta.occurred_at > at + SLACK:
                break
            left_out = isinstance(body, rec.MemberEnded)
    return ended or left_out


def _built_in_time(world: Plane, facts: Facts) -> list[str]:
    """Without build ahead nothing of a VM is made before its boot order is open."""
    first: dict[tuple[str, str], dt.datetime] = {}
    for line in (line for site in world.sites.values() for line in site.journal):
        if line["call"] in ("hold", "rebuild_disk", "create_instance"):
            first.setdefault((line["job"], line["vm"]), _at(line))
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        opened = _opened(facts.by_stream[row.stream])
        for member in start.members:
            at = first.get((row.stream, member.vm))
            open_at = min(opened.get(member.boot_order, ()), default=None)
            late = open_at is None or (at is not None and at + SLACK < open_at)
            if at is not None and late and not start.header.recovery.build_ahead:
                broken.append(f"build ahead: {member.vm} of {row.stream} is built early")
    return broken


# ── Twice ────────────────────────────────────────────────────────────────────────────────────


def _never_twice(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """Two of a VM in production at a time: never, but by the word about a site that was lost."""
    broken: list[str] = []
    for vm in found.sources:
        for one, two in _pairs(found.production(vm)):
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
    """One of them was made by word of an operator that the other, at a site that was away, is
    gone."""
    pairs = ((one, two), (two, one))
    return any(_gave_up(world, facts, made, other) for made, other in pairs)


def _gave_up(world: Plane, facts: Facts, made: Life, other: Life) -> bool:
    if not made.job or made.site == other.site:
        return False
    (row, start), *_ = facts.by_stream[made.job]
    until = max((begin for begin, _ in made.on), default=row.meta.occurred_at)
    return bool(start.source_gone) and away(world, other.site, start.requested_at, until)


def _one_instance(found: Powered, facts: Facts) -> list[str]:
    """A VM has one instance in a recovery; a retry may have made another, never both run."""
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
    journals = [line for site in world.sites.values() for line in site.journal]
    broken: list[str] = []
    for line in _done(journals, SOURCE_CALLS):
        _, plan, key, vm = line["key"].partition("/")[0].split(":")
        job = f"recovery:{plan}:{key}"
        if operations.of(modes[job]).ends_with == "cleanup":
            broken.append(f"source: {job} touches {vm} by {line['call']}")
        if line["call"] == "power_on_source":
            broken += _back(facts, found, job, vm, _at(line))
    return broken


def _off_for_good(world: Plane, facts: Facts, line: Lineage) -> list[str]:
    """When all is decided what a VM runs as is on, unless a later commit left it out, a roll back
    left it off by word, or a cleanup by the plan's name did not get to its end."""
    members: dict[str, list[dt.datetime]] = {}
    for row, _ in facts.of(ops.RecoveryCommitted):
        for member in facts.by_stream[row.stream][0][1].members:
            members.setdefault(member.vm, []).append(row.meta.occurred_at)
    for row, end in facts.of(ops.RollbackFinished):
        for name in end.left_off:
            members.setdefault(name, []).append(row.meta.occurred_at)
    broken: list[str] = []
    for name, vm in world.sites["east"].vms.items():
        since, life = line.now(name)
        off = not life.on or life.on[-1][1] is not None if life.job else vm.power == "off"
        left = any(at > since for at in members.get(name, ()))
        history = facts.by_stream.get(life.job, ())
        left = left or any(isinstance(body, rec.RecoveryCleaning) for _, body in history)
        if off and life.gone is None and not left and name != STRANGER:
            what = f"of {life.job}, which was committed" if life.job else "and nothing committed"
            broken.append(f"source: {name} is off, {what}")
    return broken


def _back(facts: Facts, found: Powered, job: str, vm: str, at: dt.datetime) -> list[str]:
    """A source is switched on when no instance of it is left, in a roll back of none at all."""
    over = any(
        isinstance(body, rec.RecoveryFinished) and row.meta.occurred_at <= at
        for row, body in facts.by_stream[job]
    )
    left = [life for life in found.of(job, "" if over else vm) if life.there(at)]
    return [f"source: {vm} comes back beside {len(left)} instances of {job}"] if left else []


def _looked_first(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """A roll back that says that it touched nothing did not; nor does one by which VMs would have
    nothing to come back to, their site being away from its beginning to its end."""
    starts = {
        row.stream: (row.meta.occurred_at, start) for row, start in facts.of(ops.RollbackStarted)
    }
    broken: list[str] = []
    for row, end in facts.of(ops.RollbackFinished):
        if row.stream not in starts:
            continue
        (begun, start), over = starts[row.stream], row.meta.occurred_at
        removed = [
            life.vm
            for life in found.of(end.recovery)
            if life.there(begun) and not life.there(over)
        ]
        if end.untouched and removed:
            broken.append(f"untouched: {row.stream} removed {removed}, and says it did not")
        site = world.lost[start.source_site]
        away_all_along = any(a <= begun and (b is None or b >= over) for a, b in site)
        if away_all_along and removed and not start.leave_off:
            broken.append(f"blind: {row.stream} removed {removed}, {start.source_site} being away")
    return broken


def _together_or_not(facts: Facts, found: Powered, line: Lineage) -> list[str]:
    """A migration or failback builds nothing before all of its sources are off."""
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        made = [life.made for life in found.of(row.stream) if life.made is not None]
        if not made or not operations.of(start.mode).together:
            continue
        for member in start.members:
            if line.source(row.stream, member.vm).is_on(min(made)):
                broken.append(f"source: {member.vm} is on while {row.stream} builds")
    return broken


def _nothing_lost(world: Plane, facts: Facts, found: Powered, line: Lineage) -> list[str]:
    """An instance whose last sync is called complete holds what its source held at the end."""
    broken: list[str] = []
    for (site, machine), life in found.instances.items():
        job, vm = life.job, life.vm
        if job not in facts.by_stream or facts.by_stream[job][0][1].checkpoint != "latest":
            continue
        synced = any(
            isinstance(body, ops.MemberSynced) and (body.vm, body.state) == (vm, "completed")
            for _, body in facts.by_stream[job]
        )
        source = line.source(job, vm)
        words = [
            disks
            for at, disks in world.sites[source.site].last_words.get(source.machine, ())
            if life.made is not None and at <= life.made
        ]
        os = world.sites["east"].vms[vm].os
        held = world.sites[site].born.get(machine)
        if not synced or not words or held is None:
            continue
        if unprepared(held, os=os) != unprepared(words[-1], os=os):
            broken.append(f"lost: {vm} in {job} is not what its source last wrote")
    return broken


def _done(journal: Iterable[dict[str, Any]], calls: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return (line for line in journal if line["call"] in calls and line["outcome"] == "ok")


def _at(line: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(line["at"])
