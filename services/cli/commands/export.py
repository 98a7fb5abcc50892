"""`seawall plan export`: a plan as a page that a person can read without Seawall."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.client import Client
from services.cli.output import err
from services.cli.requests import api_path
from services.cli.run import DONE, USAGE, run
from services.cli.runbook import runbook


def export(
    plan: str,
    runbook_wanted: Annotated[
        bool, typer.Option("--runbook", help="what a person needs on paper, as Markdown")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="where to; else standard output")
    ] = None,
) -> None:
    """Write a plan's runbook: VMs, order, sites, copies, commands, and what to do without them."""
    if not runbook_wanted:
        typer.echo("say what to export: --runbook", err=True)
        raise typer.Exit(USAGE)

    async def work(client: Client) -> int:
        found = await client.get(api_path("plans", plan))
        names = (found["protected_site"], found["recovery_site"])
        sites = {name: await client.get(api_path("sites", name)) for name in names}
        page = await client.get("/v1/checkpoints", plan=plan, state="available", limit="5")
        now = dt.datetime.now(dt.UTC)
        text = runbook(found, sites, page["items"], at=now, url=client.url)
        if file is None:
            sys.stdout.write(text)
            return DONE
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            err.print(f"error: {file}: {reason}", markup=False, soft_wrap=True)
            return USAGE
        err.print(f"written to {file}", markup=False, soft_wrap=True)
        return DONE

    run(work)
