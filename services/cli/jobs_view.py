"""How one job looks in `job show`: its steps with errors and outputs, its end, what to do next."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from services.cli.live.advice import advice
from services.cli.live.lines import mark
from services.cli.live.screen import verdict_of
from services.cli.live.waits import question
from services.cli.output import STATE_STYLES, moment, seconds, size


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


def _verdict(job: dict[str, Any], step: dict[str, Any]) -> str:
    verdict = verdict_of(job, step)
    return f"  {verdict}" if verdict else ""


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
    if undone := job.get("facts", {}).get("undone_by"):
        console.print(f"  undone   by itself: {undone}", markup=False)
    if job.get("error"):
        console.print(f"  error    {job['error']['message']}", style="red", markup=False)
        console.print(f"           {job['error']['remedy']}", style="dim", markup=False)
    if job["kind"] == "find-clean-point" and job.get("checkpoint"):
        console.print(f"  clean    {job['checkpoint']}", markup=False)
    if job.get("left"):
        console.print(f"  left     {job['left']}", markup=False)
    for instance in job.get("instances", ()):
        addresses = ", ".join(instance["addresses"])
        console.print(
            f"  instance {instance['vm']}  {instance['instance_id']}  {addresses}", markup=False
        )
    for child in job["children"]:
        console.print(f"  child    {child}", markup=False)
    for each in advice(job):
        console.print(f"  next     {each.command}  ({each.why})", markup=False, soft_wrap=True)
