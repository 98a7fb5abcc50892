"""`python -m tests.acceptance.stopped`: a replicator is stopped mid-transfer and woken.

Its process gets SIGSTOP while it writes a staged generation, for longer than its lease. A second
copy of the replicator takes the work over and finishes it; then the first gets SIGCONT, in the
middle of what it was doing. Judged from outside: the job completes while the first is stopped,
the copy is the source's snapshot byte for byte before and after it wakes (test recoveries,
compared with the SHA-256 journalled when the snapshot was opened), nothing is done twice, every
snapshot is closed, no staged generation is left, and the woken process works: alone, it makes
the next iteration.

Last line: `lost=0 doubled=0 unfinished=0 unfounded=0 staged_mib=… taken_over=…s stopped=…s`; exit
1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from shared.errors import SeawallError
from shared.platforms.lab import tools
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.crew import LEASE_S
from tests.acceptance.judge import (
    Verdict,
    judge_cleanup,
    judge_doubles,
    judge_recovery,
    judge_scripts,
    judge_snapshots,
)
from tests.acceptance.plane import Plane
from tests.acceptance.world import MIB, PLAN, World
from tests.waiting import wait_until

DISK_MIB = 48
CHANGED_MIB = 32
STAGED_MIB_MIN = 2
WRITE_LATENCY = "400ms"
SLOW_VM = "db"
FIRST, SECOND = "replicator", "replicator-2"
BREAKS = (AssertionError, LookupError, OSError, SeawallError, TypeError, ValueError)


class Outcome(msgspec.Struct, kw_only=True):
    """What a trial found: the judge's verdict, and how it went."""

    verdict: Verdict
    staged_mib: float = 0.0
    taken_over_s: float = 0.0
    stopped_s: float = 0.0


class SlowWorld(World):
    """One disk large enough, and a target slow enough, for a transfer to be met midway."""

    def build(self) -> None:
        """Sites, disks, scripts."""
        super().build()
        self._disk.write_bytes(self._chance.randbytes(DISK_MIB * MIB))
        (self.west / "site.yaml").write_text(
            f"journal: true\nlatency: {{write_chunk: {WRITE_LATENCY}}}\n"
        )

    @property
    def _disk(self) -> Path:
        return self.east / "vms" / SLOW_VM / "sda.raw"

    def change_disks(self, plan: str = PLAN) -> None:
        """Much of the large disk is written anew, and a little of the others."""
        super().change_disks(plan)
        seed = self._chance.randrange(1 << 30)
        for _ in tools.write_random(self._disk, seed=seed, count=CHANGED_MIB, size=MIB):
            pass

    def staged(self) -> list[Path]:
        """The generations that are staged at west."""
        return sorted((self.west / "replicas").glob("*/*/staged/*"))

    def staged_bytes(self) -> int:
        """What the largest staged generation holds by now."""
        return max((_allocated(path / "data") for path in self.staged()), default=0)


def _allocated(path: Path) -> int:
    """A generation may be finalized while it is looked at."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def run_trial(*, seconds: float, seed: int = 7) -> Outcome:
    """One trial in a world of its own, removed afterwards; the stop lasts at least `seconds`."""
    outcome = Outcome(verdict=Verdict())
    verdict = outcome.verdict
    with _folder() as root:
        world = SlowWorld(root, seed=seed)
        world.build()
        with Plane(root) as plane:
            plane.start_all()
            plane.wait_ready()
            client = Client(plane)
            try:
                _protect(client, world)
                _stop_and_wake(plane, client, world, outcome, seconds=seconds)
                _recover(client, world, verdict)
                plane.signal(SECOND, signal.SIGTERM)
                _replicate(client, world)
                _recover(client, world, verdict)
            except BREAKS as broken:
                verdict.unfinished.append(f"{broken!r}"[:600])
                say(plane.log_tail())
        judge_doubles(world, verdict)
        if not verdict.unfinished:
            judge_snapshots(world, verdict)
            verdict.lost += [f"{path.name} is left staged" for path in world.staged()]
    return outcome


@contextmanager
def _folder() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="seawall-stopped-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _protect(client: Client, world: World) -> None:
    """Register, apply, and make the good copy that must not be harmed."""
    for site in ("east", "west"):
        settings = {"path": str(world.root / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    plan = world.plan()
    client.command("/v1/plans", {**plan, "scripts": encoded_scripts(plan["scripts"])})
    _replicate(client, world)


def _replicate(client: Client, world: World) -> None:
    """One more iteration of every VM, of disks that changed."""
    world.change_disks()
    _completed(client, client.command(f"/v1/plans/{PLAN}/run")["id"])


def _completed(client: Client, job: str) -> None:
    ended = client.wait_job(job)
    if ended["state"] != "completed":
        errors = [client.wait_job(child)["error"] for child in ended["children"]]
        raise AssertionError((ended["state"], ended["error"], errors))


def _stop_and_wake(
    plane: Plane, client: Client, world: SlowWorld, outcome: Outcome, *, seconds: float
) -> None:
    """Stop the only replicator midway, let another finish, wake the first."""
    world.change_disks()
    # The large VM alone: a lab call is made by its caller's process, so one that stands in the
    # middle of a snapshot's removal would stop the platform for the others too.
    job = client.command(f"/v1/plans/{PLAN}/run", {"vms": [SLOW_VM]})["id"]
    wait_until(lambda: world.staged_bytes() >= STAGED_MIB_MIN * MIB, "a transfer is under way")
    plane.signal(FIRST, signal.SIGSTOP)
    stopped_at = time.monotonic()
    outcome.staged_mib = world.staged_bytes() / MIB
    assert world.staged(), "the transfer was over before the process stood"
    plane.start("replicator", label=SECOND)
    _completed(client, job)
    outcome.taken_over_s = time.monotonic() - stopped_at
    _recover(client, world, outcome.verdict)
    over_at = stopped_at + max(seconds, 2 * LEASE_S)
    wait_until(
        lambda: time.monotonic() >= over_at, "the stop is over", within_s=seconds + 2 * LEASE_S
    )
    plane.signal(FIRST, signal.SIGCONT)
    outcome.stopped_s = time.monotonic() - stopped_at


def _recover(client: Client, world: World, verdict: Verdict) -> None:
    """Recover the copy for a test, compare it with its snapshot, and clean up."""
    recovery = client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})
    recovery = client.wait_job(recovery["id"])
    judge_recovery(world, recovery, verdict)
    judge_scripts(world.script_lines(), client.script_steps(recovery), verdict)
    cleanup = client.wait_job(client.command(f"/v1/jobs/{recovery['id']}/cleanup")["id"])
    judge_cleanup(world, cleanup, verdict)


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run one trial; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.stopped")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(arguments)
    outcome = run_trial(seconds=chosen.seconds, seed=chosen.seed)
    verdict = outcome.verdict
    counts = ""
    for name in ("lost", "doubled", "unfinished", "unfounded"):
        found = getattr(verdict, name)
        for line in found:
            say(f"{name}: {line}")
        counts += f"{name}={len(found)} "
    sys.stdout.write(
        f"{counts}staged_mib={outcome.staged_mib:.1f}"
        f" taken_over={outcome.taken_over_s:.1f}s stopped={outcome.stopped_s:.1f}s\n"
    )
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
