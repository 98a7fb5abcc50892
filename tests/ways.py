"""The ways to a real component, in order: which one is taken, and why no other could be.

Pure: looking is the caller's, and a way is looked at only when all before it are closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Way(NamedTuple):
    """A way to a component; `obstacle` is why it is closed, "" where it is open."""

    name: str
    obstacle: str


class Choice(NamedTuple):
    """The way that is taken; None where all are closed, and then `reason` tells of each."""

    way: str | None
    reason: str


def choose(ways: Iterable[Way]) -> Choice:
    """The first open way. Later ones are not taken from `ways`: looking at them costs time."""
    closed = []
    for way in ways:
        if not way.obstacle:
            return Choice(way.name, "")
        closed.append(f"{way.name}: {way.obstacle}")
    return Choice(None, "; ".join(f"({n}) {text}" for n, text in enumerate(closed, start=1)))
