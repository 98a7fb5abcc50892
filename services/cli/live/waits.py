"""Why a job, a VM or a boot order does not go on: a person, a budget, a hold, a delay. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from schemas.units import some_of
from services.cli.client import ENDED
from services.cli.live.look import Look
from services.cli.output import moment, span

NAMES_MAX: Final = 3
CLAIM_S: Final = 2.0
"""Work that nothing blocks is taken up at once; longer than this means that workers are busy."""

SETTLED: Final = ENDED
PREPARE: Final = "prepare-windows"

Part = Mapping[str, Any]


def question(step: Mapping[str, Any]) -> str:
    """What a person is asked at a step, or what was answered; "" where neither."""
    asked, answered = step.get("waiting"), step.get("answer")
    if asked:
        who = f"{asked['owner']}: " if asked["owner"] else ""
        choices = "|".join(asked["choices"])
        until = f"else {asked['default']} at {moment(asked['until'])}"
        return f"{who}{asked['text']} [{choices}, {until}]"
    return f"{answered['choice']} by {answered['actor']}" if answered else ""


def asked_step(job: Part) -> Mapping[str, Any] | None:
    """The step at which a job waits for a person."""
    return next((step for step in job["steps"] if step.get("waiting")), None)


def of_budget(look: Look, job: str) -> str:
    """The budget that a job's work in the queue waits for, and until about when; "" for none."""
    work = look.queue.work.get(job, ())
    if not work or any(item["worker"] for item in work):
        return ""
    first = work[0]
    if not first["blocked_by"]:
        ready = dt.datetime.fromisoformat(first["ready_at"])
        waited_s = (look.now - ready).total_seconds()
        return f"is number {first['position']} in the queue" if waited_s > CLAIM_S else ""
    about = f", about {moment(first['estimated_start'])}" if first["estimated_start"] else ""
    return f"waits for {', '.join(first['blocked_by'])}{about}"


def of_order(look: Look, order: int) -> str:
    """What keeps a boot order from opening; "" where it is open or nobody knows."""
    members = [part for part in look.parts if part.get("boot_order") == order]
    if look.job["state"] in ENDED or any(part.get("boot_open") for part in members):
        return ""
    before = [part for part in look.parts if (part.get("boot_order") or 0) < order]
    if not before:
        return ""
    last = max(part["boot_order"] or 0 for part in before)
    late = [part["vm"] for part in before if not _is_settled(part)]
    if late:
        return f"waits for boot order {last}: {some_of(sorted(late), NAMES_MAX)}"
    return _of_delay(look, [part for part in before if part["boot_order"] == last])


def _is_settled(part: Part) -> bool:
    return part["state"] in SETTLED or bool(_ready_at(part))


def _ready_at(part: Part) -> str | None:
    return next((each["ready_at"] for each in part["instances"] if each.get("ready_at")), None)


def _of_delay(look: Look, before: Sequence[Part]) -> str:
    """The boot delay that lasts longest, counted from its VM's power-on."""
    ends: list[tuple[dt.datetime, str]] = []
    for part in before:
        delay_s = look.delays.get(part["vm"], 0.0)
        for each in part["instances"]:
            if each.get("powered_on_at") and delay_s:
                on = dt.datetime.fromisoformat(each["powered_on_at"])
                ends.append((on + dt.timedelta(seconds=delay_s), part["vm"]))
    if not ends:
        return ""
    until, vm = max(ends)
    left_s = (until - look.now).total_seconds()
    if left_s <= 0:
        return ""
    return f"opens in {span(left_s)}: boot delay of {vm} ({span(look.delays[vm])})"


def of_part(look: Look, part: Part) -> str:
    """Why a VM's job does not do its next step now; "" where it works, or nothing is known."""
    step = next(
        (s for s in part["steps"] if s["state"] == "waiting" and not s.get("waiting")), None
    )
    if step is not None and step["name"] == PREPARE:
        return "waits for a prep node"
    if step is not None and not part.get("boot_open"):
        return "waits for its boot order"
    if part["state"] == "queued" and look.job["state"] == "paused":
        return "not begun: the job is paused"
    return of_budget(look, part["id"])


def of_group(look: Look, step: Mapping[str, Any]) -> str:
    """The plans that a plan of a group comes after, while it has not begun; "" elsewhere."""
    if look.job["state"] in ENDED or step["state"] != "pending":
        return ""
    after = ((look.job.get("facts") or {}).get("after") or {}).get(step["name"]) or ()
    return f"comes after {some_of(list(after), NAMES_MAX)}" if after else ""


def of_job(look: Look) -> list[str]:
    """What the whole job waits for, one reason a line."""
    job = look.job
    if job["state"] in ENDED:
        return []
    told = []
    if job.get("cancelling"):
        told.append("is being cancelled: what runs is stopped safely first")
    elif job["state"] == "paused":
        told.append("is paused: no new step starts")
    if waiting := job.get("waiting_for"):
        told.append(f"VMs wait for a person: {some_of(sorted(waiting), NAMES_MAX)}")
    if job["state"] == "queued" and not look.queue.work.get(job["id"]):
        told.append("waits for what holds its VMs, or for its turn")
    if reason := of_budget(look, job["id"]):
        told.append(reason)
    return told


def throttled(look: Look) -> list[str]:
    """Budgets that the platform lowered or had us pause, of those that this job's work needs."""
    needed = {
        need.partition(" ")[2]
        for work in look.queue.work.values()
        for item in work
        for need in item["needs"]
    }
    return [_lowered(b) for b in look.queue.budgets if b["name"] in needed and _is_low(b)]


def _is_low(budget: Mapping[str, Any]) -> bool:
    return bool(budget["lowered"] or budget["paused_until"])


def _lowered(budget: Mapping[str, Any]) -> str:
    unit = "/s" if budget["mode"] == "rate" else ""
    cap = "" if budget["cap"] is None else f" of {budget['cap']:.4g}{unit}"
    told = f"{budget['name']}: the site throttles, {budget['limit']:.4g}{unit}{cap} now"
    if budget["paused_until"]:
        told += f", nothing before {moment(budget['paused_until'])}"
    return told
