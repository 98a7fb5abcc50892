"""What sites sustain: disk iterations per interval, all plans together, against their limits.

Pure arithmetic over what the sites said of themselves and what plans ask of them. Decides what is
refused as over capacity; decision 0020 says what it assumes and what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.common import Problem
from schemas.plans import PlanDefinition
from schemas.scheduler import SiteLimit, SiteLoad
from schemas.units import format_duration

PROTECTED_CALLS: Final[Mapping[str, str]] = {"CreateSnapshots": "vms", "DeleteSnapshot": "vms"}
RECOVERY_CALLS: Final[Mapping[str, str]] = {
    "StartSnapshot": "disks",
    "CompleteSnapshot": "vms",
    "snapshot-writes": "disks",
    "node": "disks",
}
"""Limit → what an iteration spends one unit of it for; the effects of `replicator/domain/work.py`
name the same budgets."""

UNITS: Final[Mapping[str, str]] = {
    "snapshot-writes": "snapshot writes",
    "node": "disk copies on its replication node",
}
"""What a unit of a limit is, for people; of all others a call."""

HOLD_S: Final[Mapping[str, float]] = {"snapshot-writes": 60.0, "node": 1.0}
"""How long an iteration of one disk is assumed to hold a slot. 60 s is what limits.md counts for a
snapshot that is being written. A node's slot is held while changes are copied, and nobody knows
beforehand how many there are: 1 s is what the quickest need, so that only a plan that cannot hold
its interval however little changes is refused for it."""

REPLICATION_SHARE: Final[Mapping[str, float]] = {"snapshot-writes": 0.8}
"""Of a provider's 100 snapshot writes 20 are kept for recoveries and checkpoints (limits.md)."""

_ROOM: Final = 1 + 1e-9

Loads = Mapping[str, SiteLoad]
"""What each plan asks of one site."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One limit under a plan's interval. `needed` is what all plans ask for in that time, `plan`
    this one's part of it, `sustained` what the site gives. `more`: the plan asks for more than
    its version before did."""

    site: str
    limit: str
    interval_s: float
    sustained: float
    needed: float
    plan: float
    allows: str
    more: bool = True

    @property
    def over(self) -> bool:
        """Whether the site cannot sustain it."""
        return self.needed > self.sustained * _ROOM


def loads_of(definition: PlanDefinition, *, disks: int) -> dict[str, SiteLoad]:
    """What a plan asks of its two sites; `definition` holds all its VMs, which have `disks`."""
    load = SiteLoad(
        role="protected",
        vms=len(definition.vms),
        disks=max(disks, len(definition.vms)),
        interval_s=definition.replication.interval_s,
    )
    return {
        definition.protected_site: load,
        definition.recovery_site: msgspec.structs.replace(load, role="recovery"),
    }


def uses(
    site: str, plan: str, asked: SiteLoad, *, limits: Sequence[SiteLimit], loads: Loads
) -> Iterator[Use]:
    """How a plan's load fits the limits of one of its sites, beside the `loads` that stand."""
    interval_s = asked.interval_s
    before = loads.get(plan)
    others = [load for name, load in loads.items() if name != plan]
    for limit in limits:
        mine = _per_s(limit.name, asked)
        per_s, allows = _sustained(limit)
        if not mine or not allows:
            continue
        beside = sum(_per_s(limit.name, load) for load in others)
        yield Use(
            site=site,
            limit=limit.name,
            interval_s=interval_s,
            sustained=per_s * interval_s,
            needed=(mine + beside) * interval_s,
            plan=mine * interval_s,
            allows=allows,
            more=before is None or mine > _per_s(limit.name, before) * _ROOM,
        )


def refusal(found: Iterable[Use]) -> Problem | None:
    """Why a plan is refused, its binding limits in numbers; None where it may be applied.

    A plan that asks for no more than it did is not refused: whoever mends its scripts on a bad
    night is not to be stopped by what another plan was granted knowingly.
    """
    over = [use for use in found if use.over and use.more]
    if not over:
        return None
    over.sort(key=_tightest)
    return Problem(
        code="over-capacity",
        message="the plan cannot hold its interval: " + "; ".join(map(sentence, over)),
        remedy="give it a longer interval or fewer disks, or ask for a higher limit; "
        "`--over-capacity` or `replication.over_capacity: true` applies it all the same",
    )


def sentence(use: Use) -> str:
    """One limit in words and numbers."""
    interval = format_duration(use.interval_s)
    unit = UNITS.get(use.limit, f"{use.limit} calls")
    return (
        f"{use.site} sustains {_number(use.sustained)} {unit} per {interval} "
        f"({use.allows}); its plans need {_number(use.needed)}, this one {_number(use.plan)}"
    )


def details(found: Sequence[Use], *, count_max: int = 12) -> dict[str, Any]:
    """For the answer to who applies the plan: every limit it meets, the binding one first."""
    ordered = sorted(found, key=_tightest)
    return {
        "capacity": [_plain(use) for use in ordered[:count_max]],
        "over_capacity": any(use.over for use in found),
    }


def _tightest(use: Use) -> tuple[float, str, str]:
    return use.sustained / use.needed, use.site, use.limit


def _plain(use: Use) -> dict[str, Any]:
    return {
        "site": use.site,
        "limit": use.limit,
        "interval_s": use.interval_s,
        "sustained": round(use.sustained, 1),
        "needed": round(use.needed, 1),
        "plan": round(use.plan, 1),
        "over": use.over,
        "message": sentence(use),
    }


def _per_s(limit: str, load: SiteLoad) -> float:
    """Units of a limit that a plan asks for per second, on average."""
    calls = PROTECTED_CALLS if load.role == "protected" else RECOVERY_CALLS
    counted = calls.get(limit)
    if counted is None or not load.interval_s:
        return 0.0
    count: int = load.disks if counted == "disks" else load.vms
    return count / load.interval_s


def _sustained(limit: SiteLimit) -> tuple[float, str]:
    """Units per second that replication has of a limit, and how that comes; "": not bounded.

    A bucket's burst is no help: what it lends is paid back before the next tick.
    """
    if limit.per_second is not None:
        return limit.per_second, f"{limit.per_second:g}/s"
    hold_s = HOLD_S.get(limit.name)
    if limit.concurrent is None or hold_s is None:
        return 0.0, ""
    slots = limit.concurrent * REPLICATION_SHARE.get(limit.name, 1.0)
    return slots / hold_s, f"{slots:g} at once, {hold_s:g} s each"


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
