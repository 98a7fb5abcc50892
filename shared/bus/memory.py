"""The bus of tests and simulation: reads the memory twins of the services' stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from schemas.envelope import Recorded
from shared.bus.port import Positions
from shared.eventlog.port import EventStore


class MemoryBus:
    """Reads stores that live in this process, by service name."""

    def __init__(self, stores: Mapping[str, EventStore]) -> None:
        self._stores = stores

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        """Rows past the positions, each (source, topic) in turn."""
        wanted: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        for (source, topic, partition), seq in positions.items():
            wanted[source, topic][partition] = seq
        rows: list[Recorded] = []
        for (source, topic), after in wanted.items():
            if len(rows) < count_max and source in self._stores:
                store = self._stores[source]
                rows += await store.read(topic, after, count_max=count_max - len(rows))
        return rows

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        """(epoch, last seq) of each position whose source is there."""
        found: dict[tuple[str, str, int], tuple[int, int]] = {}
        for source, store in self._stores.items():
            wanted = [where for where in positions if where[0] == source]
            heads = await store.heads({topic for _, topic, _ in wanted})
            for where in wanted:
                found[where] = (store.epoch, heads.get(where[1:], 0))
        return found

    async def lag(self, positions: Positions) -> int:
        """How many rows wait past the positions."""
        lag = 0
        for source, store in self._stores.items():
            topics = {topic for owner, topic, _ in positions if owner == source}
            for (topic, partition), seq in (await store.heads(topics)).items():
                lag += max(seq - positions.get((source, topic, partition), seq), 0)
        return lag
