"""How one job looks on a terminal: its steps, its children by boot order, its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.cli.output import STATE_STYLES, moment, seconds, size

MARKS = {
    "completed": "✓",
    "running": "▶",
    "failed": "✗",
    "unknown": "?",
    "skipped": "–",
    "cancelled": "■",
    "paused": "‖",
    "waiting": "…",
    "queued": "·",
    "pending": "·",
}
BAR_WIDTH = 24


def mark(state: str) -> Text:
    """A state's sign in its colour."""
    return Text(MARKS.get(state, "·"), style=STATE_STYLES.get(state, "dim"))


def timeline(job: dict[str, Any], children: Sequence[dict[str, Any]]) -> RenderableType:
    """A job and its VMs as they stand, VMs grouped by boot order."""
    parts: list[RenderableType] = [_headline(job), _steps(job)]
    for order in sorted({child.get("boot_order") or 0 for child in children}):
        members = [child for child in children if (child.get("boot_order") or 0) == order]
        parts.append(Text(f"  boot order {order}" if order else "  VMs", style="bold"))
        parts.append(_members(members))
    return Group(*parts)


def _headline(job: dict[str, Any]) -> Text:
    text = Text()
    text.append(f"{job['kind']} {job['plan']}  ", style="bold")
    text.append(job["state"], style=STATE_STYLES.get(job["state"], ""))
    text.append(f"  {job['percent']:.0f} %")
    if job.get("bytes_total"):
        text.append(f"  {size(job['bytes_done'])} of {size(job['bytes_total'])}")
    if job.get("rate"):
        text.append(f"  {size(int(job['rate']))}/s")
    if job.get("eta_s") is not None:
        text.append(f"  ETA {seconds(job['eta_s'])}")
    if job.get("rto_s") is not None:
        text.append(f"  RTO {seconds(job['rto_s'])}")
    if job.get("waited_s"):
        text.append(f"  waited for people {seconds(job['waited_s'])}")
    text.append(f"  {job['id']}", style="dim")
    return text


def _steps(job: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for step in job["steps"]:
        note = (step.get("error") or {}).get("message", "")
        told = Text(note, style="red") if note else Text(question(step), style="yellow")
        name = Text(step["name"]).append(_verdict(job, step), style="bold")
        grid.add_row("  ", mark(step["state"]), name, told)
    return grid


def _verdict(job: dict[str, Any], step: dict[str, Any]) -> str:
    """What a search for a clean point found out in a step; nothing in other jobs."""
    verdicts = (job.get("facts") or {}).get("verdicts") or {}
    return f"  {verdicts[step['name']]}" if step["name"] in verdicts else ""


def question(step: dict[str, Any]) -> str:
    """What a person is asked at a step, or what was answered; "" where neither."""
    asked, answered = step.get("waiting"), step.get("answer")
    if asked:
        who = f"{asked['owner']}: " if asked["owner"] else ""
        choices = "|".join(asked["choices"])
        until = f"else {asked['default']} at {moment(asked['until'])}"
        return f"{who}{asked['text']} [{choices}, {until}]"
    return f"{answered['choice']} by {answered['actor']}" if answered else ""


def _members(children: Sequence[dict[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for child in sorted(children, key=lambda each: each["vm"] or ""):
        done = ProgressBar(total=100, completed=child["percent"], width=BAR_WIDTH)
        grid.add_row(
            "   ", mark(child["state"]), Text(child["vm"] or child["id"]), done, _now(child),
            Text(_marks(child), style="dim"),
        )  # fmt: skip
    return grid


def _now(child: dict[str, Any]) -> Text:
    """The step under way, or how it ended."""
    error = child.get("error")
    if error:
        return Text(error["message"], style="red", overflow="ellipsis", no_wrap=True)
    for step in child["steps"]:
        if step.get("waiting"):
            return Text(f"{step['name']}: {question(step)}", style="yellow")
    for step in child["steps"]:
        if step["state"] in ("running", "waiting"):
            paused = "paused at " if child["state"] == "paused" else ""
            return Text(f"{paused}{step['name']}", style="cyan")
    return Text(child["state"], style=STATE_STYLES.get(child["state"], "dim"))


def _marks(child: dict[str, Any]) -> str:
    told = []
    for instance in child.get("instances", ()):
        if instance.get("powered_on_at"):
            told.append(f"on {moment(instance['powered_on_at'])}")
        if instance.get("ready_at"):
            told.append(f"ready {moment(instance['ready_at'])}")
        told += instance.get("addresses", ())
    return "  ".join(told)


def details(job: dict[str, Any], console: Console) -> None:
    """Print a job for `job show`."""
    console.print(_headline(job))
    facts = [
        ("state", job["state"]),
        ("actor", job["actor"]),
        ("created", moment(job["created_at"])),
        ("ended", moment(job["ended_at"])),
    ]
    for name, value in facts:
        console.print(f"  {name:<8} {value}", markup=False)
    for step in job["steps"]:
        line = (
            Text("  ")
            .append_text(mark(step["state"]))
            .append(f" {step['name']}  {step['state']}{_verdict(job, step)}")
        )
        if step["attempts"] > 1:
            line.append(f"  {step['attempts']} attempts")
        console.print(line)
        if told := question(step):
            console.print(f"      {told}", style="yellow", markup=False)
        if step.get("error"):
            console.print(f"      {step['error']['message']}", style="red", markup=False)
            if step["error"].get("remedy"):
                console.print(f"      {step['error']['remedy']}", style="dim", markup=False)
        if step.get("warning"):
            console.print(f"      {step['warning']}", style="yellow", markup=False)
        if step.get("output"):
            console.print(f"      {step['output'].rstrip()}", style="dim", markup=False)
    facts_told = job.get("facts") or {}
    for warning in () if job.get("dry_run") else facts_told.get("warnings", ()):
        console.print(f"  warning  {warning['message']}", style="yellow", markup=False)
    if job.get("note"):
        console.print(f"  note     {job['note']}", markup=False)
    if job.get("awaits_commit"):
        console.print("  awaits   seawall commit, or seawall rollback", markup=False)
    if job.get("error"):
        console.print(f"  error    {job['error']['message']}", style="red", markup=False)
        console.print(f"           {job['error']['remedy']}", style="dim", markup=False)
    if job["kind"] == "find-clean-point" and job.get("checkpoint"):
        console.print(f"  clean    {job['checkpoint']}", markup=False)
    if job.get("note"):
        console.print(f"  note     {job['note']}", markup=False)
    if job.get("left"):
        console.print(f"  left     {job['left']}", markup=False)
    for instance in job.get("instances", ()):
        addresses = ", ".join(instance["addresses"])
        console.print(
            f"  instance {instance['vm']}  {instance['instance_id']}  {addresses}", markup=False
        )
    for child in job["children"]:
        console.print(f"  child    {child}", markup=False)
