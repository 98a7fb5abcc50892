"""Structured logs on standard error: one JSON object a line, or coloured lines on a terminal.

A line is one write: processes that share a stream never mix theirs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from shared.telemetry import ids

CONTEXT: Final[Sequence[structlog.typing.Processor]] = (
    structlog.contextvars.merge_contextvars,
    ids.written_out,
)
"""What puts into a line whose it is and what it is about."""


def configure_logs(level: str) -> None:
    """Set up logging once per process. `level` is debug, info, warning or error."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer()
    )
    processors: list[structlog.typing.Processor] = [
        *CONTEXT,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not sys.stderr.isatty():
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # A broker that is away is told by our own events and by /readyz: aiokafka says it for every
    # partition and try.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
