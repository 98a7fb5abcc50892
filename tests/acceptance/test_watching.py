"""What an operator sees and answers at a terminal while jobs run: the real product on a pty.

The command line runs as it does for a person, 80 columns wide; what it draws and how it ends is
looked at. Failovers are of a plan of their own each.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from shared.platforms.lab import tools
from tests.acceptance.operator import ControlPlane, Said, Sites
from tests.folders import let_others_in
from tests.waiting import wait_until

WIDTH, HEIGHT = 80, 24
PATIENCE_S = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command line on a terminal of its own; use as a context. `text` is all that was drawn."""

    def __init__(self, plane: ControlPlane, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "services.cli", *arguments]
        self._environment = {**plane.environment, "TERM": "xterm", "NO_COLOR": "1"}
        self.text = ""
        self.code: int | None = None

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self.resize(WIDTH, HEIGHT)
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def commands(self) -> str:
        """What was drawn, broken commands as a shell reads them."""
        return re.sub(r" \\\n *", " ", self.text)

    def resize(self, width: int, height: int) -> None:
        """The person drags the window."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def types(self, text: str) -> None:
        """The person types."""
        os.write(self._ours, text.encode())

    def presses_ctrl_c(self) -> None:
        """The person has seen enough."""
        self._process.send_signal(signal.SIGINT)

    def sees(self, word: str) -> None:
        """Wait until it is drawn."""
        self._until(lambda: word in self.text, f"{word!r} is drawn")

    def ends(self) -> int:
        """Wait for the end; its exit code."""
        self._until(lambda: self._process.poll() is not None, "it ends")
        self._read(0.2)
        return self._process.wait()

    def _until(self, so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not so():
            assert time.monotonic() < deadline, f"{what}: {self.text[-3000:]}"
            self._read(0.1)

    def _read(self, within_s: float) -> None:
        while select.select([self._ours], [], [], within_s)[0]:
            try:
                drawn = os.read(self._ours, 65536)
            except OSError:  # a terminal whose other end is gone
                return
            if not drawn:
                return
            self.text += _ESCAPES.sub("", drawn.decode(errors="replace"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("watching")
    let_others_in(root)
    with ControlPlane(root) as started:
        yield started


@pytest.fixture
def shop(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sites]:
    """Two VMs that run at east and have a copy at west; `web` boots after `db`."""
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", "-")[:30]
    sites = Sites(plane, tmp_path, name.rstrip("-"))
    for vm in ("db", "web"):
        folder = sites.vm(vm).parent
        document = yaml.safe_load((folder / "vm.yaml").read_text())
        (folder / "vm.yaml").write_text(yaml.safe_dump(document))
    sites.add()
    vms = [{"name": "db", "boot_order": 1, "boot_delay": "2s"}, {"name": "web", "boot_order": 2}]
    applied = plane.command("/v1/plans", {"plan": {**sites.plan(), "vms": vms}})
    assert applied.status == 200, applied
    tools.start(sites.east)
    sites.replicate()
    yield sites
    for folder in [*(sites.east / "vms").iterdir(), *sites.instances()]:
        tools.stop(folder, grace_s=0)


def power(shop: Sites) -> dict[str, str]:
    return {machine.name: machine.power for machine in tools.status(shop.east)}


def jobs_of(shop: Sites, kind: str) -> list[dict[str, Any]]:
    page = shop.plane.ask("GET", f"/v1/jobs?plan={shop.name}&kind={kind}")
    return [job for job in page.body["items"] if job["vm"] is None]


def test_a_test_recovery_is_watched_to_its_end(shop: Sites) -> None:
    with Terminal(shop.plane, "recover", shop.name, "--mode", "test", "--wait") as terminal:
        for word in ("boot order 1", "waits for boot order 1: db", "boot order 2"):
            terminal.sees(word)
        terminal.resize(60, 16)
        terminal.sees("opens in")
        assert terminal.ends() == 0
        (job,) = jobs_of(shop, "test-recovery")
        assert f"seawall cleanup {job['id']} --wait" in terminal.commands
        assert "1 of 1 ready" in terminal.text and "ready after" in terminal.text
    shop.clean(job["id"])


def test_who_stops_watching_leaves_the_job_running(shop: Sites) -> None:
    shop.settings(shop.west, latency={"create_instance": "6s"})
    with Terminal(shop.plane, "recover", shop.name, "--mode", "test", "--wait") as terminal:
        terminal.sees("create-instance")
        terminal.presses_ctrl_c()
        assert terminal.ends() == 130
        (job,) = jobs_of(shop, "test-recovery")
        assert f"interrupted; job {job['id']} goes on" in terminal.text.replace("\n", "")
    assert job["state"] == "running"
    assert shop.plane.ended(job["id"])["state"] == "completed"
    shop.clean(job["id"])


def test_a_question_is_shown_with_the_command_that_answers_it(shop: Sites) -> None:
    document = {
        **shop.plan("db"),
        "recovery": {
            "manual_steps": [{"name": "dns", "text": "point the name here", "owner": "dns team",
                              "timeout": "5m", "at": "before-pre-script"}],
        },
    }  # fmt: skip
    applied = shop.plane.command("/v1/plans", {"plan": document})
    assert applied.status == 200, applied
    with Terminal(shop.plane, "recover", shop.name, "--mode", "test", "--wait") as terminal:
        terminal.sees("point the name here")
        (job,) = jobs_of(shop, "test-recovery")
        command = f"seawall job answer {job['id']} manual-dns done|failed|skip"
        terminal.sees("manual-dns done|failed|skip")
        assert command in terminal.commands
        said = shop.plane.say(*command.split()[1:-1], "done")
        assert said.code == 0, said
        assert terminal.ends() == 0
    shop.clean(job["id"])


def test_a_site_that_is_gone_is_asked_about_and_the_failover_goes_on(shop: Sites) -> None:
    away = shop.east.rename(shop.east.with_name("away"))
    try:
        arguments = ("recover", shop.name, "--mode", "failover", "--wait")
        with Terminal(shop.plane, *arguments) as terminal:
            terminal.sees("acts on production. Go on?")
            terminal.types("y\n")
            terminal.sees("Type the site's name")
            assert "Nothing was touched" in terminal.text
            terminal.types(f"{shop.name}-east\n")
            assert terminal.ends() == 0, terminal.text
            assert "to keep what came up" in terminal.text
        (went_on, found_out) = jobs_of(shop, "failover")
        assert (found_out["state"], went_on["state"]) == ("failed", "completed")
        assert went_on["awaits_commit"] and len(shop.instances()) == 2
        in_a_script = shop.plane.say("recover", shop.name, "--mode", "failover", "--yes")
        assert in_a_script.code == 3 and "rollback" in in_a_script.err
    finally:
        away.rename(shop.east)
    undone = shop.plane.say("rollback", went_on["id"], "--confirm", shop.name, "--wait")
    assert undone.code == 0, undone


def fail_over(shop: Sites) -> Said:
    """A failover to its end, as a script asks for it."""
    arguments = ("recover", shop.name, "--mode", "failover", "--yes", "--wait", "-o", "json")
    return shop.plane.say(*arguments)


def test_a_vm_that_failed_in_a_failover_is_retried_and_all_is_committed(shop: Sites) -> None:
    shop.settings(shop.west, faults={"seed": 3, "create_instance": 1.0})
    said = shop.plane.say(
        "recover", shop.name, "--mode", "failover", "--yes", "--wait", "-o", "json"
    )
    assert said.code == 5, said
    job = json.loads(said.out)
    assert job["awaits_commit"] and "error:" in said.err
    refused = shop.plane.say("commit", job["id"])
    assert refused.code == 3 and "no VM" in refused.err
    shop.settings(shop.west)
    retried = shop.plane.say("job", "retry", job["id"], "--wait", "-o", "json")
    assert retried.code == 0, retried
    again = json.loads(retried.out)
    assert (again["state"], again["awaits_commit"]) == ("completed", True)
    assert len(shop.instances()) == 2 and power(shop) == {"db": "off", "web": "off"}
    plan = shop.plane.ask("GET", f"/v1/plans/{shop.name}").body
    assert plan["state"] == "failed-over"
    assert shop.plane.say("commit", job["id"], "--wait").code == 0
    late = shop.plane.say("job", "retry", job["id"])
    assert late.code == 3 and "committed" in late.err


def test_a_failover_that_is_retried_and_rolled_back_replicates_again(shop: Sites) -> None:
    shop.settings(shop.west, faults={"seed": 3, "create_instance": 1.0})
    said = shop.plane.say(
        "recover", shop.name, "--mode", "failover", "--yes", "--wait", "-o", "json"
    )
    job = json.loads(said.out)["id"]
    shop.settings(shop.west)
    assert shop.plane.say("job", "retry", job, "--wait").code == 0
    undone = shop.plane.say("rollback", job, "--confirm", shop.name, "--wait")
    assert undone.code == 0, undone
    assert shop.instances() == [] and power(shop) == {"db": "on", "web": "on"}

    def is_running() -> bool:
        plan = shop.plane.ask("GET", f"/v1/plans/{shop.name}").body
        return bool(plan["state"] == "running" and not plan["vms"][0]["holds"])

    wait_until(is_running, "replication is on again")
    assert shop.replicate()["state"] == "completed"


def test_a_running_recovery_tells_how_long_it_still_takes(shop: Sites) -> None:
    shop.settings(shop.west, latency={"create_instance": "3s"})
    first = shop.recover()
    shop.clean(first["id"])
    started = shop.plane.command(f"/v1/plans/{shop.name}/recover", {"mode": "test"})
    job = started.body["id"]

    def told() -> bool:
        found = shop.plane.job(job)
        return found["state"] == "running" and found["eta_s"] is not None

    wait_until(told, "the time that is left is told", poll_s=0.05)
    found = shop.plane.job(job)
    ended = shop.plane.ended(job)
    assert ended["eta_s"] is None and ended["forecast_s"] is None
    assert found["forecast_s"] == pytest.approx(ended["rto_s"], rel=0.5, abs=1.5)
    shop.clean(job)


def test_a_runbook_says_where_the_copies_lie_and_how_old_they_are(
    shop: Sites, tmp_path: Path
) -> None:
    page = tmp_path / "shop.md"
    said = shop.plane.say("plan", "export", shop.name, "--runbook", "-f", str(page))
    assert said.code == 0, said
    text = page.read_text()
    copies = re.search(r"`(/\S+/replicas/\S+)/VM`", text)
    assert copies is not None, text
    assert {each.name for each in Path(copies[1]).iterdir()} == {"db", "web"}
    assert "no copy yet" not in text and f"seawall rollback JOB --confirm {shop.name}" in text
