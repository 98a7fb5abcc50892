"""One VM's source: shut down for a full recovery, and switched on again where that is undone.

Saga. Forward: look, shut down, power off where that is wanted. Undo: power on, where the source
was on before anything was done to it; a guest that may still be shutting down is not believed at
once, for nobody can call that off. Does not decide what its failure means for the recovery
(`securing`), nor when it is undone (`driving` before anything is built, `rollback` afterwards).
A source that a failover could not reach may be asked again by another job (`site_power_off`),
once its site is back: a round of its own, with the same undo.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import operations as said
from schemas.common import Fact, Problem
from schemas.envelope import Received
from schemas.ids import key_of, parts_of, stream_id
from schemas.recovery_work import (
    LookAtSource,
    PowerOffSource,
    PowerOnSource,
    ShutDownSource,
    SourceState,
)
from services.recovery.domain.work import recovery_effect, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send

LOOK: Final = "look-at-source"
SHUT_DOWN: Final = "shut-down-source"
POWER_OFF: Final = "power-off-source"
POWER_ON: Final = "power-on-source"
"""Steps; each is the part of its effect too, powering on with the number of its try, the others
with that of their round from the second one on: a key that is used again does nothing."""

ONCE_MORE: Final = 4
"""How often a source in doubt is switched on once more, within the time that it had to shut down:
one that goes off late is off for a quarter of that time at most."""

UNREACHED: Final = frozenset(
    {"site-gone", "no-such-vm", "no-such-instance", "unreachable", "timed-out"}
)
"""Codes of platforms after which nobody knows whether the source runs. After any other it is
known to be there, and a person's word that it is gone would be wrong."""


# ── Parameters ───────────────────────────────────────────────────────────────────────────────


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One source. `was_on` None: not seen yet. `touched`: it was on, and something was done to
    switch it off that was not taken back.

    `restore_for` is the job that asked for the undo under way; `restores` counts undos, `again`
    how often it was switched on once more in this one, `rounds` how often it was asked to go
    forward. `undone`: an undo was asked for in this round.
    """

    asked: said.SourceAsked | None = None
    was_on: bool | None = None
    touched: bool = False
    shut_down_over: bool = False
    off: bool = False
    failed: bool = False
    restore_for: str = ""
    restores: int = 0
    again: int = 0
    running: str = ""
    rounds: int = 0
    undone: bool = False


def source_stream(job: str, vm: str) -> str:
    """The stream of a VM's source in the recovery `job`."""
    _, plan, key = parts_of(job)
    return stream_id("vm-source", plan, key, vm)


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def secure(state: Source, received: Received) -> Decision:
    """Begin to shut it down, or do so anew for another job than the one before."""
    m: said.SecureSource = received.body
    if state.asked is not None and state.asked.job == m.job:
        return NOTHING
    if state.running:
        return _busy(m, received.at)
    event = said.SourceAsked(
        job=m.job,
        plan=m.plan,
        vm=m.vm,
        site=m.site,
        force=m.force,
        within_s=m.within_s,
        requested_at=m.requested_at,
        priority=m.priority,
        instance=m.instance,
    )
    return _step(state, (event,), received.at)


def restore(state: Source, received: Received) -> Decision:
    """Take back what was done; what runs is stopped first. The asker is told in any case."""
    m: said.RestoreSource = received.body
    if state.asked is None:
        _, plan, _, vm = parts_of(m.stream)
        news = said.SourceNews(to=m.by, vm=vm, news="untouched", at=received.at)
        return Decision(sends=(Send(to="recovery", key=plan, message=news),))
    if state.restore_for == m.by:
        return NOTHING
    decision = _step(state, (said.SourceRestoreAsked(by=m.by),), received.at)
    stop = (state.running,) if state.running and not _restoring(state.running) else ()
    return msgspec.structs.replace(decision, cancel_effects=stop)


