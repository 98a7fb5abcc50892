"""Calls to an archive side by side: as many as help where each takes a while, and no more.

What is under way is also what is in memory, so the bound on calls is the bound on memory: that
many segments, of some megabytes at most.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, Final

PARALLEL_MAX: Final = 8
"""Calls under way. An answer of an object store takes tens of milliseconds, sending a segment
about as long: eight fill a line of some hundred Mbit/s, and ask for no more than one browser."""

Contents = AsyncGenerator[bytes | None, None]


class Parallel:
    """Runs calls side by side, named so that none is under way twice. Use it as a context.

    Leaving it waits for all. The first failure is raised by whichever call notices it, and ends
    what is under way; so does leaving by an exception.
    """

    def __init__(self, parallel_max: int = PARALLEL_MAX) -> None:
        self._parallel_max = parallel_max
        self._running: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Parallel:
        return self

    async def __aexit__(self, kind: object, *failure: object) -> None:
        try:
            if kind is None:
                await self._wait(asyncio.FIRST_EXCEPTION)
        finally:
            await _end(self._running.values())

    async def start(
        self, name: str, call: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        """Start `call(name, *arguments)` when there is room; one under way is not doubled."""
        while len(self._running) >= self._parallel_max:
            await self._wait(asyncio.FIRST_COMPLETED)
        if name not in self._running:
            self._running[name] = asyncio.create_task(call(name, *arguments))

    async def _wait(self, when: str) -> None:
        if not self._running:
            return
        await asyncio.wait(self._running.values(), return_when=when)
        for name in [name for name, task in self._running.items() if task.done()]:
            self._running.pop(name).result()


async def in_order(
    get: Callable[[str], Coroutine[Any, Any, bytes | None]],
    names: Iterable[str],
    parallel_max: int = PARALLEL_MAX,
) -> Contents:
    """What `get` gives for each name, in order, while the next ones are on their way already.

    Close it (`contextlib.aclosing`) to end what is under way.
    """
    ahead: deque[asyncio.Task[bytes | None]] = deque()
    coming = iter(names)
    try:
        for name in itertools.islice(coming, parallel_max):
            ahead.append(asyncio.create_task(get(name)))
        while ahead:
            # The one that is waited for stays listed: it too must end if the reader goes away.
            content = await ahead[0]
            ahead.popleft()
            for name in itertools.islice(coming, 1):
                ahead.append(asyncio.create_task(get(name)))
            yield content
    finally:
        await _end(ahead)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended; what they then raise is told already."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
