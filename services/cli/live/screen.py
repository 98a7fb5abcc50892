"""How a running job looks on a terminal: what is done, where it stands, what to type next. Pure.

What stands above is cut to the width; reasons, questions and commands, at the foot, never. Fits
the height it is given: where not all VMs fit, those that matter are shown and the others counted.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from services.cli.live import lines, waits
from services.cli.live.advice import advice
from services.cli.live.lines import bar, mark
from services.cli.live.look import Look
from services.cli.live.parts import now_of, part_name
from services.cli.output import STATE_STYLES, size, span

ORDER_STEP: Final = "boot-order-"
NAME_MAX: Final = 24
HEIGHT_MAX: Final = 10_000
WARNINGS_MAX: Final = 3
SOURCES: Final[Mapping[str, str]] = {
    "source_off": "off",
    "source_gone": "given up",
    "source_failed": "not fenced",
    "synced": "synced",
    "not_synced": "not synced",
    "source_on": "on again",
    "source_untouched": "left alone",
    "source_stays_off": "stay off",
    "found": "found",
}
"""Counts among a job's facts, as a person reads them."""

_FENCED: Final = ("source_off", "source_gone", "source_failed")
_STEP_COUNTS: Final[Mapping[str, tuple[str, ...]]] = {
    "list": ("found",),
    "fence-sources": _FENCED,
    "shut-down-sources": _FENCED,
    "last-sync": ("synced", "not_synced"),
    "restore-sources": ("source_on", "source_untouched", "source_stays_off"),
    "power-on-sources": ("source_on", "source_untouched", "source_stays_off"),
}


class Screen:
    """A look, drawn to the width and height of whatever console it is printed on."""

    def __init__(self, look: Look, *, whole: bool = False) -> None:
        self._look = look
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = HEIGHT_MAX if self._whole else (options.height or console.height)
        drawn = drawn_lines(self._look, width=options.max_width, height=height)
        if not _shows_signs(options.encoding):
            drawn = [lines.plain(line) for line in drawn]
        yield Group(*drawn)


def _shows_signs(encoding: str) -> bool:
    return encoding.lower().startswith("utf")


