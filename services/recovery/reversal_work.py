"""The steps of a reversal at its platforms: look before it, verify after it. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from schemas import reversals as work
from schemas.common import Problem
from schemas.scheduler import SiteRef
from schemas.units import some_of
from services.recovery.platform_work import Tools
from shared.effects.running import EffectRun
from shared.errors import Permanent, Refused
from shared.platforms.pacing import paced
from shared.platforms.ports import Platform, VmFacts

NAMED_MAX: Final = 10


async def look(tools: Tools, effect: EffectRun) -> work.InstancesSeen:
    """Whether the instances can be replicated from, and the target has room for what is new.

    Raises Transient where a site could not be asked; the engine asks again.
    """
    payload: work.LookAtInstances = effect.payload
    source, target = tools.open_site(payload.site), tools.open_site(payload.target)
    if (unable := cannot_replicate_from(source, payload.site)) is not None:
        return work.InstancesSeen(problems=(unable,))
    ids = [each.instance for each in payload.sources]
    try:
        made = await paced(lambda: source.inventory.list_made(ids))
        copies = await paced(lambda: target.target.list_current(plan=payload.plan))
        room = (await paced(target.inventory.check)).capacity_free
    except (Permanent, Refused) as error:
        problem = Problem(code=error.code, message=error.message, remedy=error.remedy)
        return work.InstancesSeen(problems=(problem,))
    copied = {copy.vm for copy in copies}
    new = [vm for vm in made if vm.name not in copied]
    problems = [*_missing(payload, made), *_no_room(payload.target, new, room)]
    return work.InstancesSeen(problems=tuple(problems), facts=_facts(made, new))


async def verify(tools: Tools, effect: EffectRun) -> work.CopiesVerified:
    """VMs whose newest copy at the target is not the one that was just made."""
    payload: work.VerifyCopies = effect.payload
    target = tools.open_site(payload.site).target
    listed = await paced(lambda: target.list_current(plan=payload.plan))
    there = {copy.vm: copy.taken_at for copy in listed if copy.disks}
    missing = tuple(vm for vm, moment in payload.copies if there.get(vm) != moment)
    return work.CopiesVerified(missing=missing)


def cannot_replicate_from(site: Platform, ref: SiteRef) -> Problem | None:
    """Why a platform's instances can be no sources; None where they can."""
    if site.capabilities.instance_sources:
        return None
    return Problem(
        code="no-instance-sources",
        message=f"site {ref.site} is on {ref.platform}, which cannot replicate from instances "
        "that a recovery made",
        remedy="protect what runs there with a plan of its own, from that site to another",
    )


def _missing(payload: work.LookAtInstances, made: Sequence[VmFacts]) -> list[Problem]:
    there = {vm.instance for vm in made}
    gone = [each.vm for each in payload.sources if each.instance not in there]
    if not gone:
        return []
    return [
        Problem(
            code="instance-missing",
            message=f"{payload.site.site} does not list the instances of "
            f"{some_of(gone, NAMED_MAX)}: somebody deleted them",
            remedy="leave these VMs out: choose the others with --vm",
        )
    ]


def _no_room(target: SiteRef, new: Sequence[VmFacts], room: int) -> list[Problem]:
    wanted = sum(disk.size for vm in new for disk in vm.disks)
    if wanted <= room:
        return []
    return [
        Problem(
            code="not-enough-space",
            message=f"first copies of {wanted} bytes are needed, {room} are free at {target.site}",
            remedy="give the site more space, or reverse fewer VMs with --vm",
        )
    ]


def _facts(made: Sequence[VmFacts], new: Sequence[VmFacts]) -> dict[str, Any]:
    """How much there is to do: `full` VMs have no copy there, the others are compared by hash."""
    return {
        "vms": len(made),
        "disks": sum(len(vm.disks) for vm in made),
        "disk_bytes": sum(disk.size for vm in made for disk in vm.disks),
        "full": len(new),
        "differential": len(made) - len(new),
    }
