"""Keeps a world's logs out of the way, except for errors: a world that logs one is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import structlog

EXPECTED: Final = frozenset({"lease.handlers-still-running"})
"""What processes that were frozen may say."""


@contextlib.contextmanager
def quiet(*, verbose: bool = False) -> Iterator[list[str]]:
    """Within it structlog writes nothing; gives the list of errors that were logged."""
    errors: list[str] = []

    def collect(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if method in ("error", "critical", "exception") and event["event"] not in EXPECTED:
            errors.append(_text(event))
        if verbose:
            sys.stdout.write(f"{_now():10.3f} {method:8} {_text(event)}\n")
        raise structlog.DropEvent

    before = structlog.get_config()
    level = logging.DEBUG if verbose else logging.ERROR
    structlog.configure(
        processors=[collect],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    try:
        yield errors
    finally:
        structlog.configure(**before)


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


def _text(event: MutableMapping[str, Any]) -> str:
    rest = " ".join(f"{name}={value!r}" for name, value in event.items() if name != "event")
    return f"{event['event']} {rest}"
