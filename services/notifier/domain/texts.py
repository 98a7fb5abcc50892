"""The words of mails, as text and as HTML. Pure; everything that came from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import msgspec

from schemas.notifier import NoteAlert, VmNoted
from schemas.recovery import RecoveryFinished
from schemas.units import format_duration

Lines = list[str]

LINE_CHARS_MAX = 400
MAIL_BYTES_MAX = 44 * 1024
"""Of text and HTML together as they are stored: an event and a message end at 64 KiB."""

_MARKUP_BYTES = 80


def recovery_subject(finished: RecoveryFinished) -> str:
    """The subject of the mail that a recovery ended."""
    rto = f", RTO {_seconds(finished.rto_s)}" if finished.rto_s is not None else ""
    return (
        f"[seawall] {finished.mode} recovery of {finished.plan}: "
        f"{finished.state.replace('-', ' ')}{rto}"
    )


def recovery_lines(
    finished: RecoveryFinished, vms: Iterable[VmNoted], *, job: str, rto_target_s: float | None
) -> Lines:
    """What a person wants to know at 3 a.m.: how it ended, what failed, what to do next."""
    target = f" of {_seconds(rto_target_s)}" if rto_target_s is not None else ""
    lines = [
        f"The {finished.mode} recovery of plan {finished.plan} ended: "
        f"{finished.state.replace('-', ' ')}.",
        f"{finished.ready} VM(s) ready, {finished.failed} failed.",
        f"RTO achieved: {_seconds(finished.rto_s)}{target}",
        "",
    ]
    if finished.note:
        lines += [f"Sources: {finished.note}", ""]
    if finished.problem is not None:
        lines += [f"Problem: {finished.problem.message}", f"  {finished.problem.remedy}", ""]
    for step in finished.steps:
        if step.state in ("failed", "unknown"):
            lines += [f"Step {step.name}: {step.state}: {step.error}", f"  {step.remedy}"]
    for vm in sorted(vms, key=lambda each: each.state == "completed"):
        where = f" at {', '.join(vm.addresses)}" if vm.addresses else ""
        lines.append(f"{vm.vm}: {vm.outcome}{where}, {vm.state.replace('-', ' ')}")
        for problem in vm.problems:
            lines += [f"  {problem.message}", f"  {problem.remedy}"]
    last = ["", f"Details:  seawall job show {job}"]
    if finished.undone_by:
        last.append(f"Undone by itself: seawall job show {finished.undone_by}")
        return _fitted([line for line in lines if line.strip() or line == ""], last)
    if finished.awaits_cleanup:
        last.append(f"Clean up: seawall cleanup {job}")
    if finished.awaits_commit:
        last += [f"Keep it:  seawall commit {job}", f"Undo it:  seawall rollback {job}"]
    return _fitted([line for line in lines if line.strip() or line == ""], last)


def digest_subject(plan: str, notes: Sequence[NoteAlert]) -> str:
    """The subject of the mail about alerts that opened together."""
    if len(notes) == 1:
        return f"[seawall] {notes[0].severity}: {notes[0].title}"
    worst = next(s for s in _SEVERITIES if any(note.severity == s for note in notes))
    return f"[seawall] {worst}: {len(notes)} alerts in plan {plan}"


_SEVERITIES = ("critical", "major", "minor", "info")
TOLD_MAX = 50


def digest_lines(notes: Sequence[NoteAlert]) -> Lines:
    """Every alert with its remedy; past TOLD_MAX only their number."""
    lines: Lines = []
    for note in notes[:TOLD_MAX]:
        said = (f"  {line}" for line in note.text.split("\n"))
        lines += [f"{note.severity}: {note.title}", *said, f"  {note.remedy}"]
    if len(notes) > TOLD_MAX:
        lines.append(f"… and {len(notes) - TOLD_MAX} more")
    last = ["", "All of them: seawall alert list"]
    return _fitted([line for line in lines if line.strip()], last)


def _fitted(lines: Sequence[str], last: Sequence[str]) -> Lines:
    """As many lines as a mail may have, in one piece each; what is left out is counted."""
    kept: Lines = []
    left = MAIL_BYTES_MAX - sum(map(_stored_bytes, last))
    for number, line in enumerate(lines):
        short = line if len(line) <= LINE_CHARS_MAX else line[: LINE_CHARS_MAX - 1] + "…"
        left -= _stored_bytes(short)
        if left < 0:
            kept.append(f"… and {len(lines) - number} more lines")
            break
        kept.append(short)
    return [*kept, *last]


def _stored_bytes(line: str) -> int:
    """What a line takes as text and as HTML in a stored document."""
    text = msgspec.json.encode(line)
    return len(text) + len(msgspec.json.encode(html.escape(line))) + _MARKUP_BYTES


def as_html(lines: Sequence[str]) -> str:
    """The same lines for mail programs that show HTML."""
    body = "\n".join(
        f"<p style='margin:0 0 2px {24 if line.startswith('  ') else 0}px'>"
        f"{html.escape(line.strip()) or '&nbsp;'}</p>"
        for line in lines
    )
    return f"<!doctype html><html><body style='font-family:sans-serif'>\n{body}\n</body></html>\n"


def _seconds(value: float | None) -> str:
    return "–" if value is None else format_duration(round(value, 1 if value < 60 else 0))
