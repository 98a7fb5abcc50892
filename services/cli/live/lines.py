"""Lines of the live view and how many fit: rows that matter stay, the others are counted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from services.cli.client import ENDED
from services.cli.output import STATE_STYLES

MARKS: Final[Mapping[str, str]] = {
    "completed": "✓",
    "partially-completed": "!",
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
PLAIN: Final[Mapping[str, str]] = {
    "✓": "+", "▶": ">", "✗": "x", "–": "-", "■": "#", "‖": "=", "…": "~", "·": ".", "█": "#",
    "░": ".",
}  # fmt: skip
"""What stands for a sign on a terminal that cannot show it."""

BAR_WIDTH: Final = 10
ROWS_MIN: Final = 4
"""Rows of VMs that are shown however low the terminal is."""

_ATTENTION: Final[Mapping[str, int]] = {
    "failed": 0, "partially-completed": 0, "waiting": 1, "paused": 2, "running": 3, "queued": 4,
}  # fmt: skip
"""What is shown first where not all fit; what is done comes last."""


def mark(state: str) -> Text:
    """A state's sign in its colour."""
    return Text(MARKS.get(state, "·"), style=STATE_STYLES.get(state, "dim"))


def bar(percent: float) -> Text:
    """How much is done; full and empty differ without colours, too."""
    full = min(max(round(BAR_WIDTH * percent / 100), 0), BAR_WIDTH)
    return Text("█" * full, style="cyan").append("░" * (BAR_WIDTH - full), style="dim")


def plain(line: Text) -> Text:
    """The line in signs that every terminal has."""
    for sign, stand_in in PLAIN.items():
        if sign in line.plain:
            line = Text(line.plain.replace(sign, stand_in), style=line.style)
    return line


def chosen(
    blocks: Sequence[Sequence[Mapping[str, Any]]], *, rows_max: int
) -> list[list[Mapping[str, Any]]]:
    """The parts to show of each block: all where they fit, else those that matter most.

    Within a block they keep their order. A block that is cut short costs a row for its rest.
    """
    every = [(block, part) for block, parts in enumerate(blocks) for part in parts]
    if len(every) <= rows_max:
        return [list(parts) for parts in blocks]
    room = max(rows_max - len(blocks), ROWS_MIN)
    ranked = sorted(range(len(every)), key=lambda n: (_ATTENTION.get(every[n][1]["state"], 5), n))
    kept = sorted(ranked[:room])
    found: list[list[Mapping[str, Any]]] = [[] for _ in blocks]
    for number in kept:
        block, part = every[number]
        found[block].append(part)
    return found


def rest(parts: Sequence[Mapping[str, Any]], shown: int) -> str:
    """How many parts are not shown, all of them by state; "" where all are."""
    if shown == len(parts):
        return ""
    counts = Counter(part["state"] for part in parts)
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return f"and {len(parts) - shown} more; of all {len(parts)}: {told}"


def ended(parts: Sequence[Mapping[str, Any]]) -> int:
    """How many have ended."""
    return sum(part["state"] in ENDED for part in parts)
