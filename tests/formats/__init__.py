"""Formats of others, against which our files are checked; where they are from: README.md."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec


@functools.cache
def formats(name: str) -> dict[str, Any]:
    """The JSON Schema in `<name>.json` beside this module."""
    found: dict[str, Any] = msgspec.json.decode(
        (Path(__file__).parent / f"{name}.json").read_bytes()
    )
    return found
