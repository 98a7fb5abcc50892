"""What one process has of Kafka: the control topic, a reader per consumer, an outlet per log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from schemas.envelope import DEAD_LETTER_TOPIC, commands_topic, events_topic
from shared.bus.kafka.control import Again, Control, Told
from shared.bus.kafka.hints import Hints
from shared.bus.kafka.progress import KafkaProgress, ProgressReader
from shared.bus.kafka.publisher import KafkaPublisher
from shared.bus.kafka.reader import KafkaBus
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.relay import Relay
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore, Fenced
from shared.news import News
from shared.progress import Tell

log = structlog.get_logger()

TELL_EVERY_S: Final = 10.0
RETRY_S: Final = 0.5
DRAIN_S: Final = 1.5


class KafkaFabric:
    """One per process; `run` must run while its readers and outlets do."""

    def __init__(
        self, settings: KafkaSettings, *, name: str, services: Sequence[str], clock: Clock
    ) -> None:
        self._settings = settings
        self._name = name
        self._services = tuple(services)
        self._clock = clock
        self._progress: list[KafkaProgress] = []
        self.control = Control(settings, name=name)

    async def run(self) -> None:
        """Read the control topic until cancelled."""
        try:
            await self.control.run()
        finally:
            for progress in self._progress:
                await progress.close()

    def reader(
        self, consumer: str, *, hints: Hints, wake: Callable[[Collection[str]], None]
    ) -> KafkaBus:
        """The bus of one consumer; its `run` is the caller's to run."""
        return KafkaBus(
            self._settings, name=consumer, control=self.control, hints=hints, wake=wake
        )

    def progress(self, service: str) -> KafkaProgress:
        """Where a service tells how far its jobs are."""
        publisher = KafkaPublisher(self._settings, name=f"{self._name}-{service}-progress")
        self._progress.append(told := KafkaProgress(publisher))
        return told

    def progress_reader(self, tell: Tell, *, wanted: Callable[[], bool]) -> ProgressReader:
        """Reads what all services tell of their jobs; its `run` is the caller's to run."""
        return ProgressReader(self._settings, tell, wanted=wanted)

    def outlet(
        self, store: EventStore, owned: Callable[[], frozenset[int]], *, news: News
    ) -> KafkaOutlet:
        """The way out of one service's log."""
        topics = [
            events_topic(store.service), DEAD_LETTER_TOPIC, *map(commands_topic, self._services)
        ]  # fmt: skip
        publisher = KafkaPublisher(self._settings, name=f"{self._name}-{store.service}")
        relay = Relay(store, publisher, topics=topics, clock=self._clock, news=news, owned=owned)
        return KafkaOutlet(
            store, relay, publisher=publisher, control=self.control, topics=topics, owned=owned
        )


class KafkaOutlet:
    """A relay that first makes sure that its log is not older than what stands in the topics."""

    def __init__(
        self,
        store: EventStore,
        relay: Relay,
        *,
        publisher: KafkaPublisher,
        control: Control,
        topics: Collection[str],
        owned: Callable[[], frozenset[int]],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._control = control
        self._topics = tuple(topics)
        self._owned = owned
        self._restored = ""
        self._compared = False
        self.relay = relay
        control.listen(store.service, self._again)

    def problem(self) -> str:
        """What keeps this copy from being ready, or ""."""
        if self._restored:
            return self._restored
        return "" if self.relay.reachable else "Kafka cannot be reached: events are not published"

    async def run(self) -> None:
        """Publish until cancelled; nothing while the log is older than the topics."""
        relaying: asyncio.Task[None] | None = None
        try:
            await self._control.caught_up.wait()
            while True:
                told = await self._told()
                if self._restored and relaying is not None:
                    relaying.cancel()
                elif told and relaying is None:
                    relaying = asyncio.create_task(self.relay.run())
                await asyncio.sleep(TELL_EVERY_S if told else RETRY_S)
        finally:
            if relaying is not None:
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)
            await self._publisher.close()

    async def drain(self) -> None:
        """Publish what the last steps wrote, for DRAIN_S at most: the next copy does the rest."""
        if self._restored or not self._compared:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                while await self.relay.round():
                    pass
                await self.tell()
        except (Transient, Fenced, TimeoutError) as left:
            log.info("relay.not-drained", service=self._store.service, error=str(left))
        finally:
            await self._publisher.close()

    async def tell(self) -> None:
        """Tell the log's epoch and heads, once. Raises Transient."""
        heads = await self._store.heads(self._topics)
        told = {f"{topic}/{partition}": seq for (topic, partition), seq in heads.items()}
        self._restored = self._compare(told)
        if self._restored:
            log.error("relay.restored", service=self._store.service, reason=self._restored)
        before = self._control.told.get(self._store.service)
        message = Told(
            source=self._store.service, epoch=self._store.epoch, heads=told,
            restored=bool(self._restored),
        )  # fmt: skip
        if message != before:
            await self._control.tell(message)

    def _compare(self, heads: dict[str, int]) -> str:
        """Why the log must be an older one than was published, or ""."""
        before = self._control.told.get(self._store.service)
        if before is None or before.epoch < self._store.epoch:
            return ""
        service = self._store.service
        if before.epoch > self._store.epoch:
            what = f"is of epoch {self._store.epoch}, the topics of {before.epoch}"
        elif before.restored:
            return self._restored or f"the log of {service} was restored; raise its epoch"
        elif lost := [name for name, seq in before.heads.items() if heads.get(name, 0) < seq]:
            where = min(lost)
            what = f"ends at {heads.get(where, 0)} of {where}, the topics at {before.heads[where]}"
        else:
            return ""
        return f"publishing nothing: the log of {service} was restored ({what}); raise its epoch"

    async def _told(self) -> bool:
        """Tell, if it is this copy's turn; whether the log may be published."""
        try:
            if 0 in self._owned() or not self._compared:
                await self.tell()
            self._compared = True
        except Transient as away:
            log.debug("relay.not-told", service=self._store.service, error=away.message)
            return False
        return not self._restored

    async def _again(self, asked: Again) -> None:
        try:
            await self.relay.again(asked.topic, asked.partition, asked.seq)
        except Transient as away:
            log.info("relay.not-again", service=self._store.service, error=away.message)
