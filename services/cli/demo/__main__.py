"""`make demo`: the story, its checks, its summary. Exits 0 only if every check passed."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from services.cli.demo import shop
from services.cli.demo.evidence import (
    left_at,
    named,
    processes_of,
    runs,
    sha256,
    snapshots,
    text_of,
)
from services.cli.demo.mailbox import Mailbox
from services.cli.demo.plane import Plane
from services.cli.output import out, seconds, size
from services.cli.run import PARTIAL
from shared.errors import SeawallError
from shared.platforms.lab import tools

PLAN = "shop"
MAIL_S_MAX = 20.0


class Story:
    """One run of the demo: what was shown, what was checked."""

    def __init__(self, root: Path, plane: Plane, mailbox: Mailbox) -> None:
        self.root = root
        self.plane = plane
        self.mailbox = mailbox
        self.checks: list[tuple[str, bool]] = []
        self.facts: dict[str, str] = {}

    # Telling.

    def chapter(self, title: str) -> None:
        """A heading."""
        out.print(f"\n[bold]── {title}[/]")

    def say(self, text: str) -> None:
        """A sentence."""
        out.print(f"   {text}", markup=False, soft_wrap=True)

    def check(self, what: str, passed: bool) -> None:
        """A claim that is checked against the world outside the control plane."""
        self.checks.append((what, passed))
        out.print(f"   [{'green' if passed else 'bold red'}]{'✓' if passed else '✗'}[/] {what}")

    def seawall(self, *arguments: str, expect: int = 0) -> None:
        """Run a command as an operator would, and show it."""
        out.print(f"   [bold cyan]$ seawall {' '.join(arguments)}[/]")
        sys.stdout.flush()
        code = self._command(*arguments).returncode
        if code != expect:
            self.check(f"`seawall {' '.join(arguments)}` exits {expect}, not {code}", False)

    def _command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "services.cli", *arguments]
        return subprocess.run(
            command, env=self.plane.environment, cwd=self.root, timeout=180, check=False, **options
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON answer of a command."""
        done = self._command(*arguments, "-o", "json", stdout=subprocess.PIPE)
        return json.loads(done.stdout or b"{}")

    # The chapters.

    def tell(self) -> None:
        """All chapters, in order."""
        self.protect()
        run = self.replicate()
        self.recover()
        self.clean_up()
        self.mail()
        self.summary(run)

    def protect(self) -> None:
        """Sites and plan."""
        self.chapter("Two sites and a plan")
        self.seawall("site", "add", "east", "--platform", "lab", "--set", "path=east")
        self.seawall("site", "add", "west", "--platform", "lab", "--set", "path=west")
        tools.start(self.root / "east")
        self.say("the shop is open at east: db (2 disks), app, web; each tier a process")
        self.seawall("plan", "apply", "-f", "shop.yaml")

    def replicate(self) -> dict[str, Any]:
        """First copies, then what changed, while the shop goes on writing."""
        self.chapter("Replication, while the shop takes orders")
        writer = shop.Writer(self.root)
        writer.start()
        try:
            self.seawall("plan", "run", PLAN, "--wait")
            self.seawall("plan", "run", PLAN, "--wait")
        finally:
            writer.stop()
        runs = self.ask("job", "list", "--plan", PLAN, "--kind", "iteration")["items"]
        whole = [job for job in runs if job["disk"] is None]
        jobs = sorted(whole, key=lambda job: job["created_at"])
        first, later = jobs[:3], jobs[3:6]
        sent = [sum(job["bytes_done"] for job in group) for group in (first, later)]
        self.say(
            f"first copy {size(sent[0])}, then {size(sent[1])}; {writer.orders} orders meanwhile"
        )
        self.check("the second iteration sent less than a tenth of the first",
                   bool(later) and sent[1] * 10 < sent[0])  # fmt: skip
        self.seawall("checkpoint", "create", PLAN, "--wait")
        self.seawall("vm", "list", "--plan", PLAN)
        elapsed = _span(first)
        self.facts["first copy"] = f"{size(sent[0])} in {seconds(elapsed)}"
        self.facts["rate"] = f"{size(int(sent[0] / max(elapsed, 0.001)))}/s"
        self.facts["bytes"] = size(sum(sent))
        self.facts["second copy"] = f"{size(sent[1])} in {seconds(_span(later))}"
        return {"first": sent[0], "second": sent[1], "rate": sent[0] / max(elapsed, 0.001)}

    def recover(self) -> None:
        """A test recovery, live; one script fails on purpose."""
        self.chapter("Test recovery at west, in boot order")
        self.seawall(
            "recover", PLAN, "--mode", "test", "--wait", "--timeout", "2m", expect=PARTIAL
        )
        found = self.ask("job", "list", "--plan", PLAN, "--kind", "test-recovery")["items"]
        whole = [job for job in found if job["vm"] is None]
        self.job = self.ask("job", "show", whole[0]["id"]) if whole else {}
        state = self.job.get("state")
        self.check(f"the job is {state}: one script failed on purpose, and it is said",
                   state == "partially-completed")  # fmt: skip
        if not self.job:
            return
        self.facts["RTO"] = seconds(self.job["rto_s"])
        self._web_answers()
        self._disks_are_the_copies()
        self._secret_is_nowhere()

    def _web_answers(self) -> None:
        web = next((i for i in self.job["instances"] if i["vm"] == "web"), None)
        answer: dict[str, Any] = {}
        if web is not None:
            host = web["addresses"][0]
            address = host if ":" in host else f"{host}:{shop.PORTS['web']}"
            url = f"http://{address}/"
            with urllib.request.urlopen(url, timeout=10) as response:
                answer = json.load(response)
            self.say(
                f"GET {url} → {answer['title']}, {answer['behind']['behind']['orders']} orders"
            )
        orders = answer.get("behind", {}).get("behind", {}).get("orders")
        self.check("the recovered web tier answers with data of the recovered database",
                   answer.get("tier") == "web" and bool(orders))  # fmt: skip

    def _disks_are_the_copies(self) -> None:
        """Recovered disks against the hashes that the lab journalled at the snapshots."""
        opened = snapshots(self.root / "east" / "calls.jsonl", before=self.job["created_at"])
        compared = 0
        for instance in self.job["instances"]:
            folder = self.root / "west" / "instances" / instance["instance_id"]
            for file in shop.DISKS[instance["vm"]]:
                expected = opened[instance["vm"]].get(file.partition(".")[0])
                if sha256(folder / file) == expected:
                    compared += 1
        wanted = sum(len(disks) for disks in shop.DISKS.values())
        self.check(f"{compared} of {wanted} recovered disks equal their snapshot, by SHA-256",
                   compared == wanted)  # fmt: skip

    def _secret_is_nowhere(self) -> None:
        shown = self._command("job", "show", self._child("db"), "-o", "json",
                              stdout=subprocess.PIPE).stdout.decode()  # fmt: skip
        self.check("the database script had its password, and it is masked in the job's output",
                   "***" in shown and shop.SECRET not in shown)  # fmt: skip

    def _child(self, vm: str) -> str:
        children: list[str] = self.job["children"]
        return next(child for child in children if child.endswith(f":{vm}"))

    def clean_up(self) -> None:
        """Nothing stays behind, proven by listing."""
        self.chapter("Cleanup")
        if not self.job:
            return
        guests = processes_of(self.root / "west")
        self.seawall("cleanup", self.job["id"], "--wait")
        left = left_at(self.root / "west")
        self.check("no instance, disk or hold of the test is left at west, in its folders or its "
                   f"listing{named(left)}", not left)  # fmt: skip
        alive = [str(pid) for pid in guests if runs(pid)]
        self.check(f"the {len(guests)} guests' processes have ended{named(alive)}",
                   bool(guests) and not alive)  # fmt: skip
        tools.stop(self.root / "east")

    def mail(self) -> None:
        """What the on-call person was told."""
        self.chapter("Mail to the on-call person")
        deadline = time.monotonic() + MAIL_S_MAX
        while not self._told() and time.monotonic() < deadline:
            time.sleep(0.1)
        for mail in self.mailbox.mails:
            self.say(f"Subject: {mail['subject']}")
            for line in text_of(mail).splitlines()[:12]:
                self.say(f"  {line}")
        self.check("a mail tells how the recovery ended, and which script failed",
                   len(self._told()) == 1)  # fmt: skip

    def _told(self) -> list[EmailMessage]:
        """The mails about this recovery."""
        job = self.job.get("id", "?")
        return [
            mail
            for mail in self.mailbox.mails
            if f"recovery of {PLAN}: partially completed" in str(mail["subject"])
            and job in text_of(mail)
            and "licence.sh" in text_of(mail)
        ]

    def summary(self, run: dict[str, Any]) -> None:
        """The figures."""
        self.chapter("Summary")
        plan = self.ask("plan", "show", PLAN)
        rpo = plan.get("rpo", {})
        self.facts["RPO"] = f"{seconds(rpo.get('achieved_s'))} of {seconds(rpo.get('target_s'))}"
        for name in ("RPO", "RTO", "bytes", "first copy", "second copy", "rate"):
            self.say(f"{name:<12} {self.facts.get(name, '–')}")


