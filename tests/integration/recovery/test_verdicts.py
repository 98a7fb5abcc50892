"""The verdict script on a real lab site: what it reads, and that it runs at most once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import clean_points as said
from schemas.children import ChildEnded, ChildStarted, RecoverChild
from schemas.ids import key_of
from schemas.plans import VmDefinition
from schemas.scheduler import RecoveryEnded
from shared.effects.policy import OutcomeUnknown
from shared.platforms.ports import Call
from shared.secrets import SecretError
from tests.integration.recovery.lab import Lab
from tests.unit.recovery.world import enrol, header, start, vm

SEARCH = "find-clean-point:shop:s1"
CHECKPOINT = "checkpoint:shop:c1"
READS = """\
import json, sys

context = json.load(sys.stdin)
(db,) = context["vms"]
with open({lines!r}, "a") as lines:
    lines.write(f"{{context['checkpoint']}} {{db['instance_id']}} {{db['addresses'][0]}}\\n")
"""


TELLS = """\
import base64, json, sys

context = json.load(sys.stdin)
secret = context["credentials"]["db"]["admin"]
print("the password is", secret, "or", base64.b64encode(secret.encode()).decode())
with open({lines!r}, "a") as lines:
    lines.write(str(len(secret)))
"""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    os.chmod(tmp_path, 0o755)
    built = Lab(tmp_path)
    yield built
    call = Call(key="end", plan="shop", vm="db", job=SEARCH)
    for instance in await built.platform.compute.list_instances():
        await built.platform.compute.power_off(call, instance_id=instance.instance_id)
    await built.platform.close()


@pytest.fixture
def lines() -> Iterator[Path]:
    """A file that a script's user reaches: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="seawall-test-") as folder:
        os.chmod(folder, 0o755)
        file = Path(folder) / "lines"
        file.touch()
        file.chmod(0o666)
        yield file


async def judging(
    lab: Lab, lines: Path, *, reads: str = READS, credentials: dict[str, str] | None = None
) -> str:
    """Go on until the verdict script of a search is due; the id of its effect."""
    await lab.add_copy("db")
    script = lab.add_script(reads.format(lines=str(lines)), runtime="python")
    db = vm("db", credentials=credentials or {})
    verdict = said.VerdictScript(
        run="scan.py", runtime="python", sha256=script.sha256, size=script.size
    )
    policy = msgspec.structs.replace(header(), recovery_site=lab.site)
    lab.world.deliver(
        said.StartCleanPointSearch(
            job=SEARCH, plan="shop", plan_version=1, header=policy, verdict=verdict,
            candidates=(said.Candidate(CHECKPOINT, lab.world.now),),
            requested_at=lab.world.now,
        )
    )  # fmt: skip
    while not (found := [each for each in lab.world.effects if "/verdict/" in each]):
        if not answered(lab, policy, db):
            assert await lab.step() or lab.world.sent, "the script never comes due"
    return found[0]


def answered(lab: Lab, policy: Any, db: VmDefinition) -> bool:
    """Play the scheduler: start the test that is asked for, tell of its end."""
    sent, lab.world.sent = lab.world.sent, []
    for message in sent:
        if isinstance(message, RecoverChild):
            job = message.recover.job
            assert key_of(job) == "shop" and message.recover.checkpoint == CHECKPOINT
            # The lab has a latest copy only; which one is read is another test's.
            begun = start(db, header=policy, parent=SEARCH)
            enrolled = msgspec.structs.replace(enrol(db, header=policy), job=job)
            lab.world.deliver(enrolled)
            lab.world.deliver(msgspec.structs.replace(begun, job=job))
            lab.world.deliver(ChildStarted(parent=SEARCH, job=job))
        elif isinstance(message, RecoveryEnded):
            ended = ChildEnded(parent=SEARCH, job=message.job, mode="test", state=message.state)
            lab.world.deliver(ended)
    return bool(sent)


async def test_the_script_reads_the_tests_instance_and_runs_once(lab: Lab, lines: Path) -> None:
    effect = await judging(lab, lines)
    first = await lab.do(effect)
    again = await lab.do(effect)
    assert (first.report.outcome, again.report.outcome) == ("done", "done")
    (line,) = lines.read_text().splitlines()
    checkpoint, instance_id, address = line.split()
    assert checkpoint == CHECKPOINT and address.startswith("127.")
    assert (lab.home / "west" / "instances" / instance_id).is_dir()


async def test_a_script_whose_end_nobody_lived_to_hear_is_unknown_and_not_run_again(
    lab: Lab, lines: Path
) -> None:
    effect = await judging(lab, lines)
    await lab.do(effect)
    shutil.rmtree(lab.home / "scripts" / ".runs")
    with pytest.raises(OutcomeUnknown):
        await lab.do(effect)
    assert len(lines.read_text().splitlines()) == 1
    lab.world.settle(effect, code="unknown", unknown=True)
    judged = lab.world.event(said.CleanPointJudged)
    assert (judged.verdict, judged.timing.state) == ("unknown", "unknown")


async def test_the_script_is_given_the_vms_credentials_and_they_are_masked(
    lab: Lab, lines: Path
) -> None:
    secret = "correct horse battery"
    (lab.home / "secrets" / "db-admin").write_text(secret + "\n")
    credentials = {"admin": "file:secrets/db-admin"}
    effect = await judging(lab, lines, reads=TELLS, credentials=credentials)
    report = (await lab.do(effect)).report
    assert report.outcome == "done" and lines.read_text() == str(len(secret))
    assert report.output == "the password is *** or ***\n"
    stored = [msgspec.json.encode(event) for _, event, _ in lab.world.log]
    assert not [each for each in stored if secret.encode() in each]


async def test_a_credential_that_cannot_be_read_leaves_the_checkpoint_unknown(
    lab: Lab, lines: Path
) -> None:
    credentials = {"admin": "file:secrets/gone"}
    effect = await judging(lab, lines, reads=TELLS, credentials=credentials)
    with pytest.raises(SecretError) as refused:
        await lab.do(effect)
    lab.world.settle(effect, code=refused.value.code)
    assert lab.world.event(said.CleanPointJudged).verdict == "unknown"
    assert lines.read_text() == ""
