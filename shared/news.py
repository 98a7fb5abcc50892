"""Wakes whoever waits for new rows, timers or effects, in this process and in others.

News only shortens waiting: every reader also polls, so that losing one costs POLL_S at most.
Across processes it travels by NOTIFY, outside any step's transaction and coalesced, because a
NOTIFY inside would serialise commits (2,891 → 300 tx/s, architecture.md §3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, Protocol

import asyncpg
import structlog

log = structlog.get_logger()

POLL_S = 0.25
COALESCE_S = 0.01
CHANNEL = "seawall"
RECONNECT_S = 0.5
FLUSH_S = 0.5
STATEMENT_TIMEOUT_S = 5.0


WORK_TOPIC = "work"
"""News that effects may have become ready."""


def timers_topic(service: str) -> str:
    """The news topic that says a timer of a service was set."""
    return f"timers.{service}"


def shares_topic(service: str) -> str:
    """The news topic that says copies of a service share its partitions anew."""
    return f"shares.{service}"


class News(Protocol):
    """`poke` says that topics have something new, `tell_here` says so in this process only;
    `subscribe` gives an event set by either.

    `poll_s`: how often to look without news.
    """

    poll_s: float

    def poke(self, topics: Collection[str]) -> None: ...

    def tell_here(self, topics: Collection[str]) -> None: ...

    def subscribe(self, topics: Iterable[str]) -> asyncio.Event: ...


class LocalNews:
    """News inside one process, and all that the memory twins need."""

    def __init__(self, *, poll_s: float = POLL_S) -> None:
        self.poll_s = poll_s
        self._events: dict[str, list[asyncio.Event]] = {}

    def poke(self, topics: Collection[str]) -> None:
        """Wake the subscribers of the topics, in an order that does not vary from run to run."""
        for topic in sorted(topics):
            for event in self._events.get(topic, ()):
                event.set()

    def tell_here(self, topics: Collection[str]) -> None:
        """Wake the subscribers of this process: the others hear of it in their own way."""
        LocalNews.poke(self, topics)

    def poke_all(self) -> None:
        """Wake everybody: something may have been missed."""
        self.poke(tuple(self._events))

    def subscribe(self, topics: Iterable[str]) -> asyncio.Event:
        """An event that is set at news of any of the topics; its waiter clears it."""
        event = asyncio.Event()
        for topic in topics:
            self._events.setdefault(topic, []).append(event)
        return event


class PostgresNews(LocalNews):
    """News between processes of one database. `run` owns the listening connection."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn
        self._pending: set[str] = set()
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()

    def poke(self, topics: Collection[str]) -> None:
        """Wake local subscribers at once, and those of other processes within COALESCE_S."""
        super().poke(topics)
        if topics:
            self._pending.update(topics)
            self._wanted.set()
            self._told.clear()

    async def flush(self) -> None:
        """Wait until all news has gone out, at most FLUSH_S: others take over what we left."""
        if self._pending:
            await wait_news(self._told, timeout_s=FLUSH_S)

    async def run(self) -> None:
        """Listen and publish until cancelled; reconnects after the database was away."""
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=STATEMENT_TIMEOUT_S)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                await self._serve(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as lost:
                log.info("news.lost", error=str(lost))
                await asyncio.sleep(RECONNECT_S)
            finally:
                connection.terminate()

    async def _serve(self, connection: asyncpg.Connection[Any]) -> None:
        await connection.add_listener(CHANNEL, self._heard)
        self.poke_all()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            topics, self._pending = self._pending, set()
            await connection.execute(
                "SELECT pg_notify($1, $2)", CHANNEL, ",".join(topics), timeout=STATEMENT_TIMEOUT_S
            )
            self._told.set()
            await asyncio.sleep(COALESCE_S)

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        super().poke(str(payload).split(","))


async def wait_news(event: asyncio.Event, *, timeout_s: float) -> None:
    """Wait for the event, at most `timeout_s`, and clear it."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
