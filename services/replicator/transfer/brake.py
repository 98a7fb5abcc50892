"""Stops a transfer: nothing new begins, what is in hand ends, pure waiting is cut short.

A platform call that runs on a thread cannot be taken back by cancelling its coroutine, so it is
waited for instead; only tasks that merely wait (for a rate, a flush, a mark) are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import SeawallError


class Stopping(Exception):
    """The brake was pulled; unwinds one lane."""


class Brake:
    """Pulled at most once, with the first failure if there is one."""

    def __init__(self) -> None:
        self.failure: SeawallError | None = None
        self.pulled = False
        self._idle: set[asyncio.Task[None]] = set()

    def pull(self, failure: SeawallError | None = None) -> None:
        """Let every lane end before its next call, and those that only wait end now."""
        if self.pulled:
            return
        self.pulled = True
        self.failure = failure
        for task in self._idle:
            task.cancel()

    def check(self) -> None:
        """Raise Stopping once the brake was pulled."""
        if self.pulled:
            raise Stopping

    @contextmanager
    def idling(self) -> Iterator[None]:
        """Inside, the current task only waits and may be cancelled when the brake is pulled."""
        self.check()
        task = asyncio.current_task()
        assert task is not None
        self._idle.add(task)
        try:
            yield
        finally:
            self._idle.discard(task)
