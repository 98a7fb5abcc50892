"""The gateway's own database counts for its readiness: without it no command is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.gateway.commands import CommandBus
from shared.clock import SystemClock
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.news import LocalNews


class AwayStore(MemoryStore):
    """A store whose database may be away."""

    away = False

    async def heads(self, topics: Iterable[str]) -> Mapping[tuple[str, int], int]:
        if self.away:
            raise Transient("the database is away")
        return await super().heads(topics)


async def test_it_is_told_while_it_is_away() -> None:
    store = AwayStore("gateway", clock=SystemClock())
    commands = CommandBus(store, clock=SystemClock(), news=LocalNews())
    assert await commands.problem() == ""
    store.away = True
    assert "the database is away" in await commands.problem()
