"""What preflight asks of the source site of a full recovery: is it there, and are its VMs?

Reads only. A site that cannot be reached is no error of the recovery where the operator's word
stands that its VMs are gone: that is what failovers are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from schemas.common import Problem
from schemas.recovery_work import Preflight
from schemas.units import some_of
from services.recovery.domain.operations import of
from services.recovery.domain.operations.source import UNREACHED
from services.recovery.platform_work import Tools
from services.recovery.reversal_work import cannot_replicate_from
from shared.errors import Permanent, Transient
from shared.platforms.pacing import paced
from shared.platforms.ports import Platform, VmFacts

REACH_S_MAX: Final = 10.0
"""How long the source site may take to answer. It counts towards the RTO of a disaster."""

NAMED_MAX: Final = 10
LOOKS_MAX: Final = 3
"""So often a site is not reached before it counts as lost: its VMs are then not shut down."""

BETWEEN_LOOKS_S: Final = 0.5

T = TypeVar("T")


async def look(tools: Tools, work: Preflight) -> tuple[bool, list[Problem]]:
    """Whether the source site is lost, and what keeps its VMs from being shut down."""
    if work.source is None:
        return False, []
    names = [member.vm for member in work.members]
    try:
        async with asyncio.timeout(REACH_S_MAX):
            site = tools.open_site(work.source)
            unable = cannot_replicate_from(site, work.source) if work.instances else None
            if unable is not None:
                return False, [unable]
            found = await _found(site, names, work.instances)
    except TimeoutError:
        silent = Transient(f"no answer within {REACH_S_MAX:g} s", code="timed-out")
        return _unreachable(work, silent)
    except Transient as error:
        return _unreachable(work, error)
    except Permanent as error:
        # It answered: whether its VMs run can be found out, one by one.
        unreadable = Problem(code=error.code, message=error.message, remedy=error.remedy)
        return False, [] if work.source_gone else [unreadable]
    missing = sorted(set(names) - {vm.name for vm in found})
    if not missing or work.source_gone:
        return False, []
    problem = Problem(
        code="source-missing",
        message=f"{work.source.site} has no VM {some_of(missing, NAMED_MAX)}: whether it runs "
        "is not known",
        remedy=_remedy(work),
    )
    return False, [problem]


async def _found(
    site: Platform, names: Sequence[str], instances: Mapping[str, str]
) -> tuple[VmFacts, ...]:
    """The sources that are there: VMs of the site, or the instances that VMs run as."""
    own = [name for name in names if name not in instances]
    made = [instances[name] for name in names if name in instances]
    found: tuple[VmFacts, ...] = ()
    if own:
        found = await _answer(lambda: site.inventory.list_vms(own))
    if made:
        found += await _answer(lambda: site.inventory.list_made(made))
    return found


async def originals(site: Platform, work: Preflight) -> list[Problem]:
    """VMs that come home find their originals off: no VM may run twice."""
    if not work.homeward:
        return []
    names = [member.vm for member in work.members]
    found = await paced(lambda: site.inventory.list_vms(names))
    running = [vm.name for vm in found if vm.power == "on"]
    if not running:
        return []
    return [
        Problem(
            code="original-runs",
            message=f"the original of VM {some_of(running, NAMED_MAX)} is on at "
            f"{work.site.site}, and would run beside what comes up there",
            remedy="power it off at its site, then try again",
        )
    ]


async def _answer(read: Callable[[], Awaitable[T]]) -> T:
    """The site's answer. One error is no lost site: where it was not reached it is tried again a
    few times, and one that answers with an error until the caller's time is over."""
    missed = 0
    while True:
        try:
            return await paced(read)
        except Transient as error:
            missed += error.code in UNREACHED
            if missed >= LOOKS_MAX:
                raise
        await asyncio.sleep(BETWEEN_LOOKS_S)


def _unreachable(work: Preflight, error: Transient) -> tuple[bool, list[Problem]]:
    if work.source_gone:
        return True, []
    assert work.source is not None, "somebody was asked"
    problem = Problem(
        code="source-unreachable",
        message=f"the source site {work.source.site} cannot be reached ({error.message}), so its "
        "VMs cannot be shut down",
        remedy=_remedy(work),
    )
    return False, [problem]


def _remedy(work: Preflight) -> str:
    if of(work.mode).trusts_word:
        return (
            "if you know that they do not run, say so with --source-gone: the site is then "
            "quarantined; else bring the site back"
        )
    return "bring it back, or use --mode failover where its VMs are gone"
