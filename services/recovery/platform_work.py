"""The steps of recoveries and cleanups at a platform: one call, at most one mutation each.

Every mutation carries the effect's id as its key: a repeat after a crash, a time-out or a lost
answer returns what the first one made (the contract of `shared.platforms.ports`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas import recovery_work as work
from schemas.operations import MeasureWritten, WrittenMeasured
from schemas.recovery_steering import SourceCheck
from schemas.scheduler import SiteRef
from services.recovery.domain.operations.source import UNREACHED
from shared.clock import Clock
from shared.effects.running import EffectRun
from shared.errors import Permanent, Transient
from shared.platforms.ports import Call, CopyFacts, DiskRef, Instance, InstanceSpec, Platform
from shared.scripts.effect import PutBlob
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver

OpenSite = Callable[[SiteRef], Platform]
"""An open adapter of a site; opening again gives the one that is open."""

ReadStates = Callable[[Sequence[str]], Awaitable[Mapping[str, Any]]]
"""Folded states of streams of this service, as committed now; initial ones where unknown."""

CONFIGURATION: Final = "configuration"
"""The key of a copy's manifest under which the VM's configuration is kept."""

LOOK_S_MAX: Final = 10.0
"""How long a source may take to say whether it runs, before a VM is powered on in its place."""

COPIES: Final = ("hold", "generation", "snapshot")
"""Kinds of what a recovery holds to read from."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What the effect handlers work with."""

    open_site: OpenSite
    read_states: ReadStates
    runner: ScriptRunner
    secrets: SecretResolver
    put_blob: PutBlob
    clock: Clock


def call_of(effect: EffectRun) -> Call:
    """The token and tags of an effect's mutation."""
    payload: work.SiteWork = effect.payload
    return Call(
        key=effect.effect_id,
        plan=payload.plan,
        vm=payload.vm,
        job=payload.job,
        lease=effect.fence,
    )


async def hold_copy(tools: Tools, effect: EffectRun) -> work.CopyHeld:
    """Hold the current copy; a checkpoint is immutable and only looked up."""
    payload: work.HoldCopy = effect.payload
    site = tools.open_site(payload.site)
    if payload.checkpoint == "latest":
        found = await site.target.hold(call_of(effect))
    else:
        every = await site.target.list_checkpoints(plan=payload.plan)
        chosen = copy_of_checkpoint(every, vm=payload.vm, checkpoint=payload.checkpoint)
        if chosen is None:
            raise Permanent(
                f"checkpoint {payload.checkpoint} holds no copy of {payload.vm}",
                code="no-such-copy",
                remedy="choose another checkpoint",
            )
        found = chosen
    return work.CopyHeld(
        copy_id=found.copy_id,
        taken_at=found.taken_at,
        disks=tuple(work.CopyDisk(name=disk.name, size=disk.size) for disk in found.disks),
        configuration=found.manifest.get(CONFIGURATION, {}),
        early=site.capabilities.create_powered_off,
        os=os_of(found),
    )


def os_of(copy: CopyFacts) -> str:
    """What a copy says that it is of, `windows` for one; "" where it does not say."""
    configuration = copy.manifest.get(CONFIGURATION)
    found = configuration.get("os") if isinstance(configuration, dict) else None
    return found if isinstance(found, str) else ""


def copy_of_checkpoint(
    copies: Sequence[CopyFacts], *, vm: str, checkpoint: str
) -> CopyFacts | None:
    """The copy of a VM in a checkpoint, named by its job id or by the last part of that."""
    return copies_of_checkpoint(copies, checkpoint=checkpoint).get(vm)


def copies_of_checkpoint(copies: Sequence[CopyFacts], *, checkpoint: str) -> dict[str, CopyFacts]:
    """The copies of all VMs in a checkpoint, by VM."""
    ids = (checkpoint, checkpoint.rpartition(":")[2])
    found: dict[str, CopyFacts] = {}
    for copy in copies:
        if copy.copy_id in ids or copy.manifest.get("checkpoint") in ids:
            found.setdefault(copy.vm, copy)
    return found


async def rebuild_disk(tools: Tools, effect: EffectRun) -> work.DiskRebuilt:
    """Make one disk from the copy."""
    payload: work.RebuildDisk = effect.payload
    compute = tools.open_site(payload.site).compute
    made = await compute.rebuild_disk(call_of(effect), copy_id=payload.copy_id, disk=payload.disk)
    return work.DiskRebuilt(disk_id=made.disk_id, name=made.name, file=made.file, size=made.size)