def outcome(state: Source, received: Received) -> Decision:
    """A step ended."""
    ended: EffectOutcome = received.body
    if ended.part != state.running:
        return NOTHING
    if _restoring(ended.part):
        return _step(state, (_restore_end(state, ended),), received.at)
    return _step(state, _forward_end(state, ended), received.at)


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def _due(state: Source) -> str:
    """The part that is to run now, or ""."""
    if state.running or state.asked is None:
        return ""
    if state.restore_for:
        part = f"{POWER_ON}/{state.restores}" if state.touched else ""
        return f"{part}/{state.again}" if part and state.again else part
    if state.off or state.failed or state.undone:
        return ""
    step = POWER_OFF if state.shut_down_over else SHUT_DOWN
    step = LOOK if state.was_on is None else step
    return step if state.rounds == 1 else f"{step}/{state.rounds}"


def _step_of_part(part: str) -> str:
    return part.partition("/")[0]


def _restoring(part: str) -> bool:
    return part.startswith(f"{POWER_ON}/")


def evolve(state: Source, event: Any) -> Source:
    """Apply one fact and bring `running` up to what is due afterwards."""
    state = _applied(state, event)
    part = _due(state)
    if not part:
        return state
    touched = state.touched or _step_of_part(part) in (SHUT_DOWN, POWER_OFF)
    return msgspec.structs.replace(state, running=part, touched=touched)


def _applied(state: Source, event: Any) -> Source:
    replace = msgspec.structs.replace
    match event:
        case said.SourceAsked():
            return replace(
                state,
                asked=event,
                rounds=state.rounds + 1,
                was_on=None,
                shut_down_over=False,
                off=False,
                failed=False,
                undone=False,
            )
        case said.SourceSeen():
            # One that is off already needs nothing, and is not switched on by an undo.
            return replace(state, running="", was_on=event.on, off=not event.on)
        case said.SourceSecured():
            return replace(state, running="", off=True)
        case said.SourceStepFailed():
            over = state.shut_down_over or event.step == SHUT_DOWN
            return replace(state, running="", shut_down_over=over, failed=event.last)
        case said.SourceRestoreAsked():
            restores = state.restores + 1
            return replace(state, restore_for=event.by, restores=restores, again=0, undone=True)
        case said.SourceInDoubt():
            return replace(state, running="", again=event.again)
        case said.SourceRestored():
            stays = event.state == "stays-off"
            # What was taken back is not taken back again: it may be another job's to switch off.
            return replace(
                state,
                running="",
                restore_for="",
                off=state.off and stays,
                touched=state.touched and stays,
            )
    raise AssertionError(f"{type(event).__name__} is no event of a source")


# ── Implementations ──────────────────────────────────────────────────────────────────────────


def _forward_end(state: Source, ended: EffectOutcome) -> tuple[Any, ...]:
    assert state.asked is not None, "asked before anything ran"
    step = _step_of_part(ended.part)
    timing = step_of(ended, step)
    if ended.ok and step == LOOK:
        seen: SourceState = ended.result
        return (said.SourceSeen(on=seen.on),)
    if ended.ok:
        return (said.SourceSecured(timing=timing, forced=step == POWER_OFF),)
    problem = Problem(
        code=ended.code or "step-failed",
        message=f"{step} {state.asked.vm}: {ended.error}",
        remedy=ended.remedy or f"see `seawall site check {state.asked.site.site}`",
    )
    more = step == SHUT_DOWN and state.asked.force and not state.restore_for
    return (
        said.SourceStepFailed(
            step=step,
            timing=timing,
            problem=problem,
            last=not more,
            unreachable=ended.code in UNREACHED,
        ),
    )


def _restore_end(state: Source, ended: EffectOutcome) -> said.SourceRestored | said.SourceInDoubt:
    timing = step_of(ended, POWER_ON)
    if ended.ok and not state.off and state.again < ONCE_MORE:
        return said.SourceInDoubt(again=state.again + 1)
    if ended.ok:
        return said.SourceRestored(state="on", timing=timing)
    problem = Problem(
        code=ended.code or "step-failed",
        message=f"the source could not be powered on: {ended.error}",
        remedy=ended.remedy or "power it on at its site",
    )
    return said.SourceRestored(state="stays-off", timing=timing, problem=problem)


