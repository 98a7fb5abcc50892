"""The steps of iterations and checkpoints at a platform, but for the transfers.

Every mutation carries the effect's id as its key: a repeat after a crash, a time-out or a lost
answer returns what the first one made (the contract of `shared.platforms.ports`). The two that
remove what an iteration left, by its tags, make one keyed deletion per object they find.
"""

from __future__ import annotations

from schemas import replicator as said
from schemas import replicator_work as work
from services.replicator.tools import Tools, call_of, landed, noting, within
from services.replicator.transferring import port_generation
from shared.effects.running import EffectRun
from shared.errors import Permanent, Transient
from shared.platforms.ports import Platform, Snapshot, VmFacts


async def open_snapshot(tools: Tools, effect: EffectRun) -> work.SnapshotTaken:
    """Open the snapshot; the VM's configuration is read right before it."""
    payload: work.OpenSnapshot = effect.payload
    site = tools.open_site(payload.site)
    facts = await _look_up(tools, site, payload)
    snapshot = await landed(
        site.source.open_snapshot(
            call_of(effect), vm=payload.vm, quiesce=payload.quiesce, instance=payload.instance
        ),
        what=f"the snapshot of {payload.vm}",
        timeout_s=tools.settings.call_timeout_s,
        landing_s=tools.settings.landing_s,
    )
    return work.SnapshotTaken(
        snapshot=_snapshot_facts(snapshot), configuration=facts.configuration
    )


async def _look_up(tools: Tools, site: Platform, payload: work.OpenSnapshot) -> VmFacts:
    if payload.instance:
        listing = site.inventory.list_made([payload.instance])
    else:
        listing = site.inventory.list_vms([payload.vm])
    found = await within(
        listing, what=f"looking up {payload.vm}", timeout_s=tools.settings.call_timeout_s
    )
    for facts in found:
        if facts.name == payload.vm:
            return facts
    if payload.instance:
        raise Permanent(
            f"instance {payload.instance} of {payload.vm} is not at {payload.site.site} any more",
            code="no-such-instance",
            remedy="somebody deleted it: recover the VM from its newest copy",
        )
    raise Permanent(
        f"there is no VM {payload.vm} at site {payload.site.site}",
        code="no-such-vm",
        remedy="bring it back, or take it out of the plan",
    )


def _snapshot_facts(snapshot: Snapshot) -> said.SnapshotFacts:
    return said.SnapshotFacts(
        snapshot_id=snapshot.snapshot_id,
        vm=snapshot.vm,
        taken_at=snapshot.taken_at,
        mark=snapshot.mark,
        disks=tuple(
            said.SnapshotDisk(name=disk.name, size=disk.size, file=disk.file)
            for disk in snapshot.disks
        ),
        instance=snapshot.instance,
    )


async def finalize(tools: Tools, effect: EffectRun) -> work.CopySwitched:
    """Switch the copy: all disks at once, or none."""
    payload: work.FinalizeCopy = effect.payload
    carried = payload.carried
    generations = [port_generation(d.generation) for d in carried.disks if d.generation]
    assert carried.snapshot is not None and len(generations) == len(carried.disks)
    call = landed(
        tools.open_site(payload.target).target.finalize(
            call_of(effect), generations=generations, manifest=payload.manifest
        ),
        what=f"finalizing the copy of {payload.vm}",
        timeout_s=tools.settings.finalize_timeout_s,
        landing_s=tools.settings.landing_s,
    )
    await noting(effect, call, lambda: _transferred(carried))
    return work.CopySwitched(checkpoint_at=carried.snapshot.taken_at, carried=carried)


def _transferred(carried: work.Carried) -> tuple[said.DiskTransferred, ...]:
    """What every disk did; those that are on record already are passed over by the owner."""
    count = len(carried.disks)
    return tuple(
        said.DiskTransferred(
            result=result,
            index=index,
            last=index == count,
            snapshot=carried.snapshot,
            steps=carried.steps,
        )
        for index, result in enumerate(carried.disks, start=1)
    )


