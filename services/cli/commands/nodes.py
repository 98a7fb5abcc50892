"""`seawall node …`: what replicates, and how busy it is."""

from __future__ import annotations

import typer

from services.cli.client import Client
from services.cli.output import Format, machine, table
from services.cli.run import DONE, Output, run

app = typer.Typer(no_args_is_help=True, help="Nodes: what replicates at a site.")


@app.callback()
def nodes() -> None:
    """Nodes: what replicates at a site."""


@app.command("list")
def list_nodes(output: Output = Format.TABLE) -> None:
    """The nodes of every site; in this version the replicator acts as one."""

    async def work(client: Client) -> int:
        found = await client.everything("/v1/nodes")
        if not machine(found, output):
            rows = [
                (n["name"], n["site"], n["kind"], n["state"], f"{n['in_use']} of {n['capacity']}")
                for n in found["items"]
            ]
            columns = ("NODE", "SITE", "KIND", "STATE", "DISKS")
            table(columns, rows, empty="no nodes: `seawall site add` brings one with each site")
        return DONE

    run(work)
