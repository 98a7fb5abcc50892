"""The work queue: ready effects, budgets, worker leases. Settling happens in the store's commit.

Services that call platforms share one queue, so that a budget is granted in the order of all
who wait for it. Two implementations pass the same contract suite: Postgres and memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

import msgspec

from schemas.envelope import Meta
from shared.decider import Need, WorkClass


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process's lease. `number` rises with every new lease of any worker."""

    worker: str
    number: int
    lease_s: float


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """An effect granted to a worker under its lease. `data` is the payload's stored JSON."""

    effect_id: str
    stream: str
    partition: int
    kind: str
    type: str
    schema_version: int
    data: bytes
    meta: Meta
    attempt: int
    lease_no: int
    stream_version: int


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim granted, and in how many seconds something may become claimable (None: no
    known time; wait for news). `more` is True if another claim at once may grant more."""

    effects: tuple[Claimed, ...]
    next_in_s: float | None
    more: bool


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A limit shared by all workers. `hold`/`seat`: at most `concurrent` units at once.

    `rate`: a bucket of `burst` tokens refilled with `per_second`. Names look like
    `west/RunInstances`. Defining one again changes its limit, not what is in use.
    """

    name: str
    mode: str
    concurrent: int = 0
    burst: float = 0
    per_second: float = 0


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it stands, for `seawall queue`."""

    budget: Budget
    in_use: int
    tokens: float


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One ready or running effect, for `seawall queue`. `position` counts from 1 in its class."""

    effect_id: str
    service: str
    kind: str
    plan: str
    work_class: WorkClass
    priority: int
    due: dt.datetime
    ready_at: dt.datetime
    needs: tuple[Need, ...]
    worker: str
    attempt: int
    blocked_by: tuple[str, ...]


class WorkQueue(Protocol):
    """The verbs of the queue. `service` is the service whose effects a claim takes."""

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease: ...

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        """Prolong the lease; gives ids of claimed effects that were asked to stop.

        Raises Fenced if the lease is gone.
        """

    async def end_lease(self, lease: Lease) -> None:
        """Give back every effect still claimed under it, at once, without using an attempt."""

    async def claim(
        self, lease: Lease, *, kinds: Sequence[str], count_max: int
    ) -> ClaimResult: ...

    async def renew_claims(self, lease: Lease, effect_ids: Sequence[str]) -> None:
        """Raises Fenced unless the worker still holds all of them."""

    async def define(self, budgets: Sequence[Budget]) -> None: ...

    async def budgets(self) -> Sequence[BudgetState]: ...

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]: ...
