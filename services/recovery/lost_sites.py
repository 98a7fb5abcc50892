"""A look at a quarantined site: which VMs run there that recoveries gave up. Reads only.

Owns the questions: one to our own log, one to the site, and, only where something runs, one to
each recovery site. When to look and what it means is the domain's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from schemas.ids import key_of
from schemas.lost_sites import Given, LookAtOriginals, Original, OriginalsListed
from services.recovery.domain import commit_window
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.platform_work import Tools
from shared.effects.running import EffectRun
from shared.errors import Permanent, Transient
from shared.platforms.pacing import paced
from shared.platforms.ports import Instance, RunningVm

T = TypeVar("T")

ANSWER_S_MAX: Final = 10.0
"""How long a site may take to answer; one that is gone is not waited for longer."""


async def look(tools: Tools, effect: EffectRun) -> OriginalsListed:
    """What runs of what was given up. Raises Transient where the site does not answer.

    A recovery that is rolled back, or is being, gave nothing up: its originals are the VMs.
    """
    payload: LookAtOriginals = effect.payload
    states: Mapping[str, Recovery] = await tools.read_states(payload.recoveries)
    wanted = frozenset(payload.vms)
    given: dict[str, tuple[str, ...]] = {}
    for recovery in payload.recoveries:
        every = commit_window.given_up(states[recovery])
        given[recovery] = tuple(vm for vm in every if not wanted or vm in wanted)
    names = tuple(dict.fromkeys(vm for vms in given.values() for vm in vms))
    power = tools.open_site(payload.site).power
    running = await _answer_of(payload.site.site, lambda: power.list_running(names))
    on = {each.name: each for each in running}
    found: list[Given] = []
    left = payload.count_max
    for recovery, vms in given.items():
        state, there = states[recovery], [on[vm] for vm in vms if vm in on]
        originals = await _originals(tools, state, there) if there else ()
        found.append(_found(recovery, given_up=len(vms), originals=originals, named=left))
        left = max(left - len(originals), 0)
    return OriginalsListed(found=tuple(found), unknown=tuple(sorted(wanted - set(names))))


async def _answer_of(site: str, ask: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            return await paced(ask)
    except TimeoutError:
        raise Transient(
            f"{site} gave no answer within {ANSWER_S_MAX:g} s",
            code="timed-out",
            remedy="look at the site and its network",
        ) from None


async def _originals(
    tools: Tools, state: Recovery, running: Sequence[RunningVm]
) -> tuple[Original, ...]:
    """The originals that run, each with what took its place as that is now."""
    start = told(state)
    place = start.header.recovery_site
    instances: dict[str, Instance] | None
    try:
        compute = tools.open_site(place).compute
        listed = await _answer_of(place.site, compute.list_instances)
        instances = {each.vm: each for each in listed if each.job == start.job}
    except (Transient, Permanent):
        # That something runs must be told, also where what took its place cannot be seen.
        instances = None
    return tuple(_original(start.plan, start.job, each, instances) for each in running)


def _original(
    plan: str, recovery: str, running: RunningVm, instances: Mapping[str, Instance] | None
) -> Original:
    made = None if instances is None else instances.get(running.name)
    doubled = None if instances is None else made is not None and made.power == "on"
    return Original(
        plan=plan,
        recovery=recovery,
        vm=running.name,
        since=running.since,
        instance="" if made is None else made.instance_id,
        doubled=doubled,
    )


def _found(recovery: str, *, given_up: int, originals: Sequence[Original], named: int) -> Given:
    digest = hashlib.sha256(f"{given_up}".encode())
    for each in sorted(originals, key=lambda original: original.vm):
        digest.update(f"\n{each.vm} {each.since} {each.instance} {each.doubled}".encode())
    return Given(
        recovery=recovery,
        plan=key_of(recovery),
        given_up=given_up,
        running=len(originals),
        doubled=sum(each.doubled is True for each in originals),
        digest=digest.hexdigest()[:16],
        originals=tuple(originals[:named]),
    )
