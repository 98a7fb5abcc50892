"""Random histories of steps: both stores answer as the rules say, and alike.

The machine draws whole steps, right and wrong parts mixed, and predicts from its own small model
whether a step may commit. After each it compares everything that can be read.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from schemas.ids import PARTITIONS
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import (
    Conflict,
    CursorMove,
    DueTimer,
    EventStore,
    Fenced,
    NameTaken,
    NewRow,
    Parked,
    Step,
)
from shared.eventlog.postgres import PostgresStore
from shared.migrations import STORE_FILES, migrate_schema
from shared.postgres import open_pool
from tests.contract.eventlog.rows import (
    LONG_AGO,
    OTHER,
    TOPIC,
    event,
    message,
    parked,
    snapshot,
    timer,
)
from tests.contract.eventlog.test_memory import HandClock

T = TypeVar("T")
Close = Callable[[], Coroutine[Any, Any, None]]
OpenStores = Callable[[], Coroutine[Any, Any, tuple[Sequence[EventStore], Close]]]
KEYS = ("a", "b", "c")
STREAMS = ("counter:a", "counter:b", "counter:c", "counter:a:child")
NAMES = ("plan/shop", "plan/bar")
TIMERS = ("wake",)

few = st.integers(0, 2)
streams = st.sampled_from(STREAMS)
# Mostly right, sometimes one too low or too high.
slips = st.sampled_from([0, 0, 0, 0, 0, 0, -1, 1])


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A step as drawn, before it is filled with what the store holds at the moment."""

    appends: dict[str, tuple[int, int]]  # stream → number of events, slip of the version
    messages: list[str]
    cursors: dict[int, tuple[int, int]]  # partition → distance, slip
    set_timers: list[tuple[str, str]]
    cancel_timers: list[tuple[str, str]]
    fire: int
    stale: bool
    reserve: list[tuple[str, str]]
    release: list[tuple[str, str]]
    park: list[int]
    unpark: list[int]
    snapshots: bool


timer_names = st.tuples(streams, st.sampled_from(TIMERS))
holders = st.tuples(st.sampled_from(NAMES), streams)
plans = st.builds(
    Plan,
    appends=st.dictionaries(streams, st.tuples(st.integers(1, 3), slips), max_size=3),
    messages=st.lists(st.sampled_from(KEYS), max_size=3),
    cursors=st.dictionaries(st.integers(0, 2), st.tuples(st.integers(1, 3), slips), max_size=2),
    set_timers=st.lists(timer_names, max_size=2),
    cancel_timers=st.lists(timer_names, max_size=1),
    fire=few,
    stale=st.sampled_from([False, False, False, True]),
    reserve=st.lists(holders, max_size=1),
    release=st.lists(holders, max_size=1),
    park=st.lists(st.integers(1, 4), max_size=1),
    unpark=st.lists(st.integers(1, 4), max_size=1),
    snapshots=st.booleans(),
)


