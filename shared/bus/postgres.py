"""The one-machine bus: reads the logs of other services directly, with no broker between.

Same topics, keys, partitions, sequence numbers and envelope as on Kafka. It only reads; the
relay's work is done by the log itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from schemas.envelope import Recorded
from shared.bus.port import Positions
from shared.codec import decode_row
from shared.postgres import translated

READ_TIMEOUT_S = 10.0

EPOCHS = """
SELECT '{schema}' AS source, epoch FROM "{schema}".epoch
"""

HEADS = """
SELECT '{schema}' AS source, topic, partition, seq, (SELECT epoch FROM "{schema}".epoch) AS epoch
FROM "{schema}".heads WHERE topic = ANY($1)
"""

# Partition after partition: the outer limit ends the read within the one where it is reached.
ROWS = """
SELECT l.topic, l.partition, l.seq, l.stream, l.version, l.type, l.schema_version, l.data, l.meta
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS w (topic, partition, seq)
CROSS JOIN LATERAL (
    SELECT * FROM "{schema}".log
    WHERE log.topic = w.topic AND log.partition = w.partition AND log.seq > w.seq
    ORDER BY log.seq LIMIT $4
) AS l
LIMIT $4
"""


class PostgresBus:
    """Reads many services' logs in one database. `sources` are the schemas that exist there."""

    def __init__(self, pool: asyncpg.Pool[Any], *, sources: Sequence[str]) -> None:
        self._pool = pool
        self._heads = " UNION ALL ".join(HEADS.format(schema=source) for source in sources)
        self._epochs = " UNION ALL ".join(EPOCHS.format(schema=source) for source in sources)

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        """Rows past the positions; see the port. Reads only partitions that have news."""
        lagging = await self._lagging(positions)
        rows: list[Recorded] = []
        for (source, epoch), wanted in lagging.items():
            if len(rows) >= count_max:
                break
            rows += await self._read(source, epoch, wanted, count_max - len(rows))
        return rows

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        """(epoch, last seq) of each position whose source is there."""
        with translated("read the epochs of the logs"):
            rows = await self._pool.fetch(self._epochs, timeout=READ_TIMEOUT_S)
        epochs = {row["source"]: row["epoch"] for row in rows}
        heads = {
            (row["source"], row["topic"], row["partition"]): (row["epoch"], row["seq"])
            for row in await self._head_rows(positions)
        }
        return {
            where: heads.get(where, (epochs[where[0]], 0))
            for where in positions
            if where[0] in epochs
        }

    async def lag(self, positions: Positions) -> int:
        """How many rows wait past the positions."""
        heads = await self._head_rows(positions)
        return sum(
            max(row["seq"] - positions.get((row["source"], row["topic"], row["partition"]), 0), 0)
            for row in heads
            if (row["source"], row["topic"], row["partition"]) in positions
        )

    async def _head_rows(self, positions: Positions) -> Sequence[asyncpg.Record]:
        topics = sorted({topic for _, topic, _ in positions})
        with translated("read the heads of the logs"):
            return await self._pool.fetch(self._heads, topics, timeout=READ_TIMEOUT_S)

    async def _lagging(
        self, positions: Positions
    ) -> dict[tuple[str, int], list[tuple[str, int, int]]]:
        lagging: dict[tuple[str, int], list[tuple[str, int, int]]] = defaultdict(list)
        for row in await self._head_rows(positions):
            after = positions.get((row["source"], row["topic"], row["partition"]))
            if after is not None and row["seq"] > after:
                wanted = (row["topic"], row["partition"], after)
                lagging[row["source"], row["epoch"]].append(wanted)
        return lagging

    async def _read(
        self, source: str, epoch: int, wanted: list[tuple[str, int, int]], count_max: int
    ) -> list[Recorded]:
        topics, partitions, seqs = zip(*wanted, strict=True)
        sql = ROWS.format(schema=source)
        with translated(f"read the log of {source}"):
            rows = await self._pool.fetch(
                sql, topics, partitions, seqs, count_max, timeout=READ_TIMEOUT_S
            )
        return [decode_row(source, epoch, row["topic"], row[1:]) for row in rows]
