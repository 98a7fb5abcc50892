"""Each judge of a world of recoveries can fail: a good world's record is doctored, one lie a test.

What the product has to do wrong for it is tried in `test_judgement`; here it is enough that the
record of the world shows it.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec
import pytest

from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import scheduler_operations as sch_ops
from schemas.common import CommandSettled, Problem, StepTiming
from schemas.ids import parts_of
from schemas.plans import RECOVERY_OPERATIONS, ManualStep
from shared.platforms.lab.settings import Quota
from tests.simulation import lives, outcomes, strangers
from tests.simulation.doctored import (
    LONG_S,
    SECOND,
    Doctor,
    forget,
    insert,
    is_seen,
    lived,
    production,
    tell,
    turn,
)
from tests.simulation.drills import Lived

SEEDS: Final = (5, 25, 46, 36, 37, 54, 41, 71)
"""Worlds of few seconds in which, together, everything happens that a test below looks for."""

replace = msgspec.structs.replace

# ── Machines ─────────────────────────────────────────────────────────────────────────────────


def a_lower_order_comes_up_later(life: Lived) -> bool:
    turns = life.world.sites["west"].turns
    first: dict[str, int] = {}
    found = lives.Powered(life.world)
    for row, start in life.facts.of(rec.RecoveryStarted):
        orders = {member.vm: member.boot_order for member in start.members}
        on = {each.vm: each for each in found.of(row.stream) if each.on}
        low = [vm for vm in on if orders[vm] == min(orders.values())]
        if low and len({orders[vm] for vm in on}) > 1:
            names = {each.machine for each in found.instances.values() if each is on[low[0]]}
            first = dict.fromkeys(names, 0)
            break
    turns[:] = [
        replace(each, at=each.at + dt.timedelta(hours=1))
        if each.machine in first and each.what == "on"
        else each
        for each in turns
    ]
    ended = tell(life, rec.VmFinished, lambda _: None) and tell(
        life, rec.MemberEnded, lambda _: None
    )
    return bool(first) and ended


def a_delay_was_longer(life: Lived) -> bool:
    def longer(start: rec.RecoveryStarted) -> rec.RecoveryStarted:
        members = tuple(rec.Member(m.vm, m.boot_order, LONG_S) for m in start.members)
        return replace(start, members=members)

    return tell(life, rec.RecoveryStarted, longer)


def no_order_opened(life: Lived) -> bool:
    return tell(life, rec.BootOrderOpened, lambda _: None)


def nothing_was_to_be_built_ahead(life: Lived) -> bool:
    def without(start: rec.RecoveryStarted) -> rec.RecoveryStarted:
        recovery = replace(start.header.recovery, build_ahead=False)
        return replace(start, header=replace(start.header, recovery=recovery))

    tell(life, rec.BootOrderOpened, lambda _: None)
    return tell(life, rec.RecoveryStarted, without)


def a_source_runs_too(life: Lived) -> bool:
    for each in production(life):
        turn(life, "east", each.vm, "on", each.on[0][0])
        return True
    return False


def two_instances_run(life: Lived) -> bool:
    for made in tuple(life.world.sites["west"].every_instance):
        each = lives.Powered(life.world).instances["west", made.facts.instance_id]
        if each.on and each.job in life.facts.by_stream:
            twin = replace(made.facts, instance_id="i-twin")
            life.world.sites["west"].every_instance.append(replace(made, facts=twin))
            turn(life, "west", "i-twin", "made", each.on[0][0])
            turn(life, "west", "i-twin", "on", each.on[0][0])
            return True
    return False


def a_test_shuts_a_source_down(life: Lived) -> bool:
    for row, start in life.facts.of(rec.RecoveryStarted):
        if start.mode == "test":
            _call(life, "shut_down_source", row.stream, start.members[0].vm, row.meta.occurred_at)
            return True
    return False


def a_source_comes_back_early(life: Lived) -> bool:
    for each in production(life):
        _call(life, "power_on_source", each.job, each.vm, each.on[0][0])
        return True
    return False


def _call(life: Lived, call: str, job: str, vm: str, at: dt.datetime) -> None:
    _, plan, key = parts_of(job)
    effect = f"vm-source:{plan}:{key}:{vm}/{call}"
    line = {"at": at.isoformat(), "call": call, "key": effect, "outcome": "ok", "job": job}
    life.world.sites["east"].journal.append({**line, "vm": vm, "bytes": 0})


def a_source_runs_while_it_migrates(life: Lived) -> bool:
    for each in production(life):
        if life.facts.by_stream[each.job][0][1].mode == "migrate" and each.made is not None:
            turn(life, "east", each.vm, "on", each.made - SECOND)
            return True
    return False


def a_last_write_is_missing(life: Lived) -> bool:
    for site in life.world.sites.values():
        for instance, disks in site.born.items():
            site.born[instance] = dict.fromkeys(disks, b"not this")
    return any(b.state == "completed" for _, b in life.facts.of(ops.MemberSynced))


def a_source_was_left_off(life: Lived) -> bool:
    life.world.sites["east"].vms["vm0"].power = "off"
    facts = life.facts
    facts.by_type = {**facts.by_type, ops.RecoveryCommitted: []}
    return True


# ── Outcomes ─────────────────────────────────────────────────────────────────────────────────


def another_end_is_told(life: Lived) -> bool:
    worse = {"completed": "partially-completed", "partially-completed": "completed"}
    return tell(
        life,
        rec.RecoveryFinished,
        lambda end: replace(end, state=worse.get(end.state, "completed")),
    )


def one_more_is_called_ready(life: Lived) -> bool:
    return tell(life, rec.RecoveryFinished, lambda end: replace(end, ready=end.ready + 1))


def a_script_had_failed(life: Lived) -> bool:
    runs = life.world.machine.runs
    own = ("recovery:", "vm-recovery:")
    done = {n for n, r in enumerate(runs) if r.outcome == "done" and r.effect_id.startswith(own)}
    for number in done:
        runs[number] = replace(runs[number], outcome="failed")
    ends = [end.state for _, end in life.facts.of(rec.RecoveryFinished)]
    return bool(done) and "completed" in ends


def no_script_ran(life: Lived) -> bool:
    found = bool(life.world.machine.runs) and not life.world.machine.not_prepared
    life.world.machine.runs.clear()
    return found


def a_script_ran_after_a_cancel(life: Lived) -> bool:
    def not_always(start: rec.RecoveryStarted) -> rec.RecoveryStarted:
        script = start.header.recovery.post_script
        if script is None:
            return start
        recovery = replace(start.header.recovery, post_script=replace(script, always=False))
        return replace(start, header=replace(start.header, recovery=recovery))

    tell(life, rec.RecoveryStarted, not_always)
    cancelled = life.facts.streams(rec.RecoveryCancelRequested)
    for run in life.world.machine.runs:
        stream, step, number = outcomes.script_of(run.effect_id)
        own = stream.startswith("recovery:") and stream not in cancelled
        if own and (step, number) == ("post-script", 1):
            cancel = rec.RecoveryCancelRequested(at=run.started_at - 60 * SECOND)
            insert(life, stream, 2, cancel)
            return True
    return False


def it_went_on_though_it_was_stopped(life: Lived) -> bool:
    runs, streams = life.world.machine.runs, set()
    for number, run in enumerate(runs):
        stream, step, _ = outcomes.script_of(run.effect_id)
        if stream.startswith("recovery:") and step == "pre-script" and run.outcome == "done":
            runs[number] = replace(run, outcome="failed")
            streams.add(stream)

    def stops(start: rec.RecoveryStarted) -> rec.RecoveryStarted:
        if start.job not in streams:
            return start
        script = start.header.recovery.pre_script
        assert script is not None, "it ran"
        recovery = replace(start.header.recovery, pre_script=replace(script, on_failure="stop"))
        return replace(start, header=replace(start.header, recovery=recovery))

    return bool(streams) and tell(life, rec.RecoveryStarted, stops)


def it_was_only_a_dry_run(life: Lived) -> bool:
    plans = [r for r in life.world.machine.runs if r.effect_id.startswith("recovery:")]
    tell(life, rec.RecoveryStarted, lambda start: replace(start, dry_run=True))
    return bool(plans)


def a_script_ran_again(life: Lived) -> bool:
    for run in tuple(life.world.machine.runs):
        _, _, number = outcomes.script_of(run.effect_id)
        if run.effect_id.startswith("vm-recovery:") and number == 1:
            again = f"{run.effect_id}/2"
            life.world.machine.runs.append(replace(run, effect_id=again))
    return bool(life.world.machine.runs)


def nobody_was_asked(life: Lived) -> bool:
    step = ManualStep(
        name="never", text="x", at="before-pre-script", operations=RECOVERY_OPERATIONS
    )

    def with_step(start: rec.RecoveryStarted) -> rec.RecoveryStarted:
        recovery = replace(start.header.recovery, manual_steps=(step,))
        return replace(start, header=replace(start.header, recovery=recovery))

    return tell(life, rec.RecoveryStarted, with_step)


# ── What is told ─────────────────────────────────────────────────────────────────────────────


def nothing_was_ever_on(life: Lived) -> bool:
    return forget(life, "west", "on") and bool(life.facts.of(rec.VmReady))


def it_had_gone_off(life: Lived) -> bool:
    for each in production(life):
        for other in lives.Powered(life.world).of(each.job, each.vm):
            turn(life, other.site, other.machine, "off", each.on[0][0] + SECOND / 1000)
        _, plan, key = parts_of(each.job)
        history = life.facts.by_stream[f"vm-recovery:{plan}:{key}:{each.vm}"]
        return any(isinstance(b, rec.VmFinished) and b.outcome == "ready" for _, b in history)
    return False


def it_had_more_time(life: Lived) -> bool:
    def patient(enrolled: rec.VmEnrolled) -> rec.VmEnrolled:
        ready = replace(enrolled.definition.ready, within_s=LONG_S)
        return replace(enrolled, definition=replace(enrolled.definition, ready=ready))

    tell(life, rec.VmEnrolled, patient)
    return _anybody_late(life)


def it_was_up_in_time(life: Lived) -> bool:
    west = life.world.sites["west"]
    for number, made in enumerate(west.every_instance):
        west.every_instance[number] = replace(made, boots_in_s=0.0)
    return _anybody_late(life) and life.temper.calm


def _anybody_late(life: Lived) -> bool:
    ends = life.facts.of(rec.VmStepEnded)
    return any(end.timing.name == "wait-ready" for _, end in ends)


def a_step_fails_by_itself(life: Lived) -> bool:
    for each in production(life):
        if life.temper.calm:
            _, plan, key = parts_of(each.job)
            failed = StepTiming(name="create-instance", state="failed")
            problem = Problem(code="x", message="x")
            body = rec.VmStepEnded(timing=failed, problem=problem)
            insert(life, f"vm-recovery:{plan}:{key}:{each.vm}", 2, body)
            return True
    return False


def the_site_was_away(life: Lived) -> bool:
    life.world.lost["east"].append((dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None))
    return any(life.facts.by_stream[each.job] for each in production(life))


def a_site_is_given_up(life: Lived) -> bool:
    tell(life, rec.PreflightFinished, lambda told_: replace(told_, source_lost=True))
    return any(True for _ in production(life)) and not life.world.lost["east"]


def a_name_was_taken(life: Lived) -> bool:
    for each in production(life):
        west = life.world.sites["west"]
        made = next(m for m in west.every_instance if m.facts.job == each.job)
        other = replace(made.facts, instance_id="i-other", job="other", name=each.vm, vm="other")
        west.every_instance.append(replace(made, facts=other))
        turn(life, "west", "i-other", "made", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        return True
    return False


def a_source_never_went_off(life: Lived) -> bool:
    forget(life, "east", "off")
    return any(body.state == "off" for _, body in life.facts.of(ops.MemberSecured))


def nobody_forced_it(life: Lived) -> bool:
    journal = life.world.sites["east"].journal
    journal[:] = [line for line in journal if line["call"] != "power_off_source"]
    return tell(life, ops.MemberSecured, lambda body: replace(body, forced=True))


def another_answer_counts(life: Lived) -> bool:
    other = {"done": "failed", "failed": "done", "skip": "done", "rerun": "done"}
    kinds = (steer.RecoveryAnswered, steer.VmAnswered)
    changed = [
        tell(life, kind, lambda body: replace(body, choice=other[body.choice])) for kind in kinds
    ]
    return any(changed)


def it_says_that_it_touched_nothing(life: Lived) -> bool:
    return tell(life, ops.RollbackFinished, lambda end: replace(end, untouched=True))


def nobody_could_have_looked(life: Lived) -> bool:
    kind = ops.RollbackStarted
    away = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    life.world.lost["east"].append((away, None))
    return tell(life, kind, lambda start: replace(start, source_site="east", leave_off=False))


def a_question_ends_early(life: Lived) -> bool:
    kinds = (steer.RecoveryAnswered, steer.VmAnswered)
    actor, at = steer.TIME_OUT, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    changed = [tell(life, kind, lambda b: replace(b, actor=actor, at=at)) for kind in kinds]
    return any(changed)


def nothing_is_ever_gone(life: Lived) -> bool:
    return forget(life, "west", "gone")


def what_is_committed_was_never_made(life: Lived) -> bool:
    forget(life, "west", "made")
    return bool(life.facts.of(ops.RecoveryCommitted))


def a_source_is_off_again(life: Lived) -> bool:
    for row, end in life.facts.of(ops.RollbackFinished):
        for _, body in life.facts.by_stream[end.recovery]:
            if isinstance(body, ops.MemberSecured) and body.state == "off":
                turn(life, "east", body.vm, "off", row.meta.occurred_at - SECOND / 1000)
                return True
    return False


def it_was_paused_all_the_time(life: Lived) -> bool:
    for each in production(life):
        if life.temper.calm:
            at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
            insert(life, each.job, 1, steer.RecoveryPaused(at=at))
            return True
    return False


def scripts_begin_at_the_end(life: Lived) -> bool:
    return _moved(life, "pre-script", LONG_S)


def scripts_begin_at_once(life: Lived) -> bool:
    return _moved(life, "post-script", -LONG_S)


def _moved(life: Lived, which: str, by_s: float) -> bool:
    moved = False
    runs = life.world.machine.runs
    for number, run in enumerate(runs):
        stream, step, _ = outcomes.script_of(run.effect_id)
        if stream.startswith("vm-recovery:") and step == which:
            at = run.started_at + dt.timedelta(seconds=by_s)
            runs[number] = replace(run, started_at=at)
            moved = True
    return moved


def it_was_stopped_before(life: Lived) -> bool:
    for each in production(life):
        if life.temper.calm:
            tell(life, rec.RecoveryStarted, lambda start: replace(start, on_error="stop"))
            row = life.facts.by_stream[each.job][1][0]
            early = each.on[0][0] - 60 * SECOND
            body = rec.MemberEnded(vm="another", at=early, outcome="failed")
            history = list(life.facts.by_stream[each.job])
            meta = replace(row.meta, occurred_at=early)
            history.insert(1, (replace(row, meta=meta), body))
            life.facts.by_stream = {**life.facts.by_stream, each.job: history}
            return True
    return False


# ── Commits ──────────────────────────────────────────────────────────────────────────────────


def _without(life: Lived) -> bool:
    return any(body.without for _, body in life.facts.of(ops.RecoveryCommitted))


def nobody_said_the_word(life: Lived) -> bool:
    for number, asked in enumerate(life.world.asked):
        if isinstance(asked.body, ops.StartCommit):
            body = replace(asked.body, without_failed=False)
            life.world.asked[number] = replace(asked, body=body)
    return _without(life)


def nobody_was_given_back(life: Lived) -> bool:
    return _without(life) and tell(life, sch_ops.VmReturned, lambda _: None)


def an_instance_of_who_was_left_out_stays(life: Lived) -> bool:
    for row, body in life.facts.of(ops.RecoveryCommitted):
        for each in lives.Powered(life.world).of(row.stream):
            if each.vm in body.without:
                turns = life.world.sites[each.site].turns
                turns[:] = [t for t in turns if (t.machine, t.what) != (each.machine, "gone")]
                return True
    return False


def all_had_come_up(life: Lived) -> bool:
    refused = [b for _, b in life.facts.of(CommandSettled) if b.code == "not-ready"]
    tell(life, rec.RecoveryFinished, lambda end: replace(end, ready=len(end.steps) + 100))
    return bool(refused)


# ── Budgets ──────────────────────────────────────────────────────────────────────────────────


def a_call_was_made_twice(life: Lived) -> bool:
    journal = life.world.sites["west"].journal
    again = [line for line in journal if line["call"] == "power_on"]
    journal += again
    return bool(again)


def the_site_took_less(life: Lived) -> bool:
    slow = {"RunInstances": Quota(burst=0.1, per_second=0.001)}
    for site in life.world.sites.values():
        site.settings = replace(site.settings, quotas=slow)
    return life.temper.calm and any(True for _ in production(life))


@pytest.mark.parametrize(
    ("doctor", "what"),
    [
        (a_lower_order_comes_up_later, "boot order: "),
        (a_delay_was_longer, "boot delay: "),
        (no_order_opened, "boot order: "),
        (nothing_was_to_be_built_ahead, "build ahead: "),
        (a_source_runs_too, "twice: "),
        (two_instances_run, "once: "),
        (a_test_shuts_a_source_down, "source: "),
        (a_source_comes_back_early, "source: "),
        (a_source_runs_while_it_migrates, "source: "),
        (a_last_write_is_missing, "lost: "),
        (a_source_was_left_off, "source: vm0 is off"),
        (it_says_that_it_touched_nothing, "untouched: "),
        (nobody_could_have_looked, "blind: "),
        (another_end_is_told, "outcome: "),
        (one_more_is_called_ready, "outcome: "),
        (a_script_had_failed, "outcome: "),
        (no_script_ran, "script: "),
        (a_script_ran_after_a_cancel, "script: post-script"),
        (it_went_on_though_it_was_stopped, "script: "),
        (it_was_only_a_dry_run, "script: "),
        (a_script_ran_again, "script: "),
        (nobody_was_asked, "answer: nobody"),
        (nothing_was_ever_on, "told: "),
        (it_had_gone_off, "told: "),
        (it_had_more_time, "told: "),
        (it_was_up_in_time, "told: "),
        (a_step_fails_by_itself, "told: create-instance"),
        (the_site_was_away, "preflight: "),
        (a_site_is_given_up, "preflight: "),
        (a_name_was_taken, "preflight: "),
        (a_source_never_went_off, "told: the source"),
        (nobody_forced_it, "told: the source"),
        (another_answer_counts, "answer: "),
        (a_question_ends_early, "answer: "),
        (nothing_is_ever_gone, "left: "),
        (what_is_committed_was_never_made, "told: "),
        (a_source_is_off_again, "source: "),
        (it_was_paused_all_the_time, "pause: "),
        (scripts_begin_at_the_end, "script: pre-script"),
        (scripts_begin_at_once, "script: post-script"),
        (it_was_stopped_before, "stop: "),
        (nobody_said_the_word, "commit: "),
        (nobody_was_given_back, "commit: "),
        (an_instance_of_who_was_left_out_stays, "commit: "),
        (all_had_come_up, "commit: "),
        (a_call_was_made_twice, "budget: "),
        (the_site_took_less, "budget: "),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_doctored_record_is_seen(doctor: Doctor, what: str) -> None:
    assert is_seen(SEEDS, doctor, what), "no judge sees it; or there was nothing to change"


def test_a_touched_stranger_is_seen() -> None:
    life = lived(SEEDS[0])
    before = strangers.seen(life.world)
    life.world.sites["east"].vms[strangers.STRANGER].power = "on"
    assert strangers.seen(life.world) != before
