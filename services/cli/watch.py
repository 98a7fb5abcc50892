"""`job watch` and `--wait`: a live boot-order timeline, plain lines where nobody looks."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.live import Live

from services.cli.client import ENDED, Client
from services.cli.jobs_view import question, timeline
from services.cli.output import out

REFRESH_S = 0.25
CHILDREN_SHOWN_MAX = 60


async def watch(client: Client, job: str, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Show the job until it ends; gives it as it ended. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        if out.is_terminal:
            return await _live(client, job)
        return await _plain(client, job)


async def _look(client: Client, job: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = await client.job(job)
    if not found["children"]:
        return found, []
    page = await client.get("/v1/jobs", parent_id=job, limit=str(CHILDREN_SHOWN_MAX))
    return found, page["items"]


async def _live(client: Client, job: str) -> dict[str, Any]:
    found, children = await _look(client, job)
    with Live(timeline(found, children), console=out, refresh_per_second=8) as live:
        while found["state"] not in ENDED:
            await asyncio.sleep(REFRESH_S)
            found, children = await _look(client, job)
            live.update(timeline(found, children))
    return found


async def _plain(client: Client, job: str) -> dict[str, Any]:
    """One line for everything that changed."""
    told: set[str] = set()
    while True:
        found, children = await _look(client, job)
        for each in (*children, found):
            for line in _lines(each):
                if line not in told:
                    told.add(line)
                    out.print(line, markup=False, soft_wrap=True)
        if found["state"] in ENDED:
            return found
        await asyncio.sleep(REFRESH_S)


def _lines(job: dict[str, Any]) -> list[str]:
    who = job["vm"] or job["plan"]
    lines = []
    for step in job["steps"]:
        if step["state"] not in ("pending", "queued"):
            told = step["error"]["message"] if step.get("error") else question(step)
            lines.append(f"{who}: {step['name']} {step['state']}{f': {told}' if told else ''}")
            if step.get("waiting"):
                lines.append(f"  seawall job answer {job['id']} {step['name']} CHOICE")
    lines.append(f"{who}: {job['kind']} {job['state']}")
    return lines
