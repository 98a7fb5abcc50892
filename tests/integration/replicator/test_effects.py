"""Iterations, checkpoints and inspections on real lab sites, through the real effect handlers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import replicator as said
from schemas.scheduler import CheckpointEnded, IterationEnded, SiteInspected
from services.replicator.settings import ReplicatorSettings
from shared.effects.policy import OutcomeUnknown
from shared.effects.running import Stop
from shared.errors import SeawallError
from shared.platforms.lab.writer import LabDisk
from tests.failures import failure_mode
from tests.integration.replicator.lab import DB, SMALL_MARKS, Lab, Sinks, final
from tests.unit.replicator.world import header

SIZE = 6 << 20


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path)
    yield lab
    await lab.close()


def problem_of(lab: Lab, stream: str = DB) -> Any:
    problem = final(lab, stream).problem
    assert problem is not None
    assert problem.remedy, "an error tells what to do"
    return problem


# ── Copies ───────────────────────────────────────────────────────────────────────────────────


async def test_a_first_iteration_copies_every_disk_and_leaves_nothing_open(lab: Lab) -> None:
    lab.add_vm(disks=("sda", "sdb"))
    lab.start(full=True)
    await lab.run()
    ended = final(lab)
    assert (ended.state, ended.full, ended.bytes_total) == ("completed", True, 2 * SIZE)
    for disk in ("sda", "sdb"):
        assert await lab.copied(disk) == lab.original(disk)
    assert await lab.leftovers() == []
    assert lab.world.rows() == 3 + 1 + len(lab.world.events(said.TransferMarked))


async def test_the_manifest_holds_the_vms_own_configuration(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run()
    current = await lab.current()
    assert current is not None
    assert current.manifest["configuration"]["cpus"] == 2
    assert current.manifest["iteration"] == DB
    assert current.taken_at == final(lab).checkpoint_at


async def test_a_later_iteration_reads_what_changed_and_nothing_else(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run()
    LabDisk(lab.disk()).write(3 << 20, b"seawall" * 1000)
    second = lab.start(tick="t2")
    await lab.run()
    ended = final(lab, second)
    assert ended.state == "completed"
    assert 7_000 <= ended.bytes_read <= 256 * 1024
    assert not ended.disks[0].compared
    assert await lab.copied() == lab.original()


@failure_mode(
    "Protected site",
    "lying",
    sees=(
        "The list of changes does not tell all: the disk is compared in full, and the "
        "job's step says so."
    ),
    does="Find out what writes to the disk behind the platform's back. The copy is right.",
)
async def test_a_disk_changed_behind_its_back_is_compared_and_the_job_says_so(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run()
    with lab.disk().open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"behind")
    second = lab.start(tick="t2")
    await lab.run()
    (disk,) = final(lab, second).disks
    assert disk.compared
    assert disk.reason
    assert disk.bytes_read == SIZE
    assert disk.bytes_sent < SIZE
    assert await lab.copied() == lab.original()


async def test_a_resync_trusts_no_mark(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run()
    second = lab.start(tick="t2", full=True, resync=True)
    await lab.run()
    ended = final(lab, second)
    assert (ended.state, ended.resync, ended.bytes_read) == ("completed", True, SIZE)
    assert ended.disks[0].compared
    assert ended.disks[0].bytes_same == SIZE


async def test_a_resized_disk_is_copied_anew(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run()
    with lab.disk().open("ab") as file:
        file.write(os.urandom(1 << 20))
    second = lab.start(tick="t2")
    await lab.run()
    assert final(lab, second).bytes_total == SIZE + (1 << 20)
    assert await lab.copied() == lab.original()


# ── What goes wrong ──────────────────────────────────────────────────────────────────────────


async def good_copy(lab: Lab, *, disks: tuple[str, ...] = ("sda",)) -> str:
    """A first iteration that went well, and a change since; the copy's hash."""
    lab.add_vm(disks=disks)
    lab.start(tick="t0")
    await lab.run()
    good = lab.original()
    LabDisk(lab.disk()).write(0, os.urandom(5 << 20))
    return good


async def test_a_disk_that_shrinks_fails_and_the_good_copy_is_unharmed(lab: Lab) -> None:
    good = await good_copy(lab)
    lab.start()
    await lab.run_to("transfer/1-last")
    os.truncate(lab.disk(), 1 << 20)
    await lab.run()
    assert final(lab).state == "failed"
    assert problem_of(lab).code == "disk-shrank"
    assert await lab.copied() == good
    assert await lab.leftovers() == []


async def test_a_full_target_fails_and_the_good_copy_is_unharmed(lab: Lab) -> None:
    good = await good_copy(lab)
    (lab.home / "west" / "site.yaml").write_text("capacity: 7MiB\n")
    lab.start()
    await lab.run()
    assert problem_of(lab).code == "target-full"
    assert await lab.copied() == good
    assert await lab.leftovers() == []