async def close_snapshot(tools: Tools, effect: EffectRun) -> work.SnapshotClosed:
    """Remove the source snapshot. One whose opening was cut off is found by its tag."""
    payload: work.CloseSnapshot = effect.payload
    await noting(effect, _close(tools, effect), lambda: _finalized(payload.carried))
    return work.SnapshotClosed(carried=payload.carried)


async def _close(tools: Tools, effect: EffectRun) -> None:
    payload: work.CloseSnapshot = effect.payload
    source = tools.open_site(payload.site).source
    timeout_s = tools.settings.call_timeout_s
    snapshots = [payload.snapshot_id]
    if not payload.snapshot_id:
        listed = await within(
            source.list_snapshots(), what="listing snapshots", timeout_s=timeout_s
        )
        snapshots = [each.object_id for each in listed if each.key == payload.opened_under]
    for snapshot_id in snapshots:
        await within(
            source.close_snapshot(call_of(effect), snapshot_id=snapshot_id),
            what=f"removing snapshot {snapshot_id}",
            timeout_s=timeout_s,
        )


def _finalized(carried: work.Carried) -> tuple[said.CopyFinalized, ...]:
    if carried.checkpoint_at is None:
        return ()
    stands = said.CopyFinalized(
        checkpoint_at=carried.checkpoint_at, steps=carried.steps, disks=carried.disks
    )
    return (stands,)


async def discard_staged(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Remove every staged generation that carries the iteration's tag."""
    payload: work.DiscardStaged = effect.payload
    target = tools.open_site(payload.target).target
    timeout_s = tools.settings.call_timeout_s
    listed = await within(
        target.list_generations(), what="listing staged generations", timeout_s=timeout_s
    )
    for each in listed:
        if each.job == effect.stream and each.kind == "generation":
            call = call_of(effect, key=f"{effect.effect_id}/{each.object_id}")
            await within(
                target.discard(call, generation_id=each.object_id),
                what=f"removing {each.object_id}",
                timeout_s=timeout_s,
            )
    return work.WorkDone()


async def create_checkpoint(tools: Tools, effect: EffectRun) -> work.VmCheckpointCreated:
    """Make the immutable copy of one VM."""
    payload: work.CreateVmCheckpoint = effect.payload
    made = await landed(
        tools.open_site(payload.target).target.create_checkpoint(
            call_of(effect), checkpoint_id=payload.checkpoint_id, manifest=payload.manifest
        ),
        what=f"the checkpoint of {payload.vm}",
        timeout_s=tools.settings.finalize_timeout_s,
        landing_s=tools.settings.landing_s,
    )
    return work.VmCheckpointCreated(copy_id=made.copy_id, taken_at=made.taken_at)


async def delete_checkpoint(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Delete one VM's copy in a checkpoint."""
    payload: work.DeleteVmCheckpoint = effect.payload
    await within(
        tools.open_site(payload.target).target.delete_checkpoint(
            call_of(effect), checkpoint_id=payload.checkpoint_id
        ),
        what=f"deleting the checkpoint of {payload.vm}",
        timeout_s=tools.settings.call_timeout_s,
    )
    return work.WorkDone()


async def verify_deleted(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Look at the listing; Transient while the checkpoint is still in it."""
    payload: work.VerifyCheckpointDeleted = effect.payload
    listed = await within(
        tools.open_site(payload.target).target.list_checkpoints(plan=payload.plan),
        what="listing checkpoints",
        timeout_s=tools.settings.call_timeout_s,
    )
    left = sorted(copy.vm for copy in listed if copy.copy_id == payload.checkpoint_id)
    if left:
        raise Transient(
            f"checkpoint {payload.checkpoint_id} still lists copies of {', '.join(left[:5])}",
            code="still-listed",
            remedy="look at the target; the listing is read again by itself",
        )
    return work.WorkDone()
