"""`seawall doctor`: is the control plane well, and does it leave nothing behind?"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from services.cli.client import ApiError, Client, Undecided
from services.cli.output import Format, err, machine, out, seconds, table
from services.cli.requests import api_path
from services.cli.run import DONE, FAILED, UNREACHABLE, Output, run
from shared.errors import SeawallError

AGAIN_S: Final = 2.0
"""Between the two looks that a left-over must outlast: a job removes what it made as it ends."""

SKEW_S_MAX: Final = 5.0
"""A clock further from the control plane's is worth a word; moments are shown by ours."""


def doctor(
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="list what sites hold that no job will remove")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Is the control plane ready, and how fresh is what it shows? Exit code 5: left-overs."""
    run(lambda client: _leftovers(client, output) if leftovers else _health(client, output))


# ── How it is ────────────────────────────────────────────────────────────────────────────────


async def _health(client: Client, form: Format) -> int:
    ready = await _ready(client)
    if ready.get("problems"):
        if not machine({"ready": ready}, form):
            out.print(f"control plane  {ready['status']}  at {client.url}", markup=False)
            for name, problem in ready["problems"].items():
                out.print(f"  {name}: {problem}", markup=False)
        return UNREACHABLE
    page = await client.get("/v1/sites", limit="1000")
    report = {
        "ready": ready,
        "as_of": page["as_of"],
        "sites": page["items"],
        "clock_skew_s": await _skew_s(client),
        "alerts": await _open_alerts(client),
        "queue": await _queue(client),
    }
    if not machine(report, form):
        _show_health(report, client.url)
    return DONE


async def _ready(client: Client) -> dict[str, Any]:
    """What `/readyz` says, also where it says no."""
    try:
        found: dict[str, Any] = await client.get("/readyz")
    except ApiError as refused:
        if refused.status != 503:
            raise
        return refused.document
    return found


async def _skew_s(client: Client) -> float | None:
    """Our clock before (+) or behind (-) the control plane's, as far as a look can tell."""
    before = dt.datetime.now(dt.UTC)
    page = await client.get("/v1/queue", limit="1")
    after = dt.datetime.now(dt.UTC)
    if (told := page.get("at")) is None:
        return None
    there = dt.datetime.fromisoformat(told)
    if there < before:
        return round((before - there).total_seconds(), 3)
    return -round(max((there - after).total_seconds(), 0.0), 3)


async def _open_alerts(client: Client) -> dict[str, int]:
    """Open alerts by severity, of the newest thousand."""
    page = await client.get("/v1/alerts", state="open", limit="1000")
    counts: dict[str, int] = {}
    for alert in page["items"]:
        counts[alert["severity"]] = counts.get(alert["severity"], 0) + 1
    return counts


async def _queue(client: Client) -> dict[str, Any] | str:
    """Budgets that platforms refuse more of, or why nothing is known of them."""
    try:
        page = await client.get("/v1/queue", limit="1")
    except SeawallError as away:
        return away.message
    lowered = [b for b in page["budgets"] if b["lowered"] or b["paused_until"]]
    return {"lowered": lowered}


def _show_health(report: dict[str, Any], url: str) -> None:
    out.print(f"control plane  {report['ready']['status']}  at {url}", markup=False)
    out.print(f"read models    {report['as_of']['lag_s']} s behind", markup=False)
    skew_s = report["clock_skew_s"]
    if skew_s is not None:
        far = "" if abs(skew_s) <= SKEW_S_MAX else "; set the clocks, or moments mislead"
        out.print(f"clock          {abs(skew_s):g} s from the control plane's{far}", markup=False)
    counts = report["alerts"]
    told = ", ".join(f"{count} {severity}" for severity, count in counts.items())
    out.print(f"alerts         {told or 'none'} open", markup=False)
    queue = report["queue"]
    if isinstance(queue, str):
        out.print(f"queue          {queue}", markup=False)
    else:
        for budget in queue["lowered"]:
            unit = "/s" if budget["mode"] == "rate" else " at once"
            out.print(
                f"budget         {budget['name']} lowered to {budget['limit']:.4g}{unit} by its"
                f" platform, {budget['throttled']} calls refused so far",
                markup=False,
            )
    for site in report["sites"]:
        out.print(f"site {site['name']:<12} {site['state']}", markup=False)
    _show_notes(report["ready"].get("notes", {}))


def _show_notes(notes: dict[str, str]) -> None:
    """What the process that answers says of itself: services apart from it have their own."""
    for name, note in notes.items():
        out.print(f"{name}: {note}", markup=False, soft_wrap=True)
    if not any(name.startswith("scripts") for name in notes):
        out.print(
            "scripts        run by other processes: /readyz of recovery and replicator says how",
            markup=False, soft_wrap=True,
        )  # fmt: skip


# ── What is left over ────────────────────────────────────────────────────────────────────────


async def _leftovers(client: Client, form: Format) -> int:
    first = await _look(client)
    if first["items"]:
        await asyncio.sleep(AGAIN_S)
        second = await _look(client)
        stood = {_identity(each) for each in first["items"]}
        items = [each for each in second["items"] if _identity(each) in stood]
        first = {**second, "items": items}
    if not machine(first, form):
        _show(first)
    if first["items"]:
        return FAILED
    return UNREACHABLE if first["problems"] else DONE


def _identity(each: dict[str, Any]) -> tuple[str, ...]:
    return each["site"], each["code"], each["kind"], each["id"]


async def _look(client: Client) -> dict[str, Any]:
    """Have every site listed, and what of that is left over; sites that could not be are told."""
    page = await client.get("/v1/sites", limit="1000")
    names = [site["name"] for site in page["items"]]
    problems = {}
    for name in names:
        try:
            await client.command(api_path("sites", name) + "/check", {"list_owned": True})
        except (ApiError, Undecided) as failed:
            problems[name] = failed.message
    found = await client.get("/v1/leftovers")
    # What an unreachable site held when it was listed last says nothing of today.
    found["items"] = [each for each in found["items"] if each["site"] not in problems]
    return {**found, "problems": problems}


def _show(found: dict[str, Any]) -> None:
    rows = [
        (each["site"], each["kind"], each["id"], each["plan"], each["vm"], each["job"],
         seconds(each["age_s"]))
        for each in found["items"]
    ]  # fmt: skip
    columns = ("SITE", "KIND", "OBJECT", "PLAN", "VM", "JOB", "LEFT FOR")
    table(columns, rows, empty="nothing is left over")
    for each in found["items"]:
        out.print(
            f"{each['site']} {each['kind']} {each['id']}: {each['why']}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        who = "Seawall" if each["by"] == "seawall" else "you"
        out.print(f"  {who}: {each['remedy']}", markup=False, soft_wrap=True)
        if each["command"]:
            out.print(f"  see: {each['command']}", markup=False, soft_wrap=True)
    _tell_gaps(found["sites"], found["problems"])


def _tell_gaps(sites: Sequence[dict[str, Any]], problems: dict[str, str]) -> None:
    for name, problem in problems.items():
        err.print(f"site {name} could not be listed: {problem}", markup=False, soft_wrap=True)
    for site in sites:
        if site["name"] not in problems and site["objects"] != site["compared"]:
            err.print(
                f"site {site['name']}: of {site['objects']} objects the first"
                f" {site['compared']} were compared",
                markup=False, soft_wrap=True,
            )  # fmt: skip