class Model:
    """What must be true, in the simplest words."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(STREAMS, 0)
        self.heads: dict[tuple[str, int], list[bytes]] = {}
        self.cursors: dict[int, int] = {}
        self.names: dict[str, str] = {}
        self.parked: set[int] = set()

    def rows(self, plan: Plan) -> list[NewRow]:
        rows = [message(key, data=b'{"key":"%s"}' % key.encode()) for key in plan.messages]
        for stream, (count, slip) in plan.appends.items():
            first = max(1, self.versions[stream] + 1 + slip)
            rows += [event(stream, first + n) for n in range(count)]
        return rows

    def moves(self, plan: Plan) -> list[CursorMove]:
        moves = []
        for partition, (distance, slip) in plan.cursors.items():
            before = max(0, self.cursors.get(partition, 0) + slip)
            move = CursorMove("scheduler", 1, OTHER, partition, before, before + distance)
            moves.append(move)
        return moves

    def broken(self, step: Step, *, stale: bool) -> set[type[Exception]]:
        """The errors that the step deserves."""
        errors: set[type[Exception]] = set()
        firsts: dict[str, int] = {}
        for row in step.rows:
            if row.version:
                firsts.setdefault(row.stream, row.version)
        if any(first != self.versions[stream] + 1 for stream, first in firsts.items()):
            errors.add(Conflict)
        if any(move.before != self.cursors.get(move.partition, 0) for move in step.cursors):
            errors.add(Fenced)
        if stale or any(entry.seq not in self.parked for entry in step.unparked):
            errors.add(Fenced)
        names = self.names_after_release(step)
        if any(names.get(name, stream) != stream for name, stream in step.reserved):
            errors.add(NameTaken)
        return errors

    def names_after_release(self, step: Step) -> dict[str, str]:
        return {n: s for n, s in self.names.items() if (n, s) not in step.released}

    def apply(self, step: Step) -> None:
        for row in step.rows:
            self.heads.setdefault((row.topic, row.partition), []).append(row.data)
            self.versions[row.stream] = max(self.versions[row.stream], row.version)
        self.cursors |= {move.partition: move.after for move in step.cursors}
        self.names = {**self.names_after_release(step), **dict(step.reserved)}
        self.parked -= {entry.seq for entry in step.unparked}
        self.parked |= {entry.seq for entry in step.parked}


class StoreMachine(RuleBasedStateMachine):
    """One history over every store that `open_stores` gives."""

    def __init__(self, open_stores: OpenStores) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stores, self.close = self.loop.run_until_complete(open_stores())
        self.model = Model()
        self.spent: list[tuple[DueTimer, ...]] = []

    @initialize()
    def begin(self) -> None:
        assert self.wait(self.observe(self.stores[0])) == self.nothing()

    def nothing(self) -> tuple[Any, ...]:
        return [], {}, {}, [], [], [(stream, None, []) for stream in STREAMS]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(plan=plans)
    def commit(self, plan: Plan) -> None:
        firing = self.timers_to_fire(plan)
        steps = [self.step(plan, fired) for fired in zip(*firing, strict=True)]
        steps = steps or [self.step(plan, ()) for _ in self.stores]
        stale = plan.stale and bool(self.spent)
        deserved = self.model.broken(steps[0], stale=stale)
        before = self.model.heads.copy()
        for store, step in zip(self.stores, steps, strict=True):
            outcome = self.wait(self.attempt(store, step))
            if deserved:
                assert type(outcome) in deserved
            else:
                assert isinstance(outcome, dict), outcome
        if deserved:
            assert self.model.heads == before
            return
        self.model.apply(steps[0])
        self.spent += firing

    def timers_to_fire(self, plan: Plan) -> list[tuple[DueTimer, ...]]:
        """For each timer one setting per store: tokens are each store's own."""
        settings_by_store = [
            {(t.stream, t.name): t for t in self.wait(_due(store))} for store in self.stores
        ]
        keys = sorted(settings_by_store[0])[: plan.fire]
        firing = [tuple(found[key] for found in settings_by_store) for key in keys]
        spent = self.spent[-1:] if plan.stale else []
        return firing + [old for old in spent if old not in firing]

    def step(self, plan: Plan, fired: Sequence[DueTimer]) -> Step:
        model, rows = self.model, self.model.rows(plan)
        tops = {row.stream: row.version for row in rows if row.version}
        return Step(
            rows=rows,
            cursors=model.moves(plan),
            fired=fired,
            timers=[
                timer(stream, name, LONG_AGO + dt.timedelta(seconds=STREAMS.index(stream)))
                for stream, name in plan.set_timers
            ],
            cancelled_timers=plan.cancel_timers,
            reserved=plan.reserve,
            released=plan.release,
            snapshots=[snapshot(s, v) for s, v in tops.items()] if plan.snapshots else [],
            parked=[parked(seq) for seq in plan.park],
            unparked=[parked(seq) for seq in plan.unpark],
        )

    async def attempt(self, store: EventStore, step: Step) -> object:
        try:
            return dict(await store.commit(step))
        except (Conflict, Fenced, NameTaken) as error:
            return error

    @invariant()
    def the_stores_show_the_same(self) -> None:
        first, *others = [self.wait(self.observe(store)) for store in self.stores]
        for other in others:
            assert other == first

    @invariant()
    def what_is_read_is_what_was_committed(self) -> None:
        rows, heads, cursors, _, waiting, loaded = self.wait(self.observe(self.stores[0]))
        assert heads == {head: len(data) for head, data in self.model.heads.items()}
        for head, data in self.model.heads.items():
            mine = [row for row in rows if (row.topic, row.partition) == head]
            assert [row.seq for row in mine] == list(range(1, len(data) + 1))
            assert [row.data for row in mine] == data
        assert {key[2]: seq for key, (_, seq) in cursors.items()} == self.model.cursors
        assert {entry.seq for entry in waiting} == self.model.parked
        for stream, kept, versions in loaded:
            begin = kept.version if kept else 0
            assert versions == list(range(begin + 1, self.model.versions[stream] + 1))

    async def observe(self, store: EventStore) -> tuple[Any, ...]:
        """Everything that can be read, but for tokens and the source's name."""
        after = dict.fromkeys(range(PARTITIONS), 0)
        rows = [
            row
            for topic in (TOPIC, OTHER)
            for row in await store.read(topic, after, count_max=999)
        ]
        loaded = await store.load(dict.fromkeys(STREAMS, 0))
        parked_now: Sequence[Parked] = await store.parked()
        timers = [msgspec.structs.replace(found, token=0) for found in await _due(store)]
        return (
            sorted(rows, key=lambda row: (row.topic, row.partition, row.seq)),
            dict(await store.heads([TOPIC, OTHER])),
            dict(await store.cursors()),
            sorted(timers, key=lambda found: (found.due, found.stream, found.name)),
            list(parked_now),
            [
                (stream, loaded[stream].snapshot, [row.version for row in loaded[stream].events])
                for stream in STREAMS
            ],
        )

    def teardown(self) -> None:
        self.loop.run_until_complete(self.close())
        self.loop.close()


async def _due(store: EventStore) -> Sequence[DueTimer]:
    return await store.due_timers(range(PARTITIONS), count_max=99)


def machine(open_stores: OpenStores) -> type[RuleBasedStateMachine]:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(open_stores)

    return Machine


def test_memory_obeys_the_rules_in_any_history() -> None:
    async def nothing() -> None: ...

    async def open_stores() -> tuple[Sequence[EventStore], Close]:
        return [MemoryStore("test", clock=HandClock())], nothing

    run_state_machine_as_test(
        machine(open_stores),
        settings=settings(max_examples=60, stateful_step_count=25, deadline=None),
    )


def test_postgres_and_memory_agree_in_any_history(postgres_dsn: str) -> None:
    asyncio.run(migrate_schema(postgres_dsn, "test", folder=STORE_FILES))

    async def open_stores() -> tuple[Sequence[EventStore], Close]:
        pool = await open_pool(postgres_dsn, "test", size_max=1)
        async with pool.acquire(timeout=5) as connection:
            await connection.execute(
                "truncate heads, streams, log, snapshots, cursors, timers, reservations, parked"
            )
        postgres = await PostgresStore.open(pool, service="test")
        return [MemoryStore("test", clock=HandClock()), postgres], pool.close

    run_state_machine_as_test(
        machine(open_stores),
        settings=settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
