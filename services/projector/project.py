"""The live projector: reads events past its cursors, folds them, commits, tells who waits.

Several copies share the logical partitions by lease; that a copy which lost one cannot commit is
the cursors' doing. A row of a type that this build does not know stops its partition and makes
the copy not ready: it is never skipped, and later rows of that partition wait behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from schemas import registry
from schemas.envelope import Recorded, events_topic
from schemas.folds.router import Router, Work
from schemas.ids import PARTITIONS
from services.projector.model import ReadModel
from services.projector.projection import Documents, Where, fold
from services.projector.settings import SOURCES, ProjectorSettings
from shared.bus.port import Bus
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore, Fenced
from shared.news import News, wait_news
from shared.partitions import PartitionShare
from shared.service import LAG_READY_MAX
from shared.telemetry import ids

log = structlog.get_logger()

PROJECTED: str = "projected"
"""The topic of the news that read models changed."""

FRESHNESS_S = 1.0
LAG_TIMEOUT_S = 1.5


class Projector:
    """One copy of the projector in this process. `run` ends after `stop` was asked."""

    name = "projector"

    def __init__(
        self,
        model: ReadModel,
        *,
        bus: Bus,
        leases: EventStore,
        clock: Clock,
        news: News,
        copy_id: str,
        lease_s: float,
        settings: ProjectorSettings | None = None,
    ) -> None:
        self._model = model
        self._bus = bus
        self._clock = clock
        self._news = news
        self._copy_id = copy_id
        self._settings = settings or ProjectorSettings()
        self._changed = news.subscribe([events_topic(source) for source in SOURCES])
        self.share = PartitionShare(
            leases,
            copy_id=copy_id,
            lease_s=lease_s,
            clock=clock,
            news=news,
            changed=self._changed.set,
        )
        self._router = Router()
        self._documents = Documents(self._settings.documents_max)
        self._held: frozenset[int] = frozenset()
        self._stale = True
        self._positions: dict[Where, int] = {}
        self._epochs: dict[Where, int] = {}
        self._stuck: dict[Where, str] = {}
        self._lag_s = 0.0
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._stop = asyncio.Event()
        self.reachable = True
        self.projected = 0
        self.tell: Callable[[Iterable[Recorded]], None] = _tell_nobody

    def beside(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task as long as the projector runs."""
        self._beside.append(task)

    def stop(self) -> None:
        """Ask for an ordered end."""
        self._stop.set()

    async def run(self) -> None:
        """Project until `stop`. A batch under way is rolled back: it will be read again."""
        bind_contextvars(service=self.name, copy=self._copy_id)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.share.run()),
                group.create_task(self._project_all()),
                group.create_task(self._tell_freshness()),
                group.create_task(self._prune()),
                *(group.create_task(task()) for task in self._beside),
            ]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
        await self.share.leave()
        log.info("service.stopped")

    async def _project_all(self) -> None:
        while True:
            try:
                more = await self.round() > 0
                self._told_reachable(True)
            except Transient as away:
                self._told_reachable(False, str(away))
                more = False
                self._stale = True
            except Fenced as fenced:
                log.info("projector.fenced", error=str(fenced))
                self._stale = True
                more = False
            if not more:
                await wait_news(self._changed, timeout_s=self._news.poll_s)

    def _told_reachable(self, reachable: bool, error: str = "") -> None:
        if self.reachable and not reachable:
            log.warning("projector.away", error=error)
        self.reachable = reachable

    async def round(self) -> int:
        """Project one batch; gives the number of rows. Raises Transient or Fenced: try again."""
        await self._stand()
        if not self._positions:
            return 0
        rows = await self._bus.fetch(self._positions, count_max=self._settings.batch_max)
        works = self._next(rows)
        if not works:
            self._lag_s = 0.0
            return 0
        await self._commit(works)
        behind = self._clock.now() - works[-1].recorded.meta.occurred_at
        full = len(rows) >= self._settings.batch_max
        self._lag_s = max(behind.total_seconds(), 0.0) if full else 0.0
        return len(works)

    async def _commit(self, works: Sequence[Work]) -> None:
        for view, missing in enumerate(self._documents.missing(works)):
            if missing:
                self._documents.loaded(view, missing, await self._model.load(view, missing))
        batch = fold(works, self._documents)
        await self._model.commit(batch)
        self._documents.committed(batch)
        self._documents.trim()
        for move in batch.cursors:
            where = (move.source, move.topic, move.partition)
            if where not in self._stuck:
                self._positions[where] = move.after
            self._epochs[where] = move.epoch
        self.projected += len(works)
        self.tell(work.recorded for work in works)
        self._news.poke((PROJECTED,))

    async def _stand(self) -> None:
        """Take up the partitions that this copy holds now; on doubt, read everything again."""
        held = self.share.owned()
        if held == self._held and not self._stale:
            return
        cursors = await self._model.cursors()
        # Documents may have been changed by whoever held a partition before us.
        self._documents.clear()
        self._stuck.clear()
        self._positions = {w: seq for w, (_, seq) in cursors.items() if w[2] in held}
        self._epochs = {w: epoch for w, (epoch, _) in cursors.items()}
        for source in SOURCES:
            topic = events_topic(source)
            for partition in range(PARTITIONS):
                if partition in held:
                    self._positions.setdefault((source, topic, partition), 0)
        self._held, self._stale = held, False

    def _next(self, rows: Sequence[Recorded]) -> list[Work]:
        """The rows that come right after the cursors, decoded; repeats and gaps are left out."""
        works: list[Work] = []
        reached = dict(self._positions)
        for row in rows:
            where = (row.source, row.topic, row.partition)
            if row.seq != reached.get(where, -1) + 1 or where in self._stuck:
                continue
            if reason := self._refused(row, where):
                self._stuck[where] = reason
                place = "/".join(map(str, where))
                about = ids.of_meta(row.meta)
                log.error(
                    "projector.stuck", where=place, reason=reason, stream=row.stream, **about
                )
                continue
            works.append(self._router.work(row))
            reached[where] = row.seq
        for where in self._stuck:
            # Its backlog must not fill every batch that is read from now on.
            self._positions.pop(where, None)
        return works

    def _refused(self, row: Recorded, where: Where) -> str:
        """Why a row cannot be projected, or ""."""
        epoch = self._epochs.get(where, 0)
        if epoch and row.epoch != epoch:
            return f"the log of {row.source} was restored (epoch {row.epoch}, known {epoch})"
        try:
            self._router.known(row)
        except registry.UnknownType as unknown:
            return str(unknown)
        return ""

    async def _tell_freshness(self) -> None:
        while True:
            try:
                await self._model.tell_freshness(self._copy_id, self._lag_s)
            except Transient as away:
                log.debug("projector.freshness-not-told", error=str(away))
            await asyncio.sleep(FRESHNESS_S)

    async def _prune(self) -> None:
        while True:
            try:
                await self._model.prune(keep_days=self._settings.keep_days)
            except Transient as away:
                log.info("projector.not-pruned", error=str(away))
            await asyncio.sleep(self._settings.prune_every_s)

    async def lag(self) -> int:
        """Events that wait for this copy; raises Transient, TimeoutError."""
        async with asyncio.timeout(LAG_TIMEOUT_S):
            return await self._bus.lag(self._positions)

    async def problem(self) -> str:
        """What keeps this copy from being ready, or ""."""
        if not self.reachable:
            return "the database does not answer"
        if self._stuck:
            return "stopped: " + "; ".join(sorted(set(self._stuck.values())))
        try:
            lag = await self.lag()
        except (Transient, TimeoutError) as away:
            return f"the logs cannot be read: {away}"
        return f"{lag} events behind" if lag > LAG_READY_MAX else ""


def _tell_nobody(rows: Iterable[Recorded]) -> None:
    """Where nobody reads the log."""
