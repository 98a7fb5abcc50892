"""Reads folded states of a service's streams as committed now, for effect handlers.

Owns no cache: deciders have theirs in the stepper, and an effect may run in another copy of the
service than the one that decided. Reads only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.errors import Transient
from shared.eventlog.port import EventStore
from shared.fold import ServiceDefinition, StateCache

READ_S_MAX: Final = 30.0


class StateReader:
    """Folds streams of one service from its log. Any number of reads may be under way."""

    def __init__(self, definition: ServiceDefinition, store: EventStore) -> None:
        self._definition = definition
        self._store = store

    async def read(self, streams: Sequence[str]) -> Mapping[str, Any]:
        """Each stream's state; a stream that does not exist has its family's initial one.

        Raises Transient when the log does not answer within READ_S_MAX.
        """
        cache = StateCache(self._definition, count_max=max(len(streams), 1))
        try:
            async with asyncio.timeout(READ_S_MAX):
                again = cache.absorb(await self._store.load(dict.fromkeys(streams, 0)))
                if again:
                    cache.absorb(await self._store.load(again))
        except TimeoutError:
            raise Transient(
                f"{len(streams)} streams were not readable within {READ_S_MAX:g} s",
                code="log-unreachable",
            ) from None
        found = {stream: cache.get(stream) for stream in streams}
        return {
            stream: cached.state if cached is not None else cache.family(stream).initial()
            for stream, cached in found.items()
        }
