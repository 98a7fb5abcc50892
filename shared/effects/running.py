"""One effect under way: what its handler sees, how it is stopped, and what its end means.

`run_effect` is one of the two supervisors that may catch every exception: whatever a handler
raises becomes an outcome or another try; only a broken invariant brings the process down.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import structlog

from schemas import registry
from shared.clock import Clock
from shared.effects.policy import (
    Requeue,
    RetryPolicy,
    Verdict,
    failed,
    given_back,
    succeeded,
    verdict,
)
from shared.effects.port import Claimed
from shared.errors import InvariantBroken, Permanent, SeawallError

log = structlog.get_logger()

UNKNOWN_TYPE_WAIT_S = 30.0


class Cancelled(Permanent):
    """The owner took the effect back."""

    code = "cancelled"


class Bug(Permanent):
    """A handler raised something it should not have; the log has the traceback."""

    code = "bug"


class Stop(enum.Enum):
    """Why a handler is being stopped."""

    CANCELLED = "cancelled by its owner"
    DRAIN = "the process is shutting down"
    LEASE = "the lease is over or soon will be"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an effect has come, for people; lossy."""

    percent: float | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None


class EffectRun:
    """An effect as its handler sees it. `effect_id` is the token to give to platforms.

    `attempt` counts failures before this try; `fence` rises with every claim, and
    fences what an earlier claim of this work may still do (staged generations).
    """

    def __init__(self, claimed: Claimed, payload: Any, worker: Sinks) -> None:
        self.claimed = claimed
        self.payload = payload
        self.stopped: Stop | None = None
        self._worker = worker

    @property
    def effect_id(self) -> str:
        return self.claimed.effect_id

    @property
    def stream(self) -> str:
        return self.claimed.stream

    @property
    def attempt(self) -> int:
        return self.claimed.attempt

    @property
    def fence(self) -> int:
        return self.claimed.claim_no

    def progress(
        self,
        *,
        percent: float | None = None,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        """Tell people how far it is. Costs nothing and promises nothing."""
        self._worker.progress(
            self.claimed,
            Progress(percent=percent, bytes_done=bytes_done, bytes_total=bytes_total),
        )

    async def report(self, fact: msgspec.Struct) -> None:
        """Have the owner decide over a published fact now, under this claim, durably.

        Raises Fenced if the claim is not ours any more: stop, and touch nothing further.
        """
        await self._worker.report(self.claimed, fact)

    async def renew(self) -> None:
        """Check that the claim still stands. Raises Fenced if not."""
        await self._worker.renew(self.claimed)


class Sinks(Protocol):
    """Where a running effect's signals go."""

    def progress(self, claimed: Claimed, progress: Progress) -> None: ...

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None: ...

    async def renew(self, claimed: Claimed) -> None: ...


class EffectHandler(Protocol):
    """Does one kind of work. Looks before it repeats: the same effect may come again.

    Cancellation must end its I/O, and only then the coroutine: slots are given back on that
    word. `resumable` handlers are cancelled first at shutdown; others get a few seconds. What
    must not run twice looks, when it is claimed again, at what became of its first start.
    """

    policy: RetryPolicy
    resumable: bool

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        """Do the work; the published result goes to the owner's decider."""


Report = Callable[[Claimed, msgspec.Struct], Awaitable[None]]


class Running:
    """An effect whose handler runs in a task of its own."""

    def __init__(self, claimed: Claimed, handler: EffectHandler) -> None:
        self.claimed = claimed
        self.handler = handler
        self.task: asyncio.Task[None] | None = None
        self.run: EffectRun | None = None
        self._stop: Stop | None = None

    @property
    def stop_reason(self) -> Stop | None:
        return self._stop

    def stop(self, reason: Stop) -> None:
        """Cancel the handler; the first reason stands."""
        if self._stop is None and self.task is not None and not self.task.done():
            self._stop = reason
            if self.run is not None:
                self.run.stopped = reason
            self.task.cancel()


async def run_effect(
    running: Running, sinks: Sinks, *, clock: Clock, chance: random.Random
) -> Verdict:
    """Run the handler to its end and judge it. Raises InvariantBroken, and cancellation that
    did not come through `Running.stop`."""
    claimed, started_at = running.claimed, clock.now()
    if claimed.cancelled:
        return failed(claimed, _cancelled(), started_at=started_at, at=started_at)
    try:
        payload = registry.decode(claimed.type, claimed.schema_version, claimed.data)
        running.run = EffectRun(claimed, payload, sinks)
        result = await running.handler.run(running.run)
        return succeeded(claimed, result, started_at=started_at, at=clock.now())
    except asyncio.CancelledError:
        if running.stop_reason is None:
            raise
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        return stopped(running, started_at=started_at, at=clock.now())
    except registry.UnknownType as unknown:
        log.warning("effect.type-unknown", error=str(unknown))
        wait = dt.timedelta(seconds=UNKNOWN_TYPE_WAIT_S)
        return Requeue(at=clock.now() + wait, attempt=claimed.attempt, code="type-unknown")
    except Exception as raised:  # noqa: BLE001 - supervisor: a handler's error is an outcome
        error = _expected(raised, claimed)
        return verdict(
            claimed, error, running.handler.policy,
            started_at=started_at, at=clock.now(), chance=chance,
        )  # fmt: skip


def stopped(running: Running, *, started_at: dt.datetime, at: dt.datetime) -> Verdict:
    """What the end of a handler that was stopped means: cancelled, or ready again at once."""
    if running.stop_reason is Stop.CANCELLED:
        return failed(running.claimed, _cancelled(), started_at=started_at, at=at)
    return given_back(running.claimed, at=at)


def _cancelled() -> Cancelled:
    return Cancelled("cancelled by its owner")


def _expected(raised: BaseException, claimed: Claimed) -> SeawallError:
    """The error to judge by. A task group's sole error counts as that error."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    if isinstance(raised, InvariantBroken):
        raise raised
    if isinstance(raised, SeawallError):
        return raised
    log.error("effect.bug", exc_info=raised)
    text = f"{type(raised).__name__}: {raised}"
    return Bug(text, remedy="report it with the log; the step may be retried by hand")
