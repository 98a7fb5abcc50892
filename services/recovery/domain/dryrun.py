"""What a recovery would do, as a person reads it: ordered calls, budgets, least duration.

Pure arithmetic over what preflight found. Decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.recovery import Member
from services.recovery.domain.work import QUOTAS

CALLS_LISTED_MAX: Final = 300
"""More calls than this are kept as a blob: facts travel in an event."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A rate limit of the site: a bucket of `burst` tokens refilled with `per_second`."""

    burst: float
    per_second: float


class WindowsCalls(msgspec.Struct, frozen=True, kw_only=True):
    """The Windows VMs, each with whether it is validated, and the prep nodes that they need."""

    validated: dict[str, bool] = {}
    nodes: tuple[str, ...] = ()


def ordered_calls(
    members: Sequence[Member],
    disks: Mapping[str, Sequence[str]],
    *,
    hold: bool,
    windows: WindowsCalls | None = None,
) -> list[dict[str, Any]]:
    """The platform calls in the order in which each becomes possible, lower boot orders first.

    Prep nodes are on from the first Windows to the last one that is prepared.
    """
    windows = windows or WindowsCalls()
    ordered = sorted(members, key=lambda each: (each.boot_order, each.vm))
    last = max((n for n, m in enumerate(ordered) if m.vm in windows.validated), default=-1)
    calls: list[dict[str, Any]] = []
    for number, member in enumerate(ordered):
        calls += _of_member(member, disks[member.vm], hold=hold, windows=windows)
        if number == last:
            calls += [_of_node("power_off_node", name) for name in windows.nodes]
    if last >= 0:
        on = [_of_node("power_on_node", name) for name in windows.nodes]
        calls = [_of_node("list_prep_nodes", ""), *on, *calls]
    return calls


def _of_node(call: str, node: str) -> dict[str, Any]:
    about = {"call": call, "vm": "", "boot_order": None}
    return {**about, "node": node} if node else about


def _of_member(
    member: Member, disks: Sequence[str], *, hold: bool, windows: WindowsCalls
) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    about = {"vm": member.vm, "boot_order": member.boot_order}
    if hold:
        calls.append({"call": "hold", **about})
    calls += [{"call": "rebuild_disk", **about, "disk": d} for d in disks]
    if member.vm in windows.validated:
        calls.append({"call": "prepare_windows", **about})
    calls.append({"call": "create_instance", **about})
    calls.append({"call": "power_on", **about, "boot_delay_s": member.boot_delay_s})
    if hold:
        calls.append({"call": "release", **about})
    if windows.validated.get(member.vm):
        calls.append({"call": "validate_windows", **about})
    return calls


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


def budgets_needed(
    calls: Sequence[Mapping[str, Any]], budgets: Mapping[str, Budget]
) -> dict[str, dict[str, float]]:
    """Per quota: how many calls spend it and, where the site limits it, the least seconds."""
    counts: Counter[str] = Counter()
    for call in calls:
        quota = QUOTAS.get(str(call["call"]).replace("_", "-"))
        if quota is not None:
            counts[quota] += 1
    needed: dict[str, dict[str, float]] = {}
    for quota, count in sorted(counts.items()):
        needed[quota] = {"calls": count}
        limit = budgets.get(quota)
        if limit is not None and limit.per_second > 0:
            seconds = max(0.0, (count - limit.burst) / limit.per_second)
            needed[quota] |= {
                "burst": limit.burst,
                "per_second": limit.per_second,
                "seconds_min": round(seconds, 3),
            }
    return needed


def least_seconds(members: Sequence[Member], needed: Mapping[str, Mapping[str, float]]) -> float:
    """A floor for the duration: boot delays between orders, or the slowest budget if longer.

    Building, booting and scripts come on top: how long those take is learnt, not computed here.
    """
    longest: dict[int, float] = {}
    for member in members:
        delay = max(longest.get(member.boot_order, 0.0), member.boot_delay_s)
        longest[member.boot_order] = delay
    last = max(longest, default=0)
    delays = sum(delay for order, delay in longest.items() if order != last)
    slowest = max((each.get("seconds_min", 0.0) for each in needed.values()), default=0.0)
    return max(delays, slowest)
