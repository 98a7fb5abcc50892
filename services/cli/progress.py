"""A line on standard error that says how far a long command is; standard output stays clean."""

from __future__ import annotations

import sys
import time
from typing import Final

TERMINAL_EVERY_S: Final = 0.2
PIPE_EVERY_S: Final = 10.0
"""Where nobody watches, a line now and then says that the command still lives."""


class ProgressLine:
    """Says what it is told, not too often. Use as a context: the line goes away with it."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = TERMINAL_EVERY_S if self._is_terminal else PIPE_EVERY_S
        self._next_at = time.monotonic() + self._every_s

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")

    def say(self, text: str) -> None:
        """Show `text` if it is time to."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + self._every_s
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()
