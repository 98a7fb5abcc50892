"""A loop in virtual time whose tasks belong to processes that can be frozen and killed.

Owns time and the life of processes: a frozen one runs no code until it is thawed, a killed one
never again, not even its `finally`. Nothing here knows services. One thread, no real waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

import async_solipsism

T = TypeVar("T")
ROUNDS_MAX: Final = 100_000
_TICK_DIGITS: Final = 6
_CLOSE_S: Final = 3600.0

_process: contextvars.ContextVar[VirtualProcess | None] = contextvars.ContextVar(
    "process", default=None
)


class Livelock(RuntimeError):
    """Tasks wake one another without end while no time passes."""


class VirtualLoop(async_solipsism.EventLoop):  # type: ignore[misc]  # ships no types
    """Jumps to the next timer when nothing is ready; holds back the steps of frozen processes."""

    def __init__(self) -> None:
        super().__init__()
        self._instant = 0.0
        self._rounds = 0

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        process = _process.get() if context is None else context.get(_process)
        if process is None or process.state == "running":
            handle: asyncio.Handle = super().call_soon(callback, *args, context=context)
            return handle
        held = asyncio.Handle(callback, args, self, context)
        process.held.append(held)
        return held

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Whole microseconds only: the clock counts in them. Waiting always takes some time."""
        now = self.time()
        exact = round(when, _TICK_DIGITS)
        if exact - now < self._clock_resolution / 2:
            exact = now if when <= now else now + self._clock_resolution
        timer: asyncio.TimerHandle = super().call_at(exact, callback, *args, context=context)
        return timer

    def _run_once(self) -> None:
        """One round; rounds without end at one instant are a livelock, and told as one."""
        super()._run_once()
        now = self.time()
        if now != self._instant:
            self._instant, self._rounds = now, 0
            return
        self._rounds += 1
        if self._rounds > ROUNDS_MAX:
            self._rounds = 0
            turning = {repr(handle)[:300] for handle in (*self._ready, *self._scheduled[:3])}
            raise Livelock(f"{ROUNDS_MAX} rounds at {now:.6f}: " + " ".join(sorted(turning)))

    async def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> T:
        """Here and now: no threads in virtual time."""
        return func(*args)

    def release(self, held: list[asyncio.Handle]) -> None:
        """Run what was held back, in order."""
        for handle in held:
            if not handle.cancelled():
                self._ready.append(handle)


class VirtualProcess:
    """Tasks that stop and die together, as an operating-system process does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Literal["running", "frozen", "dead"] = "running"
        self.held: list[asyncio.Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)
        # A task that nothing refers to is collected, which would run its `finally`.
        self._grave: frozenset[asyncio.Task[Any]] = frozenset()

    def spawn(self, main: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Begin a task of this process; tasks it begins are of this process too."""
        loop = asyncio.get_running_loop()
        return loop.create_task(main, name=name, context=self._context)

    def freeze(self) -> None:
        """As SIGSTOP: no code runs; timers come due meanwhile and are seen at the thaw."""
        if self.state == "running":
            self.state = "frozen"

    def thaw(self) -> None:
        """As SIGCONT."""
        if self.state == "frozen":
            self._go_on()

    def kill(self) -> None:
        """As SIGKILL: the step under way goes on to its next await, then nothing ever."""
        self.state = "dead"
        self._grave = frozenset(asyncio.all_tasks())

    def bury(self) -> None:
        """The world is over and judged: let the dead run to their cancellation."""
        self._go_on()
        self._grave = frozenset()

    def _go_on(self) -> None:
        self.state = "running"
        held, self.held = self.held, []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop), "processes live in virtual time"
        loop.release(held)


async def cancel_all_others() -> None:
    """Cancel every task but the caller's and wait for their end; the world is over."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_CLOSE_S)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time that begins at 0."""
    loop = VirtualLoop()
    loop.set_exception_handler(_quiet)
    try:
        result: T = loop.run_until_complete(main)
        return result
    finally:
        loop.close()


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Errors of tasks nobody waits for: of the dead, whose ends nobody is told."""
