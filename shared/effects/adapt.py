"""How a budget follows what its platform allows: the rule of its current limit. Pure.

A refusal of a rate lowers that rate, once for all calls that were sent before the change; outcomes
raise it again, up to the cap. A refusal of a slot only says how many there are: as many as are
taken. The state is the budget's own, one for all workers; instants are seconds of the queue's
clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from shared.decider import OPEN_FROM
from shared.effects.port import Budget

FLOOR_PER_S: Final = 0.1
"""A rate is never lower: one call in ten seconds finds out whether the platform takes more."""

FLOOR_SLOTS: Final = 1.0

LOWER_MAX: Final = 0.5
LOWER_MIN: Final = 0.8
"""A rate is multiplied by the share of calls that was not refused, within these bounds: few
refusals mean that it was nearly right."""

STEP: Final = 1 / 1000
"""One outcome raises a rate by this part of its ceiling: 200 undo the smallest lowering, so that
finding out costs less than one call in a hundred."""

STEP_PER_S_MAX: Final = 0.02
"""… and all outcomes of a second by no more than this part."""

BEYOND: Final = 1.1
"""Past so much of its ceiling a rate rises faster and faster: the platform gives more again."""

OPEN_START_PER_S: Final = 20.0
"""A cap that is none (`OPEN_FROM`) is lowered from what was asked for, and from no less."""

SLOT_STEP: Final = 4.0
SLOT_STEP_S: Final = 5.0
"""One slot more is tried after so many outcomes per slot, and no sooner than so many seconds."""

PAUSE_S_MAX: Final = 300.0
"""A platform's *retry after* is obeyed up to here; then one call finds out."""

PAUSE_S: Final = 1.0
"""The pause where nothing of ours is under way that could end, and the platform named none."""

DEPTH_S: Final = 0.25
"""A lowered rate saves up no more than it gives in this time, and one call at least: a platform
that refuses a rate refuses its bursts before."""

FORGET_S: Final = 3600.0
"""After so long without a refusal the cap holds again: what a platform gave then says nothing."""

CALM_S: Final = 300.0
"""Refusals further apart do not belong to the same trouble."""

USED_S: Final = 2.0
"""Over about so long the use of a rate is averaged."""

OUTCOMES_EVERY_S: Final = 0.25
"""Outcomes are gathered for so long before they count; refusals count with the next claim."""

_CLOSE: Final = 1 - 1e-9


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What refusals have taught about a budget. `limit` None: nothing is in force but the cap.

    `ceiling` is the rate that was refused last, `streak` counts outcomes since a rate was lowered
    or a number of slots changed. `throttled` counts refusals of all time; those without a pause of
    CALM_S between them began `throttled_since`. Nothing is granted before `paused_until`.
    """

    limit: float | None = None
    ceiling: float = 0.0
    streak: float = 0.0
    throttled: int = 0
    throttled_at: float | None = None
    throttled_since: float | None = None
    changed_at: float = 0.0
    paused_until: float | None = None


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What platforms answered about one budget since it was last adapted.

    `ended` outcomes, whatever they are, show that the platform took the call. Of the `refused`
    ones, `fresh` were sent after the limit was last lowered. `until`: nothing is to be asked for
    before.
    """

    ended: int = 0
    refused: int = 0
    fresh: int = 0
    until: float | None = None


class Adapted(msgspec.Struct, frozen=True, kw_only=True):
    """The new level. `lowered`: calls sent up to now count as sent before the change.
    `tokens`: a bucket holds no more than these, from the end of the pause on."""

    level: Level
    lowered: bool = False
    tokens: float | None = None


def cap_of(budget: Budget) -> float:
    """What a budget was defined with: calls per second, or units at once."""
    return budget.per_second if budget.mode == "rate" else float(budget.concurrent)


def limit_of(level: Level, budget: Budget, *, now: float) -> float:
    """The limit in force: calls per second, or units at once; never above the cap."""
    cap = cap_of(budget)
    forgotten = level.throttled_at is None or level.throttled_at < now - FORGET_S
    return cap if level.limit is None or forgotten else min(level.limit, cap)


def depth_of(level: Level, budget: Budget, *, now: float) -> float:
    """How many calls a bucket may save up."""
    limit = limit_of(level, budget, now=now)
    if limit >= cap_of(budget):
        return budget.burst
    return min(budget.burst, max(limit * DEPTH_S, 1.0))


def adapt(
    level: Level, budget: Budget, heard: Heard, *, now: float, used_per_s: float, in_use: int
) -> Adapted:
    """The level after what was heard. `used_per_s` is what was asked for lately, `in_use` what
    is held now, without those that were refused."""
    level = _counted(level, heard, now=now)
    if budget.mode == "rate":
        return _rate(level, budget, heard, now=now, used_per_s=used_per_s)
    return _slots(level, budget, heard, now=now, in_use=in_use)


