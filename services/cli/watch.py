"""`job watch` and `--wait`: a job live on a terminal, plain lines where nobody looks.

A control plane that does not answer for a while is waited for: the job goes on without us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from rich.live import Live

from services.cli.client import ENDED, ApiError, Client, Unreachable
from services.cli.live import waits
from services.cli.live.advice import advice
from services.cli.live.look import Eyes, Look
from services.cli.live.screen import Screen, verdict_of
from services.cli.output import err, out

REFRESH_S = 0.25
REFRESH_PER_PART_S: Final = 0.002
"""A recovery of 2,000 VMs is looked at every 4 s: its answer has 2,000 jobs in it."""

SILENCE_S_MAX: Final = 120.0
"""For so long a control plane that answered before may be away: restarts take seconds."""


async def watch(client: Client, job: str, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Show the job until it ends; gives it as it ended. Raises TimeoutError, and Unreachable
    where it does not answer at first, or not for SILENCE_S_MAX."""
    client.following = job
    async with asyncio.timeout(timeout_s):
        if out.is_terminal:
            return await _live(Eyes(client, job))
        return await _plain(Eyes(client, job))


class _Patience:
    """Looks that outlast a control plane that is away; the first one must be answered."""

    def __init__(self, eyes: Eyes) -> None:
        self._eyes = eyes
        self._last: Look | None = None
        self._silent_since = 0.0

    async def look(self) -> Look:
        """What is seen now, or was seen last with for how long nobody has answered."""
        now = asyncio.get_running_loop().time()
        try:
            self._last = await self._eyes.look()
            self._silent_since = 0.0
            return self._last
        except (ApiError, Unreachable) as away:
            if self._last is None or not _passes(away):
                raise
            self._silent_since = self._silent_since or now
            silent_s = now - self._silent_since
            if silent_s > SILENCE_S_MAX:
                raise
            return msgspec.structs.replace(self._last, silent_s=max(silent_s, 0.1))


def _passes(away: ApiError | Unreachable) -> bool:
    """Whether it may be waited for: nobody answers, or somebody whose database does not."""
    return isinstance(away, Unreachable) or away.status >= 500


def _pause_s(look: Look) -> float:
    return REFRESH_S + REFRESH_PER_PART_S * len(look.parts)


async def _live(eyes: Eyes) -> dict[str, Any]:
    patient = _Patience(eyes)
    look = await patient.look()
    with Live(Screen(look), console=out, refresh_per_second=4) as live:
        while look.job["state"] not in ENDED:
            await asyncio.sleep(_pause_s(look))
            look = await patient.look()
            live.update(Screen(look))
    return dict(look.job)


async def _plain(eyes: Eyes) -> dict[str, Any]:
    """One line for everything that changed."""
    patient = _Patience(eyes)
    told: set[str] = set()
    was_silent = False
    while True:
        look = await patient.look()
        if bool(look.silent_s) != was_silent:
            was_silent = bool(look.silent_s)
            err.print("no answer from the control plane, trying again; the job goes on"
                      if was_silent else "the control plane answers again")  # fmt: skip
        for line in lines_of(look):
            if line not in told:
                told.add(line)
                out.print(line, markup=False, soft_wrap=True)
        if look.job["state"] in ENDED:
            return dict(look.job)
        await asyncio.sleep(_pause_s(look))


def lines_of(look: Look) -> Iterator[str]:
    """All that can be said of a look, a fact a line: who follows prints what is new."""
    for part in look.parts:
        yield from _of_job(part)
    yield from _of_job(look.job)
    yield from (f"{look.job['plan']}: {reason}" for reason in waits.throttled(look))
    for each in advice(look.job, look.parts):
        yield f"  {each.why}: {each.command}"


def _of_job(job: Mapping[str, Any]) -> Iterator[str]:
    who = job["vm"] or job["plan"]
    for step in job["steps"]:
        if step["state"] in ("pending", "queued"):
            continue
        error = step.get("error")
        told = error["message"] if error else waits.question(step) or verdict_of(job, step)
        yield f"{who}: {step['name']} {step['state']}{f': {told}' if told else ''}"
        if error and error.get("remedy"):
            yield f"  {error['remedy']}"
    if job.get("error"):
        yield f"{who}: {job['error']['message']}"
    yield f"{who}: {job['kind']} {job['state']}"
