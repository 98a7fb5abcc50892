"""Tells what the logs believe apart from what the sites hold, and says what follows.

Pure. An object is expected while its job runs, awaits its cleanup or has unsettled work; a copy
while the log knows the iteration that made it. What is expected and there is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from schemas import leftovers
from schemas.directions import is_reverse
from schemas.ids import family_of, parts_of
from schemas.joins import copies_at
from schemas.units import format_moment
from schemas.views import ENDED, Checkpoint, Job, Plan, Vm
from services.cli.reconcile.beliefs import Installation, Work
from services.cli.reconcile.holdings import Held
from shared.platforms.ports import CopyFacts, Owned

Code = Literal[
    "unknown-job", "left-over", "gone", "copy-newer", "copy-unknown", "copy-older",
    "copy-missing", "checkpoint-unknown", "checkpoint-missing", "not-listed",
]  # fmt: skip


class Difference(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One difference: where, of what, and what follows. `by`: who acts, Seawall or the operator.

    `kind` is snapshot, generation, hold, disk, instance, copy, checkpoint or site.
    """

    site: str
    code: Code
    kind: str
    object_id: str
    plan: str = ""
    vm: str = ""
    job: str = ""
    found: str
    follows: str
    by: Literal["seawall", "operator"] = "operator"


_ASKED_AGAIN: Final = (
    "the step is asked again under its id: what the site did already it answers as done, else "
    "the job fails and the next one begins anew"
)


def compare(installation: Installation, work: Work, held: Mapping[str, Held]) -> list[Difference]:
    """All differences, in an order of their own."""
    found: list[Difference] = []
    everywhere = frozenset(owned.object_id for each in held.values() for owned in each.owned)
    for site, each in held.items():
        if each.problem:
            found.append(_not_listed(site, each.problem))
            continue
        found += _objects(site, each, installation, work)
        found += _gone(site, each, installation, work, everywhere)
        found += _copies(site, each, installation, work)
        found += _checkpoints(site, each, installation, work)
    return sorted(set(found))


def jobs_of(installation: Installation, held: Mapping[str, Held]) -> set[str]:
    """The jobs that a comparison has to know: those of tags, manifests and holds."""
    jobs = {hold.job for vm in installation.vms.values() for hold in vm.holds}
    for each in held.values():
        jobs |= {owned.job for owned in each.owned}
        jobs |= {_iteration(copy) for copy in each.copies.values() if copy is not None}
    return jobs - {""}


def _not_listed(site: str, problem: str) -> Difference:
    return Difference(
        site=site, code="not-listed", kind="site", object_id=site, found=problem,
        follows="nothing is known of what it holds: mend the site, then reconcile again",
    )  # fmt: skip


# ── Objects with our tag ─────────────────────────────────────────────────────────────────────


def _objects(
    site: str, held: Held, installation: Installation, work: Work
) -> Iterator[Difference]:
    for owned in held.owned:
        code = leftovers.code_of(
            work.jobs.get(owned.job),
            known=owned.job in work.known,
            working=_works(owned.job, work),
        )
        if code is None:
            continue
        follows, by = leftovers.remedy_of(owned.kind, replicating=_replicates(owned, installation))
        yield Difference(
            site=site,
            code=code,
            kind=owned.kind,
            object_id=owned.object_id,
            plan=owned.plan,
            vm=owned.vm,
            job=owned.job,
            found=leftovers.WHY[code],
            follows=follows,
            by=by,
        )


def _works(job: str, work: Work) -> bool:
    """Whether work of the job, or of a recovery's VMs, is unsettled."""
    parts = parts_of(job)
    vms = f"vm-recovery:{':'.join(parts[1:])}:" if parts[0] == "recovery" else ""
    return job in work.working or bool(
        vms and any(stream.startswith(vms) for stream in work.working)
    )


def _replicates(owned: Owned, installation: Installation) -> bool:
    vm = installation.vms.get(f"protected-vm:{owned.plan}:{owned.vm}")
    return vm is not None and vm.replicating


# ── What jobs believe to be there ────────────────────────────────────────────────────────────


def _gone(
    site: str, held: Held, installation: Installation, work: Work, everywhere: frozenset[str]
) -> Iterator[Difference]:
    there = {owned.object_id for owned in held.owned}
    there |= {copy.copy_id for copy in held.checkpoints}
    for mention in work.mentions:
        if mention.site == site and mention.object_id not in there:
            yield Difference(
                site=site,
                code="gone",
                kind=mention.kind,
                object_id=mention.object_id,
                plan=mention.plan,
                vm=mention.vm,
                job=mention.stream,
                found="its job is under way by this log, and it is not there any more",
                follows=_ASKED_AGAIN,
                by="seawall",
            )
    for job in work.jobs.values():
        plan = installation.plans.get(job.plan)
        if plan is not None and plan.recovery_site == site and _stands(job, work):
            undo = "rollback" if work.jobs[job.parent_id or ""].awaits_commit else "cleanup"
            yield from _lost_instances(site, job, everywhere, undo=undo)


def _stands(job: Job, work: Work) -> bool:
    """Whether it is a VM's part of a recovery that runs, or awaits cleanup, commit or roll back.

    What was committed is the operator's own: a VM that is deleted later is no difference.
    """
    parent = work.jobs.get(job.parent_id or "")
    if family_of(job.id) != "vm-recovery" or job.disk is not None or parent is None:
        return False
    return parent.state not in ENDED or parent.awaits_cleanup or parent.awaits_commit


