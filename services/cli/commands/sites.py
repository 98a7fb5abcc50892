"""`seawall site …`: where VMs run and are recovered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import Client
from services.cli.commands.jobs import confirmed, follow
from services.cli.output import Format, machine, moment, out, table
from services.cli.requests import api_path, ask
from services.cli.run import DONE, REFUSED, USAGE, Output, Timeout, VmNames, Wait, run

app = typer.Typer(no_args_is_help=True, help="Sites: where VMs run and are recovered.")


@app.command("add")
def add_site(
    name: str,
    platform: Annotated[str, typer.Option(help="lab")] = "lab",
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE")] = None,
    credentials: Annotated[str, typer.Option(help="a reference such as file:…")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Register a site; it is checked first."""
    settings = {}
    for pair in setting or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            typer.echo(f"--set: found {pair!r}; allowed: KEY=VALUE, as path=east", err=True)
            raise typer.Exit(USAGE)
        settings[key] = str(Path(value).expanduser().absolute()) if key == "path" else value

    async def work(client: Client) -> int:
        body = {
            "name": name, "platform": platform, "settings": settings, "credentials": credentials,
        }  # fmt: skip
        answer = await client.command("/v1/sites", body)
        if not machine(answer, output):
            out.print(f"{name} added", markup=False)
        return DONE

    run(work)


@app.command("list")
def list_sites(
    platform: str | None = None,
    state: Annotated[str | None, typer.Option(help="unchecked, ok or unreachable")] = None,
    output: Output = Format.TABLE,
) -> None:
    """All sites."""

    async def work(client: Client) -> int:
        page = await client.everything("/v1/sites", platform=platform, state=state)
        if not machine(page, output):
            rows = [
                (s["name"], s["platform"], s["state"], moment(s["checked_at"]),
                 " ".join(f"{k}={v}" for k, v in s["settings"].items()))
                for s in page["items"]
            ]  # fmt: skip
            table(("SITE", "PLATFORM", "STATE", "CHECKED", "SETTINGS"), rows, empty="no sites")
        return DONE

    run(work)


@app.command("show")
def show_site(name: str, output: Output = Format.TABLE) -> None:
    """One site."""
    _show(api_path("sites", name), output)


@app.command("check")
def check_site(name: str, output: Output = Format.TABLE) -> None:
    """Call the platform and say what it answers."""

    async def work(client: Client) -> int:
        answer = await client.command(api_path("sites", name) + "/check")
        if not machine(answer, output):
            error = answer.get("error")
            told = f": {error['message']} ({error['remedy']})" if error else ""
            out.print(f"{name} {answer.get('state', 'checked')}{told}", markup=False)
        return REFUSED if answer.get("error") else DONE

    run(work)


@app.command("release")
def release_site(
    name: str,
    confirmation: Annotated[
        str, typer.Option("--confirm", metavar="SITE", help="the site's name, typed")
    ] = "",
    originals_running: Annotated[
        bool,
        typer.Option("--originals-running", help="your word that those seen to run go on"),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """End the quarantine of a site that a failover could not reach."""

    async def work(client: Client) -> int:
        path = api_path("sites", name) + "/release"
        body: dict[str, Any] = {"confirm": confirmation}
        if originals_running:
            # Left out where it is not said: a control plane of the build before knows it not.
            body["originals_running"] = True
        answer = await client.command(path, body)
        if not machine(answer, output):
            out.print(f"{name} released; start its plans with `seawall plan start`", markup=False)
        return DONE

    run(work)


@app.command("power-off")
def power_off_site(
    name: str,
    confirmation: Annotated[
        str | None, typer.Option("--confirm", metavar="SITE", help="the site's name, typed")
    ] = None,
    vm: VmNames = None,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Power off the originals that run again at a site which a failover could not reach."""
    body: dict[str, Any] = {"vms": vm or []}

    async def work(client: Client) -> int:
        answer = await confirmed(
            client, api_path("sites", name) + "/power-off", confirmation, body=body, what="site"
        )
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)


@app.command("remove")
def remove_site(name: str, output: Output = Format.TABLE) -> None:
    """Forget a site that no plan uses."""
    ask(api_path("sites", name), f"{name} removed", output, method="DELETE")


def _show(path: str, form: Format) -> None:
    async def work(client: Client) -> int:
        found = await client.get(path)
        if not machine(found, form):
            machine(found, Format.YAML)
        return DONE

    run(work)
