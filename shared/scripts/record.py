"""What is known of a run whose service died: the record that its guard kept of it.

One file per run, locked while the guard lives: `prepared`, then `started` before the script's
process exists, perhaps `note` and what a person must know of the run, then `ended` and how. It
tells a start that was announced and never given from a script that ran, and keeps an end that
nobody lived to hear. It counts on the machine and in the boot it was written in; one that is
missing, torn or foreign says nothing.

A record holds nothing of what the script printed, where secrets may be: its output is lost with
the service, and an end whose outputs later scripts would be given counts as unknown.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

KEEP_S = 60.0
"""How long the record of a run stays whose service heard of its end: until it has told it."""

KEEP_S_MAX = 24 * 3600.0
"""How long a record waits for a service to come back."""


class Earlier(NamedTuple):
    """How a start of a run went; `report` is as the guard's (results.py), where it ended."""

    state: Literal["not-started", "ended", "unknown"]
    report: bytes = b""
    started_at: datetime | None = None
    ended_at: datetime | None = None


UNKNOWN = Earlier("unknown")
OUTPUT_LOST = b"(what it printed was lost: its service was ended before it had recorded it)\n"


def boot_id() -> str:
    """What tells one boot of this machine from another; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def record_path(folder: Path, run_id: str) -> Path:
    """The file of a run, in a folder that is made where it is missing. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / hashlib.sha256(run_id.encode()).hexdigest()[:32]


def read_record(path: Path) -> Earlier | None:
    """What the record says; None while its guard lives. Blocking, never waits."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return UNKNOWN
    with os.fdopen(descriptor, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return _read(file.read(), boot=boot_id())


def _read(raw: bytes, *, boot: str) -> Earlier:
    lines = raw.decode("ascii", "replace").split("\n")
    if not boot or lines.pop() or not lines or lines[0] != f"prepared {boot}":
        return UNKNOWN
    notes = [line.removeprefix("note ") for line in lines if line.startswith("note ")]
    match [line.split(" ") for line in lines[1:] if not line.startswith("note ")]:
        case []:
            return Earlier("not-started")
        case [["started", begin], ["ended", end, reason, status, told]] if reason != "stopped":
            if reason == "exit" and status == "0" and told != "0":
                return UNKNOWN
            note = "; ".join(notes).encode()
            header = f"{reason} {status} {len(OUTPUT_LOST)} {len(note)}\n".encode()
            return Earlier("ended", header + note + OUTPUT_LOST, _moment(begin), _moment(end))
    return UNKNOWN


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(float(text), UTC)


def sweep_records(folder: Path) -> None:
    """Remove records that nobody came back for. Blocking."""
    oldest = time.time() - KEEP_S_MAX
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < oldest:
                path.unlink()
