"""When a failed effect is tried again, and what its end means. The only retry there is. Pure.

Randomness and time are given. A policy belongs to an effect's kind.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import Final

import msgspec

from schemas.ids import part_of_effect
from shared.decider import EffectOutcome, EffectTrouble
from shared.effects.adapt import PAUSE_S_MAX
from shared.effects.port import Claimed
from shared.errors import Busy, SeawallError, Throttled, Transient
from shared.eventlog.port import Pushback

THROTTLED_S: Final = 1.0
"""Wait after a throttling answer that did not say how long."""


class OutcomeUnknown(SeawallError):
    """Something that must not run twice was started, and how it ended is not known."""

    code = "unknown"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential back-off with full jitter between `base_s` and `cap_s`.

    `retries_max` None: for ever, or for `within_s` from when the effect was asked for. After
    `alert_after` failures (0: never) a person should know.
    """

    retries_max: int | None = 3
    base_s: float = 1.0
    cap_s: float = 60.0
    within_s: float | None = None
    alert_after: int = 0


STEP: Final = RetryPolicy()
"""A call that makes or changes something at a platform."""

UNTIL_DONE: Final = RetryPolicy(retries_max=None, cap_s=600.0, alert_after=3)
"""Deleting, removing a snapshot, powering a prep node off: what must not be left behind."""

ONCE: Final = RetryPolicy(retries_max=0)
"""Scripts."""

MAIL: Final = RetryPolicy(retries_max=None, cap_s=600.0, within_s=72 * 3600.0)
WEBHOOK: Final = RetryPolicy(retries_max=None, cap_s=600.0, within_s=24 * 3600.0)


class Requeue(msgspec.Struct, frozen=True, kw_only=True):
    """Not the end: the effect is ready again at `at`. `attempt` is what to store with it.

    `failed`: an attempt was used. `alert`: it has now failed as often as its policy tolerates
    silently. `pushback`: its platform asked for less, and no attempt was used.
    """

    at: dt.datetime
    attempt: int
    failed: bool = False
    alert: bool = False
    code: str = ""
    error: str = ""
    remedy: str = ""
    pushback: Pushback | None = None


Verdict = EffectOutcome | Requeue


def succeeded(
    claimed: Claimed, result: msgspec.Struct | None, *, started_at: dt.datetime, at: dt.datetime
) -> EffectOutcome:
    """The outcome of a handler that returned."""
    return EffectOutcome(
        effect_id=claimed.effect_id,
        part=part_of_effect(claimed.effect_id),
        kind=claimed.kind,
        ok=True,
        at=at,
        started_at=started_at,
        attempts=claimed.attempt + 1,
        result=result,
    )


def failed(
    claimed: Claimed, error: SeawallError, *, started_at: dt.datetime, at: dt.datetime
) -> EffectOutcome:
    """The outcome of an effect that is not tried again."""
    return EffectOutcome(
        effect_id=claimed.effect_id,
        part=part_of_effect(claimed.effect_id),
        kind=claimed.kind,
        ok=False,
        at=at,
        started_at=started_at,
        attempts=claimed.attempt + 1,
        code=error.code,
        error=error.message,
        remedy=error.remedy,
        unknown=isinstance(error, OutcomeUnknown),
    )


def given_back(claimed: Claimed, *, at: dt.datetime) -> Requeue:
    """Ready again at once, by anyone; no attempt is used."""
    return Requeue(at=at, attempt=claimed.attempt, code="given-back")


def verdict(
    claimed: Claimed,
    error: SeawallError,
    policy: RetryPolicy,
    *,
    started_at: dt.datetime,
    at: dt.datetime,
    chance: random.Random,
) -> Verdict:
    """What an error that a handler raised leads to: another try, or the end."""
    if isinstance(error, Throttled):
        wait_s = error.retry_after_s if error.retry_after_s is not None else THROTTLED_S
        wait_s = min(wait_s, PAUSE_S_MAX)
        # Jitter only adds: whoever was told to wait must not come back early.
        again = _again(claimed, error, at, wait_s + chance.uniform(0, max(wait_s / 4, 0.05)))
        pushback = Pushback(
            busy=isinstance(error, Busy), quota=error.quota, retry_after_s=error.retry_after_s
        )
        return msgspec.structs.replace(again, pushback=pushback)
    if isinstance(error, Transient) and _may_retry(claimed, policy, at):
        wait_s = chance.uniform(
            0, min(policy.cap_s, policy.base_s * 2.0 ** min(claimed.attempt, 32))
        )
        wait_s = max(wait_s, error.retry_after_s or 0)
        failures = claimed.attempt + 1
        alert = failures == policy.alert_after
        return _again(claimed, error, at, wait_s, attempt=failures, alert=alert)
    return failed(claimed, error, started_at=started_at, at=at)


def _may_retry(claimed: Claimed, policy: RetryPolicy, at: dt.datetime) -> bool:
    if policy.retries_max is not None and claimed.attempt >= policy.retries_max:
        return False
    asked_at = claimed.meta.occurred_at
    return policy.within_s is None or at - asked_at < dt.timedelta(seconds=policy.within_s)


def _again(
    claimed: Claimed,
    error: SeawallError,
    at: dt.datetime,
    wait_s: float,
    *,
    attempt: int | None = None,
    alert: bool = False,
) -> Requeue:
    return Requeue(
        at=at + dt.timedelta(seconds=wait_s),
        attempt=claimed.attempt if attempt is None else attempt,
        failed=attempt is not None,
        alert=alert,
        code=error.code,
        error=error.message,
        remedy=error.remedy,
    )


def result_of(verdict: Verdict) -> str:
    """How a try went, as metrics and lines of the log name it."""
    if isinstance(verdict, EffectOutcome):
        if verdict.ok:
            return "ok"
        if verdict.unknown:
            return "unknown"
        return "cancelled" if verdict.code == "cancelled" else "failed"
    if verdict.pushback is not None:
        return "throttled"
    return "retried" if verdict.failed else "given-back"


def trouble(claimed: Claimed, again: Requeue) -> EffectTrouble:
    """What the owner of an effect hears when it has failed too often to keep silent."""
    return EffectTrouble(
        effect_id=claimed.effect_id,
        part=part_of_effect(claimed.effect_id),
        kind=claimed.kind,
        attempts=again.attempt,
        code=again.code,
        error=again.error,
        remedy=again.remedy,
    )
