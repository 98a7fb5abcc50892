"""The steps of a source at its platform: look, shut down, power off, power on; all at a glance.

Each carries the effect's id as its key, so that a repeat after a crash does nothing twice.
"""

from __future__ import annotations

from schemas import recovery_work as work
from schemas.operations import LookAtSources, SourcesListed
from services.recovery.platform_work import Tools, call_of
from shared.effects.running import EffectRun
from shared.platforms.pacing import paced


async def look(tools: Tools, effect: EffectRun) -> work.SourceState:
    """Whether the source is on."""
    payload: work.LookAtSource = effect.payload
    return work.SourceState(on=await _state(tools, payload) == "on")


async def _state(tools: Tools, payload: work.LookAtSource) -> str:
    power = tools.open_site(payload.site).power
    return await power.state(vm=payload.vm, instance=payload.instance)


async def look_at_all(tools: Tools, effect: EffectRun) -> SourcesListed:
    """Which VMs the site has nothing of: one listing of its own VMs, one of instances.

    Raises Transient where the site does not answer; the engine asks again.
    """
    payload: LookAtSources = effect.payload
    inventory = tools.open_site(payload.site).inventory
    own = [vm for vm in payload.vms if vm not in payload.instances]
    made = {payload.instances[vm]: vm for vm in payload.vms if vm in payload.instances}
    there: set[str] = set()
    if own:
        there.update(vm.name for vm in await paced(lambda: inventory.list_vms(own)))
    if made:
        listed = await paced(lambda: inventory.list_made(list(made)))
        there.update(made[vm.instance] for vm in listed)
    return SourcesListed(missing=tuple(vm for vm in payload.vms if vm not in there))


async def shut_down(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Ask the guest to end; Permanent `shutdown-timed-out` where it does not."""
    payload: work.ShutDownSource = effect.payload
    power = tools.open_site(payload.site).power
    await power.shut_down(
        call_of(effect), vm=payload.vm, within_s=payload.within_s, instance=payload.instance
    )
    return work.WorkDone()


async def power_off(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """Off, as by a power cut."""
    payload: work.PowerOffSource = effect.payload
    power = tools.open_site(payload.site).power
    await power.power_off(call_of(effect), vm=payload.vm, instance=payload.instance)
    return work.WorkDone()


async def power_on(tools: Tools, effect: EffectRun) -> work.WorkDone:
    """On again."""
    payload: work.PowerOnSource = effect.payload
    power = tools.open_site(payload.site).power
    await power.power_on(call_of(effect), vm=payload.vm, instance=payload.instance)
    return work.WorkDone()
