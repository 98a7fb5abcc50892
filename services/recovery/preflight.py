"""Preflight: looks, by reads only, whether a recovery can work, and lists what it would do.

Owns the questions. What their answers mean for the recovery is the domain's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.common import Problem
from schemas.recovery_work import Preflight, PreflightReport
from services.recovery import script_preflight, source_checks, windows_preflight
from services.recovery.domain import dryrun
from services.recovery.domain.operations import OPERATIONS
from services.recovery.domain.vm_state import VmRecovery, post_script, pre_script, vm_stream
from services.recovery.domain.work import instance_name
from services.recovery.platform_work import CONFIGURATION, Tools, copies_of_checkpoint
from shared.effects.running import EffectRun
from shared.errors import Permanent, Refused, SeawallError
from shared.forecast.limits import Limit
from shared.forecast.plan import PREP_NODES
from shared.platforms.pacing import paced
from shared.platforms.ports import CopyFacts, Platform

NAMED_COPIES_MAX: Final = 300
PROBLEMS_MAX: Final = 50


async def look(tools: Tools, effect: EffectRun) -> PreflightReport:
    """Everything that would keep the recovery from working, each with its remedy.

    Raises Transient where the site could not be asked; the engine asks again.
    """
    work: Preflight = effect.payload
    if not work.members or work.mode not in OPERATIONS:
        return PreflightReport(problems=_cannot(work))
    site = tools.open_site(work.site)
    # Our own log and the site are read side by side: of 2,000 VMs each takes a third of a second.
    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_enrolled(tools, work))
            looking = group.create_task(_at_site(site, work))
    except ExceptionGroup as failures:
        # One is enough to know what to do: the other was stopped for it.
        raise failures.exceptions[0] from None
    copies, problems = looking.result()
    if copies is None:
        return PreflightReport(problems=_bounded(problems))
    vms = reading.result()
    try:
        windows = await windows_preflight.look(tools, site, work, copies)
    except (Permanent, Refused) as error:
        return PreflightReport(problems=(_problem(error, code="site-unreachable"),))
    problems += windows.problems
    lost, about_source = await source_checks.look(tools, work)
    problems += about_source
    chosen = script_preflight.chosen(work, vms)
    problems += await script_preflight.look(tools, work, chosen)
    problems += await script_preflight.secrets(tools, vms)
    if problems:
        return PreflightReport(problems=_bounded(problems))
    # A site that is lost is not called.
    asked = msgspec.structs.replace(work, source=None) if lost else work
    facts = _facts(work, copies) | await script_preflight.fences(tools, chosen)
    if work.dry_run:
        rehearsal = _rehearsal(site, asked, copies, vms, windows=windows)
        facts |= await _dry_run(tools, site, rehearsal, asked, windows=windows)
    if work.dry_run and windows.copies:
        told = await windows_preflight.warnings(site, asked, windows, vms)
        facts["warnings"] = [*facts.get("warnings", ()), *told]
    return PreflightReport(facts=facts, source_lost=lost)


def _cannot(work: Preflight) -> tuple[Problem, ...]:
    if not work.members:
        return (Problem(code="no-vms", message="there is no VM to recover"),)
    text = f"mode {work.mode} is not available in this version"
    remedy = f"modes: {', '.join(OPERATIONS)}"
    return (Problem(code="mode-not-available", message=text, remedy=remedy),)


# ── Copies and the site ──────────────────────────────────────────────────────────────────────


async def _enrolled(tools: Tools, work: Preflight) -> dict[str, VmRecovery]:
    """What the VMs' own streams know of them."""
    streams = {member.vm: vm_stream(work.job, member.vm) for member in work.members}
    states = await tools.read_states(tuple(streams.values()))
    return {vm: states[stream] for vm, stream in streams.items()}


async def _at_site(
    site: Platform, work: Preflight
) -> tuple[dict[str, CopyFacts] | None, list[Problem]]:
    """The copies and what is wrong at the site; no copies at all where it cannot be asked."""
    try:
        copies, problems = await _copies(site, work)
        problems += await _site(site, work, copies)
        return copies, problems + await source_checks.originals(site, work)
    except (Permanent, Refused) as error:
        return None, [_problem(error, code="site-unreachable")]


async def _copies(site: Platform, work: Preflight) -> tuple[dict[str, CopyFacts], list[Problem]]:
    """Every VM's copy, and what is wrong with those that are missing or incomplete."""
    # One call for the whole plan: asking per VM, 2,000 of them would wait for the site's limits.
    if work.checkpoint == "latest":
        every = await paced(lambda: site.target.list_current(plan=work.plan))
        chosen = {copy.vm: copy for copy in every}
    else:
        every = await paced(lambda: site.target.list_checkpoints(plan=work.plan))
        chosen = copies_of_checkpoint(every, checkpoint=work.checkpoint)
    copies: dict[str, CopyFacts] = {}
    problems: list[Problem] = []
    for member in work.members:
        copy = chosen.get(member.vm)
        if copy is None or not copy.disks:
            problems.append(_no_copy(member.vm, work.checkpoint))
        else:
            copies[member.vm] = copy
    return copies, problems


def _no_copy(vm: str, checkpoint: str) -> Problem:
    if checkpoint == "latest":
        return Problem(
            code="no-copy",
            message=f"{vm} has no complete copy at the recovery site",
            remedy="let its first replication finish, or leave the VM out with --vm",
        )
    return Problem(
        code="no-copy",
        message=f"checkpoint {checkpoint} holds no copy of {vm}",
        remedy="choose another checkpoint (`checkpoint list`), or leave the VM out with --vm",
    )


