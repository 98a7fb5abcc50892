"""Two copies of every service on real brokers and a Postgres, any of which may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from shared.embedded import EmbeddedPostgres
from shared.testing.kafka import KafkaCluster
from tests.acceptance.plane import HEARTBEAT_S, LEASE_S, SERVICES, free_port
from tests.waiting import wait_until

COPIES = 2
READY_S_MAX = 60.0
STOP_S_MAX = 12.0


class Fleet:
    """Members are `service-1`, `service-2`, …; use as a context."""

    def __init__(self, root: Path, *, brokers: int) -> None:
        self.home = root / "home"
        self.log = root / "services.log"
        self.postgres = EmbeddedPostgres(root / "postgres")
        self.kafka = KafkaCluster(root / "kafka", nodes=brokers)
        self.members: Sequence[str] = [f"{s}-{n}" for s in SERVICES for n in range(1, COPIES + 1)]
        self._ports = {name: free_port() for name in self.members if "gateway" in name}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment: dict[str, str] = {}
        self._asked = 0

    @property
    def url(self) -> str:
        """A gateway, another one each time: whoever gets no answer asks the next."""
        self._asked += 1
        ports = sorted(self._ports.values())
        return f"http://127.0.0.1:{ports[self._asked % len(ports)]}"

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.home / "token").read_text().strip()

    @property
    def dsn(self) -> str:
        """The database of all services."""
        return self.postgres.dsn()

    def __enter__(self) -> Fleet:
        self.home.mkdir(parents=True)
        self.kafka.start()
        self._environment = {
            **os.environ,
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_DATABASE_URL": self.postgres.start(),
            "SEAWALL_BUS": "kafka",
            "SEAWALL_KAFKA": self.kafka.servers,
            "SEAWALL_KAFKA_REPLICATION": str(min(3, self.kafka.count)),
            "SEAWALL_KAFKA_MIN_ISR": str(max(1, min(3, self.kafka.count) - 1)),
            "SEAWALL_LEASE": str(LEASE_S),
            "SEAWALL_HEARTBEAT": str(HEARTBEAT_S),
            "SEAWALL_CALL_TIMEOUT": "1",
            "SEAWALL_LOG_LEVEL": "warning",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self.start_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        for process in running:
            try:
                process.wait(timeout=STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.postgres.stop()
        self.kafka.stop()

    def start(self, member: str) -> None:
        """Start a member that does not run."""
        if self.runs(member):
            return
        environment = {**self._environment, "SEAWALL_PORT": str(self._ports.get(member, 0))}
        with self.log.open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [sys.executable, "-m", f"services.{member.rpartition('-')[0]}"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def start_all(self) -> None:
        """Start whatever does not run: brokers, database, services."""
        for number in range(self.kafka.count):
            self.kafka.start_node(number)
        if not self.postgres.alive:
            self.postgres.start()
        for member in self.members:
            self.start(member)

    def runs(self, member: str) -> bool:
        """Whether a member's process lives."""
        process = self._processes.get(member)
        return process is not None and process.poll() is None

    def kill(self, member: str) -> None:
        """SIGKILL a member and reap it."""
        self._processes[member].kill()
        self._processes[member].wait()

    def signal(self, member: str, number: signal.Signals) -> None:
        """Send a member a signal, if it lives."""
        if self.runs(member):
            self._processes[member].send_signal(number)

    def wait_ready(self) -> None:
        """Return once every gateway says it is ready."""
        for port in self._ports.values():
            url = f"http://127.0.0.1:{port}/readyz"
            wait_until(partial(_answers, url), f"{url} is ready", within_s=READY_S_MAX)

    def log_tail(self, count: int = 6000) -> str:
        """The end of what the services logged."""
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
