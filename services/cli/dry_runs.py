"""How a dry run looks on a terminal: its calls in order, their budgets, how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from services.cli.client import Client
from services.cli.output import out, seconds, size, table

_MOMENTS: Final = ("opens", "first_on", "last_on", "ready")
_SOURCES: Final = {
    "past-recoveries": "past recoveries",
    "platform": "declared by the platform",
    "default": "assumed: nothing is known",
}


async def with_calls(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job of a dry run with every call in its facts: a long list is kept beside the job."""
    facts = job.get("facts", {})
    if not job.get("dry_run") or len(facts.get("calls", ())) >= facts.get("calls_total", 0):
        return job
    page = await client.everything(f"/v1/jobs/{quote(job['id'], safe='')}/calls")
    return {**job, "facts": {**facts, "calls": page["items"]}}


def tell(job: dict[str, Any]) -> None:
    """Print what the recovery would do; nothing where preflight found what is wrong."""
    facts = job.get("facts", {})
    if "differential" in facts:
        out.print(
            f"{facts['vms']} VMs, {facts['disks']} disks, {size(facts['disk_bytes'])}: "
            f"{facts['full']} VMs are copied whole, {facts['differential']} compared with the "
            f"copies that {facts['to']} has",
            soft_wrap=True,
        )
    if "calls" not in facts:
        return
    table(("#", "CALL", "VM", "BOOT", "DISK, NODE"), _calls(facts["calls"]), empty="no calls")
    table(
        ("BUDGET", "CALLS", "BURST", "PER SECOND", "AT LEAST"),
        [
            (name, f"{need['calls']:g}", _limit(need, "burst"), _limit(need, "per_second"),
             seconds(need.get("seconds_min")))
            for name, need in facts["budgets"].items()
        ],
        empty="no budgets",
    )  # fmt: skip
    for warning in facts.get("warnings", ()):
        out.print(_warning(warning), markup=False, soft_wrap=True)
    out.print(
        f"{facts['calls_total']} calls, {facts['vms']} VMs, {facts['disks']} disks, "
        f"{size(facts['disk_bytes'])}"
    )
    if "forecast" in facts:
        _forecast(facts["forecast"])
        return
    out.print(
        f"predicted duration: at least {seconds(facts['seconds_min'])} "
        "(boot delays, budgets and declared boot times; calls and scripts come on top)",
        soft_wrap=True,
    )


def _forecast(told: dict[str, Any]) -> None:
    table(
        ("BOOT ORDER", "VMS", "OPENS", "FIRST ON", "LAST ON", "READY", "WHAT BINDS"),
        [
            (
                order["boot_order"],
                order["vms"],
                *(seconds(order[f"{moment}_s"]) for moment in _MOMENTS),
                f"{order['binds']} {seconds(order['binds_s'])}",
            )
            for order in told["orders"]
        ],
        empty="no boot orders",
    )
    made_of = ", ".join(
        f"{step} {seconds(each['seconds'])} ({_SOURCES[each['from']]})"
        for step, each in told["durations"].items()
    )
    out.print(f"durations: {made_of}", soft_wrap=True)
    if told["total_s"] is None:
        out.print("predicted duration: never ends, a budget lets nothing pass", soft_wrap=True)
        return
    out.print(
        f"predicted duration: {seconds(told['total_s'])}, last VM ready after "
        f"{seconds(told['ready_s'])}; floor {seconds(told['floor_s'])}; "
        f"{told['binds']} binds ({seconds(told['binds_s'])})",
        soft_wrap=True,
    )


def _calls(calls: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            number,
            call["call"],
            call["vm"],
            call["boot_order"],
            call.get("disk") or call.get("node"),
        )
        for number, call in enumerate(calls, start=1)
    ]


def _warning(warning: dict[str, Any]) -> str:
    about = f"{warning['vm']}: " if warning["vm"] else ""
    mend = f" ({warning['remedy']})" if warning.get("remedy") else ""
    return f"warning: {about}{warning['message']}{mend}"


def _limit(need: dict[str, Any], name: str) -> str:
    return f"{need[name]:g}" if name in need else "open"
