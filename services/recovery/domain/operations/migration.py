"""Migration: every source is shut down cleanly and copied once more, or nothing is moved.

A source that does not shut down, or a last sync that fails, has all sources switched on again and
the job fail: nothing may be lost, and tiers of one application move together. Ends with commit or
roll back; the sources stay off until then.
"""

from __future__ import annotations

from typing import Final

from services.recovery.domain.operations.operation import Operation

MIGRATION: Final = Operation(
    mode="migrate",
    isolated=False,
    source_step="shut-down-sources",
    together=True,
    undoes_itself=True,
)
