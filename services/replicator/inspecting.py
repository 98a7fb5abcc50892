"""Looks at a site: whether it answers, which VMs are there, what is wrong with those asked for.

Reads only, and defines the site's budgets. What is wrong is an answer, not an error: a person
waits for it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from schemas.common import Problem
from schemas.documents import did_you_mean
from schemas.leftovers import FACT, Listed, OwnedObject
from schemas.replicator import InspectSite
from schemas.scheduler import SiteInspected
from services.replicator.budgets import limits_of
from services.replicator.tools import Tools, within
from shared.effects.running import EffectRun
from shared.errors import Permanent, Refused, SeawallError, Transient
from shared.platforms.pacing import paced
from shared.platforms.ports import Platform, VmFacts

OWNED_MAX: Final = 20_000
"""More than this of a site is not compared; that there is more is told."""

PROBLEMS_MAX: Final = 50
"""More would not fit into one message, and nobody reads them all."""


async def inspect_site(tools: Tools, effect: EffectRun) -> SiteInspected:
    """Call the site and look up the VMs asked for. Raises Transient while our database is away."""
    payload: InspectSite = effect.payload
    answer = SiteInspected(
        request=payload.request, site=payload.site.site, for_stream=payload.for_stream
    )
    try:
        answer = await within(
            _look(tools, payload, answer),
            what=f"site {payload.site.site}",
            timeout_s=tools.settings.inspect_timeout_s,
        )
    except (Transient, Permanent, Refused) as error:
        # Not retried: who asked can ask again, and should hear now what is wrong.
        return msgspec.structs.replace(answer, problem=problem_of(error))
    # A failure of our own database is no answer of the site: the engine does this again.
    budgets = await tools.define_budgets(payload.site)
    return msgspec.structs.replace(answer, limits=limits_of(payload.site.site, budgets))


def problem_of(error: SeawallError) -> Problem:
    """An error as an answer."""
    return Problem(code=error.code, message=error.message, remedy=error.remedy)


async def _look(tools: Tools, payload: InspectSite, answer: SiteInspected) -> SiteInspected:
    platform = tools.open_site(payload.site)
    site = await paced(platform.inventory.check)
    facts: dict[str, Any] = {
        "platform": payload.site.platform,
        "capacity_free": site.capacity_free,
        "networks": list(site.networks),
        "instances": site.instances,
        "capabilities": msgspec.to_builtins(platform.capabilities),
    }
    if payload.list_owned:
        facts[FACT] = msgspec.to_builtins(await _list_owned(tools, platform))
    prep = await paced(platform.prep.list_nodes)
    if prep.nodes:
        facts["prep_nodes"] = [msgspec.to_builtins(node) for node in prep.nodes]
    if payload.match is None and not payload.vms:
        return msgspec.structs.replace(answer, facts=facts)
    found, problems = await _vms(platform, payload)
    facts["disks"] = disks = sum(len(vm.disks) for vm in found)
    facts["bytes"] = sum(disk.size for vm in found for disk in vm.disks)
    return msgspec.structs.replace(
        answer,
        facts=facts,
        vms=tuple(sorted(vm.name for vm in found)),
        vm_problems=_few(problems),
        disks=disks,
    )


async def _list_owned(tools: Tools, platform: Platform) -> Listed:
    """All that carries our tag, kept as a blob: it may be more than a fact can hold."""
    at = tools.clock.now()
    found = (
        *await paced(platform.source.list_snapshots),
        *await paced(platform.target.list_generations),
        *await paced(platform.compute.list_owned),
    )
    objects = sorted({(each.kind, each.object_id): each for each in found}.items())
    kept = [
        OwnedObject(
            kind=each.kind,
            object_id=each.object_id,
            plan=each.plan,
            vm=each.vm,
            job=each.job,
        )
        for _, each in objects[:OWNED_MAX]
    ]
    sha256 = await tools.put_blob(msgspec.json.encode(kept))
    return Listed(sha256=sha256, at=at, total=len(objects), kept=len(kept))


async def _vms(
    platform: Platform, payload: InspectSite
) -> tuple[Sequence[VmFacts], list[Problem]]:
    """The VMs that are there and readable, and what is wrong with the others."""
    if payload.match is not None:
        found, problems = await _matching(platform, payload.match)
        names = {vm.name for vm in found}
        missing = [name for name in payload.vms if name not in names]
        if not problems:
            problems += [_missing(name, payload.site.site, names) for name in missing]
        return found, problems
    found, problems, absent = await _named(platform, payload.vms)
    if absent:
        others = await _other_names(platform)
        problems += [_missing(name, payload.site.site, others) for name in absent]
    return found, problems


async def _matching(platform: Platform, match: str) -> tuple[Sequence[VmFacts], list[Problem]]:
    try:
        every = await paced(platform.inventory.list_vms)
    except (Permanent, Refused) as error:
        return (), [problem_of(error)]
    return [vm for vm in every if fnmatch.fnmatchcase(vm.name, match)], []


async def _named(
    platform: Platform, names: Sequence[str]
) -> tuple[list[VmFacts], list[Problem], list[str]]:
    """All in one call; one by one only where something is wrong, to name everything that is."""
    problems: list[Problem] = []
    faulty: set[str] = set()
    try:
        found = list(await paced(lambda: platform.inventory.list_vms(names)))
    except (Permanent, Refused):
        found = []
        for name in names:
            try:
                found += await paced(partial(platform.inventory.list_vms, [name]))
            except (Permanent, Refused) as error:
                problems.append(problem_of(error))
                faulty.add(name)
    known = faulty | {vm.name for vm in found}
    return found, problems, [name for name in names if name not in known]


async def _other_names(platform: Platform) -> set[str]:
    """Names to suggest; none where the site has a VM that cannot be read."""
    try:
        return {vm.name for vm in await paced(platform.inventory.list_vms)}
    except Permanent:
        return set()


def _missing(name: str, site: str, others: set[str]) -> Problem:
    hint = did_you_mean(name, sorted(others))
    return Problem(
        code="no-such-vm",
        message=f"there is no VM {name} at site {site}" + (f"; {hint}" if hint else ""),
        remedy="correct the name in the plan, or add the VM to the site",
    )


def _few(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    if len(problems) <= PROBLEMS_MAX:
        return tuple(problems)
    more = len(problems) - PROBLEMS_MAX
    rest = Problem(code="more-problems", message=f"and {more} more VMs with problems")
    return (*problems[:PROBLEMS_MAX], rest)
