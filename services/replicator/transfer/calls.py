"""Makes the data path's calls to one site: keyed, paced, timed out, throttling waited for.

Throttling is the only answer that is handled here, because it means that nothing was done and
costs no attempt. Every other error ends the transfer: retries live with the effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from services.replicator.transfer.brake import Brake
from services.replicator.transfer.pace import Pace
from services.replicator.transfer.window import Window
from shared.errors import Throttled, Transient
from shared.platforms.ports import Call

T = TypeVar("T")

# For sites that throttle without saying for how long.
_FIRST_WAIT_S: Final = 0.25
_WAIT_S_MAX: Final = 8.0


class SiteCalls:
    """Calls to one site on behalf of one transfer; `scope` makes their keys its own."""

    def __init__(
        self,
        *,
        call: Call,
        scope: str,
        pace: Pace | None,
        windows: tuple[Window, ...],
        brake: Brake,
        wait_s_max: float,
    ) -> None:
        self._call = call
        self._scope = scope
        self._pace = pace
        self._windows = windows
        self._brake = brake
        self._wait_s_max = wait_s_max
        self.throttled = 0
        self.throttled_s = 0.0

    async def ask(
        self, name: str, what: str, make: Callable[[Call], Awaitable[T]], *, timeout_s: float
    ) -> T:
        """Make the call `name` when its turn comes; a repeat after throttling keeps its key.

        Raises Stopping before the call once the brake is pulled, Transient after `timeout_s`,
        Throttled when the site kept this one call waiting longer than allowed in all, and
        whatever the platform raises.
        """
        call = msgspec.structs.replace(self._call, key=f"{self._call.key}/{self._scope}/{what}")
        next_wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while True:
            self._brake.check()
            if self._pace is not None:
                with self._brake.idling():
                    await self._pace.spend(name)
            try:
                async with asyncio.timeout(timeout_s):
                    return await make(call)
            except TimeoutError as error:
                raise Transient(
                    f"{name} {what} did not answer within {timeout_s:g} s",
                    remedy="Check that the site answers; the transfer resumes from its last mark.",
                    code="call-timed-out",
                ) from error
            except Throttled as error:
                wait_s = next_wait_s if error.retry_after_s is None else error.retry_after_s
                if waited_s + wait_s > self._wait_s_max:
                    raise
                waited_s += wait_s
                next_wait_s = min(next_wait_s * 2, _WAIT_S_MAX)
                await self._obey(name, wait_s)

    async def _obey(self, name: str, wait_s: float) -> None:
        self.throttled += 1
        self.throttled_s += wait_s
        for window in self._windows:
            window.refused()
        if self._pace is not None:
            self._pace.hold(name, wait_s)
            return
        with self._brake.idling():
            await asyncio.sleep(wait_s)
