"""What goes into a disk transfer and what comes out: request, settings, mark, progress, result.

Plain data only. The marks are stored in events by the caller, so everything here is JSON.
"""

from __future__ import annotations

import msgspec

from shared.platforms.ports import CHUNK_BYTES, MIB, Call, Generation, Snapshot


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A resume position: below `offset` all is written, verified and on stable storage.

    `chain` (hex) is a digest over what the target holds below `offset`, so that a later claim
    can tell whether the range it adopts is the one meant. Valid for one snapshot only.
    """

    snapshot_id: str
    generation_id: str
    offset: int
    chain: str


class TransferSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and bounds of one disk's transfer; defaults from the product's own limits."""

    chunk_bytes: int = CHUNK_BYTES
    window_bytes: int = 32 * MIB
    window_bytes_min: int = 16 * MIB
    window_bytes_max: int = 64 * MIB
    # Chunks worked on at once to begin with. Four keep two cores busy on a local target, more
    # would only wait there, each with a buffer; where answers take long the crew grows.
    crew: int = 4
    crew_min: int = 4
    mark_bytes: int = 500_000_000
    # Reading a gap this small costs less than one more call; more would make sparse disks grow.
    merge_gap_bytes: int = 32 * 1024
    # Long enough for one call per hole, short enough that a cancelled transfer ends in time.
    zero_bytes_max: int = 1024 * MIB
    progress_interval_s: float = 0.25
    call_timeout_s: float = 60.0
    flush_timeout_s: float = 600.0
    throttle_wait_s_max: float = 120.0
    stop_wait_s: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.chunk_bytes <= CHUNK_BYTES:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}, ports take 1 to {CHUNK_BYTES}")


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which disk of which open snapshot goes into which staged generation.

    `since` is the mark of the copy that the generation starts as (None: look at everything).
    `resume` is the last mark of an interrupted transfer of the same snapshot. The two calls
    carry key, plan, VM, job and lease; keys of single chunks are derived from them.
    """

    snapshot: Snapshot
    disk: str
    generation: Generation
    source_call: Call
    target_call: Call
    since: str | None = None
    resume: Mark | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a transfer is. Bytes are bytes looked at; holes are not counted.

    `bytes_total` is exact once the last page of extents is known, before that an upper bound.
    """

    disk: str
    bytes_done: int
    bytes_total: int
    bytes_written: int
    rate_bytes_per_s: float


class TransferResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished transfer did. `mark` stands at the disk's end: nothing is left to do.

    `compared`: the platform could not tell what changed, so content was compared by hash;
    `reason` says why. In seconds from its start: `changes_known_s`, when the last page of extents
    was there; `verified_from_s`, when the first block was verified (None: there was none).
    """

    disk: str
    generation_id: str
    mark: Mark
    bytes_read: int
    bytes_written: int
    bytes_zero: int
    bytes_same: int
    bytes_adopted: int
    marks: int
    marks_missed: int
    throttled: int
    throttled_s: float
    seconds: float
    window_bytes: int
    crew: int
    compared: bool
    reason: str = ""
    changes_known_s: float = 0.0
    verified_from_s: float | None = None
