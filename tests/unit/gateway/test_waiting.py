"""Whoever waits for a decision is answered though read models cannot be read meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.gateway.commands import wait_for
from services.gateway.pulse import Pulse
from shared.errors import Transient
from shared.news import LocalNews

SETTLED = {"state": "settled"}


class Reads:
    """Read models that answer as told, the last answer for ever."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    async def __call__(self, command_id: str) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("before", [Transient("away"), None, {"state": "accepted"}])
async def test_the_decision_is_given_once_it_can_be_read(before: Any) -> None:
    reads = Reads(before, before, SETTLED)
    assert await wait_for(reads, "c1", pulse=Pulse(LocalNews()), timeout_s=10.0) == SETTLED


@pytest.mark.parametrize("ever", [Transient("away"), None, {"state": "accepted"}])
async def test_nothing_is_given_when_the_time_is_over(ever: Any) -> None:
    assert await wait_for(Reads(ever), "c1", pulse=Pulse(LocalNews()), timeout_s=0.01) is None


async def test_nobody_waits_on_once_the_gateway_ends() -> None:
    pulse = Pulse(LocalNews())
    waiting = asyncio.create_task(wait_for(Reads(None), "c1", pulse=pulse, timeout_s=60.0))
    await asyncio.sleep(0)
    pulse.close()
    async with asyncio.timeout(5):
        assert await waiting is None
