"""A failover whose protected site cannot be reached: the person is asked at once, not sent away.

The job has ended in preflight, before anything was touched. Whoever sits at a terminal may give
their word by typing the site's name, and the failover is started anew with it. Decides nothing:
the word is heeded by the recovery service, for what cannot be reached only.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import typer

from services.cli.client import ENDED, JOB_POLL_S, Client
from services.cli.output import err

UNREACHABLE: Final = "source-unreachable"
PREFLIGHT_S_MAX: Final = 60.0
"""For so long the end of preflight is waited for; a site that hangs is found out in 10 s."""


def may_ask() -> bool:
    """Whether somebody reads the question and can answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def with_word(
    client: Client, plan: str, body: Mapping[str, Any], answer: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The failover to follow: `answer`'s or, where its site is gone by the person's word, another
    one; and whether it is over already. Asks nothing where preflight found the site."""
    job = answer.get("id") or answer["job"]
    found = await _after_preflight(client, job)
    error = found.get("error") or {}
    if error.get("code") != UNREACHABLE:
        return answer, found["state"] in ENDED
    site = str((await client.get(f"/v1/plans/{quote(plan, safe='')}"))["protected_site"])
    err.print(f"error: {error['message']}", style="red", markup=False, soft_wrap=True)
    if not _has_word(site):
        err.print("the site's name was not typed: nothing was done", markup=False)
        return answer, True
    again = {**body, "source_gone": True}
    return await client.command(f"/v1/plans/{quote(plan, safe='')}/recover", again), False


async def _after_preflight(client: Client, job: str) -> dict[str, Any]:
    """The job once it has ended or its preflight has; as it stands after PREFLIGHT_S_MAX."""
    client.following = job
    deadline = asyncio.get_running_loop().time() + PREFLIGHT_S_MAX
    while True:
        found = await client.job(job)
        looked = any(s["name"] == "preflight" and s["ended_at"] for s in found.get("steps", ()))
        if looked or found["state"] in ENDED or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(JOB_POLL_S)


def _has_word(site: str) -> bool:
    """Say what the word means, and have the site's name typed."""
    typer.echo(
        f"  Nothing was touched. If a VM still runs at {site}, there will be two of it.\n"
        f"  Only if you know that they do not run (power is off, storage is gone, the network\n"
        f"  is cut at their side): {site} is then given up and quarantined until\n"
        f"  `seawall site release {site}`.",
        err=True,
    )
    typed = typer.prompt(f"Type the site's name ({site}) to go on without it", default="",
                         show_default=False, err=True)  # fmt: skip
    return str(typed).strip() == site
