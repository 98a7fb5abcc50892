"""Doctors the record of a world that was good, so that its judges must find something.

For the tests of judges: a world of a seed is lived through once, and whatever a test changes of
what it left is put back afterwards.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from shared.testing.sites import Turn
from shared.testing.virtual import run_virtual
from tests.simulation import (
    commits,
    drills,
    issued,
    journeys,
    judgement,
    lives,
    machines,
    outcomes,
    reversed_ends,
    told,
)
from tests.simulation.drills import Lived
from tests.simulation.facts import Fact
from tests.simulation.quiet import quiet

SECOND: Final = dt.timedelta(seconds=1)
LONG_S: Final = 9 * 3600.0
LIVED: Final[dict[int, Lived]] = {}
replace = msgspec.structs.replace
Doctor = Callable[[Lived], bool]
"""Changes the record of a world; whether there was anything to change."""


def lived(seed: int) -> Lived:
    """The world of a seed, which is lived through once."""
    if seed not in LIVED:
        with quiet():
            LIVED[seed] = run_virtual(drills.simulate(seed))
    return LIVED[seed]


@contextmanager
def kept(life: Lived) -> Iterator[None]:
    """Whatever is changed of the record within it stands as before afterwards."""
    world, facts = life.world, life.facts
    lists: list[list[Any]] = [world.machine.runs, world.asked, world.grants, world.written]
    lists += world.lost.values()
    for site in world.sites.values():
        lists += [site.turns, site.journal, site.every_instance]
        lists += [site.every_snapshot, site.every_copy]
    before = [list(each) for each in lists]
    tables: list[dict[Any, Any]] = [world.first, world.last_runs]
    for site in world.sites.values():
        tables += [site.born, site.last_words]
    held = [dict(each) for each in tables]
    settings = [(site, site.settings) for site in world.sites.values()]
    by_stream, by_type = facts.by_stream, facts.by_type
    power = [(vm, vm.power) for vm in world.sites["east"].vms.values()]
    try:
        yield
    finally:
        for each, items in zip(lists, before, strict=True):
            each[:] = items
        for table, entries in zip(tables, held, strict=True):
            table.clear()
            table.update(entries)
        for site, setting in settings:
            site.settings = setting
        facts.by_stream, facts.by_type = by_stream, by_type
        for vm, was in power:
            vm.power = was


def everything(life: Lived) -> list[str]:
    """All that the judges of recoveries find."""
    world, facts, temper = life.world, life.facts, life.temper
    return [
        *machines.judged(world, facts),
        *outcomes.judged(world, facts, temper),
        *told.judged(world, facts, temper),
        *commits.judged(world, facts),
        *issued.judged(world, calm=temper.calm),
        *journeys.judged(world, facts, temper),
        *reversed_ends.judged(world, facts, temper),
        *judgement.contents(world),
    ]


def is_seen(seeds: Iterable[int], doctor: Doctor, what: str) -> bool:
    """Whether a judge finds it, in one of these worlds, when their record was doctored so."""
    for seed in seeds:
        life = lived(seed)
        assert life.verdict.broken == []
        with kept(life):
            if doctor(life) and any(broken.startswith(what) for broken in everything(life)):
                return True
    return False


def tell(life: Lived, kind: type[Any], change: Callable[[Any], Any]) -> bool:
    """Have every fact of a kind say something else: `change` gives the fact, None drops it."""
    facts = life.facts

    def changed(history: list[Fact]) -> list[Fact]:
        told_now = [(row, change(b) if isinstance(b, kind) else b) for row, b in history]
        return [fact for fact in told_now if fact[1] is not None]

    found = bool(facts.of(kind))
    facts.by_stream = {stream: changed(each) for stream, each in facts.by_stream.items()}
    facts.by_type = {each: changed(history) for each, history in facts.by_type.items()}
    return found


def turn(life: Lived, site: str, machine: str, what: Any, at: dt.datetime) -> None:
    """Have a machine become something at a moment."""
    turns = life.world.sites[site].turns
    turns.append(Turn(at=at, machine=machine, what=what))
    turns.sort(key=lambda each: each.at)


def forget(life: Lived, site: str, what: str) -> bool:
    """Have no machine of a site ever become something."""
    turns = life.world.sites[site].turns
    left = [each for each in turns if each.what != what]
    found = len(left) < len(turns)
    turns[:] = left
    return found


def production(life: Lived) -> Iterator[lives.Life]:
    """Instances that full recoveries made away from home and that were on, in order."""
    for life_ in lives.Powered(life.world).instances.values():
        mine = life_.site == lives.AWAY and life_.job in life.facts.by_stream
        if mine and life_.on and not life_.isolated:
            yield life_


def insert(life: Lived, stream: str, at: int, body: Any) -> None:
    """Have a stream tell one fact more, before its `at`-th."""
    history = list(life.facts.by_stream[stream])
    history.insert(at, (history[at][0], body))
    life.facts.by_stream = {**life.facts.by_stream, stream: history}
    row = history[at][0]
    kind = type(body)
    life.facts.by_type = {
        **life.facts.by_type,
        kind: [*life.facts.by_type.get(kind, ()), (row, body)],
    }
