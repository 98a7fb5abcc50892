"""Processes of services: started, killed, stopped and asked to end by label, with one log."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.waiting import wait_until

SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier", "projector")
LEASE_S = 2.0
HEARTBEAT_S = 0.5
STOP_S_MAX = 12.0

QUICK = {
    "SEAWALL_LEASE": str(LEASE_S),
    "SEAWALL_HEARTBEAT": str(HEARTBEAT_S),
    "SEAWALL_CALL_TIMEOUT": "1",
    "SEAWALL_LOG_LEVEL": "warning",
    # Says in the log where a process was, should it crash.
    "PYTHONFAULTHANDLER": "1",
    # Where a test run forbids it, every start would compile every module again.
    "PYTHONDONTWRITEBYTECODE": "",
}
"""Settings of trials: work of the dead is taken over within seconds."""


class Crew:
    """The processes of a trial, dead ones included until their label is started again."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.log = root / "services.log"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.home / "token").read_text().strip()

    def launch(self, label: str, *command: str, environment: Mapping[str, str]) -> None:
        """Start `python -m command …` under a label."""
        with self.log.open("ab") as log:
            self.processes[label] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def runs(self, label: str) -> bool:
        """Whether a process lives."""
        process = self.processes.get(label)
        return process is not None and process.poll() is None

    def running(self) -> set[str]:
        """The labels whose processes live."""
        return {label for label in self.processes if self.runs(label)}

    def killed(self) -> set[str]:
        """Those that died by SIGKILL and were not started again."""
        code = -signal.SIGKILL
        return {label for label, process in self.processes.items() if process.poll() == code}

    def kill(self, labels: Collection[str]) -> None:
        """SIGKILL processes and reap them."""
        for label in labels:
            self.processes[label].kill()
        for label in labels:
            self.processes[label].wait()

    def signal(self, label: str, number: signal.Signals) -> None:
        """Send a process a signal, if it lives."""
        if self.runs(label):
            self.processes[label].send_signal(number)

    def end(self, label: str) -> tuple[int, float]:
        """Ask a process to end, as an operator does; its exit code, and how long that took."""
        began = time.monotonic()
        self.signal(label, signal.SIGTERM)
        code = self._reap(label)
        return code, time.monotonic() - began

    def end_all(self) -> None:
        """Ask all to end at once, stopped ones too; whoever does not is killed."""
        running = sorted(self.running())
        for label in running:
            self.signal(label, signal.SIGTERM)
            self.signal(label, signal.SIGCONT)
        for label in running:
            self._reap(label)

    def _reap(self, label: str) -> int:
        process = self.processes[label]
        try:
            return process.wait(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def log_size(self) -> int:
        """How much has been logged, to look on from with `said_up`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def said_up(self, services: Collection[str], *, since: int) -> bool:
        """Whether all of these said, past a size of the log, where they tell of their health:
        that is when they begin to work."""
        with self.log.open("rb") as log:
            log.seek(since)
            told = log.read().decode(errors="replace")
        return all(f"seawall {service} health " in told for service in services)

    def log_tail(self, count: int = 4000) -> str:
        """The end of what the services logged."""
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""


def answers(url: str) -> bool:
    """Whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def wait_answers(url: str, *, within_s: float) -> None:
    """Return once a URL answers 200; raises AssertionError."""
    wait_until(lambda: answers(url), f"{url} is ready", within_s=within_s)


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
