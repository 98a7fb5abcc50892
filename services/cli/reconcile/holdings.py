"""What the sites hold of ours, by listing through the platform ports. Changes nothing.

A call that is throttled or fails for a reason that may pass is asked again for a while; a site
that still cannot be listed is told as that, and never taken for an empty one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, TypeVar

import msgspec

from schemas.joins import copies_at
from schemas.views import Site
from services.cli.reconcile.beliefs import Installation
from shared.errors import SeawallError, Throttled, Transient
from shared.platforms.ports import CopyFacts, Owned, Platform
from shared.platforms.sites import Sites

T = TypeVar("T")

CALLS_AT_ONCE: Final = 8
CALL_TIMEOUT_S: Final = 30.0
TRY_S_MAX: Final = 5.0
"""How long a call is repeated before its site counts as one that cannot be listed."""

THROTTLED_S_MAX: Final = 60.0
"""The same for a call that is throttled: services that run spend the same quotas."""

PAUSE_S: Final = 0.5

VmName = tuple[str, str]
"""(plan, VM)."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one site holds. `problem`: why it could not be listed, and then nothing else is said.

    `owned` is everything with our tag; `copies` the current copies of the VMs that were asked for,
    `checkpoints` those of the plans that were.
    """

    owned: tuple[Owned, ...] = ()
    copies: Mapping[VmName, CopyFacts | None] = {}
    checkpoints: tuple[CopyFacts, ...] = ()
    problem: str = ""


class _Address(msgspec.Struct, frozen=True, kw_only=True):
    site: str
    platform: str
    settings: Mapping[str, str]


async def list_sites(installation: Installation) -> dict[str, Held]:
    """What every site of the installation holds, by site."""
    sites = Sites()
    try:
        async with asyncio.TaskGroup() as group:
            listing = {
                name: group.create_task(_list_site(sites, site, installation))
                for name, site in installation.sites.items()
            }
        return {name: task.result() for name, task in listing.items()}
    finally:
        await sites.close()


async def _list_site(sites: Sites, site: Site, installation: Installation) -> Held:
    vms = [(vm.plan, vm.name) for vm in installation.vms.values()
           if copies_at(vm) == site.name]  # fmt: skip
    # Checkpoints of a plan that was reversed at any time may be at either of its sites.
    plans = [plan.name for plan in installation.plans.values()
             if site.name in (plan.recovery_site, plan.protected_site)]  # fmt: skip
    address = _Address(site=site.name, platform=site.platform, settings=site.settings)
    try:
        return await _held(sites.open(address), vms, plans)
    except (SeawallError, TimeoutError) as away:
        return Held(problem=str(away) or f"no answer within {CALL_TIMEOUT_S:g} s")


async def _held(platform: Platform, vms: Collection[VmName], plans: Collection[str]) -> Held:
    await _asked(platform.inventory.check)
    snapshots = await _asked(platform.source.list_snapshots)
    generations = await _asked(platform.target.list_generations)
    owned = await _asked(platform.compute.list_owned)
    copies = await _current(platform, vms)
    checkpoints: list[CopyFacts] = []
    for plan in plans:
        checkpoints += await _asked(partial(platform.target.list_checkpoints, plan=plan))
    return Held(
        owned=(*snapshots, *generations, *owned),
        copies=copies,
        checkpoints=tuple(checkpoints),
    )


async def _current(platform: Platform, vms: Collection[VmName]) -> dict[VmName, CopyFacts | None]:
    """The current copies of VMs, a few at once."""
    room = asyncio.Semaphore(CALLS_AT_ONCE)

    async def current(plan: str, vm: str) -> CopyFacts | None:
        async with room:
            return await _asked(partial(platform.target.current, plan=plan, vm=vm))

    try:
        async with asyncio.TaskGroup() as group:
            asked = {vm: group.create_task(current(*vm)) for vm in vms}
    except ExceptionGroup as failed:
        # One of them says why the site cannot be listed.
        raise failed.exceptions[0] from failed
    return {vm: task.result() for vm, task in asked.items()}


async def _asked(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of a listing, which may be repeated."""
    began = asyncio.get_running_loop().time()
    while True:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await call()
        except Transient as later:
            pause_s = later.retry_after_s or PAUSE_S
            patience_s = THROTTLED_S_MAX if isinstance(later, Throttled) else TRY_S_MAX
            if asyncio.get_running_loop().time() + pause_s > began + patience_s:
                raise
            await asyncio.sleep(pause_s)
