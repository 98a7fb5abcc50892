"""The transfer of one disk as an effect: its staged generation, its resume position, its result.

Owns what lies between the effect and the data path (`transfer`), which moves the bytes. After a
worker's death the next claim opens a generation of its own and adopts what the last mark covers.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec

from schemas import replicator as said
from schemas import replicator_work as work
from services.replicator.domain.iteration_state import Iteration
from services.replicator.tools import Tools, call_of, landed, noting, within
from services.replicator.transfer import (
    Mark,
    Progress,
    TransferRequest,
    TransferResult,
    copy_disk,
)
from shared.effects.running import Cancelled, EffectRun
from shared.errors import Permanent, Throttled
from shared.platforms.ports import DiskFacts, Generation, Platform, Snapshot

FULL_REASON: Final = "the copy counts as invalid: all of it is compared"


async def transfer_disk(tools: Tools, effect: EffectRun) -> work.DiskCopied:
    """Copy one disk into a staged generation, verified and flushed.

    Raises Cancelled where the iteration is to stop: a cancel that was committed while the effect
    before this one ended has found no transfer to stop.
    """
    payload: work.TransferDisk = effect.payload
    snapshot = payload.carried.snapshot
    assert snapshot is not None, "a transfer follows a snapshot"
    states = await within(
        tools.read_states((effect.stream,)),
        what="reading the iteration",
        timeout_s=tools.settings.call_timeout_s,
    )
    state: Iteration = states[effect.stream]
    if state.cancelling or state.finished:
        raise Cancelled("the iteration is to stop")
    opened = said.SnapshotOpened(snapshot=snapshot, steps=payload.carried.steps)
    began = tools.clock.now()
    try:
        result = await noting(
            effect, _copy(tools, effect, _resume_mark(state, payload.disk)), lambda: (opened,)
        )
    finally:
        tools.progress.ended(effect.stream, payload.disk)
    done = msgspec.structs.replace(result, started_at=began, ended_at=tools.clock.now())
    return work.DiskCopied(result=done, carried=payload.carried)


def _resume_mark(state: Iteration, disk: str) -> Mark | None:
    mark = state.marks.get(disk)
    if mark is None or not mark.chain:
        return None
    return Mark(
        snapshot_id=mark.snapshot_id,
        generation_id=mark.generation_id,
        offset=mark.offset,
        chain=mark.chain,
    )


async def _copy(tools: Tools, effect: EffectRun, resume: Mark | None) -> said.DiskResult:
    payload: work.TransferDisk = effect.payload
    assert payload.carried.snapshot is not None, "a transfer follows a snapshot"
    source, target = tools.open_site(payload.source), tools.open_site(payload.target)
    snapshot = port_snapshot(payload.carried.snapshot)
    generation = await _open_generation(tools, effect, target, _size(snapshot, payload.disk))
    request = TransferRequest(
        snapshot=snapshot,
        disk=payload.disk,
        generation=generation,
        source_call=call_of(effect),
        target_call=call_of(effect),
        since=None if payload.full else generation.base_mark or None,
        resume=resume,
    )
    began = tools.clock.now()
    done = await _move(tools, effect, source, target, request)
    return _result(payload, generation, done, began=began)


async def _open_generation(
    tools: Tools, effect: EffectRun, target: Platform, size: int
) -> Generation:
    """Open this claim's generation; raises Permanent when the target has had no room for long.

    A VM's disks hold what they staged until all are done. VMs that wait for one another's room
    would wait for ever: one of them has to give way, and its next iteration begins anew.
    """
    payload: work.TransferDisk = effect.payload
    try:
        generation = await landed(
            target.target.open_generation(call_of(effect), disk=payload.disk, size=size),
            what=f"opening a generation of {payload.disk}",
            timeout_s=tools.settings.call_timeout_s,
            landing_s=tools.settings.landing_s,
        )
    except Throttled as refused:
        waited_s = tools.patience.refused(effect.effect_id, tools.clock.monotonic())
        if waited_s <= tools.settings.room_s_max:
            raise
        tools.patience.granted(effect.effect_id)
        raise Permanent(
            f"the target allowed no further staged generation for {waited_s:.0f} s: "
            f"{refused.message}",
            code="no-room-to-stage",
            remedy="raise the site's limit of snapshot writes above the number of the VM's disks, "
            "or let fewer VMs replicate at once",
        ) from refused
    tools.patience.granted(effect.effect_id)
    return generation


async def _move(
    tools: Tools, effect: EffectRun, source: Platform, target: Platform, request: TransferRequest
) -> TransferResult:
    payload: work.TransferDisk = effect.payload

    def told(progress: Progress) -> None:
        done, total = progress.bytes_done, progress.bytes_total
        effect.progress(bytes_done=done, bytes_total=total)
        tools.progress.report(effect.stream, payload.disk, bytes_done=done, bytes_total=total)

    async def marked(mark: Mark) -> None:
        await effect.report(
            said.TransferMarked(
                disk=payload.disk,
                generation_id=mark.generation_id,
                offset=mark.offset,
                snapshot_id=mark.snapshot_id,
                chain=mark.chain,
            )
        )

    return await copy_disk(
        source.source,
        target.target,
        request=request,
        progress=told,
        checkpoint_mark=marked,
        source_pace=tools.paces.of(payload.source.site, source),
        target_pace=tools.paces.of(payload.target.site, target),
        settings=tools.settings.transfer,
    )


def _result(
    payload: work.TransferDisk, generation: Generation, done: TransferResult, *, began: dt.datetime
) -> said.DiskResult:
    def after(seconds: float | None) -> dt.datetime | None:
        return None if seconds is None else began + dt.timedelta(seconds=seconds)

    reason = done.reason
    if payload.full and done.compared:
        reason = FULL_REASON
    return said.DiskResult(
        disk=payload.disk,
        state="completed",
        generation=said.GenerationFacts(
            generation_id=generation.generation_id,
            plan=generation.plan,
            vm=generation.vm,
            disk=generation.disk,
            size=generation.size,
            lease=generation.lease,
            base_mark=generation.base_mark,
            blank=generation.blank,
        ),
        size=generation.size,
        bytes_read=done.bytes_read,
        bytes_sent=done.bytes_written,
        bytes_zeroed=done.bytes_zero,
        bytes_same=done.bytes_same,
        compared=done.compared,
        reason=reason,
        digest=done.mark.chain,
        changes_known_at=after(done.changes_known_s),
        verified_from=after(done.verified_from_s),
    )


def port_snapshot(facts: said.SnapshotFacts) -> Snapshot:
    """The snapshot as the ports take it."""
    return Snapshot(
        snapshot_id=facts.snapshot_id,
        vm=facts.vm,
        taken_at=facts.taken_at,
        mark=facts.mark,
        disks=tuple(
            DiskFacts(name=disk.name, size=disk.size, file=disk.file) for disk in facts.disks
        ),
        instance=facts.instance,
    )


def port_generation(facts: said.GenerationFacts) -> Generation:
    """The generation as the ports take it."""
    return Generation(
        generation_id=facts.generation_id,
        plan=facts.plan,
        vm=facts.vm,
        disk=facts.disk,
        size=facts.size,
        lease=facts.lease,
        base_mark=facts.base_mark,
        blank=facts.blank,
    )


def _size(snapshot: Snapshot, disk: str) -> int:
    return next(each.size for each in snapshot.disks if each.name == disk)
