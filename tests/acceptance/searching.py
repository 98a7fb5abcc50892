"""Where a secret may turn up: its usual encodings, the process list, files that were written."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

LOOK_EVERY_S: Final = 0.02
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
MARKER_CHARS: Final = 12
SCRIPT: Final = b"seawall-script-"
"""What stands on the command line of every running script."""


def forms(secret: str) -> tuple[bytes, ...]:
    """What gives a secret away, however usual tools print it.

    Its last characters are plain ones, which quoting and escaping leave as they are; their hex;
    and of their base64 what does not depend on what stands around them, at each alignment.
    """
    marker = secret[-MARKER_CHARS:].encode()
    assert marker.translate(None, b"-_").isalnum(), "escapes would change it"
    found = {marker, marker.hex().encode(), marker.hex().upper().encode()}
    for before in range(3):
        coded = base64.b64encode(bytes(before) + marker).rstrip(b"=")
        inside = (len(marker) + before) % 3 != 0
        found.add(coded[(0, 2, 3)[before] : -1 if inside else None])
    return tuple(found)


def holds(content: bytes, secret: str) -> bool:
    """Whether the secret is in there in any of its forms."""
    return any(form in content for form in forms(secret))


class Sighting(msgspec.Struct, frozen=True):
    """A secret in the process list. `program` is the command line it was seen at."""

    secret: str
    where: str
    program: bytes


def program_of(pid: int) -> bytes:
    """A process's command line; that of its parent, until a forked one has become itself."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class ProcessWatch(threading.Thread):
    """Looks at the command line and the environment of every process, again and again.

    `scripts_seen` counts the looks that met a running script.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        super().__init__(name="process-watch", daemon=True)
        self._forms = {name: forms(secret) for name, secret in secrets.items()}
        self._over = threading.Event()
        self.found: set[Sighting] = set()
        self.scripts_seen = 0
        self.looks = 0

    def __enter__(self) -> ProcessWatch:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self.join(timeout=10)

    def run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        self.looks += 1
        script = False
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                # In this order: one that becomes itself in between is then seen as its parent.
                program = program_of(pid)
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            script = script or SCRIPT in program
            for where, text in (("cmdline", program), ("environ", environment)):
                for name, known in self._forms.items():
                    if any(form in text for form in known):
                        self.found.add(Sighting(name, where, program))
        self.scripts_seen += script


def written_since(folders: Iterable[Path], moment: float) -> Iterator[Path]:
    """Regular files below these folders that changed after `moment` (seconds of the epoch).

    Up to FILE_BYTES_MAX, and below folders that nothing was put into since then only where they
    were named: what is new lies in what is new.
    """
    for folder in folders:
        for at, inner, names in os.walk(folder):
            inner[:] = [each for each in inner if _changed(Path(at, each)) >= moment]
            for name in names:
                path = Path(at, name)
                try:
                    entry = path.lstat()
                except OSError:
                    continue
                fresh = entry.st_mtime >= moment and entry.st_size <= FILE_BYTES_MAX
                if fresh and path.is_file() and not path.is_symlink():
                    yield path


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def files_with(secret: str, paths: Iterable[Path]) -> tuple[list[Path], int]:
    """The files that hold a secret, and how many were read."""
    found, count = [], 0
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        count += 1
        if holds(content, secret):
            found.append(path)
    return found, count


def now() -> float:
    """The clock that `written_since` compares with."""
    return time.time()
