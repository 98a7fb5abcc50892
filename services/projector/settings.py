"""The projector's knobs. Counts are rows, durations say their unit."""

from __future__ import annotations

from typing import Final

import msgspec

SOURCES: Final = ("gateway", "scheduler", "replicator", "recovery", "notifier")
"""The services whose events are projected; their cursors are made by `sql/0001_pre_tables.sql`."""


class ProjectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of batches and caches, and how long ended iterations stay."""

    batch_max: int = 2_000
    documents_max: int = 50_000
    keep_days: int = 30
    prune_every_s: float = 3_600.0
    rebuild_batch_max: int = 5_000
    rebuild_documents_max: int = 20_000
