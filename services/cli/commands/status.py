"""`seawall event …`, `queue` and `doctor`: what happened, what waits, is all well."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer

from services.cli.client import ApiError, Client
from services.cli.output import Format, machine, moment, out, table, tell_more
from services.cli.run import DONE, UNREACHABLE, Cursor, Output, Since, Until, run

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
    limit: int = 100,
    cursor: Annotated[str | None, typer.Option(help="`next` of the page before")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Work that waits or runs, in order, when it will start, and the budgets as they stand."""

    async def work(client: Client) -> int:
        page = await client.get("/v1/queue", limit=str(limit), cursor=cursor)
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
            out.print(f"more: seawall queue --limit {limit} --cursor {page['next']}", style="dim")
        limits = [
            (b["name"], b["mode"], b["in_use"], b["concurrent"] or f"{b['per_second']}/s")
            for b in page["budgets"]
        ]
        table(("BUDGET", "MODE", "IN USE", "LIMIT"), limits, empty="")
        return DONE

    run(work)


def doctor(output: Output = Format.TABLE) -> None:
    """Is the control plane ready, and how fresh is what it shows?"""

    async def work(client: Client) -> int:
        ready = await _ready(client)
        if ready.get("problems"):
            if not machine({"ready": ready}, output):
                out.print(f"control plane  {ready['status']}  at {client.url}", markup=False)
                for name, problem in ready["problems"].items():
                    out.print(f"  {name}: {problem}", markup=False)
            return UNREACHABLE
        page = await client.get("/v1/sites", limit="1000")
        report = {"ready": ready, "as_of": page["as_of"], "sites": page["items"]}
        if not machine(report, output):
            out.print(f"control plane  {ready['status']}  at {client.url}", markup=False)
            out.print(f"read models    {page['as_of']['lag_s']} s behind", markup=False)
            for site in page["items"]:
                out.print(f"site {site['name']:<12} {site['state']}", markup=False)
        return DONE

    run(work)


async def _ready(client: Client) -> dict[str, Any]:
    """What `/readyz` says, also where it says no."""
    try:
        found: dict[str, Any] = await client.get("/readyz")
    except ApiError as refused:
        if refused.status != 503:
            raise
        return refused.document
    return found