def _lost_instances(
    site: str, job: Job, everywhere: frozenset[str], *, undo: str
) -> Iterator[Difference]:
    for instance in job.instances:
        if instance.instance_id and instance.instance_id not in everywhere:
            yield Difference(
                site=site,
                code="gone",
                kind="instance",
                object_id=instance.instance_id,
                plan=job.plan,
                vm=instance.vm,
                job=job.parent_id or "",
                found="its recovery stands by this log, and it is not there any more",
                follows=f"`seawall {undo} {job.parent_id}` removes what is left and ends it",
            )


# ── Copies ───────────────────────────────────────────────────────────────────────────────────


def _copies(site: str, held: Held, installation: Installation, work: Work) -> Iterator[Difference]:
    for vm in installation.vms.values():
        if copies_at(vm) != site or (vm.plan, vm.name) not in held.copies:
            continue
        copy = held.copies[vm.plan, vm.name]
        if (told := _copy(vm, copy, work)) is not None:
            code, found, follows = told
            yield Difference(
                site=site,
                code=code,
                kind="copy",
                object_id="" if copy is None else copy.copy_id,
                plan=vm.plan,
                vm=vm.name,
                job="" if copy is None else _iteration(copy),
                found=found,
                follows=follows,
                by="seawall" if code in ("copy-newer", "copy-unknown") else "operator",
            )


def _copy(vm: Vm, copy: CopyFacts | None, work: Work) -> tuple[Code, str, str] | None:
    believed = vm.last_checkpoint_at
    reset = f"`seawall vm reset {vm.plan} {vm.name}`: the next iteration compares all of it"
    if copy is None:
        if believed is None:
            return None
        found = f"there is none; the log has one of {format_moment(believed)}"
        return "copy-missing", found, reset
    taken = format_moment(copy.taken_at)
    if believed is not None and copy.taken_at < believed:
        found = f"is of {taken}; the log has a newer one, of {format_moment(believed)}"
        return "copy-older", found, reset
    if _iteration(copy) in work.known:
        return None
    if believed is None:
        found = f"is of {taken}, by an iteration this log does not have; the log has none"
        return "copy-unknown", found, "the first iteration compares all of it and keeps the same"
    if copy.taken_at == believed:
        return None
    found = f"is of {taken}, newer than the log's last one, of {format_moment(believed)}"
    follows = (
        "the next iteration goes on from it and recoveries of *latest* use it; until then the "
        "RPO is told from the older one"
    )
    return "copy-newer", found, follows


def _iteration(copy: CopyFacts) -> str:
    """The iteration that made a copy, as its manifest tells."""
    return str(copy.manifest.get("iteration", ""))


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────


def _checkpoints(
    site: str, held: Held, installation: Installation, work: Work
) -> Iterator[Difference]:
    by_name = {parts_of(each.id)[1:]: each for each in installation.checkpoints.values()}
    listed: set[tuple[str, str, str]] = set()
    for copy in held.checkpoints:
        checkpoint = by_name.get((copy.plan, copy.copy_id))
        listed.add((copy.plan, copy.copy_id, copy.vm))
        if checkpoint is None:
            yield _checkpoint_difference(
                site, copy.plan, copy.vm, copy.copy_id, code="checkpoint-unknown",
                job=str(copy.manifest.get("checkpoint", "")),
                found=f"is of {format_moment(copy.taken_at)}, and this log does not have it",
                follows="no retention removes it and no recovery can name it: delete it at the "
                "site when nobody needs it",
            )  # fmt: skip
        elif checkpoint.state in ("deleted", "failed") and checkpoint.id not in work.working:
            yield _checkpoint_difference(
                site, copy.plan, copy.vm, copy.copy_id, code="left-over", job=checkpoint.id,
                found=f"the log has it as {checkpoint.state}",
                follows="delete it at the site: nothing of this log removes it",
            )  # fmt: skip
    for checkpoint in installation.checkpoints.values():
        plan = installation.plans.get(checkpoint.plan)
        if plan is not None and checkpoint.state == "available":
            yield from _missing(site, plan, checkpoint, listed)


def _missing(
    site: str, plan: Plan, checkpoint: Checkpoint, listed: set[tuple[str, str, str]]
) -> Iterator[Difference]:
    name = parts_of(checkpoint.id)[-1]
    for copy in checkpoint.copies:
        reverse = is_reverse(checkpoint.reverse, copy.vm)
        if site != (plan.protected_site if reverse else plan.recovery_site):
            continue
        if copy.error is None and (checkpoint.plan, name, copy.vm) not in listed:
            yield _checkpoint_difference(
                site, checkpoint.plan, copy.vm, name, code="checkpoint-missing",
                job=checkpoint.id, found="the log has it as available, and it is not there",
                follows=f"`seawall checkpoint delete {checkpoint.id}`: nothing can be recovered "
                "from it",
            )  # fmt: skip


def _checkpoint_difference(
    site: str, plan: str, vm: str, name: str, *, code: Code, job: str, found: str, follows: str
) -> Difference:
    return Difference(
        site=site, code=code, kind="checkpoint", object_id=name, plan=plan, vm=vm, job=job,
        found=found, follows=follows,
    )  # fmt: skip