@pytest.mark.parametrize("site", ["east", "west"])
async def test_a_site_that_vanishes_mid_transfer_fails_and_is_tidied_when_it_is_back(
    lab: Lab, site: str
) -> None:
    good = await good_copy(lab)
    lab.start()
    await lab.run_to("transfer/1-last")
    away = lab.home / f"{site}.away"
    (lab.home / site).rename(away)
    while not lab.world.told(IterationEnded)[1:]:
        effects = list(lab.world.effects)
        await asyncio.gather(*(lab.do(effect_id) for effect_id in effects))
    ended = final(lab)
    assert ended.state == "failed"
    assert ended.leftovers == (("snapshot",) if site == "east" else ("generations",))
    assert problem_of(lab).code == "site-gone"
    assert site in problem_of(lab).message
    assert not (lab.home / site).exists()
    away.rename(lab.home / site)
    await lab.run()
    assert await lab.leftovers() == []
    assert await lab.copied() == good


async def test_one_failing_disk_lets_the_others_finish(lab: Lab) -> None:
    await good_copy(lab, disks=("sda", "sdb"))
    lab.start()
    await lab.run_to("transfer/2-last")
    os.truncate(lab.disk("sda"), 1 << 20)
    await lab.run()
    states = {disk.disk: disk.state for disk in final(lab).disks}
    assert states == {"sda": "failed", "sdb": "completed"}
    assert await lab.leftovers() == []


async def test_a_vm_that_is_gone_is_named(lab: Lab) -> None:
    lab.add_vm()
    shutil.rmtree(lab.home / "east" / "vms" / "db")
    lab.start()
    await lab.run()
    assert problem_of(lab).code == "no-such-vm"


async def test_a_bad_description_is_named_with_its_line(lab: Lab) -> None:
    lab.add_vm()
    path = lab.home / "east" / "vms" / "db" / "vm.yaml"
    path.write_text("name: db\ncpus: many\ndisks:\n  - {name: sda, file: sda.raw}\n")
    lab.start()
    await lab.run()
    assert "vm.yaml:2" in problem_of(lab).message


async def test_disks_that_wait_for_one_anothers_room_give_way(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path, settings=ReplicatorSettings(transfer=SMALL_MARKS, room_s_max=0.0))
    lab.add_vm(disks=("sda", "sdb"))
    (tmp_path / "west" / "site.yaml").write_text("quotas: {snapshot-writes: {concurrent: 1}}\n")
    lab.start()
    await lab.run()
    assert problem_of(lab).code == "no-room-to-stage"
    assert await lab.leftovers() == []
    await lab.close()


# ── Taking over ──────────────────────────────────────────────────────────────────────────────


class Stuck(Sinks):
    """A process that stands still in the middle of reporting a mark, before or after it counts."""

    def __init__(self, lab: Lab, *, delivered: bool = False) -> None:
        super().__init__(lab.world)
        self._delivered = delivered
        self.woken = asyncio.Event()

    async def report(self, claimed: Any, fact: Any) -> None:
        if self._delivered and fact.offset == 0:
            return  # The first chunk is still under way: no mark to resume from.
        if self._delivered:
            await super().report(claimed, fact)
        self.heard.set()
        await self.woken.wait()


async def test_a_transfer_resumes_from_its_last_mark_after_its_worker_died(lab: Lab) -> None:
    lab.add_vm(size=16 << 20)
    lab.start()
    await lab.run_to("transfer/1-last")
    live, lab.sinks = lab.sinks, Stuck(lab, delivered=True)
    async with lab.interrupted(f"{DB}/transfer/1-last", lab.sinks.heard.wait):
        lab.sinks, lab.lease = live, 2
    await lab.run()
    ended = final(lab)
    assert ended.state == "completed"
    assert 0 < ended.bytes_read < 16 << 20
    assert lab.journal("west", "adopt")[0]["outcome"] == "ok"
    assert await lab.copied() == lab.original()
    assert await lab.leftovers() == []


async def test_a_worker_that_wakes_up_late_harms_nothing(lab: Lab) -> None:
    lab.add_vm(size=64 << 20)
    lab.start()
    await lab.run_to("transfer/1-last")
    effect_id = f"{DB}/transfer/1-last"
    live, stuck = lab.sinks, Stuck(lab)
    lab.sinks = stuck
    run = lab.claim(effect_id)
    sleeper = asyncio.ensure_future(lab.handlers["transfer"].run(run))
    async with asyncio.timeout(20):
        await stuck.heard.wait()
    lab.sinks, lab.lease = live, 2
    await lab.run()
    assert final(lab).state == "completed"
    good = lab.original()
    assert await lab.copied() == good
    stuck.woken.set()
    with pytest.raises(SeawallError):
        await sleeper
    assert await lab.copied() == good
    assert await lab.leftovers() == []


