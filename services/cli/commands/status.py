"""`seawall event …` and `queue`: what happened, what waits."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer

from services.cli.client import Client
from services.cli.output import Format, machine, moment, out, table, tell_more
from services.cli.run import DONE, Cursor, Output, Since, Until, run

app = typer.Typer(no_args_is_help=True, help="Every fact, as CloudEvents.")


@app.command("list")
def list_events(
    plan: str | None = None,
    job: str | None = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="as seawall.recovery.vm-powered-on")
    ] = None,
    since: Since = None,
    until: Until = None,
    order: Annotated[str, typer.Option(help="newest or oldest first")] = "newest",
    limit: int = 100,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
) -> None:
    """Events, newest first; older ones with --cursor."""

    async def work(client: Client) -> int:
        page = await client.get(
            "/v1/events", plan=plan, job=job, type=kind, since=since, until=until, order=order,
            limit=str(limit), cursor=cursor,
        )  # fmt: skip
        if not machine(page, output):
            rows = [(moment(e["time"]), e["type"], e["subject"]) for e in page["items"]]
            table(("TIME", "TYPE", "SUBJECT"), rows, empty="no events")
            tell_more(page)
        return DONE

    run(work)


@app.command("follow")
def follow_events(
    plan: str | None = None,
    job: str | None = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="first those after this position; 0 is all")
    ] = None,
) -> None:
    """Events as they happen, one JSON object a line, until Ctrl-C; resumes by itself."""

    async def work(client: Client) -> int:
        async for event in client.events(plan=plan, job=job, after=after):
            sys.stdout.write(orjson.dumps(event).decode() + "\n")
            sys.stdout.flush()
        return DONE

    run(work)


def queue(
    plan: Annotated[str | None, typer.Option(help="this plan's work alone")] = None,
    limit: int = 100,
    cursor: Annotated[str | None, typer.Option(help="`next` of the page before")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Work that waits or runs, in order, when it will start, and the budgets as they stand."""

    async def work(client: Client) -> int:
        page = await client.get("/v1/queue", plan=plan, limit=str(limit), cursor=cursor)
        if machine(page, output):
            return DONE
        rows = [
            (q["position"], q["class"], q["priority"], q["plan"], q["kind"], moment(q["ready_at"]),
             "running" if q["worker"] else "queued", moment(q["estimated_start"]),
             ", ".join(q["blocked_by"]))
            for q in page["items"]
        ]  # fmt: skip
        columns = ("#", "CLASS", "PRIORITY", "PLAN", "KIND", "READY", "STATE", "STARTS ABOUT",
                   "BLOCKED BY")  # fmt: skip
        table(columns, rows, empty="nothing is queued")
        if rows:
            out.print(f"starts are estimates: {page['estimates_assume']}", style="dim")
        if page["next"]:
            of = f" --plan {plan}" if plan else ""
            more = f"seawall queue{of} --limit {limit} --cursor {page['next']}"
            out.print(f"more: {more}", style="dim")
        limits = ("BUDGET", "MODE", "IN USE", "LIMIT", "CAP", "THROTTLED", "PAUSED UNTIL")
        table(limits, [_budget(b) for b in page["budgets"]], empty="")
        return DONE

    run(work)


def _budget(budget: dict[str, Any]) -> tuple[Any, ...]:
    """A line of the table of budgets; a limit that was lowered stands beside its cap."""
    unit = "/s" if budget["mode"] == "rate" else ""
    cap = None if budget["cap"] is None else f"{budget['cap']:g}{unit}"
    return (
        budget["name"],
        budget["mode"],
        budget["in_use"],
        f"{budget['limit']:.4g}{unit}" + (" (lowered)" if budget["lowered"] else ""),
        cap,
        budget["throttled"] or None,
        moment(budget["paused_until"]),
    )
