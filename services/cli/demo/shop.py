"""The demo's world: two lab sites and a three-tier shop with disks full of real bytes.

`east` runs the shop: db (two disks), app and web, each a process that serves a record of its own
disk. A writer changes the database meanwhile, through the lab's write protocol.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import yaml

from services.cli.demo.guests import tier
from shared.platforms.lab import tools

MIB = 1 << 20
PIECE = 4 * MIB
DISKS = {
    "db": {"sda.raw": (512 * MIB, 160), "sdb.raw": (256 * MIB, 48)},
    "app": {"sda.raw": (128 * MIB, 24)},
    "web": {"sda.raw": (192 * MIB, 32)},
}
"""VM → disk file → (logical bytes, MiB of random content spread over it, the rest holes)."""

RECORDS: dict[str, dict[str, object]] = {
    "db": {"catalogue": ["lantern", "rope", "anchor"], "orders": 0},
    "app": {"currency": "EUR", "vat_percent": 20},
    "web": {"title": "The Seawall Shop"},
}

PORTS = {"db": 5432, "app": 8080, "web": 8000}
WRITE_EVERY_S = 0.05
HOT_MIB = 16
"""Where the database writes: databases do not write everywhere."""

SECRET = "hunter2-of-the-database"


def record_bytes(document: object) -> bytes:
    """A tier's record as it stands on its disk."""
    data = json.dumps(document).encode()
    return len(data).to_bytes(4, "big") + data


def build(root: Path, *, seed: int = 7) -> None:
    """Make both sites, the plan, its scripts and its secret below `root`."""
    chance = random.Random(seed)
    for vm, disks in DISKS.items():
        folder = root / "east" / "vms" / vm
        folder.mkdir(parents=True)
        shutil.copy(Path(tier.__file__), folder / "tier.py")
        for name, (size, content) in disks.items():
            _fill(folder / name, size=size, content_mib=content, chance=chance)
        _write_record(folder / "sda.raw", RECORDS[vm])
        (folder / "vm.yaml").write_text(yaml.safe_dump(_vm(vm), sort_keys=False))
    (root / "west").mkdir()
    (root / "east" / "site.yaml").write_text("journal: hashes\n")
    (root / "west" / "site.yaml").write_text(
        "latency: {create_instance: 150ms, power_on: 100ms}\n"
        "quotas:\n  RunInstances: {burst: 5, per_second: 2}\ncapacity: 20GiB\n"
    )
    _plan(root)


def _vm(vm: str) -> dict[str, object]:
    return {
        "name": vm,
        "os": "linux",
        "cpus": 2,
        "memory": "2GiB",
        "disks": [{"name": file.split(".")[0], "file": file} for file in DISKS[vm]],
        "networks": ["prod"],
        "guest": {
            "boots_in": "700ms",
            "command": ["python3", "tier.py", vm],
            "port": PORTS[vm],
        },
    }


def _fill(path: Path, *, size: int, content_mib: int, chance: random.Random) -> None:
    """A sparse disk with random content in pieces all over it."""
    places = sorted(chance.sample(range(1, size // PIECE), content_mib * MIB // PIECE))
    with path.open("wb") as disk:
        disk.truncate(size)
        for place in places:
            disk.seek(place * PIECE)
            disk.write(os.urandom(PIECE))


def _write_record(disk: Path, document: object) -> None:
    with disk.open("r+b") as file:
        file.seek(tier.RECORD_AT)
        file.write(record_bytes(document))


class Writer:
    """The shop at work: one order after the other, through the write protocol."""

    def __init__(self, root: Path, *, seed: int = 11) -> None:
        self._disk = root / "east" / "vms" / "db" / "sda.raw"
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shop-writer")
        self.orders = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write no more."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(WRITE_EVERY_S):
            self.orders += 1
            tools.write(
                self._disk, tier.RECORD_AT, record_bytes({**RECORDS["db"], "orders": self.orders})
            )
            offset = self._chance.randrange(8, 8 + HOT_MIB) * MIB
            tools.write(self._disk, offset, self._chance.randbytes(64 * 1024))


SCRIPTS = {
    "page.sh": '#!/bin/bash\necho paging the on-call: $(head -c 120 "$SEAWALL_CONTEXT")\n',
    "db-check.py": (
        "import json, sys\n"
        "context = json.load(sys.stdin)\n"
        "password = context['credentials']['admin']\n"
        "print('logging in to the database as admin with', password)\n"
        "print(json.dumps({'outputs': {'login': 'ok'}}))\n"
    ),
    "web-warm.sh": "echo warming the cache of the web tier\n",
    "licence.sh": "echo the licence server does not answer >&2\nexit 1\n",
    "report.py": (
        "import json, sys\n"
        "context = json.load(sys.stdin)\n"
        "print('recovery of', context['plan'], 'is over')\n"
    ),
    "probe.go": (
        'package main\n\nimport "fmt"\n\nfunc main() {\n'
        '\tfmt.Println("checked by a Go program")\n}\n'
    ),
}


def _plan(root: Path) -> None:
    (root / "scripts").mkdir()
    for name, content in SCRIPTS.items():
        (root / "scripts" / name).write_text(content)
    secret = root / "db-admin.secret"
    secret.write_text(SECRET + "\n")
    web_script = (
        {"run": "scripts/probe.go", "runtime": "go"}
        if shutil.which("go")
        else {"run": "scripts/web-warm.sh", "runtime": "sh"}
    )
    plan = {
        "name": "shop",
        "protected_site": "east",
        "recovery_site": "west",
        "replication": {"interval": "1h", "synchronize": True, "priority": 2},
        "checkpoints": {"every": "4h", "keep_last": 12},
        "targets": {"rpo": "30m", "rto": "10m"},
        "recovery": {
            "on_error": "continue",
            "networks": {"test": "isolated", "production": "prod"},
            "pre_script": {"run": "scripts/page.sh", "runtime": "bash", "timeout": "60s"},
            "post_script": {"run": "scripts/report.py", "runtime": "python"},
        },
        "vms": [
            {
                "name": "db",
                "boot_order": 1,
                "boot_delay": "1s",
                "ready": {"tcp": PORTS["db"], "within": "1m"},
                "credentials": {"admin": f"file:{secret}"},
                "post_script": {"run": "scripts/db-check.py", "runtime": "python"},
            },
            {
                "name": "app",
                "boot_order": 2,
                "ready": {"http": f"{PORTS['app']}/", "within": "1m"},
                "post_script": {
                    "run": "scripts/licence.sh",
                    "runtime": "sh",
                    "on_failure": "continue",
                },
            },
            {
                "name": "web",
                "boot_order": 3,
                "ready": {"http": f"{PORTS['web']}/", "within": "1m"},
                "post_script": web_script,
            },
        ],
    }
    (root / "shop.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
