"""A small world for trials: two lab sites, VMs with disks of at most 2 MiB, counting scripts.

The plan *shop* has three VMs that boot one after another, and scripts. *More* has further VMs
that boot together, without scripts: quick work for trials whose kill is still to come.

Every script appends one line when it starts and one when it ends, with its name and the job it
was started for, to a file of the world: what the judge reads. The lines are the first and the
last thing it does, by a shell, which is there at once and gone at once: a kill should not fall
between a line and the start or end that it tells of.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import yaml

from shared.platforms.lab import tools

MIB = 1 << 20
VMS = ("db", "app", "web")
PLAN = "shop"
MORE = "more"
MORE_VMS = tuple(f"more-{number}" for number in range(6))
PLANS = {PLAN: VMS, MORE: MORE_VMS}

COUNTING = """\
line() {{ echo "[\\"$1\\",\\"{name}\\",\\"$job\\"]" >> {lines}; }}
read -r context
job=${{context#*'"job":"'}}
job=${{job%%'"'*}}
line start
sleep 0.1
line end
"""


class World:
    """The folders of a trial, and what can be read from them."""

    def __init__(self, root: Path, *, seed: int) -> None:
        self.root = root
        self.east = root / "east"
        self.west = root / "west"
        self.lines = root / "lines" / "scripts.jsonl"
        self._chance = random.Random(seed)

    def build(self) -> None:
        """Make sites, disks and script file."""
        self.lines.parent.mkdir(parents=True)
        self.lines.touch()
        os.chmod(self.lines, 0o666)
        self.west.mkdir()
        for number, vm in enumerate(VMS):
            disks = ["sda", "sdb"] if number == 0 else ["sda"]
            self._make_vm(vm, disks, size=2 * MIB, boots_in="100ms")
        for vm in MORE_VMS:
            self._make_vm(vm, ["sda"], size=MIB // 4, boots_in="10ms")
        for site in (self.east, self.west):
            (site / "site.yaml").write_text("journal: hashes\n")

    def _make_vm(self, vm: str, disks: list[str], *, size: int, boots_in: str) -> None:
        folder = self.east / "vms" / vm
        folder.mkdir(parents=True)
        for disk in disks:
            (folder / f"{disk}.raw").write_bytes(self._chance.randbytes(size))
        document = {
            "name": vm,
            "memory": "1GiB",
            "disks": [{"name": disk, "file": f"{disk}.raw"} for disk in disks],
            "networks": ["prod"],
            "guest": {"boots_in": boots_in},
        }
        (folder / "vm.yaml").write_text(yaml.safe_dump(document))

    def source(self, vm: str) -> Path:
        """The folder of the machine that a VM runs as."""
        return self.east / "vms" / vm

    def change_disks(self, plan: str = PLAN) -> None:
        """Some writes through the write protocol, to every VM of a plan."""
        for vm in PLANS[plan]:
            disk = self.source(vm) / "sda.raw"
            for _ in tools.write_random(
                disk, seed=self._chance.randrange(1 << 30), count=3, size=64 * 1024
            ):
                pass

    def plan(self, name: str = PLAN) -> dict[str, Any]:
        """The plan as `POST /v1/plans` takes it, and its scripts' contents."""
        document: dict[str, Any] = {
            "name": name,
            "protected_site": "east",
            "recovery_site": "west",
            # No tick of the grid falls into a trial: its copies are those of its own runs.
            "replication": {"interval": "30d"},
            "vms": [{"name": vm} for vm in PLANS[name]],
        }
        if name != PLAN:
            return {"plan": document, "scripts": {}}
        document["recovery"] = {
            "pre_script": {"run": "plan-pre.sh"},
            "post_script": {"run": "plan-post.sh"},
        }
        for order, vm in enumerate(document["vms"], 1):
            vm["boot_order"] = order
            vm["post_script"] = {"run": f"{vm['name']}-post.sh", "on_failure": "continue"}
        names = ["plan-pre", "plan-post", *(f"{vm}-post" for vm in VMS)]
        scripts = {f"{each}.sh": COUNTING.format(lines=self.lines, name=each) for each in names}
        return {"plan": document, "scripts": scripts}

    def calls(self, site: Path) -> list[dict[str, Any]]:
        """A site's call journal; a line cut off by a kill is left out."""
        journal = site / "calls.jsonl"
        found = []
        for line in journal.read_text().splitlines() if journal.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def script_lines(self) -> list[tuple[str, str, str]]:
        """(start or end, script, job) as the scripts themselves wrote it."""
        return [tuple(json.loads(line)) for line in self.lines.read_text().splitlines()]

    def instances(self) -> list[Path]:
        """The instance folders of both sites."""
        sites = (self.east, self.west)
        found = (path for site in sites for path in site.glob("instances/*/instance.yaml"))
        return [path.parent for path in found]

    def left_over(self) -> list[Path]:
        """The instances that no VM runs as."""
        sources = {self.source(vm) for vms in PLANS.values() for vm in vms}
        return [path for path in self.instances() if path not in sources]
