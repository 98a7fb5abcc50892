"""Waiting out the throttling of reads where giving the whole effect back would not help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import Throttled

T = TypeVar("T")
WAIT_S: Final = 0.5
"""Wait after a throttling answer that did not say how long."""


async def paced(read: Callable[[], Awaitable[T]]) -> T:
    """The answer of a read, waiting while the site asks for fewer calls.

    Pacing, not retry: an effect that makes more reads than a bucket holds and is given back at
    each throttle would begin anew for ever. The caller bounds it in time.
    """
    while True:
        try:
            return await read()
        except Throttled as throttled:
            await asyncio.sleep(throttled.retry_after_s or WAIT_S)
