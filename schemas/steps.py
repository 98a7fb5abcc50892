"""Names of steps that services and read models must read alike."""

from __future__ import annotations

from typing import Final

MANUAL: Final = "manual-"
"""Begins the name of a step that a person does; it begins when they are asked."""
