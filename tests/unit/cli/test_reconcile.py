"""What is a difference between logs and sites, what is none, and what follows."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest

from schemas import recovery_work, replicator, replicator_work
from schemas.plans import ReplicationPolicy
from schemas.scheduler import PlanHeader, SiteRef
from schemas.views import Checkpoint, CheckpointCopy, Error, Instance, Job, Plan, Site, Vm, VmHold
from services.cli.commands import reconcile as command
from services.cli.reconcile import holdings
from services.cli.reconcile.beliefs import Installation, Work, mentioned
from services.cli.reconcile.compare import Difference, compare, jobs_of
from services.cli.reconcile.holdings import Held
from shared.errors import Throttled, Transient
from shared.platforms.ports import CopyFacts, Owned

T0 = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
T1 = T0 + dt.timedelta(minutes=15)
EAST = SiteRef(site="east", platform="lab", settings={})
WEST = SiteRef(site="west", platform="lab", settings={})
ITERATION = "iteration:shop:db:t1"
RECOVERY = "recovery:shop:r1"
POLICY = ReplicationPolicy(interval_s=900.0)


def vm(last: dt.datetime | None = T0, **fields: Any) -> Vm:
    return Vm(
        name="db", plan="shop", sync_state="in-sync", last_checkpoint_at=last, replicating=True,
        protected_site="east", recovery_site="west", protected_at=T0, **fields,
    )  # fmt: skip


def installation(*vms: Vm, checkpoints: tuple[Checkpoint, ...] = ()) -> Installation:
    header = PlanHeader(name="shop", protected=EAST, recovery_site=WEST, replication=POLICY)
    plan = Plan(
        name="shop", version=1, protected_site="east", recovery_site="west", definition=header,
        created_at=T0, applied_at=T0,
    )  # fmt: skip
    sites = {name: Site(name=name, platform="lab", settings={}, added_at=T0)
             for name in ("east", "west")}  # fmt: skip
    return Installation(
        sites=sites,
        plans={"shop": plan},
        vms={f"protected-vm:shop:{each.name}": each for each in vms},
        checkpoints={each.id: each for each in checkpoints},
    )


def job(name: str, state: Any, **fields: Any) -> Job:
    return Job(id=name, kind="iteration", plan="shop", state=state, created_at=T0, **fields)


def work(*jobs: Job, working: tuple[str, ...] = (), bodies: tuple[Any, ...] = ()) -> Work:
    return Work(
        jobs={each.id: each for each in jobs},
        known=frozenset(each.id for each in jobs),
        working=frozenset(working),
        mentions=tuple(m for body in bodies for m in mentioned(ITERATION, body)),
    )


def owned(kind: str, name: str, job: str) -> Owned:
    return Owned(kind=kind, object_id=name, plan="shop", vm="db", job=job, key="k")


def copy(at: dt.datetime, iteration: str = ITERATION, **manifest: Any) -> CopyFacts:
    return CopyFacts(
        copy_id="c1", plan="shop", vm="db", taken_at=at, mark="m", disks=(),
        manifest={"iteration": iteration, **manifest},
    )  # fmt: skip


def at_west(current: CopyFacts | None, *objects: Owned, checkpoints: Any = ()) -> dict[str, Held]:
    west = Held(owned=objects, copies={("shop", "db"): current}, checkpoints=checkpoints)
    return {"east": Held(), "west": west}


def codes(found: list[Difference]) -> list[str]:
    return [each.code for each in found]


# ── Objects ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "working", "told"),
    [("running", (), []), ("completed", (), ["left-over"]), ("failed", (ITERATION,), [])],
)
def test_what_an_iteration_made_is_expected_while_it_runs_or_removes_it(
    state: str, working: tuple[str, ...], told: list[str]
) -> None:
    held = {"east": Held(owned=(owned("snapshot", "s1", ITERATION),))}
    found = compare(installation(vm()), work(job(ITERATION, state), working=working), held)
    assert codes(found) == told


def test_what_belongs_to_no_job_of_the_log_is_told_with_what_to_do() -> None:
    objects = [owned(kind, kind, "iteration:shop:db:lost") for kind in
               ("snapshot", "generation", "hold", "disk", "instance")]  # fmt: skip
    held = {"west": Held(owned=tuple(objects))}
    found = compare(installation(vm()), work(), held)
    assert codes(found) == ["unknown-job"] * 5
    assert {each.kind for each in found if each.by == "seawall"} == {"generation"}
    assert all(each.follows for each in found)
    # Nobody finalizes an iteration of a VM that is not replicated.
    stopped = installation(msgspec.structs.replace(vm(), replicating=False))
    assert {each.by for each in compare(stopped, work(), held)} == {"operator"}


@pytest.mark.parametrize(
    ("awaits", "working", "told"),
    [(True, (), []), (False, (), ["left-over"]), (False, ("vm-recovery:shop:r1:db",), [])],
)
def test_what_a_recovery_made_is_expected_until_it_is_cleaned(
    awaits: bool, working: tuple[str, ...], told: list[str]
) -> None:
    held = {"west": Held(owned=(owned("instance", "i-1", RECOVERY),))}
    parent = job(RECOVERY, "completed", awaits_cleanup=awaits)
    found = compare(installation(vm()), work(parent, working=working), held)
    assert codes(found) == told


@pytest.mark.parametrize("stands", ["awaits_commit", "committed"])
def test_instances_in_production_are_never_told_to_be_left_over(stands: str) -> None:
    held = {"west": Held(owned=(owned("instance", "i-1", RECOVERY),))}
    parent = job(RECOVERY, "completed", **{stands: True})
    assert compare(installation(vm()), work(parent), held) == []


def test_an_instance_that_awaits_its_commit_and_is_gone_is_told_with_the_roll_back() -> None:
    parent = job(RECOVERY, "completed", awaits_commit=True)
    instance = Instance(vm="db", instance_id="i-1")
    child = job("vm-recovery:shop:r1:db", "completed", parent_id=RECOVERY, instances=(instance,))
    found = compare(installation(vm()), work(parent, child), at_west(copy(T0)))
    (gone,) = (each for each in found if each.code == "gone")
    assert f"rollback {RECOVERY}" in gone.follows


# ── What jobs believe ────────────────────────────────────────────────────────────────────────


def carried() -> replicator_work.Carried:
    generation = replicator.GenerationFacts(
        generation_id="g1", plan="shop", vm="db", disk="sda", size=1, lease=1
    )
    return replicator_work.Carried(
        snapshot=replicator.SnapshotFacts(
            snapshot_id="s1", vm="db", taken_at=T0, mark="m", disks=()
        ),
        disks=(replicator.DiskResult(disk="sda", state="completed", generation=generation),),
    )


TRANSFER = replicator_work.TransferDisk(
    source=EAST, target=WEST, plan="shop", vm="db", disk="sda", carried=carried()
)
FINALIZE = replicator_work.FinalizeCopy(
    target=WEST, plan="shop", vm="db", manifest={}, carried=carried()
)
TAGS: dict[str, Any] = {"site": WEST, "plan": "shop", "job": RECOVERY, "vm": "db"}


@pytest.mark.parametrize(
    ("body", "site", "kind", "name"),
    [
        (TRANSFER, "east", "snapshot", "s1"),
        (FINALIZE, "west", "generation", "g1"),
        (recovery_work.RebuildDisk(copy_id="h1", disk="sda", **TAGS), "west", "hold", "h1"),
        (recovery_work.PowerOn(instance_id="i1", **TAGS), "west", "instance", "i1"),
    ],
)
def test_unsettled_work_misses_what_it_is_to_work_with(
    body: Any, site: str, kind: str, name: str
) -> None:
    running = work(job(ITERATION, "running"), working=(ITERATION,), bodies=(body,))
    believed = installation(vm(None))
    (found,) = compare(believed, running, {"east": Held(), "west": Held()})
    assert (found.code, found.site, found.kind, found.object_id, found.by) == (
        "gone", site, kind, name, "seawall",
    )  # fmt: skip
    there = {site: Held(owned=(owned(kind, name, ITERATION),))}
    assert compare(believed, running, there) == []


def test_what_is_to_be_made_or_removed_need_not_be_there() -> None:
    opening = replicator_work.OpenSnapshot(site=EAST, plan="shop", vm="db")
    closing = replicator_work.CloseSnapshot(
        site=EAST, plan="shop", vm="db", opened_under="k", snapshot_id="s1", carried=carried()
    )
    running = work(job(ITERATION, "running"), bodies=(opening, closing))
    assert compare(installation(vm(None)), running, {"east": Held(), "west": Held()}) == []


@pytest.mark.parametrize(("awaits", "told"), [(True, ["gone"]), (False, [])])
def test_instances_of_a_recovery_that_stands_are_missed(awaits: bool, told: list[str]) -> None:
    made = (Instance(vm="db", instance_id="i-1"),)
    child = job("vm-recovery:shop:r1:db", "completed", vm="db", parent_id=RECOVERY, instances=made)
    believed = work(job(RECOVERY, "completed", awaits_cleanup=awaits), child)
    assert codes(compare(installation(vm()), believed, at_west(copy(T0)))) == told
    there = at_west(copy(T0), owned("instance", "i-1", RECOVERY))
    assert "gone" not in codes(compare(installation(vm()), believed, there))


# ── Copies and checkpoints ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("believed", "current", "known", "told"),
    [
        (None, None, False, []),
        (T0, copy(T0), False, []),
        (T0, copy(T1), False, ["copy-newer"]),
        # Its own iteration is under way, or the log gave the copy up: it knows of it.
        (T0, copy(T1), True, []),
        (None, copy(T0), True, []),
        (None, copy(T0), False, ["copy-unknown"]),
        (T1, copy(T0), True, ["copy-older"]),
        (T0, None, False, ["copy-missing"]),
    ],
)
def test_copies_are_compared_by_moment_and_iteration(
    believed: dt.datetime | None, current: CopyFacts | None, known: bool, told: list[str]
) -> None:
    jobs = (job(ITERATION, "completed"),) if known else ()
    assert codes(compare(installation(vm(believed)), work(*jobs), at_west(current))) == told


def a_checkpoint(state: Any, *copies: CheckpointCopy) -> Checkpoint:
    return Checkpoint(
        id="checkpoint:shop:c1", plan="shop", plan_version=1, state=state, created_at=T0,
        vms=("db",), copies=copies or (CheckpointCopy(vm="db", taken_at=T0, copy_id="c1"),),
    )  # fmt: skip


FAILED = CheckpointCopy(vm="db", error=Error(code="x", message="no room"))


@pytest.mark.parametrize(
    ("checkpoint", "there", "told"),
    [
        (a_checkpoint("available"), True, []),
        (a_checkpoint("available"), False, ["checkpoint-missing"]),
        (a_checkpoint("available", FAILED), False, []),
        (a_checkpoint("creating"), False, []),
        (a_checkpoint("expiring"), False, []),
        (a_checkpoint("deleted"), True, ["left-over"]),
        (None, True, ["checkpoint-unknown"]),
    ],
)
def test_checkpoints_are_compared_by_name(
    checkpoint: Checkpoint | None, there: bool, told: list[str]
) -> None:
    kept = (checkpoint,) if checkpoint else ()
    listed = (copy(T0, checkpoint="checkpoint:shop:c1"),) if there else ()
    held = at_west(copy(T0), checkpoints=listed)
    assert codes(compare(installation(vm(), checkpoints=kept), work(), held)) == told


def test_copies_of_a_vm_in_reverse_are_looked_for_at_the_site_that_it_came_from() -> None:
    reverse = vm(direction="reverse", instance="i-1")
    checkpoint = msgspec.structs.replace(a_checkpoint("available"), reverse=("*",))
    kept = Held(copies={("shop", "db"): copy(T0)}, checkpoints=(copy(T0),))
    there = installation(reverse, checkpoints=(checkpoint,))
    assert codes(compare(there, work(), {"east": kept, "west": Held()})) == []
    gone = Held(copies={("shop", "db"): None})
    found = compare(there, work(), {"east": gone, "west": Held()})
    assert sorted(codes(found)) == ["checkpoint-missing", "copy-missing"]
    assert {each.site for each in found} == {"east"}


def test_a_site_that_is_not_listed_says_nothing_else() -> None:
    held = {"east": Held(), "west": Held(problem="no answer")}
    (found,) = compare(installation(vm()), work(), held)
    assert (found.code, found.site, found.found) == ("not-listed", "west", "no answer")


def test_the_jobs_to_know_are_those_of_tags_manifests_and_holds() -> None:
    holding = vm(holds=(VmHold(job=RECOVERY, modes=("own-instance",)),))
    held = at_west(copy(T0, "iteration:shop:db:t0"), owned("disk", "d", "recovery:shop:r2"))
    assert jobs_of(installation(holding), held) == {
        RECOVERY, "recovery:shop:r2", "iteration:shop:db:t0",
    }  # fmt: skip


# ── Listing ──────────────────────────────────────────────────────────────────────────────────


async def test_a_throttled_listing_is_asked_again_longer_than_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holdings, "TRY_S_MAX", 0.0)
    monkeypatch.setattr(holdings, "PAUSE_S", 0.001)
    answers: list[Any] = [Throttled("slower"), Throttled("slower"), "listed"]

    async def call() -> str:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert await holdings._asked(call) == "listed"
    answers[:] = [Transient("away"), "listed"]
    with pytest.raises(Transient):
        await holdings._asked(call)


# ── Two looks ────────────────────────────────────────────────────────────────────────────────


async def test_a_difference_counts_only_if_a_second_look_finds_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stays, passes, comes = (
        Difference(
            site="west", code="left-over", kind="disk", object_id=name, found="", follows=""
        )
        for name in ("stays", "passes", "comes")
    )
    looks = [[stays, passes], [comes, msgspec.structs.replace(stays, found="still there")]]

    async def look(pool: Any) -> list[Difference]:
        await asyncio.sleep(0)
        return looks.pop(0)

    monkeypatch.setattr(command, "_look", look)
    pool: Any = None
    found = await command.differences(pool, again_s=0.0)
    assert [(each.object_id, each.found) for each in found] == [("stays", "still there")]
    looks[:] = [[], [stays]]
    assert await command.differences(pool, again_s=0.0) == []
    assert looks, "nothing is looked at twice where there is no difference"