def _step(state: Source, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    after = state
    for event in events:
        after = evolve(after, event)
    if after.restore_for and not after.running:
        unneeded = said.SourceRestored(state="untouched")
        events, after = (*events, unneeded), evolve(after, unneeded)
    started = after.running if after.running != state.running else ""
    return Decision(
        events=events,
        effects=(_effect(after, started, now),) if started else (),
        sends=_news(state, events, now),
    )


def _news(before: Source, events: tuple[Any, ...], now: dt.datetime) -> tuple[Send, ...]:
    """What the facts mean for whoever waits: the recovery, or the job that undoes."""
    asked, restore_for = before.asked, before.restore_for
    news: list[said.SourceNews] = []
    for event in events:
        match event:
            case said.SourceAsked():
                asked = event
            case said.SourceRestoreAsked():
                restore_for = event.by
            case said.SourceSeen(on=False) if asked is not None:
                news.append(said.SourceNews(to=asked.job, vm=asked.vm, news="off", at=now))
            case said.SourceSecured() if asked is not None:
                about = said.SourceNews(to=asked.job, vm=asked.vm, news="off", at=now)
                news.append(msgspec.structs.replace(about, forced=event.forced))
            case said.SourceStepFailed(last=True) if asked is not None:
                about = said.SourceNews(to=asked.job, vm=asked.vm, news="failed", at=now)
                news.append(
                    msgspec.structs.replace(
                        about, problem=event.problem, unreachable=event.unreachable
                    )
                )
            case said.SourceRestored() if asked is not None:
                state: Literal["on", "untouched", "stays-off"] = event.state
                news.append(
                    said.SourceNews(
                        to=restore_for, vm=asked.vm, news=state, at=now, problem=event.problem
                    )
                )
    return tuple(Send(to="recovery", key=key_of(each.to), message=each) for each in news)


def _busy(m: said.SecureSource, now: dt.datetime) -> Decision:
    """Something is done to the source already: whoever asks anew hears that at once."""
    problem = Problem(
        code="busy",
        message=f"another job acts on the source of {m.vm} right now",
        remedy="wait for its end, then try again",
    )
    news = said.SourceNews(to=m.job, vm=m.vm, news="failed", at=now, problem=problem)
    return Decision(sends=(Send(to="recovery", key=key_of(m.job), message=news),))


def _effect(state: Source, part: str, now: dt.datetime) -> Effect:
    asked = state.asked
    assert asked is not None, "asked before anything runs"
    kind = _step_of_part(part)
    tags: dict[str, Any] = {
        "site": asked.site,
        "plan": asked.plan,
        "job": asked.job,
        "vm": asked.vm,
        "instance": asked.instance,
    }
    payload: Fact
    match kind:
        case "look-at-source":
            payload = LookAtSource(**tags)
        case "shut-down-source":
            payload = ShutDownSource(within_s=asked.within_s, **tags)
        case "power-off-source":
            payload = PowerOffSource(**tags)
        case _:
            payload = PowerOnSource(**tags)
    effect = recovery_effect(
        part,
        kind,
        payload,
        site=asked.site.site,
        plan=asked.plan,
        due=asked.requested_at,
        priority=asked.priority,
    )
    if not (state.again and _restoring(part)):
        return effect
    pause = dt.timedelta(seconds=asked.within_s / ONCE_MORE)
    return msgspec.structs.replace(effect, not_before=now + pause)


FAMILY = Family(
    name="vm-source",
    state=Source,
    initial=Source,
    evolve=evolve,
    # A roll back may come back to it long after it was secured.
    is_terminal=lambda state: False,
    outcome=outcome,
    schema=3,
)