async def test_a_repeated_claim_of_every_step_does_nothing_twice(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    while lab.world.effects:
        (effect_id,) = lab.world.effects
        handler = lab.handlers[lab.world.effects[effect_id].kind]
        await handler.run(lab.claim(effect_id))
        await lab.do(effect_id)
    for call in ("open_snapshot", "finalize", "close_snapshot"):
        (site,) = [s for s in ("east", "west") if lab.journal(s, call)]
        outcomes = [line["outcome"] for line in lab.journal(site, call)]
        assert outcomes == ["ok", "known"], call
    assert await lab.copied() == lab.original()
    assert await lab.leftovers() == []


async def test_a_cancel_stops_a_transfer_and_undoes_what_was_made(lab: Lab) -> None:
    lab.add_vm(size=64 << 20)
    lab.start()
    await lab.run_to("transfer/1-last")
    effect_id = f"{DB}/transfer/1-last"
    async with lab.interrupted(effect_id, lab.sinks.heard.wait, reason=Stop.CANCELLED):
        lab.world.deliver(said.CancelIteration(iteration=DB))
    lab.world.settle(effect_id, code="cancelled")
    await lab.run()
    assert final(lab).state == "cancelled"
    assert await lab.current() is None
    assert await lab.leftovers() == []


async def test_a_cancel_that_fell_between_two_steps_is_noticed_by_the_transfer(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.run_to("transfer/1-last")
    lab.world.deliver(said.CancelIteration(iteration=DB))
    lab.world.asked_to_stop.clear()
    await lab.run()
    assert final(lab).state == "cancelled"
    assert lab.journal("west", "list_generations")
    assert not lab.journal("west", "open_generation")


@failure_mode(
    "Protected site",
    "cut off",
    sees=(
        "The answer to a snapshot's opening is lost: the iteration fails, the snapshot is"
        " found by its tag and removed."
    ),
    does="Nothing. *A source snapshot is not removed* is an alert if it cannot be.",
)
async def test_a_snapshot_whose_opening_was_cut_off_is_found_and_removed(lab: Lab) -> None:
    lab.add_vm()
    lab.start()
    await lab.handlers["open-snapshot"].run(lab.claim(f"{DB}/snapshot"))
    lab.world.settle(f"{DB}/snapshot", code="cancelled")
    assert await lab.leftovers()
    await lab.run()
    assert await lab.leftovers() == []


async def test_a_cancelled_call_is_waited_for_until_it_has_landed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.add_vm()
    (lab.home / "east" / "site.yaml").write_text("latency: {open_snapshot: 300ms}\n")
    lab.start()
    source, sent = lab.open(lab.ref("east")).source, asyncio.Event()
    really = source.open_snapshot

    async def open_snapshot(*args: Any, **fields: Any) -> Any:
        sent.set()
        return await really(*args, **fields)

    monkeypatch.setattr(source, "open_snapshot", open_snapshot)
    async with lab.interrupted(f"{DB}/snapshot", sent.wait, reason=Stop.CANCELLED):
        assert len(await lab.leftovers()) == 1, "the call was carried out before it was given up"


# ── Scripts ──────────────────────────────────────────────────────────────────────────────────


async def test_scripts_run_around_the_iteration_and_are_told_its_context(lab: Lab) -> None:
    lab.add_vm()
    text = 'cat "$SEAWALL_CONTEXT"\n'
    script = lab.add_script(text)
    lab.start(pre=script, post=script)
    await lab.run()
    assert final(lab).state == "completed"
    before, after = (event.report.output for event in lab.world.events(said.ScriptEnded))
    assert msgspec.json.decode(before)["hook"] == "pre-replication"
    assert msgspec.json.decode(after)["outcome"] == "completed"
    assert msgspec.json.decode(after)["vm"]["name"] == "db"


async def test_a_script_whose_start_is_on_record_is_not_started_again(lab: Lab) -> None:
    lab.add_vm()
    lab.start(pre=lab.add_script("exit 0\n"))
    lab.world.deliver(said.ScriptStarted(step="pre-script"), stream=DB)
    with pytest.raises(OutcomeUnknown):
        await lab.handlers["run-script"].run(lab.claim(f"{DB}/pre-script"))
    await lab.run()
    assert final(lab).state == "partially-completed"
    assert final(lab).steps[0].state == "unknown"


async def test_a_missing_script_content_fails_with_what_to_do(lab: Lab) -> None:
    lab.add_vm()
    script = msgspec.structs.replace(
        lab.add_script("exit 0\n"), sha256="f" * 64, on_failure="stop"
    )
    lab.start(pre=script)
    await lab.run()
    assert final(lab).state == "failed"
    assert "apply the plan again" in problem_of(lab).remedy


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────


async def test_a_checkpoint_keeps_its_copy_while_replication_goes_on_and_is_deleted(
    lab: Lab,
) -> None:
    good = await good_copy(lab)
    job = "checkpoint:shop:c1"
    plan = msgspec.structs.replace(
        header(), protected=lab.ref("east"), recovery_site=lab.ref("west")
    )
    lab.world.deliver(
        said.MakeCheckpoint(
            checkpoint=job,
            plan="shop",
            plan_version=1,
            header=plan,
            vms=("db", "none"),
            requested_at=lab.world.now,
        )
    )
    await lab.run()
    assert lab.world.event(said.CheckpointFinished).state == "partially-completed"
    lab.start()
    await lab.run()
    target = lab.open(lab.ref("west")).target
    (kept,) = await target.list_checkpoints(plan="shop")
    assert (kept.copy_id, kept.vm) == ("c1", "db")
    assert kept.manifest["checkpoint"] == job
    assert kept.manifest["definition"]["name"] == "db"
    assert await lab.copied() != good
    lab.world.deliver(said.DeleteCheckpoint(checkpoint=job, plan="shop"))
    await lab.run()
    assert await target.list_checkpoints(plan="shop") == ()
    assert [m.state for m in lab.world.told(CheckpointEnded)] == ["available", "deleted"]


# ── Inspections ──────────────────────────────────────────────────────────────────────────────


async def inspect(lab: Lab, **fields: Any) -> SiteInspected:
    site = fields.pop("site", lab.ref("east"))
    lab.world.deliver(said.InspectSite(request="c", site=site, for_stream="plan:shop", **fields))
    await lab.run()
    (answer,) = lab.world.told(SiteInspected)
    assert isinstance(answer, SiteInspected)
    return answer


async def test_a_site_that_answers_has_its_budgets_defined(lab: Lab) -> None:
    answer = await inspect(lab)
    assert answer.problem is None
    assert answer.facts["instances"] == 0
    assert lab.defined == ["east"]


@failure_mode(
    "Protected site",
    "dead",
    sees=(
        "Iterations fail with `site-gone`; the last copy and all checkpoints stand; the "
        "RPO alert opens when the RPO is breached."
    ),
    does=(
        "If the site is lost: `seawall recover`. Otherwise mend it; the next tick copies "
        "what changed since."
    ),
)
async def test_a_site_that_is_gone_is_a_problem_with_a_remedy(lab: Lab) -> None:
    (lab.home / "east").rmdir()
    answer = await inspect(lab)
    assert answer.problem is not None
    assert answer.problem.code == "site-gone"
    assert answer.problem.remedy


async def test_a_platform_that_is_not_there_is_a_problem(lab: Lab) -> None:
    site = msgspec.structs.replace(lab.ref("east"), settings={"folder": "x"})
    answer = await inspect(lab, site=site)
    assert answer.problem is not None
    assert answer.problem.code == "bad-site-settings"


async def test_everything_that_is_wrong_with_the_vms_is_named(lab: Lab) -> None:
    for vm in ("db", "app", "web", "mail"):
        lab.add_vm(vm)
    lab.disk(vm="app").unlink()
    (lab.home / "east" / "vms" / "web" / "vm.yaml").write_text("name: web\nram: 2\n")
    answer = await inspect(lab, vms=("db", "app", "web", "mial"))
    assert answer.vms == ("db",)
    problems = {problem.code: problem for problem in answer.vm_problems}
    assert "app" in problems["disk-missing"].message
    assert "mial" in problems["no-such-vm"].message
    assert any("vm.yaml:2" in p.message and "ram" in p.message for p in answer.vm_problems)
    assert all(problem.remedy for problem in answer.vm_problems)


async def test_a_mistyped_name_is_answered_with_the_right_one(lab: Lab) -> None:
    for vm in ("db", "mail"):
        lab.add_vm(vm)
    answer = await inspect(lab, vms=("db", "mial"))
    (problem,) = answer.vm_problems
    assert "mail" in problem.message


async def test_a_glob_is_answered_with_the_names_it_matches(lab: Lab) -> None:
    for vm in ("shop-db", "shop-web", "mail"):
        lab.add_vm(vm)
    answer = await inspect(lab, match="shop-*")
    assert answer.vms == ("shop-db", "shop-web")
    assert answer.facts["disks"] == 2
    assert answer.facts["bytes"] == 2 * SIZE


async def test_overrides_of_a_glob_must_exist(lab: Lab) -> None:
    lab.add_vm("shop-db")
    answer = await inspect(lab, match="shop-*", vms=("shop-web",))
    (problem,) = answer.vm_problems
    assert "shop-web" in problem.message
