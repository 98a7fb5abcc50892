"""How much of an instance's disks changed since it was first powered on. Reads only.

What a guest writes by the lab's protocol is in the change journals of its disks, which begin with
its first write. A change behind the protocol's back is not counted: where it is noticed, nothing
is claimed to be known.
"""

from __future__ import annotations

import os
from pathlib import Path

from shared.platforms.lab.machines import InstanceRecord
from shared.platforms.lab.snapshots import TrackedFolder, TrackState
from shared.platforms.lab.tracking import NEW


def since_power_on(folder: Path, record: InstanceRecord) -> int | None:
    """Changed bytes of all its disks, at most; None where that is not known."""
    if not record.boots:
        return 0
    tracked = TrackedFolder(folder)
    if tracked.load() is None:
        # Nothing was ever written by the protocol.
        counts = [_untracked(folder / file, record) for file in record.disks]
    else:
        with tracked.lock() as state:
            counts = [_tracked(tracked, state, file, record) for file in record.disks]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _untracked(disk: Path, record: InstanceRecord) -> int | None:
    """0 where the file is as old as the copy it was made from. Later boots hide earlier ones."""
    on = record.powered_on_at
    if record.boots > 1 or on is None:
        return None
    return 0 if os.stat(disk).st_mtime <= on.timestamp() else None


def _tracked(
    tracked: TrackedFolder, state: TrackState, file: str, record: InstanceRecord
) -> int | None:
    if not (tracked.own / f"{file}.changes").exists():
        return _untracked(tracked.folder / file, record)
    fd = os.open(tracked.folder / file, os.O_RDWR | os.O_CLOEXEC)
    try:
        journal = tracked.journal(file, fd, state)
        try:
            if journal.reason != NEW:
                return None
            return sum(end - start for start, end in journal.changed(0, state.epoch))
        finally:
            journal.close()
    finally:
        os.close(fd)
