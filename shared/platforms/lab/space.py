"""How much of a site's `capacity` is used, and the refusal of what would not fit.

Files are measured as they lie on disk, hard links once. Writers take slices of what is left, so
that a chunk costs no walk over the folder; several processes may overshoot by one slice each.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from shared.platforms.lab.folder import SiteFolder, target_full

_SLICE_BYTES: Final = 64 << 20
_FOLDERS: Final = ("replicas", "checkpoints", "disks", "instances")


class Space:
    """Space of one site, for the writers of one process."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._left = 0

    def take(self, size: int, capacity: int | None) -> None:
        """Count bytes about to be written; Permanent (`target-full`) where they do not fit."""
        if capacity is None:
            return
        with self._lock:
            if self._left < size:
                free = capacity - self.used()
                if free < size:
                    raise target_full(
                        f"the site {self._folder.root} is full: {max(free, 0)} bytes of its "
                        f"capacity of {capacity} are free, {size} more were wanted",
                        self._folder.root,
                    )
                self._left = min(free, max(_SLICE_BYTES, size))
            self._left -= size

    def used(self) -> int:
        """Bytes allocated by copies, checkpoints, disks and instances."""
        seen: set[int] = set()
        return sum(_used(self._folder.root / name, seen) for name in _FOLDERS)

    def free(self, capacity: int | None) -> int:
        """Bytes left: of the file system, or of the capacity if that is less."""
        found = os.statvfs(self._folder.root)
        free = found.f_bavail * found.f_frsize
        return free if capacity is None else max(0, min(free, capacity - self.used()))


def _used(path: Path | str, seen: set[int]) -> int:
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += _used(entry.path, seen)
                        continue
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if found.st_nlink > 1:
                    if found.st_ino in seen:
                        continue
                    seen.add(found.st_ino)
                total += found.st_blocks * 512
    except FileNotFoundError:
        return total
    return total