def _span(jobs: list[dict[str, Any]]) -> float:
    """Seconds from the first start to the last end."""
    if not jobs:
        return 0.0
    begin = min(dt.datetime.fromisoformat(job["created_at"]) for job in jobs)
    end = max(dt.datetime.fromisoformat(job["ended_at"]) for job in jobs)
    return (end - begin).total_seconds()


def _main(*, split: bool, kafka: bool, keep: bool, set_up_s: int) -> bool:
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="seawall-demo-"))
    root.chmod(0o755)
    story: Story | None = None
    try:
        out.print("[bold]Seawall[/]: a shop is protected, lost and brought back, on real bytes")
        if set_up_s:
            out.print(f"   the environment was set up before, in {set_up_s} s")
        shop.build(root)
        with (
            Mailbox() as mailbox,
            Plane(root / "home", smtp=mailbox.address, split=split, kafka=kafka) as plane,
        ):
            plane.ready()
            story = Story(root, plane, mailbox)
            story.say(f"control plane: {plane.describe()}, {time.monotonic() - began:.1f} s")
            try:
                story.tell()
            except (SeawallError, OSError, KeyError, StopIteration) as broken:
                story.check(f"the story was told to its end ({broken!r})", False)
                out.print(plane.log_tail(), markup=False)
        story.check("the control plane ended in order", set(plane.exit_codes) == {0})
    finally:
        for site in ("east", "west"):
            if (root / site).exists():
                tools.stop(root / site, grace_s=0.5)
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    return _verdict(story, time.monotonic() - began, set_up_s=set_up_s)


def _verdict(story: Story, took_s: float, *, set_up_s: int) -> bool:
    failed = [what for what, passed in story.checks if not passed]
    figures = " ".join(
        f"{k.replace(' ', '-')}={v.replace(' ', '_')}" for k, v in story.facts.items()
    )
    verdict = "ok" if not failed else "failed"
    sys.stdout.write(
        f"\ndemo={verdict} checks={len(story.checks) - len(failed)}/{len(story.checks)} "
        f"seconds={took_s:.1f} set-up-seconds={set_up_s} {figures}\n"
    )
    return not failed


def main() -> int:
    """The exit code: 0 if every check passed."""
    parser = argparse.ArgumentParser(prog="seawall demo", description=__doc__)
    parser.add_argument("--split", action="store_true", help="one process per service")
    parser.add_argument("--kafka", action="store_true", help="the same, over a real broker")
    parser.add_argument("--set-up-s", type=int, default=0, help="what the environment took")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    arguments = parser.parse_args()
    passed = _main(
        split=arguments.split,
        kafka=arguments.kafka,
        keep=arguments.keep,
        set_up_s=arguments.set_up_s,
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
