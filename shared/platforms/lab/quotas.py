"""Quotas of a site, shared by every process that uses its folder; they refuse like a cloud.

A token bucket is 16 bytes in a file under `.lab/quotas`; `concurrent` is one lock file per slot,
which the kernel frees when its holder dies. Owns enforcement; the numbers are `site.yaml`'s.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Final

from shared.errors import Busy, Throttled
from shared.platforms.lab.folder import SiteFolder, component, locked
from shared.platforms.lab.journal import now_text
from shared.platforms.lab.settings import Quota
from shared.platforms.lab.vocabulary import SEATS

_BUCKET: Final = struct.Struct("<dd")
_LOCK_WAIT_S_MAX: Final = 2.0
_SEAT_RETRY_S: Final = 1.0


class Slots:
    """Concurrency slots held by one call; released by `close` or with the process."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def add(self, fd: int) -> None:
        self._fds.append(fd)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


class Quotas:
    """Spends a site's quotas. Blocking, to be called on a thread; bounded by 2 s."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def spend(self, needs: list[tuple[str, Quota]], *, slots: Slots) -> str:
        """Take one token or slot of each; Throttled, Busy where there is none, nothing done.

        Gives the moment by which buckets were judged, which is when the call was asked for.

        Rates come after slots: a refused slot costs no token, as a refusal in a cloud does not
        give tokens back.
        """
        where = self._folder.ensure(".lab", "quotas")
        asked_at = now_text()
        for name, quota in sorted(needs, key=lambda need: need[1].concurrent is None):
            if quota.concurrent is None:
                asked_at = _take_token(where / component(name), name, quota)
            elif name != SEATS:
                _take_slot(self._folder.ensure(".lab", "quotas", name), name, quota, slots)
        return asked_at


def refuse_seat(open_count: int, quota: Quota) -> None:
    """Busy where as many staged generations exist as the quota allows."""
    if quota.concurrent is not None and open_count >= quota.concurrent:
        raise Busy(
            f"quota {SEATS}: {open_count} of {quota.concurrent} are being written",
            code="concurrent-limit",
            remedy="it passes when one of them is finalized or discarded",
            retry_after_s=_SEAT_RETRY_S,
            quota=SEATS,
        )


def _take_token(path: Path, name: str, quota: Quota) -> str:
    assert quota.burst is not None and quota.per_second is not None
    with locked(path, wait_s_max=_LOCK_WAIT_S_MAX) as fd:
        now, asked_at = time.monotonic(), now_text()
        tokens, at = quota.burst, now
        raw = os.pread(fd, _BUCKET.size, 0)
        if len(raw) == _BUCKET.size:
            tokens, at = _BUCKET.unpack(raw)
        # The monotonic clock starts again with the machine: an older bucket counts as full.
        passed = now - at
        tokens = quota.burst if passed < 0 else tokens + passed * quota.per_second
        tokens = min(tokens, quota.burst)
        granted = tokens >= 1
        os.pwrite(fd, _BUCKET.pack(tokens - 1 if granted else tokens, now), 0)
    if not granted:
        raise Throttled(
            f"quota {name}: more than {quota.burst:g} at once and {quota.per_second:g}/s",
            code="request-limit-exceeded",
            remedy="it passes by itself; ask less often",
            retry_after_s=(1 - tokens) / quota.per_second,
            quota=name,
        )
    return asked_at


def _take_slot(where: Path, name: str, quota: Quota, slots: Slots) -> None:
    assert quota.concurrent is not None
    for index in range(quota.concurrent):
        fd = os.open(where / str(index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        slots.add(fd)
        return
    raise Busy(
        f"quota {name}: {quota.concurrent} calls are running",
        code="concurrent-limit",
        remedy="it passes when one of them ends",
        retry_after_s=0.1,
        quota=name,
    )
