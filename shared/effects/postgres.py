"""The work queue in PostgreSQL. What a step does to it is `apply_work` in sql/.

Owns the calls; what a claim does is in `claiming.py`, the rules of the order in `select.py`, the
rules of writing in sql/. Every instant is the database's clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.codec import needs_of
from shared.decider import WorkClass
from shared.effects.adapting import adapt_budgets
from shared.effects.claiming import LANES, Claim, Memory, Moved
from shared.effects.port import (
    Budget,
    BudgetState,
    Claimed,
    ClaimResult,
    Lease,
    Waiting,
)
from shared.errors import Refused
from shared.eventlog.port import Fenced
from shared.postgres import COMMAND_TIMEOUT_S, Pool, translated

PLATFORM_TIMEOUT_S: Final = 60.0
_CLAIM_TRIES_MAX: Final = 3
_IDLE_EVERY_S: Final = 30.0
_IDLE_AFTER_S: Final = 60.0


class PostgresWork:
    """The work queue of one process; any number of processes share the tables.

    `platform_timeout_s`: how long a call of a dead worker may still run at the platform, and
    keep its slots, except for `quick_return_kinds`. Times out as the pool says, with Transient.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        platform_timeout_s: float = PLATFORM_TIMEOUT_S,
        quick_return_kinds: Collection[str] = (),
    ) -> None:
        self._pool = pool
        self._platform_timeout_s = platform_timeout_s
        self._memory = Memory(quick_return_kinds)
        self._idled_at = 0.0

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease:
        number = await self._value(
            "lease a worker", "select work_lease($1, $2, $3, $4)",
            worker, service, lease_s, self._platform_timeout_s,
        )  # fmt: skip
        return Lease(worker=worker, number=number, lease_s=lease_s)

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        stop = await self._value("prolong a lease", "select work_heartbeat($1)", lease.number)
        if stop is None:
            raise Fenced("lease", [lease.worker])
        return tuple(stop)

    async def end_lease(self, lease: Lease) -> None:
        await self._value("end a lease", "select work_end_lease($1)", lease.number)

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        claim = Claim(self._memory, lease, sorted(kinds), count_max)
        maintained = False
        for _ in range(_CLAIM_TRIES_MAX):
            try:
                with translated("claim effects"):
                    async with self._transaction() as connection:
                        opened = await claim.open(connection)
                        if maintained or not opened["o_maintain"]:
                            result = await claim.run(connection, opened)
                            break
                    await self._maintain()
                    maintained = True
            except Moved as moved:
                claim.skip(moved.effect_ids)
        else:
            return ClaimResult(effects=(), next_in_s=None, more=True)
        await self._put_idle_lanes_aside(opened["o_now"])
        return result

    async def unanswered(self, lease: Lease, known: Collection[str]) -> Sequence[Claimed]:
        rows = await self._rows(
            "look for lost claims", "select * from work_unanswered($1, $2)",
            lease.number, list(known),
        )  # fmt: skip
        missing = {row["lane_id"] for row in rows} - self._memory.lanes.keys()
        if missing:
            self._memory.learn(await self._rows("read lanes", LANES, sorted(missing)))
        return tuple(self._memory.claimed(row, lease) for row in rows)

    async def renew_claims(self, lease: Lease, effect_ids: Sequence[str]) -> None:
        gone = await self._value(
            "renew claims", "select work_holds($1, $2)", lease.number, list(effect_ids)
        )
        if gone:
            raise Fenced("claim", gone)

    async def define(self, budgets: Sequence[Budget]) -> None:
        columns = [
            [getattr(budget, field) for budget in budgets]
            for field in ("name", "mode", "concurrent", "burst", "per_second")
        ]
        wrong = await self._value(
            "define budgets", "select work_define($1, $2, $3, $4, $5)", *columns
        )
        if wrong:
            raise Refused(
                f"budgets exist with another mode: {', '.join(wrong)}",
                remedy="name the new budget differently",
                code="budget-mode",
            )

    async def budgets(self) -> Sequence[BudgetState]:
        rows = await self._rows("list budgets", "select * from work_budget_states()")
        return tuple(_state(row) for row in rows)

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]:
        rows = await self._rows("list work", "select * from work_waiting($1)", count_max)
        return tuple(
            Waiting(
                **{
                    **row,
                    "work_class": WorkClass(row["work_class"]),
                    "needs": needs_of(row["needs"]),
                    "blocked_by": tuple(row["blocked_by"]),
                }
            )
            for row in map(dict, rows)
        )

    async def _maintain(self) -> None:
        """What has to be done before a claim: dead workers, slots that return, answers.

        Not inside the claim's transaction: budgets are locked by name, and a claim locks its own
        after it has chosen.
        """
        await self._value(
            "reap dead workers", "select work_maintain($1)", self._platform_timeout_s
        )
        with translated("adapt budgets"):
            async with self._transaction() as connection:
                await adapt_budgets(connection)

    async def _put_idle_lanes_aside(self, now: float) -> None:
        if abs(now - self._idled_at) >= _IDLE_EVERY_S:
            first, self._idled_at = self._idled_at == 0, now
            if not first:
                await self._value("rest idle lanes", "select work_idle_lanes($1)", _IDLE_AFTER_S)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[PoolConnectionProxy]:
        async with (
            self._pool.lend(timeout_s=COMMAND_TIMEOUT_S) as connection,
            connection.transaction(),
        ):
            yield connection

    async def _value(self, attempt: str, statement: str, *args: object) -> Any:
        with translated(attempt):
            async with self._pool.lend(timeout_s=COMMAND_TIMEOUT_S) as connection:
                return await connection.fetchval(statement, *args)

    async def _rows(self, attempt: str, statement: str, *args: object) -> list[asyncpg.Record]:
        with translated(attempt):
            async with self._pool.lend(timeout_s=COMMAND_TIMEOUT_S) as connection:
                return list(await connection.fetch(statement, *args))


def _state(row: asyncpg.Record) -> BudgetState:
    budget = Budget(
        name=row["name"],
        mode=row["mode"],
        concurrent=row["concurrent"],
        burst=row["burst"],
        per_second=row["per_second"],
    )
    cap = budget.per_second if budget.mode == "rate" else budget.concurrent
    return BudgetState(
        budget=budget,
        in_use=row["in_use"],
        tokens=row["tokens"],
        lowered_to=row["limit_now"] if row["limit_now"] < cap else None,
        throttled=row["throttled"],
        throttled_at=row["throttled_at"],
        throttled_since=row["throttled_since"],
        paused_until=row["paused_until"],
        at=row["asked_at"],
    )
