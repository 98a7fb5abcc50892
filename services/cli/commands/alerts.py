"""`seawall alert …`: conditions a person must look at."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.client import Client
from services.cli.output import Format, machine, moment, out, table
from services.cli.requests import api_path, ask
from services.cli.run import DONE, Output, Since, Until, run

app = typer.Typer(no_args_is_help=True, help="Conditions a person must look at.")


@app.command("list")
def list_alerts(
    plan: str | None = None,
    state: Annotated[
        str | None, typer.Option(help="open, acknowledged, snoozed or resolved")
    ] = None,
    severity: Annotated[str | None, typer.Option(help="critical, major, minor or info")] = None,
    since: Since = None,
    until: Until = None,
    output: Output = Format.TABLE,
) -> None:
    """Alerts, newest first."""

    async def work(client: Client) -> int:
        page = await client.everything(
            "/v1/alerts", plan=plan, state=state, severity=severity, since=since, until=until
        )
        if not machine(page, output):
            rows = [
                (a["id"], a["severity"], a["state"], a["count"], moment(a["last_at"]), a["title"])
                for a in page["items"]
            ]
            columns = ("ALERT", "SEVERITY", "STATE", "COUNT", "LAST", "TITLE")
            table(columns, rows, empty="no alerts")
        return DONE

    run(work)


@app.command()
def ack(alert: str, output: Output = Format.TABLE) -> None:
    """Say that you have seen it."""
    ask(api_path("alerts", alert, "ack"), f"{alert} acknowledged", output)


@app.command()
def snooze(alert: str, until: str, output: Output = Format.TABLE) -> None:
    """Silence it until a time with a zone."""

    async def work(client: Client) -> int:
        answer = await client.command(api_path("alerts", alert, "snooze"), {"until": until})
        if not machine(answer, output):
            out.print(f"{alert} snoozed until {until}", markup=False)
        return DONE

    run(work)


@app.command()
def resolve(alert: str, output: Output = Format.TABLE) -> None:
    """Close it by hand."""
    ask(api_path("alerts", alert, "resolve"), f"{alert} resolved", output)
