"""Wakes everybody who waits for the projector, without one waiter stealing another's wake-up."""

from __future__ import annotations

import asyncio

from shared.news import News

PROJECTED = "projected"
POLL_S = 0.25


class Pulse:
    """`now` before a look, `wait` after a look that found nothing: no beat between is lost.

    `closed`: the process ends, and whoever waits should answer with what is there.
    """

    def __init__(self, news: News) -> None:
        self._heard = news.subscribe((PROJECTED,))
        self._beat = asyncio.Event()
        self.closed = False

    async def run(self) -> None:
        """Pass every beat on, until cancelled."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            self._pass_on()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.closed = True
        self._pass_on()

    def _pass_on(self) -> None:
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()

    def now(self) -> asyncio.Event:
        """The beat that comes next; take it before looking."""
        return self._beat


async def wait(beat: asyncio.Event, *, timeout_s: float) -> None:
    """Wait for a beat that was taken, at most `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await beat.wait()
    except TimeoutError:
        pass
