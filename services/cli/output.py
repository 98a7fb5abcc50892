"""How answers look: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import datetime as dt
import enum
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import yaml
from rich.console import Console
from rich.table import Table

from schemas.units import format_duration

PIPE_WIDTH = 1000
"""Columns where nobody looks: a program that reads a table must find whole ids in it."""

# Without emoji: an id such as `iteration:a:b` would be shown with a picture in it.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False)

STATE_STYLES: Mapping[str, str] = {
    "completed": "green",
    "ready": "green",
    "in-sync": "green",
    "available": "green",
    "ok": "green",
    "running": "cyan",
    "sync-in-progress": "cyan",
    "init-sync-in-progress": "cyan",
    "partially-completed": "yellow",
    "exceeded-interval": "yellow",
    "waiting": "yellow",
    "paused": "yellow",
    "unknown": "yellow",
    "failed": "red",
    "init-sync-failed": "red",
    "sync-failed": "red",
    "unreachable": "red",
    "critical": "red",
    "major": "red",
    "cancelled": "magenta",
}


class Format(enum.StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def machine(document: Any, form: Format) -> bool:
    """Print `document` for a program if that was asked; False where a table is wanted."""
    if form is Format.JSON:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return True
    if form is Format.YAML:
        sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        return True
    return False


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or `empty` where there are no rows."""
    if not rows:
        out.print(empty, style="dim")
        return
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        # What other commands are told is never cut: the first column wraps last.
        grid.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*(state(cell) for cell in row))
    out.print(grid)


def tell_more(page: Mapping[str, Any]) -> None:
    """Say how to go on where a listing has more pages."""
    if page["next"] is not None:
        err.print(f"more with --cursor {page['next']}", style="dim", soft_wrap=True)


def state(value: Any) -> str:
    """A cell as text, states in their colour."""
    shown = "–" if value is None or value == "" else str(value)
    style = STATE_STYLES.get(shown)
    return f"[{style}]{shown}[/]" if style else shown.replace("[", "\\[")


def seconds(value: float | None) -> str:
    """A duration for a cell."""
    if value is None:
        return "–"
    return format_duration(round(value, 1 if value < 60 else 0))


def span(value: float) -> str:
    """A duration as people say it: 12s, 2m 10s, 1h 05m, 3d 4h."""
    whole = max(round(value), 0)
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {left:02d}s" if minutes else f"{left}s"


def size(value: int | None) -> str:
    """A size for a cell."""
    if value is None:
        return "–"
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def moment(value: str | None) -> str:
    """A time for a cell: today's without the date, local zone."""
    if not value:
        return "–"
    at = dt.datetime.fromisoformat(value).astimezone()
    today = dt.datetime.now().astimezone().date()
    return at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M")