async def _site(site: Platform, work: Preflight, copies: Mapping[str, CopyFacts]) -> list[Problem]:
    facts = await paced(site.inventory.check)
    problems: list[Problem] = []
    wanted = _disk_bytes(copies.values())
    if wanted > facts.capacity_free:
        problems.append(
            Problem(
                code="not-enough-space",
                message=f"disks of {wanted} bytes are needed, {facts.capacity_free} are free at "
                f"{work.site.site}",
                remedy="clean up earlier tests, or give the site more space",
            )
        )
    # Without a network of the plan's, each VM comes into its own.
    named = not work.isolated and work.network
    if named and facts.networks and work.network not in facts.networks:
        problems.append(
            Problem(
                code="no-such-network",
                message=f"there is no network {work.network!r} at {work.site.site}",
                remedy=f"use one of: {', '.join(facts.networks)}",
            )
        )
    instances = await paced(site.compute.list_instances)
    taken = {each.name for each in instances if each.job != work.job}
    for member in work.members:
        name = instance_name(member.vm, job=work.job, mode=work.mode)
        if name in taken:
            problems.append(
                Problem(
                    code="name-taken",
                    message=f"an instance named {name} exists already at {work.site.site}",
                    remedy="clean up the recovery it belongs to, or rename it",
                )
            )
    return problems


def _disk_bytes(copies: Iterable[CopyFacts]) -> int:
    return sum(disk.size for copy in copies for disk in copy.disks)


# ── What was found ───────────────────────────────────────────────────────────────────────────


def _facts(work: Preflight, copies: Mapping[str, CopyFacts]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "vms": len(work.members),
        "disks": sum(len(copy.disks) for copy in copies.values()),
        "disk_bytes": _disk_bytes(copies.values()),
    }
    if len(copies) <= NAMED_COPIES_MAX:
        facts["copies"] = {vm: copy.taken_at.isoformat() for vm, copy in copies.items()}
    return facts


def _rehearsal(
    site: Platform,
    work: Preflight,
    copies: Mapping[str, CopyFacts],
    vms: Mapping[str, VmRecovery],
    *,
    windows: windows_preflight.WindowsFacts,
) -> dryrun.Rehearsal:
    asked = dryrun.STEP_CALLS if windows.copies else dryrun.CALLS
    told = {call: site.limits.latency_s(call) for call in asked.values()}
    return dryrun.Rehearsal(
        members=work.members,
        guests={
            vm: _guest(copy, vms[vm], windows=vm in windows.copies) for vm, copy in copies.items()
        },
        hold=work.checkpoint == "latest",
        build_ahead=all(
            state.enrolled.header.recovery.build_ahead
            for state in vms.values()
            if state.enrolled is not None
        ),
        early=site.capabilities.create_powered_off,
        latencies={call: seconds for call, seconds in told.items() if seconds is not None},
    )


def _guest(copy: CopyFacts, state: VmRecovery, *, windows: bool) -> dryrun.Guest:
    """A VM's guest; how long it boots is read from its configuration, where that says it."""
    configured = copy.manifest.get(CONFIGURATION, {}).get("guest", {})
    boots_in_s = configured.get("boots_in_s") if isinstance(configured, dict) else None
    return dryrun.Guest(
        disks=tuple(disk.name for disk in copy.disks),
        pre_script=pre_script(state) is not None,
        post_script=post_script(state) is not None,
        boots_in_s=boots_in_s if isinstance(boots_in_s, int | float) else None,
        windows=windows,
        validate=windows and windows_preflight.validates(state),
    )


async def _dry_run(
    tools: Tools,
    site: Platform,
    rehearsal: dryrun.Rehearsal,
    work: Preflight,
    *,
    windows: windows_preflight.WindowsFacts,
) -> dict[str, Any]:
    """The ordered calls, the budgets they need, and the least time they take."""
    limits = [
        Limit(name=each.name, burst=each.burst or 0.0, per_second=each.per_second)
        for each in site.limits.budgets()
        if each.per_second is not None
    ]
    if windows.copies:
        limits.append(Limit(name=PREP_NODES, concurrent=windows_preflight.seats_of(windows)))
    # Two simulations of 2,000 VMs take a moment in which the worker has others to serve.
    calls = await asyncio.to_thread(dryrun.ordered_calls, rehearsal, limits)
    calls = dryrun.with_nodes(calls, windows_preflight.needed_nodes(windows))
    needed = dryrun.budgets_needed(calls, limits)
    if work.source is not None:
        # Their quotas are the source site's: they come before, and beside, the recovery site's.
        about = dryrun.source_calls(work.members, site=work.source.site, sync=work.last_sync)
        calls = [*about, *calls]
    facts: dict[str, Any] = {
        "calls": calls[: dryrun.CALLS_LISTED_MAX],
        "calls_total": len(calls),
        "budgets": needed,
        "seconds_min": await asyncio.to_thread(dryrun.least_seconds, rehearsal, limits),
        "latencies": dict(rehearsal.latencies),
        "build_ahead": rehearsal.build_ahead,
        "early": rehearsal.early,
    }
    if windows.copies:
        facts["prep_seats"] = windows_preflight.seats_of(windows)
    if len(calls) > dryrun.CALLS_LISTED_MAX:
        facts["calls_sha256"] = await tools.put_blob(msgspec.json.encode(calls))
    return facts


# ── Helpers ──────────────────────────────────────────────────────────────────────────────────


def _problem(error: SeawallError, *, code: str) -> Problem:
    return Problem(code=error.code or code, message=error.message, remedy=error.remedy)


def _bounded(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    if len(problems) <= PROBLEMS_MAX:
        return tuple(problems)
    more = Problem(code="more", message=f"{len(problems) - PROBLEMS_MAX} more problems")
    return (*problems[:PROBLEMS_MAX], more)
