"""The worker process's lease: begun, prolonged, and given up in time.

Owns the rule that a process stops itself before others may take over what it runs: by its own
monotonic clock, a margin before the lease ends, also when the call that would prolong it hangs
or the process had been stopped. A lease that turns out to be alive is gone on with; else what
is left of it is given back, and a new one begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from shared.clock import Clock
from shared.effects.port import Lease, WorkQueue
from shared.errors import Transient
from shared.eventlog.port import Fenced

log = structlog.get_logger()

MARGIN_S: Final = 5.0
"""A worker stops itself so long before its lease ends; a third of it if the lease is short."""

CALL_TIMEOUT_S: Final = 5.0
_BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


def backoff_s(failures: int) -> float:
    """The pause after so many failures in a row of reaching the queue."""
    return _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]


class LeaseSettings(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def lease_s(self) -> float: ...
    @property
    def heartbeat_s(self) -> float: ...


class LeaseKeeper:
    """Keeps one worker's lease while `run` runs.

    `abort` stops everything that runs under the lease and says whether all of it has ended;
    `cancelled` is told which effects were asked to stop.
    """

    def __init__(
        self,
        queue: WorkQueue,
        settings: LeaseSettings,
        *,
        clock: Clock,
        abort: Callable[[], Awaitable[bool]],
        cancelled: Callable[[Sequence[str]], None],
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._clock = clock
        self._abort = abort
        self._cancelled = cancelled
        self._margin_s = min(MARGIN_S, settings.lease_s / 3)
        self._until = 0.0
        self._standing = asyncio.Event()
        self._nudged = asyncio.Event()
        self.lease = Lease(worker=settings.name, number=0, lease_s=settings.lease_s)

    @property
    def stands(self) -> bool:
        """Whether work may be started and outcomes may count, by our own clock."""
        return self._standing.is_set() and self._clock.monotonic() < self._until

    def nudge(self) -> None:
        """Prolong soon: effects may have been cancelled, or the lease may be gone."""
        self._nudged.set()

    async def wait_standing(self, timeout_s: float) -> None:
        """Return when the lease stands, or after `timeout_s`."""
        if not self._standing.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._standing.wait()
            except TimeoutError:
                return

    async def run(self) -> None:
        """Begin a lease and keep it, or the next one, until cancelled."""
        await self._begin()
        failures = 0
        while True:
            await self._wait(self._settings.heartbeat_s if not failures else backoff_s(failures))
            if self._standing.is_set() and self._clock.monotonic() >= self._until:
                await self._stop_self()
            try:
                await self._beat()
                failures = 0
            except Fenced:
                log.warning("lease.lost", worker=self._settings.name, lease_no=self.lease.number)
                await self._replace()
                failures = 0
            except (Transient, TimeoutError) as error:
                failures += 1
                log.warning("lease.not-prolonged", failures=failures, error=str(error))

    async def leave(self) -> None:
        """Give everything back that is still claimed; the process is going away."""
        self._standing.clear()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._queue.end_lease(self.lease)
        except (Transient, TimeoutError) as error:
            log.warning("lease.not-ended", error=str(error))

    async def _wait(self, wait_s: float) -> None:
        """Until the next beat, a nudge, or the end of the lease, whichever comes first."""
        if self._standing.is_set():
            wait_s = min(wait_s, max(self._until - self._clock.monotonic(), 0))
        try:
            async with asyncio.timeout(wait_s):
                await self._nudged.wait()
        except TimeoutError:
            pass
        self._nudged.clear()

    async def _beat(self) -> None:
        """Prolong. A call that hangs is left behind in time to stop ourselves."""
        began = self._clock.monotonic()
        limit_s = CALL_TIMEOUT_S
        if self._standing.is_set():
            limit_s = min(limit_s, max(self._until - began, 0.01))
        call = asyncio.ensure_future(self._queue.heartbeat(self.lease))
        try:
            await asyncio.wait([call], timeout=limit_s)
        finally:
            if not call.done():
                call.cancel()
                call.add_done_callback(_forget)
        if call.cancelled() or not call.done():
            raise TimeoutError(f"no answer within {limit_s:.1f} s")
        stop = call.result()
        self._until = began + self._settings.lease_s - self._margin_s
        self._standing.set()
        self._cancelled(stop)

    async def _stop_self(self) -> None:
        log.warning("lease.stopping-self", worker=self._settings.name, lease_no=self.lease.number)
        self._standing.clear()
        await self._abort()

    async def _replace(self) -> None:
        """The lease is over: end what runs, give back what others have not taken, begin anew."""
        self._standing.clear()
        ended = await self._abort()
        if ended:
            await self._persist(lambda: self._queue.end_lease(self.lease))
        else:
            log.error("lease.handlers-still-running", worker=self._settings.name)
        await self._begin()

    async def _begin(self) -> None:
        settings = self._settings

        async def lease() -> None:
            began = self._clock.monotonic()
            self.lease = await self._queue.lease_worker(
                settings.name, service=settings.service, lease_s=settings.lease_s
            )
            self._until = began + settings.lease_s - self._margin_s

        await self._persist(lease)
        self._standing.set()
        log.debug("lease.begun", worker=settings.name, lease_no=self.lease.number)

    async def _persist(self, call: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await call()
                return
            except (Transient, TimeoutError) as error:
                failures += 1
                log.warning("lease.unreachable", failures=failures, error=str(error))
                await asyncio.sleep(backoff_s(failures))


def _forget(call: asyncio.Future[Sequence[str]]) -> None:
    """Take note of the end of a call nobody waits for, so that asyncio does not complain."""
    if not call.cancelled():
        call.exception()
