"""What recoveries do for a Windows at a platform: prep nodes, disks to prepare, guests to ask.

One call, at most one mutation each, under the effect's id as its key. Rules are the domain's.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas import recovery_work as work
from schemas.common import Problem
from schemas.prep import ListedNode
from services.recovery.domain import windows_steps
from services.recovery.platform_work import Tools, call_of
from shared.effects.running import EffectRun
from shared.errors import Transient
from shared.platforms.ports import DiskRef, Finding


async def list_nodes(tools: Tools, effect: EffectRun) -> work.PrepNodesFound:
    """The prep nodes of a site."""
    payload: work.ListPrepNodes = effect.payload
    found = await tools.open_site(payload.site).prep.list_nodes()
    nodes = (ListedNode(name=n.name, seats=n.seats, power=n.power) for n in found.nodes)
    return work.PrepNodesFound(nodes=tuple(nodes))


async def power_on_node(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Have a prep node take work."""
    payload: work.PowerPrepNode = effect.payload
    await tools.open_site(payload.site).prep.power_on(call_of(effect), node=payload.node)
    return work.WorkDone()


async def power_off_node(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Power a prep node off; one that is gone counts as off."""
    payload: work.PowerPrepNode = effect.payload
    await tools.open_site(payload.site).prep.power_off(call_of(effect), node=payload.node)
    return work.WorkDone()


async def prepare(tools: Tools, effect: EffectRun) -> work.WindowsPrepared:
    """Make the Windows on rebuilt disks boot here. A repeat changes nothing more."""
    payload: work.PrepareWindows = effect.payload
    disks = [
        DiskRef(disk_id=d.disk_id, name=d.name, file=d.file, size=d.size) for d in payload.disks
    ]
    prep = tools.open_site(payload.site).prep
    done = await prep.prepare(call_of(effect), node=payload.node, disks=disks)
    return work.WindowsPrepared(
        target=done.target, changes=done.changes, findings=problems_of(done.findings)
    )


async def validate(tools: Tools, effect: EffectRun) -> work.WindowsValidated:
    """Ask the Windows how it is. Raises Transient while something is wrong: it may still start."""
    payload: work.ValidateWindows = effect.payload
    guests = tools.open_site(payload.site).guests
    health = await guests.validate(call_of(effect), instance_id=payload.instance_id)
    wrong = windows_steps.unhealthy(
        stopped=health.stopped,
        disks_online=health.disks_online,
        disks=payload.disks,
        network_up=health.network_up,
    )
    if wrong is not None:
        raise Transient(wrong.message, code=wrong.code, remedy=wrong.remedy)
    return work.WindowsValidated(disks_online=health.disks_online)


def problems_of(findings: Iterable[Finding]) -> tuple[Problem, ...]:
    """Findings of a platform as the published language has them."""
    return tuple(Problem(code=f.code, message=f.message, remedy=f.remedy) for f in findings)
