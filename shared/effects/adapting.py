"""Folds what platforms answered into the budgets' rows, under the claim lock.

The rule is `adapt.py`, the rows are sql/0005_pre_adaptive.sql.
"""

from __future__ import annotations

from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from shared.effects.adapt import Adapted, Heard, Level, adapt
from shared.effects.port import Budget

_TAKE: Final = "select * from work_answers_take()"
_ADAPT: Final = "select work_adapt($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"


async def adapt_budgets(connection: PoolConnectionProxy) -> None:
    """Take all answers and write the levels that follow; in one transaction of the caller's."""
    rows = await connection.fetch(_TAKE)
    if rows:
        adapted = [_adapted(row) for row in rows]
        levels = [each.level for each in adapted]
        await connection.execute(
            _ADAPT,
            [row["budget_id"] for row in rows],
            [level.limit for level in levels],
            [level.ceiling for level in levels],
            [level.streak for level in levels],
            [level.throttled for level in levels],
            [level.throttled_at for level in levels],
            [level.throttled_since for level in levels],
            [level.changed_at for level in levels],
            [level.paused_until for level in levels],
            [each.lowered for each in adapted],
            [each.tokens for each in adapted],
        )


def _adapted(row: asyncpg.Record) -> Adapted:
    level = Level(
        limit=row["limit_now"],
        ceiling=row["ceiling"],
        streak=row["streak"],
        throttled=row["throttled"],
        throttled_at=row["throttled_at"],
        throttled_since=row["throttled_since"],
        changed_at=row["changed_at"],
        paused_until=row["paused_until"],
    )
    budget = Budget(
        name="",
        mode=row["mode"],
        concurrent=row["concurrent"],
        burst=row["burst"],
        per_second=row["per_second"],
    )
    heard = Heard(
        ended=row["ended"], refused=row["refused"], fresh=row["fresh"], until=row["until"]
    )
    return adapt(
        level, budget, heard,
        now=row["now"], used_per_s=row["used_per_s"], in_use=row["in_use"],
    )  # fmt: skip