async def create_instance(tools: Tools, effect: EffectRun) -> work.InstanceState:
    """Make the instance with its disks, off."""
    payload: work.CreateInstance = effect.payload
    spec = InstanceSpec(
        name=payload.name,
        network=payload.network,
        isolated=payload.isolated,
        disks=tuple(
            DiskRef(disk_id=d.disk_id, name=d.name, file=d.file, size=d.size)
            for d in payload.disks
        ),
        configuration=payload.configuration,
    )
    compute = tools.open_site(payload.site).compute
    return _state(await compute.create_instance(call_of(effect), spec=spec))


async def power_on(tools: Tools, effect: EffectRun) -> work.InstanceState:
    """Start the guest; Permanent `source-runs` where its source was switched on meanwhile."""
    payload: work.PowerOn = effect.payload
    if payload.source is not None:
        await _check_off(tools, payload.source, vm=payload.vm)
    compute = tools.open_site(payload.site).compute
    return _state(await compute.power_on(call_of(effect), instance_id=payload.instance_id))


async def _check_off(tools: Tools, source: SourceCheck, *, vm: str) -> None:
    """A source that nobody can reach is as it was seen, or as a person said."""
    try:
        async with asyncio.timeout(LOOK_S_MAX):
            power = tools.open_site(source.site).power
            state = await power.state(vm=vm, instance=source.instance)
    except TimeoutError:
        return
    except (Transient, Permanent) as error:
        if error.code in UNREACHED:
            return
        raise
    if state == "on":
        raise Permanent(
            f"the source of {vm} runs at {source.site.site}: two of it must not run",
            code="source-runs",
            remedy="power it off at its site, then `seawall job retry`; or roll back",
        )


def _state(instance: Instance) -> work.InstanceState:
    return work.InstanceState(
        instance_id=instance.instance_id,
        addresses=instance.addresses,
        powered_on_at=instance.powered_on_at,
    )


async def release_copy(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Let a held copy go. One whose hold was cut off is found by the key it was asked under."""
    payload: work.ReleaseCopy = effect.payload
    site = tools.open_site(payload.site)
    copy_id = payload.copy_id
    if not copy_id:
        held = await site.compute.find(payload.held_under)
        if held is None or held.kind not in COPIES:
            return work.WorkDone()
        copy_id = held.object_id
    await site.target.release(call_of(effect), copy_id=copy_id)
    return work.WorkDone()


async def list_owned(tools: Tools, effect: EffectRun) -> work.OwnedListed:
    """What carries the recovery's tag: instances first, then what they use, then held copies.

    Of some VMs alone it is chosen before the listing is cut: what is not shown is not there.
    """
    payload: work.ListOwned = effect.payload
    site = tools.open_site(payload.site)
    every = (*await site.compute.list_owned(), *await site.target.list_generations())
    wanted = frozenset(payload.vms)
    found = {
        (each.kind, each.object_id): each
        for each in every
        if each.job == payload.job and (not wanted or each.vm in wanted)
    }
    order = {"instance": 0, "disk": 1, "network": 2}
    listed = sorted(found.values(), key=lambda o: (order.get(o.kind, 3), o.vm, o.object_id))
    objects = tuple((each.kind, each.object_id, each.vm) for each in listed)
    return work.OwnedListed(objects=objects[: payload.count_max], total=len(objects))


async def measure_written(tools: Tools, effect: EffectRun) -> WrittenMeasured:
    """How much a recovery's instances wrote since they were powered on, as the platform tells."""
    payload: MeasureWritten = effect.payload
    compute = tools.open_site(payload.site).compute
    listed = await compute.list_instances()
    ours = {each.vm: each.instance_id for each in listed if each.job == payload.job}
    written = await compute.list_written(tuple(ours.values()))
    known = [size for size in written.values() if size is not None]
    return WrittenMeasured(
        written=tuple((vm, written.get(ours.get(vm, ""))) for vm in payload.vms),
        total=sum(known),
        unknown=len(ours) - len(known),
    )


async def remove_object(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Power off or delete one object; one that is gone already counts as removed."""
    payload: work.RemoveObject = effect.payload
    site, call, object_id = tools.open_site(payload.site), call_of(effect), payload.object_id
    if payload.action == "power-off":
        await site.compute.power_off(call, instance_id=object_id)
    elif payload.kind == "instance":
        await site.compute.delete_instance(call, instance_id=object_id)
    elif payload.kind == "disk":
        await site.compute.delete_disk(call, disk_id=object_id)
    elif payload.kind in COPIES:
        await site.target.release(call, copy_id=object_id)
    else:
        raise Permanent(
            f"{payload.kind} {object_id} cannot be removed by this version",
            code="cannot-remove",
            remedy="remove it on the platform",
        )
    return work.WorkDone()
