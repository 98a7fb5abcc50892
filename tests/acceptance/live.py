"""A world whose source VMs run: guests that tell on themselves, for trials of full recoveries.

Every VM of *shop* has a guest, a process that travels with its disks. On the production network
it takes the VM's address, which is a lock: a second copy of the VM that runs at the same time
finds it taken and says `clash`. Asked to end, it writes to its disks, tells what it left on them,
and ends; until then it writes nothing, so that the disks of an instance stay what they were made
of.

A VM runs as its original until a recovery is committed, then as the instance that this one made,
at the other site; what it ran as before is retired, and is to stay as it was left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shared.platforms.lab import tools
from tests.acceptance.judge import record_of
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
"""(`up`, vm, where) | (`clash`, vm, where) | (`left`, vm, where, {disk file: SHA-256}, seconds
since 1970); *where* is the machine's folder below the world's: `east/vms/db`."""

GUEST = """\
import fcntl, hashlib, json, os, signal, sys, time

lines, vm = LINES, sys.argv[1]
disks = os.environ["SEAWALL_LAB_DISKS"].split(os.pathsep)
where = os.path.relpath(os.path.dirname(disks[0]), os.path.dirname(lines))
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
if os.path.exists("UNPLUGGED"):
    os.rename(disks[0], disks[0] + ".away")
    say("left", vm, where, {}, time.time())
    sys.exit()
from shared.platforms.lab.writer import LabDisk

time.sleep(SLOW_S if vm == "SLOW_VM" else 0)
left = {}
for disk in disks:
    LabDisk(disk).write(8192, os.urandom(20_000))
    with open(disk, "rb") as content:
        left[os.path.basename(disk)] = hashlib.sha256(content.read()).hexdigest()
say("left", vm, where, left, time.time())
"""


class Retired(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that its VM does not run as any more: how often it had booted, and the SHA-256 of
    each disk file."""

    vm: str
    boots: int
    disks: Mapping[str, str]


class LiveWorld(World):
    """The world of `World`, with guests in *shop*; `stop` ends them all.

    `retired` are machines that VMs ran as, by folder.
    """

    def __init__(self, root: Path, *, seed: int) -> None:
        super().__init__(root, seed=seed)
        self._runs_as: dict[str, Path] = {}
        self.retired: dict[Path, Retired] = {}

    def build(self) -> None:
        """Make it, and boot the sources."""
        super().build()
        lines = repr(str(self.lines.parent))
        text = GUEST.replace("LINES", lines, 1).replace("UNPLUGGED", UNPLUGGED)
        text = text.replace("SLOW_VM", SLOW_VM).replace("SLOW_S", str(SLOW_S))
        for vm in VMS:
            folder = self.original(vm)
            document = yaml.safe_load((folder / "vm.yaml").read_text())
            document["guest"]["command"] = ["python3", "guest.py", vm]
            (folder / "vm.yaml").write_text(yaml.safe_dump(document))
            (folder / "guest.py").write_text(text)
            tools.start(folder)
        self.wait_sources()

    def original(self, vm: str) -> Path:
        """The folder of the machine that a VM was before any recovery."""
        return self.east / "vms" / vm

    def source(self, vm: str) -> Path:
        """The folder of the machine that a VM runs as, since the last recovery was committed."""
        return self._runs_as.get(vm, self.original(vm))

    def moved(self, job: str) -> None:
        """A recovery was committed: its instances are the VMs, what they were is retired."""
        left = self.left()
        for path in self.instances():
            record = record_of(path)
            if record["job"] != job:
                continue
            vm = record["vm"]
            source = self.source(vm)
            disks = left.get(source) or disks_of(source)
            self.retired[source] = Retired(vm=vm, boots=boots_of(source), disks=disks)
            self._runs_as[vm] = path

    def abandoned(self) -> None:
        """What the VMs run as is deleted: nothing but their originals is left of them."""
        self._runs_as.clear()

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
        last = {
            vm: self.root / where for word, vm, where, *_ in self.guest_lines() if word == "up"
        }
        return last == {vm: self.source(vm) for vm in VMS}

    def left(self) -> Mapping[Path, Mapping[str, str]]:
        """Folder of a machine → disk file → SHA-256, as it left it when it last shut down; one
        that is unplugged leaves nothing."""
        lines = (line for line in self.guest_lines() if line[0] == "left")
        return {self.root / where: disks for _, _, where, disks, _ in lines}

    def stop(self) -> None:
        """End the guests of sources and instances, as by a power cut."""
        for folder in (*(self.east / "vms").glob("*/"), *self.instances()):
            tools.stop(folder, grace_s=0)


def disks_of(machine: Path) -> dict[str, str]:
    """Disk file → SHA-256, of a machine's folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in machine.glob("*.raw")
    }


def boots_of(machine: Path) -> int:
    """How often a machine was powered on, as its site has it."""
    found = [path for name in ("instance", "state") if (path := machine / f"{name}.yaml").exists()]
    return int(yaml.safe_load(found[0].read_text())["boots"]) if found else 0
