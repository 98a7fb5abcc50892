"""`seawall alert …`: conditions a person must look at."""

from __future__ import annotations

import typer

from services.cli.client import Client
from services.cli.output import Format, machine, moment, out, table
from services.cli.requests import api_path, ask
from services.cli.run import DONE, Output, run

app = typer.Typer(no_args_is_help=True, help="Conditions a person must look at.")


@app.command("list")
def list_alerts(
    plan: str | None = None, state: str | None = None, output: Output = Format.TABLE
) -> None:
    """Alerts, newest first."""

    async def work(client: Client) -> int:
        page = await client.get("/v1/alerts", plan=plan, state=state, limit="1000")
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