def _counted(level: Level, heard: Heard, *, now: float) -> Level:
    if not heard.refused:
        return level
    last = level.throttled_at
    anew = last is None or now - last > CALM_S
    until = heard.until
    if until is not None:
        until = min(max(until, level.paused_until or 0.0), now + PAUSE_S_MAX)
    return msgspec.structs.replace(
        level,
        throttled=level.throttled + heard.refused,
        throttled_at=now,
        throttled_since=now if anew else level.throttled_since,
        paused_until=level.paused_until if until is None else until,
        # What was learned in a trouble of long ago is not where this one starts.
        limit=None if last is not None and last < now - FORGET_S else level.limit,
    )


def _rate(level: Level, budget: Budget, heard: Heard, *, now: float, used_per_s: float) -> Adapted:
    limit = limit_of(level, budget, now=now)
    if not heard.fresh:
        raised = _raised(level, budget, heard, limit, now=now)
        # A pause that was prolonged still begins anew with one call.
        tokens = 1.0 if heard.refused and heard.until is not None else None
        return Adapted(level=raised, tokens=tokens)
    if limit >= OPEN_FROM:
        limit = max(2 * used_per_s, OPEN_START_PER_S)
    ended = level.streak + heard.ended if level.limit is not None else 0.0
    taken = ended / (ended + heard.fresh)
    lower = limit * min(max(taken, LOWER_MAX), LOWER_MIN)
    lowered = msgspec.structs.replace(
        level,
        limit=max(lower, min(FLOOR_PER_S, budget.per_second)),
        ceiling=limit,
        streak=0.0,
        changed_at=now,
    )
    return Adapted(level=lowered, lowered=True, tokens=0.0 if heard.until is None else 1.0)


def _raised(level: Level, budget: Budget, heard: Heard, limit: float, *, now: float) -> Level:
    """A rate after outcomes without a fresh refusal."""
    if level.limit is None or not heard.ended:
        return level
    step = min(heard.ended * STEP, max(now - level.changed_at, 0.0) * STEP_PER_S_MAX)
    beyond = (limit / level.ceiling - BEYOND) / (BEYOND - 1) if level.ceiling else 0.0
    limit += level.ceiling * step * (1 + max(beyond, 0.0))
    streak = level.streak + heard.ended
    return _changed(level, budget, limit, streak=streak, now=now)


def _slots(level: Level, budget: Budget, heard: Heard, *, now: float, in_use: int) -> Adapted:
    limit = limit_of(level, budget, now=now)
    if heard.refused:
        # There are as many as are taken: one more passes when one of these ends.
        kept = max(min(limit, float(in_use)), min(FLOOR_SLOTS, limit))
        until = level.paused_until
        if not in_use:
            # Others have them all, and nothing of ours will end: only time can pass.
            until = max(until or 0.0, now + PAUSE_S)
        full = msgspec.structs.replace(
            level, limit=kept, streak=0.0, changed_at=now, paused_until=None if in_use else until
        )
        return Adapted(level=full, lowered=True)
    if level.limit is None or not heard.ended:
        return Adapted(level=level)
    streak = level.streak + heard.ended
    if streak < SLOT_STEP * limit or now - level.changed_at < SLOT_STEP_S:
        return Adapted(level=msgspec.structs.replace(level, streak=streak))
    return Adapted(level=_changed(level, budget, limit + 1, streak=0.0, now=now))


def _changed(level: Level, budget: Budget, limit: float, *, streak: float, now: float) -> Level:
    """A level with a new limit; none in force once it is the cap again."""
    at_cap = limit >= cap_of(budget) * _CLOSE
    return msgspec.structs.replace(
        level, limit=None if at_cap else limit, streak=streak, changed_at=now
    )


def concerned(
    budgets: Iterable[tuple[str, str]], *, quota: str, busy: bool
) -> tuple[frozenset[str], frozenset[str]]:
    """Which budgets a refusal is about, of an effect that took `budgets` (name, mode).

    A platform's budget is named `<site>/<quota>`, a class's share of it `<site>/<quota>:<class>`;
    names without a slash are our own, and no platform's answer is about them. `quota` is what
    the platform said it is about, "" where it did not. Gives the names of those the effect took,
    and others' that may exist: a call beside the effect's own was refused.
    """
    ours = [(name, mode) for name, mode in budgets if "/" in name]
    taken = frozenset(
        name for name, mode in ours if (mode != "rate") == busy and quota in ("", quota_of(name))
    )
    if taken or not quota:
        return taken, frozenset()
    return taken, frozenset(f"{name.partition('/')[0]}/{quota}" for name, _ in ours)


def quota_of(name: str) -> str:
    """The quota in a platform budget's name."""
    return name.partition("/")[2].partition(":")[0]
