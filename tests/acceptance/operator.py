"""An operator and their control plane in one process: `seawall up`, the command line, the API.

Blocking and simple on purpose, like a person at a terminal. Unlike `client`, which asks until it
is answered, a refusal here is an answer to look at.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.waiting import wait_until

MIB = 1 << 20
ENDED = frozenset({"completed", "partially-completed", "failed", "cancelled"})
STOP_S_MAX = 12.0
BARE_PATH = "/usr/bin:/bin"
"""Has sh, bash and python3, and no Go."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a command line said and how it ended."""

    code: int
    out: str
    err: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer with its decoded body."""

    status: int
    body: dict[str, Any]


class ControlPlane:
    """`seawall up` on a home of its own, with `options`; use as a context."""

    def __init__(self, root: Path, *options: str, **environment: str) -> None:
        self.home = root / "home"
        self.environment = {
            **os.environ,
            "PATH": BARE_PATH,
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_PORT": "0",
            "SEAWALL_LOG_LEVEL": "warning",
            "SEAWALL_INTERVAL_MIN": "1",
            "SEAWALL_CALL_TIMEOUT": "5",
        }
        for name in ("SEAWALL_URL", "SEAWALL_TOKEN", "SEAWALL_DATABASE_URL"):
            self.environment.pop(name, None)
        self.environment |= environment
        self._options = options
        self._log = root / "up.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ControlPlane:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", "up", *self._options],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, "the control plane is ready", within_s=40)
        return self

    def _ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def __exit__(self, *failure: object) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def url(self) -> str:
        """Where it answers."""
        return (self.home / "endpoint").read_text().strip()

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.home / "token").read_text().strip()

    def say(self, *arguments: str, **environment: str) -> Said:
        """Run a command line against it."""
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Said(code=done.returncode, out=done.stdout, err=done.stderr)

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; `body` bytes go as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(status=answer.status, body=json.load(answer))
        except urllib.error.HTTPError as refused:
            return Answer(status=refused.code, body=json.load(refused))

    def command(self, path: str, body: Any = None, *, method: str = "POST") -> Answer:
        """A command and its owner's decision."""
        return self.ask(method, f"{path}?wait=20s", body or {})

    def job(self, job: str) -> dict[str, Any]:
        """A job as it stands."""
        answer = self.ask("GET", f"/v1/jobs/{urllib.parse.quote(job, safe='')}")
        assert answer.status == 200, answer
        return answer.body

    def ended(self, job: str, *, within_s: float = 30.0) -> dict[str, Any]:
        """A job once it has ended."""
        wait_until(lambda: self.job(job)["state"] in ENDED, f"{job} ended", within_s=within_s)
        return self.job(job)

    def log(self) -> str:
        """What it logged."""
        return self._log.read_text(errors="replace")


class Sites:
    """Two lab sites of one test, registered under names of their own, and their VMs' disks."""

    def __init__(self, plane: ControlPlane, root: Path, name: str) -> None:
        self.plane = plane
        self.name = name
        self.east = root / "east"
        self.west = root / "west"
        for folder in (root, self.east, self.west):
            folder.mkdir(mode=0o755, exist_ok=True)
            folder.chmod(0o755)

    def vm(self, name: str, *, size: int = MIB) -> Path:
        """A source VM with one random disk; gives the disk file."""
        folder = self.east / "vms" / name
        folder.mkdir(parents=True)
        document = {
            "name": name,
            "memory": "1GiB",
            "disks": [{"name": "sda", "file": "sda.raw"}],
            "networks": ["prod"],
            "guest": {"boots_in": "50ms"},
        }
        (folder / "vm.yaml").write_text(yaml.safe_dump(document))
        disk = folder / "sda.raw"
        disk.write_bytes(os.urandom(size))
        return disk

    def settings(self, site: Path, **fields: Any) -> None:
        """Write a site.yaml."""
        (site / "site.yaml").write_text(yaml.safe_dump(fields))

    def add(self) -> None:
        """Register both."""
        for side in ("east", "west"):
            body = {
                "name": f"{self.name}-{side}",
                "platform": "lab",
                "settings": {"path": str(getattr(self, side))},
            }
            answer = self.plane.command("/v1/sites", body)
            assert answer.status == 200, answer

    def plan(self, *vms: str, name: str = "", **fields: Any) -> dict[str, Any]:
        """A plan's document."""
        return {
            "name": name or self.name,
            "protected_site": f"{self.name}-east",
            "recovery_site": f"{self.name}-west",
            "replication": {"interval": "12h"},
            "vms": [{"name": vm} for vm in vms],
            **fields,
        }

    def apply(self, *vms: str, scripts: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """Apply a plan over these VMs."""
        contents = {
            path: base64.b64encode(text.encode()).decode()
            for path, text in (scripts or {}).items()
        }
        body = {"plan": self.plan(*vms, **fields), "scripts": contents}
        return self.plane.command("/v1/plans", body)

    def replicate(self) -> dict[str, Any]:
        """Replicate now; gives the iteration of the first VM once the run has ended."""
        run = self.plane.command(f"/v1/plans/{self.name}/run")
        assert run.status == 202, run
        ended = self.plane.ended(run.body["id"])
        return self.plane.job(ended["children"][0])

    def recover(self) -> dict[str, Any]:
        """A test recovery once it has ended."""
        started = self.plane.command(f"/v1/plans/{self.name}/recover", {"mode": "test"})
        assert started.status == 202, started
        return self.plane.ended(started.body["id"])

    def clean(self, recovery: str) -> dict[str, Any]:
        """Clean a recovery up; gives the cleanup once it has ended."""
        path = f"/v1/jobs/{urllib.parse.quote(recovery, safe='')}/cleanup"
        return self.plane.ended(self.plane.command(path).body["id"])

    def staged(self) -> list[Path]:
        """Staged generations at west."""
        return sorted((self.west / "replicas").glob("*/*/staged/*"))

    def snapshots(self) -> list[Path]:
        """Source snapshots that are open at east."""
        return sorted((self.east / "vms").glob("*/.lab/snapshots/*"))

    def instances(self) -> list[Path]:
        """Recovered instances at west."""
        return sorted((self.west / "instances").glob("[!.]*"))

    def left_behind(self) -> list[Path]:
        """Whatever a job should have removed."""
        return [*self.staged(), *self.snapshots(), *self.instances()]