def drawn_lines(look: Look, *, width: int, height: int) -> list[Text]:
    """The lines from top to bottom, at most `height` of them if that can be."""
    head = [*_headline(look)]
    foot = [*_reasons(look, width), *_advice(look, width)]
    taken = len(head) + sum(1 + (len(line) - 1) // max(width, 1) for line in foot)
    body = _body(look, rows=max(height - taken - 1, lines.ROWS_MIN))
    return [_fitting(line, width) for line in (*head, *body)] + foot


def _wrapped(told: str, width: int, style: str = "") -> Iterator[Text]:
    """Prose, broken between words."""
    indent = "  "
    for line in textwrap.wrap(
        told, max(width, 20), initial_indent=indent, subsequent_indent=indent
    ):
        yield Text(line, style=style)


def _fitting(line: Text, width: int) -> Text:
    line = line.copy()
    line.no_wrap = True
    line.truncate(max(width, 20), overflow="ellipsis")
    return line


# ── Head ─────────────────────────────────────────────────────────────────────────────────────


def _headline(look: Look) -> Iterator[Text]:
    job = look.job
    who = f"{job['plan']}/{job['vm']}" if job.get("vm") else job["plan"]
    line = Text(f"{job['kind']} {_short(who, NAME_MAX)}  ", style="bold")
    line.append(job["state"], style=STATE_STYLES.get(job["state"], ""))
    line.append(f"  {job['percent']:.0f} %")
    for told in (_vms(job), _bytes(job)):
        line.append(f"  {told}" if told else "")
    yield line
    second = "  ".join(each for each in (_times(look), job["id"]) if each)
    yield Text(f"  {second}", style="dim")


def _vms(job: Mapping[str, Any]) -> str:
    counts = job.get("vms")
    if not counts:
        return ""
    told = f"{counts['ready']} of {counts['total']} VMs ready"
    return f"{told}, {counts['failed']} failed" if counts["failed"] else told


def _bytes(job: Mapping[str, Any]) -> str:
    if not job.get("bytes_total"):
        return ""
    told = f"{size(job['bytes_done'])} of {size(job['bytes_total'])}"
    return f"{told}, {size(int(job['rate']))}/s" if job.get("rate") else told


def _times(look: Look) -> str:
    """How long it takes: so far, in the end, and how much of it is still to come."""
    job = look.job
    begun = job.get("created_at") or job.get("started_at")
    told = []
    if job.get("rto_s") is not None:
        told.append(f"RTO {span(job['rto_s'])}")
    elif begun:
        until = job.get("ended_at")
        end = dt.datetime.fromisoformat(until) if until else look.now
        told.append(span((end - dt.datetime.fromisoformat(begun)).total_seconds()))
    if job.get("waited_s"):
        told.append(f"waited for people {span(job['waited_s'])}")
    if job.get("eta_s") is not None:
        told.append(f"about {span(job['eta_s'])} left")
    if job.get("forecast_s") is not None and not job.get("ended_at"):
        told.append(f"of {span(job['forecast_s'])}")
    return ", ".join(told)


def _reasons(look: Look, width: int) -> Iterator[Text]:
    if look.silent_s:
        told = f"no answer from the control plane for {span(look.silent_s)}; the job goes on"
        yield from _wrapped(f"{told}; trying again", width, "red")
    low = waits.throttled(look)
    for reason in (*waits.of_job(look), *low[:WARNINGS_MAX]):
        yield from _wrapped(reason, width, "yellow")
    if len(low) > WARNINGS_MAX:
        more = f"{len(low) - WARNINGS_MAX} more budgets: see `seawall queue`"
        yield from _wrapped(more, width, "yellow")


# ── Body ─────────────────────────────────────────────────────────────────────────────────────


def _body(look: Look, *, rows: int) -> list[Text]:
    """Steps in their order; VMs under their boot order, other parts under the step they are of."""
    steps = [step for step in look.job["steps"] if not step["name"].startswith(ORDER_STEP)]
    before, after = _around_orders(look)
    orders = sorted({part.get("boot_order") or 0 for part in look.parts})
    blocks = [_of_order(look, order) for order in orders]
    room = max(rows - len(steps) - len(orders), lines.ROWS_MIN)
    shown = lines.chosen(blocks, rows_max=room)
    width = min(max((len(part_name(p)) for block in shown for p in block), default=0), NAME_MAX)
    drawn = [line for step in _recent(before, rows) for line in _step(look, step)]
    for order, block, some in zip(orders, blocks, shown, strict=True):
        if not block:
            continue
        drawn.append(_order(look, order, block))
        drawn += [_row(look, part, width) for part in some]
        if more := lines.rest(block, len(some)):
            drawn.append(Text(f"    … {more}", style="dim"))
    return drawn + [line for step in after for line in _step(look, step)]


def _around_orders(
    look: Look,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The job's own steps before its boot orders and after them."""
    steps = list(look.job["steps"])
    places = [n for n, step in enumerate(steps) if step["name"].startswith(ORDER_STEP)]
    if not places:
        return steps, []
    return steps[: places[0]], steps[places[-1] + 1 :]


def _recent(steps: Sequence[Mapping[str, Any]], rows: int) -> Sequence[Mapping[str, Any]]:
    """A search has a step per checkpoint it tried: the last ones are enough."""
    return steps[-max(rows, lines.ROWS_MIN) :]


def _of_order(look: Look, order: int) -> list[Mapping[str, Any]]:
    told = {step["name"] for step in look.job["steps"]}
    members = [
        part
        for part in look.parts
        if (part.get("boot_order") or 0) == order and (part.get("vm") or part["plan"] not in told)
    ]
    return sorted(members, key=part_name)


def _step(look: Look, step: Mapping[str, Any]) -> Iterator[Text]:
    line = Text("  ").append_text(mark(step["state"])).append(f" {step['name']}")
    if verdict := verdict_of(look.job, step):
        line.append(f"  {verdict}", style="bold")
    if step.get("attempts", 0) > 1:
        line.append(f"  try {step['attempts']}", style="dim")
    if counts := _counts(look.job, step):
        line.append(f"  {counts}", style="dim")
    error = step.get("error") or {}
    if error.get("message"):
        line.append(f"  {error['message']}", style="red")
    elif told := waits.question(step):
        line.append(f"  {told}", style="yellow")
    elif (part := _part_of(look, step)) is not None:
        line.append("  ").append_text(now_of(look, part))
    elif comes_after := waits.of_group(look, step):
        line.append(f"  {comes_after}", style="dim")
    yield line
    if error.get("remedy") and step["state"] == "failed":
        yield Text(f"      {error['remedy']}", style="dim")


def _part_of(look: Look, step: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part that a step stands for: a plan of a group, told in the step's own line."""
    plans = (part for part in look.parts if not part.get("vm"))
    return next((part for part in plans if part["plan"] == step["name"]), None)


def verdict_of(job: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    """What a search for a clean point found out in a step; nothing in other jobs."""
    verdicts = (job.get("facts") or {}).get("verdicts") or {}
    return str(verdicts.get(step["name"], ""))


def _counts(job: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    facts = job.get("facts") or {}
    told = [
        f"{facts[name]} {SOURCES[name]}"
        for name in _STEP_COUNTS.get(step["name"], ())
        if facts.get(name)
    ]
    return ", ".join(told)


def _order(look: Look, order: int, members: Sequence[Mapping[str, Any]]) -> Text:
    if not order:
        return Text(f"  {lines.ended(members)} of {len(members)} parts ended", style="bold")
    step = next((s for s in look.job["steps"] if s["name"] == f"{ORDER_STEP}{order}"), None)
    ready = sum(_is_ready(part) for part in members)
    line = Text("  ")
    if step is not None:
        line.append_text(mark(step["state"])).append(" ")
    line.append(f"boot order {order}", style="bold").append(f"  {ready} of {len(members)} ready")
    if reason := waits.of_order(look, order):
        line.append(f"  {reason}", style="yellow")
    return line


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _is_ready(part: Mapping[str, Any]) -> bool:
    if part["state"] in ("failed", "cancelled"):
        return False
    return any(each.get("ready_at") for each in part["instances"])


def _row(look: Look, part: Mapping[str, Any], width: int) -> Text:
    name = _short(part_name(part), width)
    line = Text("    ").append_text(mark(part["state"])).append(f" {name:<{width}} ")
    return line.append_text(bar(part["percent"])).append("  ").append_text(now_of(look, part))


# ── Foot ─────────────────────────────────────────────────────────────────────────────────────


def _advice(look: Look, width: int) -> Iterator[Text]:
    job = look.job
    error = job.get("error") or {}
    yield from _wrapped(error.get("message", ""), width, "red")
    yield from _wrapped(error.get("remedy", ""), width, "dim")
    for told in (job.get("note"), job.get("left")):
        yield from _wrapped(told or "", width)
    for each in advice(job, look.parts):
        yield from _wrapped(f"{each.why}:", width, "bold")
        yield from _command(each.command, width)


def _command(command: str, width: int) -> Iterator[Text]:
    """A command; where it is too long, broken as a shell reads it when it is copied."""
    broken = textwrap.wrap(
        command, max(width - 6, 20), break_long_words=False, break_on_hyphens=False
    )
    for line in broken[:-1]:
        yield Text(f"    {line} \\", style="cyan", overflow="fold")
    yield Text(f"    {broken[-1]}", style="cyan", overflow="fold")
