"""Waiting for a condition with a bound: the only place where tests sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_POLL_S = 0.02


def wait_until(
    condition: Callable[[], bool], what: str, *, within_s: float = 10.0, poll_s: float = _POLL_S
) -> None:
    """Return as soon as `condition` holds; AssertionError naming `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(poll_s)


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 10.0
) -> None:
    """As `wait_until`, for a condition that awaits. Uses the loop's clock, virtual or real."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await condition():
        assert loop.time() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(_POLL_S)
