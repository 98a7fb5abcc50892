"""What a roll back discards: since when each instance has run and, where told, how much it wrote.

Rules over the recovery's state and a platform's answer. That the platform cannot tell, or does not
answer in time, keeps nobody from rolling back: it is then said to be unknown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from schemas.operations import Discard, MeasureWritten, WrittenMeasured
from schemas.units import format_duration, format_size, some_of
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import recovery_effect
from shared.decider import Effect

NAMED_MAX: Final = 10
"""VMs that a refusal names; more are counted."""

KEPT_MAX: Final = 150
"""VMs whose discarded data an event names: with 2,000 VMs it stays below 64 KiB."""


def of_recovery(state: Recovery, *, now: dt.datetime) -> tuple[Discard, ...]:
    """What a roll back would discard, the longest-running instance first."""
    found = [
        Discard(
            vm=vm,
            since=member.powered_on_at,
            span_s=max((now - member.powered_on_at).total_seconds(), 0.0),
        )
        for vm, member in state.members.items()
        if member.powered_on_at is not None
    ]
    return tuple(sorted(found, key=lambda each: (each.since, each.vm)))


def measure(part: str, state: Recovery, *, vms: Sequence[str], now: dt.datetime) -> Effect:
    """Ask the recovery site how much the instances wrote; `vms` are those to be named."""
    start = told(state)
    site = start.header.recovery_site
    payload = MeasureWritten(site=site, plan=start.plan, job=start.job, vms=tuple(vms))
    return recovery_effect(
        part, "measure-written", payload, site=site.site, plan=start.plan, due=now, priority=1
    )


def with_bytes(found: Iterable[Discard], measured: WrittenMeasured | None) -> tuple[Discard, ...]:
    """The discards with what the platform told of them."""
    if measured is None:
        return tuple(found)
    told_of = dict(measured.written)
    return tuple(msgspec.structs.replace(each, bytes=told_of.get(each.vm)) for each in found)


def in_words(found: Sequence[Discard], measured: WrittenMeasured | None) -> str:
    """What is lost, for the person who must confirm it."""
    return f"all that was written since power-on is lost, {_total(measured)}: " + some_of(
        [_one(each) for each in with_bytes(found, measured)], NAMED_MAX
    )


def _one(found: Discard) -> str:
    how_much = "how much is not known" if found.bytes is None else format_size(found.bytes)
    since = f"{found.since:%Y-%m-%d %H:%M:%S %Z}"
    return f"{found.vm} since {since} ({format_duration(round(found.span_s))}, {how_much})"


def _total(measured: WrittenMeasured | None) -> str:
    if measured is None:
        return "how much is not known"
    total = format_size(measured.total)
    if measured.unknown:
        return f"{total} and what {measured.unknown} VM(s) wrote, which is not known"
    return f"{total} in all"
