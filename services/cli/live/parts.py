"""What a part of a job does at this moment, in one phrase: a VM's recovery, an iteration. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from services.cli.client import ENDED
from services.cli.live import waits
from services.cli.live.look import Look
from services.cli.output import STATE_STYLES, size, span

REBUILD: Final = "rebuild-disks"
READY: Final = "wait-ready"

Part = Mapping[str, Any]


def part_name(part: Part) -> str:
    """How a part is called among its siblings: its VM, its plan, its id."""
    if part.get("disk"):
        return str(part["disk"])
    if part.get("vm"):
        return str(part["vm"])
    return f"{part['kind']} {part['plan']}"


def now_of(look: Look, part: Part) -> Text:
    """The step under way and why it does not go on, the question, or how it ended."""
    error = part.get("error")
    if error:
        where, told = _failed_step(part), error["message"]
        return Text(told if told.startswith(where) else f"{where}: {told}", style="red")
    if part["state"] in ENDED:
        return _end(part)
    if (step := waits.asked_step(part)) is not None:
        return Text(f"{step['name']}: {waits.question(step)}", style="yellow")
    if reason := waits.of_part(look, part):
        at = next((each["name"] for each in part["steps"] if each["state"] == "running"), "")
        return Text(f"{at} " if at else "", style="cyan").append(reason, style="yellow")
    told = Text(_doing(look, part), style="cyan")
    return told if told.plain else Text(part["state"], style=STATE_STYLES.get(part["state"], ""))


def _failed_step(part: Part) -> str:
    states = ("failed", "unknown")
    return next((step["name"] for step in part["steps"] if step["state"] in states), "")


def _end(part: Part) -> Text:
    style = STATE_STYLES.get(part["state"], "dim")
    if part["state"] != "completed":
        return Text(part["state"], style=style).append(_addresses(part), style="dim")
    told = f"ready after {span(part['rto_s'])}" if part.get("rto_s") is not None else "completed"
    return Text(told, style=style).append(_counts(part)).append(_addresses(part), style="dim")


def _doing(look: Look, part: Part) -> str:
    step = next((each for each in part["steps"] if each["state"] == "running"), None)
    if step is None:
        return _counts(part).strip()
    paused = "paused at " if part["state"] == "paused" else ""
    tries = f", try {step['attempts'] + 1}" if step.get("attempts") and step.get("error") else ""
    return f"{paused}{step['name']}{tries}{_progress(look, part, step)}{_counts(part)}"


def _progress(look: Look, part: Part, step: Part) -> str:
    if step["name"] == READY:
        return f"{_going_for(look, step)}{_addresses(part)}"
    if step["name"] == REBUILD and (disks := part.get("disks")):
        return f", {disks['ready']} of {disks['total']} disks"
    if part.get("rate"):
        left = f", {span(part['eta_s'])} left" if part.get("eta_s") is not None else ""
        moved = f"{size(part['bytes_done'])} of {size(part['bytes_total'])}"
        return f", {moved}, {size(int(part['rate']))}/s{left}"
    return ""


def _going_for(look: Look, step: Part) -> str:
    if not step.get("started_at"):
        return ""
    since = dt.datetime.fromisoformat(step["started_at"])
    return f" for {span((look.now - since).total_seconds())}"


def _counts(part: Part) -> str:
    counts = part.get("vms")
    return f"  {counts['ready']} of {counts['total']} VMs ready" if counts else ""


def _addresses(part: Part) -> str:
    """Where a VM answers."""
    found = [each for instance in part.get("instances", ()) for each in instance["addresses"]]
    return f"  {', '.join(found)}" if found and part.get("vm") else ""
