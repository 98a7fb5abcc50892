"""Effects, budgets and steps for the tests of the work queue, in few words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from schemas.envelope import Meta
from schemas.registry import published
from shared.decider import Effect, Need, WorkClass
from shared.effects.port import Budget, Claimed, Lease, WorkQueue
from shared.eventlog.port import EventStore, NewEffect, Settled, Step

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
META = Meta(occurred_at=START, actor="test", correlation_id="c-1")
SECOND = dt.timedelta(seconds=1)
LEASE_S = 1.0
PLATFORM_TIMEOUT_S = 1.0
KINDS = ("copy", "script")


@published("test.work", version=3)
class Work(msgspec.Struct, frozen=True, kw_only=True):
    text: str = ""


class Harness(Protocol):
    """A fresh queue, stores of two services that share it, and time."""

    @property
    def queue(self) -> WorkQueue: ...

    def store(self, service: str) -> EventStore: ...

    async def pass_time(self, seconds: float) -> None: ...

    async def now(self) -> dt.datetime: ...


def hold(*budgets: str) -> tuple[Need, ...]:
    return tuple(Need(budget=budget, mode="hold") for budget in budgets)


def rate(budget: str) -> tuple[Need, ...]:
    return (Need(budget=budget, mode="rate"),)


def seat(budget: str) -> tuple[Need, ...]:
    return (Need(budget=budget, mode="seat"),)


def slots(name: str, count: int) -> Budget:
    return Budget(name=name, mode="hold", concurrent=count)


def bucket(name: str, burst: float, per_second: float) -> Budget:
    return Budget(name=name, mode="rate", burst=burst, per_second=per_second)


def seats(name: str, count: int) -> Budget:
    return Budget(name=name, mode="seat", concurrent=count)


def effect(
    id_: str,
    *,
    due_s: float = 0,
    due: dt.datetime | None = None,
    kind: str = "copy",
    work_class: WorkClass = WorkClass.REPLICATION,
    priority: int = 3,
    plan: str = "shop",
    not_before: dt.datetime | None = None,
    interval_s: float = 0,
    needs: tuple[Need, ...] = (),
) -> NewEffect:
    """An effect named `stream/part`; `due_s` counts from the start of the tests' time."""
    stream, _, part = id_.partition("/")
    return NewEffect(
        stream,
        7,
        Effect(
            part=part or "step/x", kind=kind, payload=Work(text=id_),
            due=due or START + dt.timedelta(seconds=due_s), work_class=work_class,
            priority=priority, plan=plan, not_before=not_before, interval_s=interval_s,
            needs=needs,
        ),
        META,
    )  # fmt: skip


class Actor:
    """A service with a worker: enqueues, claims and settles."""

    def __init__(self, harness: Harness, service: str, lease: Lease) -> None:
        self.queue = harness.queue
        self.store = harness.store(service)
        self.lease = lease

    async def enqueue(self, effects: Iterable[NewEffect]) -> None:
        await self.store.commit(Step(effects=list(effects)))

    async def claim(self, count_max: int = 64, *, kinds: Sequence[str] = KINDS) -> list[Claimed]:
        result = await self.queue.claim(self.lease, kinds=kinds, count_max=count_max)
        return list(result.effects)

    async def claim_ids(self, count_max: int = 64, *, kinds: Sequence[str] = KINDS) -> list[str]:
        """The claimed effects' ids without their common part, in the order of the grant."""
        claimed = await self.claim(count_max, kinds=kinds)
        return [each.effect_id.removesuffix("/step/x") for each in claimed]

    async def claim_all(self) -> list[Claimed]:
        """Claim until nothing more is granted."""
        claimed: list[Claimed] = []
        for _ in range(200):
            result = await self.queue.claim(self.lease, kinds=KINDS, count_max=64)
            claimed += result.effects
            if not result.effects:
                return claimed
        raise AssertionError("claims without end")

    async def settle(self, claimed: Iterable[Claimed], *, releases: Sequence[str] = ()) -> None:
        done = list(claimed)
        await self.store.commit(
            Step(
                settled=[Settled(each.effect_id, each.lease_no) for each in done],
                released_seats=[(budget, each.stream) for each in done for budget in releases],
            )
        )

    async def requeue(self, claimed: Claimed, at: dt.datetime, *, attempt: int) -> None:
        await self.store.commit(
            Step(settled=[Settled(claimed.effect_id, claimed.lease_no, at, attempt)])
        )


async def actor(
    harness: Harness, service: str = "replicator", worker: str = "", lease_s: float = 30
) -> Actor:
    lease = await harness.queue.lease_worker(
        worker or f"{service}-1", service=service, lease_s=lease_s
    )
    return Actor(harness, service, lease)


async def in_use(queue: WorkQueue, name: str) -> int:
    (found,) = [state for state in await queue.budgets() if state.budget.name == name]
    return found.in_use
