"""A world whose source VMs run: guests that tell on themselves, for trials of full recoveries.

Every VM of *shop* has a guest, a process that travels with its disks. On the production network
it takes the VM's address, which is a lock: a second copy of the VM that runs at the same time
finds it taken and says `clash`. A source that is asked to end writes to its disks, tells what it
left on them, and ends. An instance writes nothing: its disks stay what they were made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.platforms.lab import tools
from tests.acceptance.world import VMS, World
from tests.waiting import wait_until

UP_S_MAX = 30.0
UNPLUGGED = "unplugged"
"""A file beside a VM's disks: its first disk is gone from its shut-down to its next boot."""

SLOW_VM = "db"
SLOW_S = 2.0
"""The first to boot takes longer to end: what does not wait for its end is done before it, also
where messages take a second on a busy machine."""

Line = tuple[Any, ...]
"""(`up`, vm, where) | (`clash`, vm, where) | (`left`, vm, {disk file: SHA-256}, seconds
since 1970)."""

GUEST = """\
import fcntl, hashlib, json, os, signal, sys, time

lines, vm = LINES, sys.argv[1]
disks = os.environ["SEAWALL_LAB_DISKS"].split(os.pathsep)
where = "source" if "/vms/" in disks[0] else "instance"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

def say(*words):
    with open(lines + "/guests.jsonl", "a") as told:
        told.write(json.dumps(words) + "\\n")

if os.path.exists(disks[0] + ".away"):
    os.rename(disks[0] + ".away", disks[0])
if os.environ["SEAWALL_LAB_HOSTS"].endswith("/prod.hosts"):
    address = open(f"{lines}/{vm}.address", "a")
    try:
        fcntl.flock(address, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("clash", vm, where)
    say("up", vm, where)
signal.sigwait([signal.SIGTERM])
if where == "instance":
    sys.exit()
if os.path.exists("UNPLUGGED"):
    os.rename(disks[0], disks[0] + ".away")
    say("left", vm, {}, time.time())
    sys.exit()
from shared.platforms.lab.writer import LabDisk

time.sleep(SLOW_S if vm == "SLOW_VM" else 0)
left = {}
for disk in disks:
    LabDisk(disk).write(8192, os.urandom(20_000))
    with open(disk, "rb") as content:
        left[os.path.basename(disk)] = hashlib.sha256(content.read()).hexdigest()
say("left", vm, left, time.time())
"""


class LiveWorld(World):
    """The world of `World`, with guests in *shop*; `stop` ends them all."""

    def build(self) -> None:
        """Make it, and boot the sources."""
        super().build()
        lines = repr(str(self.lines.parent))
        text = GUEST.replace("LINES", lines, 1).replace("UNPLUGGED", UNPLUGGED)
        text = text.replace("SLOW_VM", SLOW_VM).replace("SLOW_S", str(SLOW_S))
        for vm in VMS:
            folder = self.source(vm)
            document = yaml.safe_load((folder / "vm.yaml").read_text())
            document["guest"]["command"] = ["python3", "guest.py", vm]
            (folder / "vm.yaml").write_text(yaml.safe_dump(document))
            (folder / "guest.py").write_text(text)
            tools.start(folder)
        self.wait_sources()

    def source(self, vm: str) -> Path:
        """The folder of a source VM."""
        return self.east / "vms" / vm

    def unplug(self, vm: str) -> None:
        """Take a disk away from a VM once it has shut down: it cannot be copied any more."""
        (self.source(vm) / UNPLUGGED).touch()

    def plug(self, vm: str) -> None:
        """Let it have its disk again."""
        (self.source(vm) / UNPLUGGED).unlink()

    def guest_lines(self) -> list[Line]:
        """What guests on the production network said, in order."""
        told = self.lines.with_name("guests.jsonl")
        text = told.read_text() if told.exists() else ""
        return [tuple(json.loads(line)) for line in text.splitlines()]

    def wait_sources(self) -> None:
        """Return once the last to come up of every VM is its source; raises AssertionError."""
        wait_until(self._sources_up, "the guests of all sources are up", within_s=UP_S_MAX)

    def _sources_up(self) -> bool:
        last = {vm: where for word, vm, where, *_ in self.guest_lines() if word == "up"}
        return last == dict.fromkeys(VMS, "source")

    def left(self) -> Mapping[str, Mapping[str, str]]:
        """VM → disk file → SHA-256, as each source left it when it last shut down; one
        that is unplugged leaves nothing."""
        return {vm: rest[0] for word, vm, *rest in self.guest_lines() if word == "left"}

    def stop(self) -> None:
        """End the guests of sources and instances, as by a power cut."""
        for folder in (*(self.east / "vms").glob("*/"), *self.instances()):
            tools.stop(folder, grace_s=0)
