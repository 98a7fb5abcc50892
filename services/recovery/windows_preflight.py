"""What preflight asks for the sake of Windows VMs: prep nodes, the reader of disks, readiness.

Owns the questions, reads only. A recovery without a Windows asks none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.common import Problem
from schemas.recovery import Member
from schemas.recovery_work import Preflight
from services.recovery.domain.prep_state import ALL_DRAINED, NO_NODE, PrepPool, pool_stream
from services.recovery.domain.vm_state import VmRecovery
from services.recovery.platform_work import Tools, os_of
from services.recovery.windows_work import problems_of
from shared.errors import Permanent, Refused, Transient
from shared.platforms.pacing import paced
from shared.platforms.ports import Call, CopyFacts, Platform, PrepNode

LOOKED_INTO_MAX: Final = 20
"""Copies that a dry run looks into: one takes about a second and a process of its own."""

READERS_MAX: Final = 2
WARNINGS_MAX: Final = 60
"""They travel in an event, beside the calls."""


class WindowsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The Windows VMs of a recovery with their copies, and the nodes that could work for them."""

    copies: dict[str, CopyFacts] = {}
    nodes: tuple[PrepNode, ...] = ()
    problems: tuple[Problem, ...] = ()


async def look(
    tools: Tools, site: Platform, work: Preflight, copies: Mapping[str, CopyFacts]
) -> WindowsFacts:
    """What keeps Windows VMs from being prepared. Raises Transient where the site is not asked."""
    found = {vm: copy for vm, copy in copies.items() if os_of(copy) == "windows"}
    if not found:
        return WindowsFacts()
    listed = await paced(site.prep.list_nodes)
    stream = pool_stream(work.site.site)
    pool: PrepPool = (await tools.read_states((stream,)))[stream]
    nodes = tuple(node for node in listed.nodes if node.name not in pool.drained)
    problems = list(problems_of(listed.problems))
    if not nodes:
        problems.append(ALL_DRAINED if listed.nodes else NO_NODE)
    return WindowsFacts(copies=found, nodes=nodes, problems=tuple(problems))


def needed_nodes(facts: WindowsFacts) -> tuple[str, ...]:
    """The prep nodes that all Windows of a recovery need at once, as far as there are enough."""
    needed: list[str] = []
    seats = 0
    for node in facts.nodes:
        if seats >= len(facts.copies):
            break
        needed.append(node.name)
        seats += node.seats
    return tuple(needed)


def seats_of(facts: WindowsFacts) -> int:
    """How many Windows can be prepared at once."""
    return sum(node.seats for node in facts.nodes)


async def warnings(
    site: Platform, work: Preflight, facts: WindowsFacts, vms: Mapping[str, VmRecovery]
) -> list[dict[str, Any]]:
    """What should be mended in the sources before they are needed: never a reason to stop.

    At most LOOKED_INTO_MAX copies are looked into, lower boot orders first.
    """
    ordered = [m for m in _by_order(work.members) if m.vm in facts.copies]
    found: list[tuple[str, Problem]] = []
    if not site.capabilities.guest_agent and any(validates(vms[m.vm]) for m in ordered):
        found.append(("", _NO_AGENT))
    room = asyncio.Semaphore(READERS_MAX)
    looked = ordered[:LOOKED_INTO_MAX]
    async with asyncio.TaskGroup() as group:
        looks = [
            group.create_task(_readiness(site, work, facts.copies[member.vm], room))
            for member in looked
        ]
    for member, task in zip(looked, looks, strict=True):
        found += [(member.vm, problem) for problem in task.result()]
    if len(ordered) > len(looked):
        found.append(("", _more(len(ordered) - len(looked))))
    told = [{"vm": vm, **msgspec.to_builtins(problem)} for vm, problem in found]
    return told[:WARNINGS_MAX]


_NO_AGENT: Final = Problem(
    code="no-guest-agent",
    message="nobody can ask the Windows of this site how they are: `validate-windows` will fail",
    remedy="`windows: {validate: false}` in the plan leaves the step out",
)


def _more(count: int) -> Problem:
    return Problem(code="not-looked-into", message=f"{count} more Windows were not looked into")


async def _readiness(
    site: Platform, work: Preflight, copy: CopyFacts, room: asyncio.Semaphore
) -> tuple[Problem, ...]:
    call = Call(key="", plan=work.plan, vm=copy.vm, job=work.job)
    disks = [disk.name for disk in copy.disks]
    async with room:
        try:
            findings = await site.prep.readiness(call, copy_id=copy.copy_id, disks=disks)
        except (Permanent, Refused, Transient) as error:
            return (Problem(code=error.code, message=error.message, remedy=error.remedy),)
    return problems_of(findings)


def _by_order(members: Sequence[Member]) -> list[Member]:
    return sorted(members, key=lambda member: (member.boot_order, member.vm))


def validates(vm: VmRecovery) -> bool:
    """Whether a VM, should it be a Windows, is asked how it is once it is ready."""
    return vm.enrolled is not None and vm.enrolled.definition.windows.validate
