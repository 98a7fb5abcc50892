"""`seawall checkpoint …`: point-in-time copies."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.definitions import SCRIPT_BYTES_MAX
from services.cli.client import Client
from services.cli.commands.jobs import follow, patience_s
from services.cli.output import Format, machine, moment, table
from services.cli.requests import api_path, ask, with_plan
from services.cli.run import (
    DONE,
    USAGE,
    Output,
    Since,
    Timeout,
    Until,
    VmNames,
    Wait,
    run,
)

app = typer.Typer(no_args_is_help=True, help="Point-in-time checkpoints.")


@app.command("create")
def create_checkpoint(
    plan: str,
    preserve: Annotated[bool, typer.Option("--preserve", help="never expire it")] = False,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Make a checkpoint of the latest copies now."""

    async def work(client: Client) -> int:
        body = {"preserved": preserve}
        path = api_path("plans", plan, "checkpoints")
        answer = await client.command(path, body, within_s=patience_s(wait, timeout))
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)


@app.command("list")
def list_checkpoints(
    plan: str,
    state: Annotated[str | None, typer.Option(help="as available")] = None,
    since: Since = None,
    until: Until = None,
    output: Output = Format.TABLE,
) -> None:
    """A plan's checkpoints, newest first."""

    async def work(client: Client) -> int:
        page = await client.everything(
            "/v1/checkpoints", plan=plan, state=state, since=since, until=until
        )
        page = await with_plan(client, page, plan)
        if not machine(page, output):
            rows = [
                (c["id"], c["state"], "yes" if c["preserved"] else "", moment(c["created_at"]),
                 len(c["vms"]), c["plan_version"], _verdict(c))
                for c in page["items"]
            ]  # fmt: skip
            columns = (
                "CHECKPOINT", "STATE", "PRESERVED", "CREATED", "VMS", "PLAN VERSION", "VERDICT",
            )  # fmt: skip
            table(columns, rows, empty="no checkpoints")
        return DONE

    run(work)


def _verdict(checkpoint: dict[str, Any]) -> str:
    verdict = checkpoint.get("verdict")
    return f"{verdict['verdict']} {moment(verdict['at'])}" if verdict else ""


@app.command("find-clean")
def find_clean(
    plan: str,
    verdict: Annotated[
        Path, typer.Option(help="the script that judges a test; exit code 0: clean")
    ],
    runtime: Annotated[
        str | None, typer.Option(help="sh, bash, python or go; else by the script's suffix")
    ] = None,
    script_timeout: Annotated[str, typer.Option(help="for the script, each time")] = "5m",
    network: Annotated[
        bool, typer.Option("--network", help="let the script reach the network, and so the guests")
    ] = False,
    order: Annotated[str, typer.Option(help="newest-first or bisect")] = "newest-first",
    vm: VmNames = None,
    limit: Annotated[int | None, typer.Option(help="checkpoints to try at most")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the clean test up")] = False,
    skip_script: Annotated[
        list[str] | None,
        typer.Option(metavar="HOOK[:VM]", help="leave a script of the test recoveries out"),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Test checkpoints in isolation, one at a time, until a script finds one clean.

    `bisect` needs fewer tests, and is right only if everything older than a clean checkpoint is
    clean. Each verdict is kept with its checkpoint; every test is cleaned up again.
    """
    script: dict[str, Any] = {"run": str(verdict), "content": _content(verdict)}
    script |= {"timeout": script_timeout} | ({"runtime": runtime} if runtime else {})
    script |= {"network": True} if network else {}
    body = {
        "verdict": script,
        "order": order,
        "vms": vm or [],
        "limit": limit,
        "keep": keep,
        "skip_scripts": skip_script or [],
    }

    async def work(client: Client) -> int:
        path = api_path("plans", plan, "find-clean-point")
        answer = await client.command(path, body, within_s=patience_s(wait, timeout))
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)


def _content(script: Path) -> str:
    """A script file in base64; ends the command where it cannot be read or is too large."""
    try:
        with script.open("rb") as stream:
            content = stream.read(SCRIPT_BYTES_MAX + 1)
    except OSError as error:
        typer.echo(f"error: {script}: {(error.strerror or str(error)).lower()}", err=True)
        raise typer.Exit(USAGE) from None
    if len(content) > SCRIPT_BYTES_MAX:
        typer.echo(f"error: {script} is larger than {SCRIPT_BYTES_MAX} bytes", err=True)
        raise typer.Exit(USAGE)
    return base64.b64encode(content).decode()


@app.command()
def preserve(checkpoint: str, output: Output = Format.TABLE) -> None:
    """Keep a checkpoint whatever the retention says."""
    ask(api_path("checkpoints", checkpoint, "preserve"), f"{checkpoint} preserved", output)


@app.command()
def unpreserve(checkpoint: str, output: Output = Format.TABLE) -> None:
    """Let retention decide again."""
    ask(api_path("checkpoints", checkpoint, "unpreserve"), f"{checkpoint} may expire", output)


@app.command("delete")
def delete_checkpoint(
    checkpoint: str, wait: Wait = False, timeout: Timeout = "10m", output: Output = Format.TABLE
) -> None:
    """Delete a checkpoint that is neither in use nor preserved, and verify that it is gone."""

    async def work(client: Client) -> int:
        answer = await client.command(
            api_path("checkpoints", checkpoint), method="DELETE",
            within_s=patience_s(wait, timeout),
        )  # fmt: skip
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)
