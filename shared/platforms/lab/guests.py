"""Guests: the processes that are a VM's service.

A guest is a session of its own that outlives the control plane. Its launcher writes
`.lab/guest-<n>` under a name that can be taken once before it becomes the guest, so that
power-on number n starts it at most once, whoever dies in between. Owns processes and nothing
else: whether a machine is on is told by `machines`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from shared.errors import Permanent, Transient
from shared.platforms.lab.settings import VmSpec

_LAUNCH_S_MAX: Final = 5.0
_STOP_S_MAX: Final = 5.0
_POLL_S: Final = 0.001
_MARK: Final = "SEAWALL_LAB_GUEST"
_INHERITED: Final = ("HOME", "LANG", "TZ", "TMPDIR")
# Two shells: the outer one ends at once and is waited for, so that the guest belongs to init and
# leaves no remains with us. The inner one registers itself, waits until the guest has "booted",
# and becomes the guest; its process number stays the same.
_OUTER: Final = '/bin/sh -c "$@" &'
_LAUNCHER: Final = """set -C
read -r line < /proc/self/stat
{ printf '%s\\n' "$line" > "$1"; } 2>/dev/null || exit 0
[ "$2" = 0 ] || sleep "$2"
shift 2
exec "$@"
"""


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """What identifies a process: a number may come back, number and start time do not."""

    pid: int
    state: str
    session: int
    started: int


def parse_stat(line: str) -> Stat | None:
    """A line of /proc/<pid>/stat; the name in brackets may hold anything."""
    found = re.fullmatch(r"(\d+) \(.*\) (.*)", line.strip(), re.DOTALL)
    fields = found[2].split() if found else []
    if found is None or len(fields) < 20:
        return None
    return Stat(
        pid=int(found[1]), state=fields[0], session=int(fields[3]), started=int(fields[19])
    )


def stat_of(pid: int) -> Stat | None:
    """The process with this number now; None where there is none, or only its remains."""
    try:
        found = parse_stat(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if found is None or found.state in "ZX" else found


def runs(pid: int | None, started: int | None) -> bool:
    """Whether that very process runs."""
    found = stat_of(pid) if pid is not None else None
    return found is not None and found.started == started


class Guest:
    """The guest of one machine's folder at its n-th power-on."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self._file = folder / ".lab" / f"guest-{number}"
        self._mark = f"{_MARK}={folder}#{number}"

    def start(self, spec: VmSpec, environment: Mapping[str, str]) -> Stat:
        """Start the command unless this power-on already did; returns who it is.

        Its output goes to `guest.log`. From our environment it gets no more than PATH (with our
        Python first), HOME, LANG, TZ and TMPDIR: never a token or an address of ours.
        """
        self._file.parent.mkdir(exist_ok=True)
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        name, _, value = self._mark.partition("=")
        words = [self._word(word, spec) for word in spec.guest.command]
        boots_in = f"{spec.guest.boots_in_s:g}"
        with open(self.folder / "guest.log", "ab") as log:
            outer = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _OUTER,
                    "sh",
                    _LAUNCHER,
                    "sh",
                    str(self._file),
                    boots_in,
                    *words,
                ],
                cwd=self.folder,
                env={**inherited, "PATH": path, **environment, name: value},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        outer.wait(timeout=_LAUNCH_S_MAX)
        return self._registered()

    def _word(self, word: str, spec: VmSpec) -> str:
        """A word of the command; a file that is only beside the original disks by its path."""
        if "/" in word or not spec.folder or (self.folder / word).exists():
            return word
        original = Path(spec.folder) / word
        return str(original) if original.is_file() else word

    def _registered(self) -> Stat:
        deadline = time.monotonic() + _LAUNCH_S_MAX
        while time.monotonic() < deadline:
            found = self.recorded()
            if found is not None:
                return found
            time.sleep(_POLL_S / 4)
        raise Transient(f"the guest in {self.folder} did not start within {_LAUNCH_S_MAX:g} s")

    def recorded(self) -> Stat | None:
        """What the launcher wrote about itself; None where it never ran."""
        try:
            text = self._file.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return parse_stat(text) if text.endswith("\n") else None

    def stop(self, *, grace_s: float = 0.0) -> None:
        """End the guest and everything it started; returns when none of it runs.

        By SIGKILL, as a power cut, or first by SIGTERM with a grace. Its processes are found by
        session and by the mark in their environment, and signalled through a descriptor of that
        very process, so that a number that came back harms nobody. Permanent (`guest-stuck`)
        where something cannot be ended.
        """
        recorded = self.recorded()
        if recorded is None:
            return
        deadline = time.monotonic() + grace_s
        if grace_s > 0:
            self._signal_all(recorded, signal.SIGTERM)
        while time.monotonic() < deadline and any(True for _ in self._processes(recorded)):
            time.sleep(_POLL_S * 5)
        deadline = time.monotonic() + _STOP_S_MAX
        while self._signal_all(recorded, signal.SIGKILL):
            if time.monotonic() > deadline:
                raise Permanent(
                    f"the guest in {self.folder} does not end",
                    code="guest-stuck",
                    remedy=f"look at the processes of session {recorded.session}",
                )
            time.sleep(_POLL_S)

    def ask_to_end(self) -> None:
        """SIGTERM to the guest and everything it started; whether it obeys is seen later."""
        recorded = self.recorded()
        if recorded is not None:
            self._signal_all(recorded, signal.SIGTERM)

    def is_running(self) -> bool:
        """Whether any process of the guest is left."""
        recorded = self.recorded()
        return recorded is not None and any(True for _ in self._processes(recorded))

    def _signal_all(self, recorded: Stat, number: signal.Signals) -> bool:
        """Signal every process of the guest; whether there was any."""
        found = False
        for pid in self._processes(recorded):
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if self._is_ours(pid, recorded):
                    found = True
                    signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                continue
            finally:
                os.close(descriptor)
        return found

    def _processes(self, recorded: Stat) -> Iterator[int]:
        for name in os.listdir("/proc"):
            if name.isdecimal() and self._is_ours(int(name), recorded):
                yield int(name)

    def _is_ours(self, pid: int, recorded: Stat) -> bool:
        found = stat_of(pid)
        if found is None or found.started < recorded.started:
            return False
        if found.session == recorded.session:
            return True
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return self._mark.encode() in environ.split(b"\0")
