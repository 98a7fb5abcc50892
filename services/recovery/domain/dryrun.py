"""What a recovery would do, as a person reads it: ordered calls, budgets, the least duration.

Pure arithmetic over what preflight found. Decides nothing. The order is that of the simulation
(`shared.forecast`), whose durations here are what the platform declares: what past recoveries took
is in the read models, and joined by those who read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.recovery import Member
from services.recovery.domain.work import QUOTAS
from shared.forecast import plan as forecast
from shared.forecast.limits import Limit
from shared.forecast.plan import CALLS as CALLS
from shared.forecast.plan import HOOKS, WINDOWS_CALLS, Machine, PlannedCall
from shared.forecast.simulation import floor_of, simulate

CALLS_LISTED_MAX: Final = 250
"""More calls than this are kept as a blob: facts travel in an event."""


STEP_CALLS: Final[Mapping[str, str]] = {**CALLS, **WINDOWS_CALLS}


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What preflight found out about a VM: its disks, its scripts, how long it says it boots,
    whether it is a Windows and is asked how it is."""

    disks: tuple[str, ...]
    pre_script: bool = False
    post_script: bool = False
    boots_in_s: float | None = None
    windows: bool = False
    validate: bool = False


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery that is only thought through. `latencies`: seconds by platform call."""

    members: tuple[Member, ...]
    guests: Mapping[str, Guest]
    hold: bool
    build_ahead: bool = True
    early: bool = True
    latencies: Mapping[str, float] = {}

    def plan(self) -> forecast.Plan:
        """The recovery as the simulation takes it."""
        return forecast.Plan(
            machines=tuple(self._machine(member) for member in self.members),
            build_ahead=self.build_ahead,
            early=self.early,
        )

    def _machine(self, member: Member) -> Machine:
        guest = self.guests[member.vm]
        seconds = {
            step: self.latencies[call]
            for step, call in STEP_CALLS.items()
            if call in self.latencies
        }
        if guest.boots_in_s is not None:
            seconds[forecast.BOOT] = guest.boots_in_s
        return Machine(
            name=member.vm,
            boot_order=member.boot_order,
            boot_delay_s=member.boot_delay_s,
            disks=len(guest.disks),
            pre_script=guest.pre_script,
            post_script=guest.post_script,
            windows=guest.windows,
            validate=guest.validate,
            seconds=seconds,
        )


def ordered_calls(rehearsal: Rehearsal, limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """The calls in the order in which they would start, `at_s` after the first.

    A VM's held copy is let go once its guest is on. Scripts stand where they would run.
    """
    members = {member.vm: member for member in rehearsal.members}
    calls: list[dict[str, Any]] = []
    for planned in simulate(rehearsal.plan(), limits).calls:
        member = members[planned.vm]
        if planned.step == forecast.HOLD and not rehearsal.hold:
            continue
        calls.append(_call(planned, member, rehearsal.guests[planned.vm]))
        if planned.step == forecast.POWER_ON and rehearsal.hold:
            calls.append({"call": "release", **_about(planned, member)})
    return calls


def with_nodes(calls: Sequence[dict[str, Any]], nodes: Sequence[str]) -> list[dict[str, Any]]:
    """The calls with those to the prep nodes among them: on before the first call of a Windows is
    made, off once the last one is prepared. Nothing more without a Windows."""
    prepared = [n for n, call in enumerate(calls) if call["call"] == "prepare_windows"]
    if not prepared:
        return list(calls)
    beyond = prepared[-1] + 1
    on = [_of_node("power_on_node", name) for name in nodes]
    off = [_of_node("power_off_node", name) for name in nodes]
    return [_of_node("list_prep_nodes", ""), *on, *calls[:beyond], *off, *calls[beyond:]]


def _of_node(call: str, node: str) -> dict[str, Any]:
    about = {"call": call, "vm": "", "boot_order": None}
    return {**about, "node": node} if node else about


def source_calls(members: Sequence[Member], *, site: str, sync: bool) -> list[dict[str, Any]]:
    """What comes first in a full recovery, at the source site: all at once, before any other.

    A source that ignores the shut-down costs one more call. The last sync's own calls depend on
    what changed, and are not listed.
    """
    calls: list[dict[str, Any]] = []
    for name in ("look_at_source", "shut_down_source", *(("last_sync",) if sync else ())):
        calls += [
            {"call": name, "vm": each.vm, "boot_order": each.boot_order, "site": site}
            for each in sorted(members, key=lambda each: (each.boot_order, each.vm))
        ]
    return calls


def _call(planned: PlannedCall, member: Member, guest: Guest) -> dict[str, Any]:
    about = _about(planned, member)
    if planned.step in HOOKS:
        return {"call": "run_script", **about, "hook": HOOKS[planned.step]}
    call: dict[str, Any] = {"call": STEP_CALLS[planned.step], **about}
    if planned.step == forecast.REBUILD:
        call["disk"] = guest.disks[planned.part]
    if planned.step == forecast.POWER_ON:
        call["boot_delay_s"] = member.boot_delay_s
        if guest.boots_in_s is not None:
            call["boots_in_s"] = guest.boots_in_s
    return call


def _about(planned: PlannedCall, member: Member) -> dict[str, Any]:
    return {"vm": member.vm, "boot_order": member.boot_order, "at_s": round(planned.at_s, 3)}


def budgets_needed(
    calls: Sequence[Mapping[str, Any]], limits: Sequence[Limit]
) -> dict[str, dict[str, float]]:
    """Per quota: how many calls spend it and, where the site limits it, the least seconds."""
    counts: Counter[str] = Counter()
    for call in calls:
        quota = QUOTAS.get(str(call["call"]).replace("_", "-"))
        if quota is not None:
            counts[quota] += 1
    by_name = {limit.name: limit for limit in limits}
    needed: dict[str, dict[str, float]] = {}
    for quota, count in sorted(counts.items()):
        needed[quota] = {"calls": count}
        limit = by_name.get(quota)
        if limit is not None and limit.per_second:
            seconds = max(0.0, (count - limit.burst) / limit.per_second)
            needed[quota] |= {
                "burst": limit.burst,
                "per_second": limit.per_second,
                "seconds_min": round(seconds, 3),
            }
    return needed


def least_seconds(rehearsal: Rehearsal, limits: Sequence[Limit]) -> float:
    """The floor: boot orders, delays, declared boot times and full budgets, calls of no cost."""
    return round(floor_of(rehearsal.plan(), limits).total_s, 3)
