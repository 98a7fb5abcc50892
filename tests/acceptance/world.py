"""A small world for trials: two lab sites, three VMs with disks of a few MiB, counting scripts.

Every script appends one line when it starts and one when it ends, with the job and step it was
started for, to a file of the world: what the judge reads.
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

COUNTING = """
import json, os, sys, time
context = json.load(sys.stdin)
where = {lines!r}
def line(what):
    vm = (context.get("vm") or {{}}).get("name")
    with open(where, "a") as file:
        file.write(json.dumps([what, {name!r}, context.get("job"), vm]) + "\\n")
line("start")
time.sleep(0.05)
line("end")
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
            folder = self.east / "vms" / vm
            folder.mkdir(parents=True)
            disks = ["sda", "sdb"] if number == 0 else ["sda"]
            for disk in disks:
                (folder / f"{disk}.raw").write_bytes(self._chance.randbytes(2 * MIB))
            document = {
                "name": vm,
                "memory": "1GiB",
                "disks": [{"name": disk, "file": f"{disk}.raw"} for disk in disks],
                "networks": ["prod"],
                "guest": {"boots_in": "100ms"},
            }
            (folder / "vm.yaml").write_text(yaml.safe_dump(document))
        (self.east / "site.yaml").write_text("journal: hashes\n")
        (self.west / "site.yaml").write_text("journal: true\n")

    def change_disks(self) -> None:
        """Some writes through the write protocol, to every VM."""
        for vm in VMS:
            disk = self.east / "vms" / vm / "sda.raw"
            for _ in tools.write_random(
                disk, seed=self._chance.randrange(1 << 30), count=3, size=64 * 1024
            ):
                pass

    def plan(self) -> dict[str, Any]:
        """The plan as `POST /v1/plans` takes it, and its scripts' contents."""
        names = ["plan-pre", "plan-post", *(f"{vm}-post" for vm in VMS)]
        scripts = {
            f"{name}.py": COUNTING.format(lines=str(self.lines), name=name) for name in names
        }
        document = {
            "name": PLAN,
            "protected_site": "east",
            "recovery_site": "west",
            "replication": {"interval": "1h"},
            "recovery": {
                "pre_script": {"run": "plan-pre.py", "runtime": "python"},
                "post_script": {"run": "plan-post.py", "runtime": "python"},
            },
            "vms": [
                {
                    "name": vm,
                    "boot_order": order,
                    "post_script": {
                        "run": f"{vm}-post.py", "runtime": "python", "on_failure": "continue",
                    },
                }
                for order, vm in enumerate(VMS, 1)
            ],
        }  # fmt: skip
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

    def script_lines(self) -> list[tuple[str, str, str, str]]:
        """(start or end, script, job, vm) as the scripts themselves wrote it."""
        return [tuple(json.loads(line)) for line in self.lines.read_text().splitlines()]

    def instances(self) -> list[Path]:
        """The instance folders at west."""
        return [path.parent for path in (self.west / "instances").glob("*/instance.yaml")]
