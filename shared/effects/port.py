"""The work queue: ready effects, budgets, worker leases. Settling happens in the store's commit.

Services that call platforms share one queue, so that a budget is granted in the order of all
who wait for it. Two implementations pass the same contract suite: Postgres and memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
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
    """An effect granted to a worker under its lease. `data` is the payload's stored JSON.

    `attempt` counts failures committed so far (0: the first try). `cancelled`: the owner took
    it back before anyone began; it holds no budget and is only to be settled as cancelled.
    `claim_no` rises with every claim of any worker: what an earlier claim left is told by it.
    """

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
    cancelled: bool = False
    claim_no: int = 0


class ClaimResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim granted, and in how many seconds something may become claimable (None: no
    known time; wait for news). `more` is True if another claim at once may grant more."""

    effects: tuple[Claimed, ...]
    next_in_s: float | None
    more: bool


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A limit shared by all workers. `hold`/`seat`: at most `concurrent` units at once.

    `rate`: a bucket of `burst` tokens refilled with `per_second`. Names look like
    `west/RunInstances`. Defining one again changes its limit, not what is in use. A budget that
    effects name before it is defined has no room. What is defined is the cap: where the platform
    refuses calls before it is reached, a lower limit is in force (shared/effects/adapt.py).
    """

    name: str
    mode: str
    concurrent: int = 0
    burst: float = 0
    per_second: float = 0


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it stands, for `seawall queue`.

    `lowered_to` is the limit in force, None where that is the cap. `throttled` counts what the
    platform refused of it: the last time `throttled_at`, without a longer pause since
    `throttled_since`. Nothing of it is granted before `paused_until`. `at` is when it was read.
    """

    budget: Budget
    in_use: int
    tokens: float
    lowered_to: float | None = None
    throttled: int = 0
    throttled_at: dt.datetime | None = None
    throttled_since: dt.datetime | None = None
    paused_until: dt.datetime | None = None
    at: dt.datetime | None = None

    @property
    def cap(self) -> float:
        """What it was defined with: calls per second, or units at once."""
        rate = self.budget.mode == "rate"
        return self.budget.per_second if rate else float(self.budget.concurrent)

    @property
    def limit(self) -> float:
        """What is in force, in the same unit."""
        return self.cap if self.lowered_to is None else self.lowered_to


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One effect, for `seawall queue`. `worker` runs it, else '' and `blocked_by` says what
    has no room for it; `attempt` counts failures so far."""

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
    """The verbs of the queue. Every instant is the queue's own clock.

    All verbs raise Transient when the queue cannot be reached; what a verb that writes has done
    is then unknown.
    """

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease:
        """Begin a lease. Earlier leases of the same name end as if the worker had died."""

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        """Prolong the lease; gives ids of claimed effects that were asked to stop.

        Raises Fenced if the lease is gone.
        """

    async def end_lease(self, lease: Lease) -> None:
        """Give back every effect still claimed under it, at once, without using an attempt.

        Their slots are free at once too: call it only when none of their calls still runs.
        """

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        """Grant up to `count_max` effects of the lease's service, of kinds it handles.

        Order over all services: class, priority (work older than its interval rises by one),
        plans in turn, due. Never past a budget, as platforms' answers have lowered it. Raises
        Fenced if the lease is gone.
        """

    async def unanswered(self, lease: Lease, known: Collection[str]) -> Sequence[Claimed]:
        """Effects claimed under the lease that are not `known`: their claim's answer was lost."""

    async def renew_claims(self, lease: Lease, effect_ids: Sequence[str]) -> None:
        """Raises Fenced, naming those lost, unless the worker still holds all of them."""

    async def define(self, budgets: Sequence[Budget]) -> None:
        """Create budgets or change their limits. Raises Refused for a change of mode."""

    async def budgets(self) -> Sequence[BudgetState]:
        """All budgets by name, those that effects name and nobody has defined included."""

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]:
        """Work by class; in a class running effects first, then by priority and due."""
