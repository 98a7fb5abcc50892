"""Where readers left off: a hint beside their cursors, in the same database, a little behind them.

Not Kafka's own committed offsets: aiokafka's coordinator breaks when partitions are assigned anew
by hand under a group, and what is restored with the cursors fits them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from shared.postgres import COMMAND_TIMEOUT_S, Pool, load_statements, translated

_SQL: Final = load_statements(Path(__file__).parents[2] / "eventlog" / "sql" / "queries.sql")

Place = tuple[str, int]
"""(topic, partition)."""


class Hints(Protocol):
    """Offsets by topic and partition; lost ones cost reading, nothing else."""

    async def load(self) -> Mapping[Place, int]: ...

    async def save(self, offsets: Mapping[Place, int]) -> None: ...


class MemoryHints:
    """Hints of one process."""

    def __init__(self) -> None:
        self._offsets: dict[Place, int] = {}

    async def load(self) -> Mapping[Place, int]:
        """All of them."""
        return dict(self._offsets)

    async def save(self, offsets: Mapping[Place, int]) -> None:
        """Keep the newest."""
        self._offsets |= offsets


class PostgresHints:
    """Hints in a service's schema. Raises Transient as every call of the database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self) -> Mapping[Place, int]:
        """All of them."""
        with translated("read where to read on"):
            async with self._pool.lend(timeout_s=COMMAND_TIMEOUT_S) as connection:
                rows = await connection.fetch(_SQL["hints"])
        return {(topic, partition): offset for topic, partition, offset in rows}

    async def save(self, offsets: Mapping[Place, int]) -> None:
        """Keep the newest."""
        places = sorted(offsets)
        with translated("keep where to read on"):
            async with self._pool.lend(timeout_s=COMMAND_TIMEOUT_S) as connection:
                await connection.execute(
                    _SQL["save_hints"], [topic for topic, _ in places],
                    [partition for _, partition in places],
                    [offsets[place] for place in places],
                )  # fmt: skip
