"""`seawall node …`: what replicates and prepares at the sites, and how busy it is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli.client import Client
from services.cli.output import Format, machine, table
from services.cli.requests import api_path, ask
from services.cli.run import DONE, Output, run

app = typer.Typer(no_args_is_help=True, help="Nodes: what replicates and prepares at a site.")


@app.command("list")
def list_nodes(
    site: str | None = None,
    kind: Annotated[str | None, typer.Option(help="replication or prep")] = None,
    state: Annotated[str | None, typer.Option(help="as online or off")] = None,
    output: Output = Format.TABLE,
) -> None:
    """The nodes of every site: the replicator as one, and its prep nodes for Windows VMs."""

    async def work(client: Client) -> int:
        found = await client.everything("/v1/nodes", site=site, kind=kind, state=state)
        if not machine(found, output):
            rows = [
                (n["name"], n["site"], n["kind"], _state(n), f"{n['in_use']} of {n['capacity']}",
                 (n.get("error") or {}).get("message", ""))
                for n in found["items"]
            ]  # fmt: skip
            columns = ("NODE", "SITE", "KIND", "STATE", "IN USE", "ERROR")
            table(columns, rows, empty="no nodes: `seawall site add` brings one with each site")
        return DONE

    run(work)


@app.command("drain")
def drain_node(name: str, output: Output = Format.TABLE) -> None:
    """Give a prep node no new work; it goes off once those that it works for are done."""
    ask(api_path("nodes", name, "drain"), f"{name} drained", output)


@app.command("undrain")
def undrain_node(name: str, output: Output = Format.TABLE) -> None:
    """Give a prep node work again, also one that had failed to come on."""
    ask(api_path("nodes", name, "undrain"), f"{name} takes work again", output)


def _state(node: dict[str, Any]) -> str:
    return f"{node['state']}, drained" if node.get("drained") else str(node["state"])
