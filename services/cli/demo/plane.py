"""Starts and stops the demo's control plane: one process, or one per service.

Split: six services as `python -m services.<name>`, two copies of replicator and recovery, all on
one embedded Postgres that this process starts. With Kafka they also talk over a real broker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from shared.databases import SERVICES, VARIABLE, variable_of
from shared.embedded import EmbeddedPostgres
from shared.errors import Permanent
from shared.testing.kafka import KafkaCluster

START_S_MAX = 30.0
STOP_S_MAX = 15.0
COPIES = {"replicator": 2, "recovery": 2}


class Plane:
    """The control plane's processes; use as a context."""

    def __init__(self, home: Path, *, smtp: str, split: bool, kafka: bool = False) -> None:
        self.home = home
        self.split = split or kafka
        self.kafka = kafka
        self.environment = {
            **os.environ,
            "SEAWALL_HOME": str(home),
            "SEAWALL_PORT": "0",
            "SEAWALL_SMTP": smtp,
            "SEAWALL_MAIL_TO": "oncall@example.org",
            "SEAWALL_LOG_LEVEL": "warning",
        }
        databases = (VARIABLE, *map(variable_of, SERVICES))
        for name in ("SEAWALL_URL", "SEAWALL_TOKEN", *databases):
            self.environment.pop(name, None)
        self._server: EmbeddedPostgres | None = None
        self._broker: KafkaCluster | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Plane:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.kafka:
            self._broker = KafkaCluster(self.home / "kafka")
            self._broker.start()
            self.environment |= {"SEAWALL_BUS": "kafka", "SEAWALL_KAFKA": self._broker.servers}
        if self.split:
            self._server = EmbeddedPostgres(self.home / "postgres")
            self.environment["SEAWALL_DATABASE_URL"] = self._server.start()
            for name in SERVICES:
                for _ in range(COPIES.get(name, 1)):
                    self._spawn("-m", f"services.{name}")
        else:
            self._spawn("-m", "services.cli", "up")
        return self

    def _spawn(self, *arguments: str) -> None:
        with (self.home / "control-plane.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, *arguments], env=self.environment, stdout=log, stderr=log
                )
            )

    def describe(self) -> str:
        """What runs, for the person who watches."""
        if not self.split:
            return "one process (seawall up), embedded Postgres"
        fabric = ", Apache Kafka between them" if self.kafka else ""
        return f"{len(self._processes)} processes, embedded Postgres{fabric}"

    def ready(self) -> None:
        """Return once everything answers. Raises Permanent with the log's end otherwise."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and set(self.exit_codes) <= {None}:
            if self._answers():
                return
            time.sleep(0.05)
        raise Permanent(f"the control plane did not start:\n{self.log_tail()}")

    def _answers(self) -> bool:
        try:
            url = (self.home / "endpoint").read_text().strip()
            with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def log_tail(self) -> str:
        """The end of what the processes logged."""
        log = self.home / "control-plane.log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def __exit__(self, *failure: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S_MAX
        for process in self._processes:
            _wait(process, deadline)
        if self._server is not None:
            self._server.stop()
        if self._broker is not None:
            self._broker.stop()

    @property
    def exit_codes(self) -> list[int | None]:
        """How the processes ended; None for one that still runs."""
        return [process.poll() for process in self._processes]


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
