"""The one place where a service commits: gathers inputs, folds them, commits, narrows failures.

Messages, fired timers and effect outcomes of one process meet here and are committed together,
up to BATCH_MAX at once; a failing one is found by halving. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from schemas import registry
from schemas.common import Command
from schemas.ids import key_of
from shared.clock import Clock
from shared.errors import InvariantBroken, Refused, SeawallError, Transient
from shared.eventlog.port import (
    Conflict,
    DueTimer,
    EventStore,
    Fenced,
    NameTaken,
    NewTimer,
    Parked,
    Step,
)
from shared.fold import (
    BEHIND,
    UNKNOWN,
    Folder,
    Input,
    NeedStreams,
    ServiceDefinition,
    StateCache,
    TooLarge,
    refusal,
)
from shared.news import WORK_TOPIC, timers_topic
from shared.telemetry import ids
from shared.telemetry.tracing import OFF, StepSpans, Tracing

log = structlog.get_logger()
T = TypeVar("T")

BATCH_MAX = 500
"""Inputs in one transaction (architecture.md §3)."""

ATTEMPTS_MAX = 8
"""Conflicts in a row after which a batch is halved: another copy is busy on the same streams."""

ALONE_ATTEMPTS_MAX = 50
CONFLICT_PAUSE_S = 0.02
"""A single input loses to other copies by chance, never for good: so many times would be a bug."""

BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)
SET_ASIDE_S = 60.0
REASON_CHARS_MAX = 500


class _Group(msgspec.Struct):
    inputs: list[Input]
    done: asyncio.Future[None]
    alone: bool = False


class Stepper:
    """Commits what a service decides. `submit` returns once the inputs' step is durable.

    Inputs whose claim or timer is no longer ours are dropped silently: their owner decides.
    A lost cursor raises Fenced to its submitter, who reads its cursors again.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        store: EventStore,
        *,
        clock: Clock,
        committed: Callable[[Collection[str]], None],
        tracing: Tracing = OFF,
    ) -> None:
        self._definition = definition
        self._store = store
        self._clock = clock
        self._committed = committed
        self._handlers = {handler.message: handler for handler in definition.handlers}
        self._waiting: deque[_Group] = deque()
        self._news = asyncio.Event()
        self._spans = StepSpans(tracing)
        self.cache = StateCache(definition)
        self.parked_keys: dict[tuple[str, str, str], int] = {}
        """(source, topic, key) → seq of the first message of it that was set aside."""
        self.unknown_types: set[str] = set()
        """Types with versions that this build could not read; see the consumer's problems."""
        self.reachable = True
        self.count: Callable[[Sequence[Input]], None] = _count_nothing

    async def submit(self, inputs: Sequence[Input]) -> None:
        """Decide and commit the inputs, in order, perhaps together with others'."""
        if inputs:
            future = asyncio.get_running_loop().create_future()
            await self._wait(_Group(self._spans.begun(inputs), future))

    async def take_up(self, each: Input) -> bool:
        """Decide and commit a parked message; False where it stays parked, or is not ours.

        Only then may the next one of its key be taken up. What fails again is set aside again.
        """
        assert each.unparked is not None
        key, seq = _parked_key(each.unparked), each.unparked.seq
        self.parked_keys[key] = seq + 1
        await self.submit([each])
        return each.parked is None and self.parked_keys[key] > seq

    async def submit_alone(self, each: Input) -> None:
        """Decide and commit one input by itself: what its decider or the store raises is raised.

        For a fact that a running effect reports: its handler must know before it goes on.
        """
        future = asyncio.get_running_loop().create_future()
        await self._wait(_Group(self._spans.begun([each]), future, alone=True))

    async def _wait(self, group: _Group) -> None:
        self._waiting.append(group)
        self._news.set()
        try:
            await group.done
        finally:
            self._spans.forgotten(group.inputs)

    async def run(self) -> None:
        """Commit batch after batch until cancelled. One task per process owns this."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._commit_groups(self._take_groups())

    def _take_groups(self) -> list[_Group]:
        groups = [self._waiting.popleft()]
        size = len(groups[0].inputs)
        while self._waiting and not (groups[0].alone or self._waiting[0].alone):
            size += len(self._waiting[0].inputs)
            if size > BATCH_MAX:
                break
            groups.append(self._waiting.popleft())
        return groups

    async def _commit_groups(self, groups: list[_Group]) -> None:
        try:
            if groups[0].alone:
                with ids.bound(groups[0].inputs):
                    await self._commit_alone(groups[0])
                return
            await self._commit([each for group in groups for each in group.inputs])
        except Fenced as lost:
            if len(groups) > 1:
                for group in groups:
                    await self._commit_groups([group])
                return
            _fail(groups[0], lost)
            return
        except BaseException as broken:
            for group in groups:
                _fail(group, broken)
            raise
        for group in groups:
            if not group.done.done():
                group.done.set_result(None)

    async def _commit_alone(self, group: _Group) -> None:
        for attempt in range(ALONE_ATTEMPTS_MAX):
            try:
                await self._try(group.inputs)
            except Conflict as moved:
                await self._yield_to_others(moved, attempt)
                continue
            except SeawallError as refused:
                _fail(group, refused)
                return
            if not group.done.done():
                group.done.set_result(None)
            return
        _fail(group, Transient("commit a fact: other copies keep its stream busy", code="busy"))

    async def _yield_to_others(self, moved: Conflict, attempt: int) -> None:
        """Before another try: none at first; later a pause, so that the others get through."""
        log.debug("step.conflict", streams=len(moved.streams), attempt=attempt)
        if attempt >= ATTEMPTS_MAX:
            await asyncio.sleep(CONFLICT_PAUSE_S)

    async def _commit(self, inputs: list[Input]) -> None:
        """Commit one batch, halving it where one input spoils it for the others."""
        with ids.bound(inputs):
            halves = await self._commit_or_halve(inputs)
        for half in halves:
            await self._commit(half)

    async def _commit_or_halve(self, inputs: list[Input]) -> Sequence[list[Input]]:
        """Commit one batch, or give the two halves in which it is to be tried."""
        if self.parked_keys:
            inputs = [self._behind_parked(each) for each in inputs]
        for attempt in range(ATTEMPTS_MAX if len(inputs) > 1 else ALONE_ATTEMPTS_MAX):
            try:
                await self._try(inputs)
            except Conflict as moved:
                await self._yield_to_others(moved, attempt)
                continue
            except Fenced as lost:
                if lost.what == "cursor":
                    raise
                inputs = self._still_ours(inputs, lost)
                if not inputs:
                    return ()
                continue
            except (NameTaken, TooLarge) as unfit:
                if len(inputs) == 1:
                    await self._refuse(inputs[0], unfit)
                    return ()
                break
            except Transient:
                raise InvariantBroken("a transient error left the retry loop") from None
            except asyncio.CancelledError:
                raise
            except Exception as broken:  # noqa: BLE001 - supervisor: whatever a decider raised is set aside
                if len(inputs) == 1:
                    await self._set_aside(inputs[0], broken)
                    return ()
                break
            return ()
        if len(inputs) == 1:
            await self._set_aside(inputs[0], InvariantBroken("conflicts without end"))
            return ()
        middle = len(inputs) // 2
        return inputs[:middle], inputs[middle:]

    def _still_ours(self, inputs: Sequence[Input], lost: Fenced) -> list[Input]:
        """The inputs without the lost ones; a parked message that another copy took up or set
        aside meanwhile counts as parked here, until what is parked is read again."""
        for each in inputs:
            if each.unparked is not None and _is_lost(each, lost):
                self.parked_keys[_parked_key(each.unparked)] = each.unparked.seq
        return [each for each in inputs if not _is_lost(each, lost)]

    def _behind_parked(self, each: Input) -> Input:
        """The input, parked if an earlier message of its key was: perhaps in this very batch."""
        if each.position is None or each.received is None:
            return each
        source, _, topic, _, seq = each.position
        stream = each.received.stream
        first = self.parked_keys.get((source, topic, key_of(stream)))
        if first is None or seq < first:
            return each
        at = self._clock.now()
        parked = park(each.position, stream, reason=BEHIND, at=at)
        return msgspec.structs.replace(each, received=None, parked=parked)

    async def _try(self, inputs: Sequence[Input]) -> None:
        folder = Folder(self._definition, self.cache, self._handlers)
        try:
            await self._load(folder.streams_of(inputs))
            step = await self._fold(folder, inputs)
            await self._write(step)
        except BaseException as failed:
            self.cache.evict(folder.touched)
            if isinstance(failed, Conflict):
                self.cache.evict(failed.streams)
            raise
        self.count(inputs)
        self._spans.committed(inputs)
        self._forget_ended(folder.touched)
        news = set(folder.topics)
        if step.effects or step.settled:
            news.add(WORK_TOPIC)
        if step.timers:
            news.add(timers_topic(self._definition.name))
        self._committed(news)

    async def _fold(self, folder: Folder, inputs: Sequence[Input]) -> Step:
        """Fold, loading streams that only show during the fold (a plan's new VMs)."""
        while True:
            try:
                return folder.fold(inputs)
            except NeedStreams as need:
                self.cache.evict(folder.touched)
                await self._load(need.streams | folder.touched)
                folder.reset()

    def _forget_ended(self, touched: Collection[str]) -> None:
        ended = []
        for stream in touched:
            cached = self.cache.get(stream)
            if cached is not None and self.cache.family(stream).is_terminal(cached.state):
                ended.append(stream)
        self.cache.evict(ended)
        self.cache.trim()

    async def _load(self, streams: Collection[str]) -> None:
        wanted = self.cache.known_versions(streams)
        while wanted:
            loaded = await self.patiently(partial(self._store.load, wanted))
            wanted = self.cache.absorb(loaded)

    async def _write(self, step: Step) -> None:
        await self.patiently(partial(self._store.commit, step))

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call of the store while it is away; nothing is ever given up for that."""
        tries = 0
        while True:
            try:
                result = await call()
            except Transient as away:
                self.reachable = False
                if tries == 0:
                    log.warning("store.away", error=str(away))
                await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
                tries += 1
                continue
            self.reachable = True
            return result

    async def _refuse(self, each: Input, unfit: NameTaken | TooLarge) -> None:
        """Answer a command whose reservation is taken, or that leads to what no event can hold;
        anything else of that kind is a bug."""
        received = each.received
        if received is None or not isinstance(received.body, Command):
            await self._set_aside(each, unfit)
            return
        refused = _too_large(unfit) if isinstance(unfit, TooLarge) else _name_taken(unfit)
        folder = Folder(self._definition, self.cache, self._handlers)
        step = folder.refuse(each, refusal(received.body.command_id, refused))
        await self._write(step)
        self._spans.committed([each])
        self._committed(folder.topics)

    def _reason(self, broken: BaseException) -> str:
        """Why an input was set aside. What a newer build wrote is for a newer build to read."""
        if isinstance(broken, registry.UnknownType) and broken.name:
            self.unknown_types.add(told_type(broken))
            return UNKNOWN + told_type(broken)
        return f"{type(broken).__name__}: {broken}"[:REASON_CHARS_MAX]

    async def _set_aside(self, each: Input, broken: BaseException) -> None:
        """Keep what fails deterministically out of the way, durably, and say so."""
        log.error("step.set-aside", **ids.of_input(each), exc_info=broken)
        whole = each
        now = self._clock.now()
        later = now + dt.timedelta(seconds=SET_ASIDE_S)
        reason = self._reason(broken)
        if each.position is not None and each.received is not None:
            parked = park(each.position, each.received.stream, reason=reason, at=now)
            self.parked_keys[_parked_key(parked)] = parked.seq
            each = msgspec.structs.replace(each, parked=parked)
        if each.unparked is not None:
            again = msgspec.structs.replace(each.unparked, reason=reason)
            self.parked_keys[_parked_key(again)] = again.seq
            each = msgspec.structs.replace(each, parked=again)
        if each.settled is not None:
            put_back = msgspec.structs.replace(each.settled, requeue_at=later, keep=False)
            each = msgspec.structs.replace(each, settled=put_back)
        step = Folder(self._definition, self.cache, self._handlers).skip(each)
        if each.fired is not None:
            step = msgspec.structs.replace(step, timers=[_set_again(each.fired, later)])
        try:
            await self._write(step)
        except Fenced as lost:
            if lost.what == "cursor":
                raise
            # Not ours any more: whoever has it now decides what becomes of it.
            log.info("step.set-aside-elsewhere", error=str(lost))
            return
        self._spans.committed([whole], error=type(broken).__name__)


def told_type(unknown: registry.UnknownType) -> str:
    """The type and version that a newer build knows, as parked messages and health tell them."""
    return f"{unknown.name} version {unknown.version}"


def _name_taken(taken: NameTaken) -> Refused:
    return Refused(
        f"{taken.name.replace(':', ' ', 1)} belongs to {taken.holder.replace(':', ' ')}",
        code="name-taken",
        remedy="choose another name, or remove it there first",
    )


def _too_large(large: TooLarge) -> Refused:
    return Refused(
        f"the command leads to more than an event can hold: {large.message}",
        code=large.code,
        remedy="ask for less at once: fewer names, or shorter ones",
    )


def park(
    position: tuple[str, int, str, int, int], stream: str, *, reason: str, at: dt.datetime
) -> Parked:
    """The record of a message set aside; later ones of its stream's key wait behind it."""
    source, _, topic, partition, seq = position
    return Parked(source, topic, partition, seq, key_of(stream), reason, at)


def _parked_key(parked: Parked) -> tuple[str, str, str]:
    return parked.source, parked.topic, parked.key


def _set_again(timer: DueTimer, due: dt.datetime) -> NewTimer:
    return NewTimer(
        timer.stream,
        timer.name,
        timer.partition,
        due,
        timer.type,
        timer.schema_version,
        timer.data,
        timer.meta,
    )


def _count_nothing(inputs: Sequence[Input]) -> None:
    """Where nobody measures."""


def _fail(group: _Group, error: BaseException) -> None:
    if not group.done.done():
        group.done.set_exception(error)


def _is_lost(each: Input, lost: Fenced) -> bool:
    if each.settled is not None:
        return each.settled.effect_id in lost.names
    if each.fired is not None:
        return f"{each.fired.stream}/{each.fired.name}" in lost.names
    if each.unparked is not None:
        message = each.unparked
        where = (message.source, message.topic, message.partition, message.seq)
        return "/".join(map(str, where)) in lost.names
    return False
