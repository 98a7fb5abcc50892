"""`seawall checkpoint …`: point-in-time copies."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.client import Client
from services.cli.commands.jobs import follow
from services.cli.output import Format, machine, moment, table
from services.cli.requests import api_path, ask
from services.cli.run import DONE, Output, Since, Timeout, Until, Wait, run

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
        answer = await client.command(api_path("plans", plan, "checkpoints"), body)
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
        if not machine(page, output):
            rows = [
                (c["id"], c["state"], "yes" if c["preserved"] else "", moment(c["created_at"]),
                 len(c["vms"]), c["plan_version"])
                for c in page["items"]
            ]  # fmt: skip
            columns = ("CHECKPOINT", "STATE", "PRESERVED", "CREATED", "VMS", "PLAN VERSION")
            table(columns, rows, empty="no checkpoints")
        return DONE

    run(work)


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
        answer = await client.command(api_path("checkpoints", checkpoint), method="DELETE")
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)
