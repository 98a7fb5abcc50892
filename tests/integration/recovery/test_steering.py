"""Steering through the engine: paused and resumed, asked and answered, retried, skipped."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem
from schemas.plans import ReadyProbe
from services.recovery.domain.vm_state import vm_stream
from shared.effects.port import Budget
from tests.integration.recovery.lab import Lab
from tests.integration.recovery.service import Running
from tests.unit.recovery.test_asking import by_hand
from tests.unit.recovery.world import JOB, header, vm

DB, APP = vm_stream(JOB, "db"), vm_stream(JOB, "app")
SLOW = ReadyProbe(within_s=1.0)


async def ask(running: Running, kind: type, job: str = JOB, **fields: Any) -> None:
    """A person's command, as the gateway sends it."""
    command_id = f"{kind.__name__}-{len(running.asked)}"
    running.asked.append(command_id)
    await running.send("gateway", kind(command_id=command_id, job=job, **fields))


async def grant(running: Running, *, problem: Problem | None = None) -> None:
    """The scheduler's word about a retry that has asked for it."""
    state = await running.until(JOB, lambda state: state.retrying)
    command_id = state.retrying.command_id
    answer = steer.HoldsAnswered(job=JOB, command_id=command_id, problem=problem)
    await running.send("scheduler", answer)


async def ended(running: Running) -> said.RecoveryFinished:
    state = await running.until(JOB, lambda state: state.finished)
    finished: said.RecoveryFinished = state.finished
    return finished


def made(lab: Lab) -> Counter[tuple[str, str]]:
    """How often each call that makes something was done for each VM."""
    calls = ("rebuild_disk", "create_instance", "power_on")
    return Counter(
        (line["call"], line["vm"])
        for line in lab.journal()
        if line["call"] in calls and line["outcome"] == "ok"
    )


async def store(running: Running, text: str, **fields: Any) -> Any:
    """A script whose content the service has."""
    script = running.lab.add_script(text, **fields)
    stored = running.lab.world.events(said.RecoveryScriptStored)[-1]
    message = said.StoreRecoveryScript(
        **{name: getattr(stored, name) for name in stored.__struct_fields__}
    )
    await running.send("scheduler", message)
    return script


async def test_a_recovery_paused_half_way_starts_nothing_until_it_is_resumed(
    running: Running,
) -> None:
    lab = running.lab
    for name in ("db", "app"):
        await lab.add_copy(name)
    # No call of this kind passes: what was asked for and has not begun waits for its turn.
    closed = Budget(name="west/RunInstances", mode="rate", burst=0, per_second=0.001)
    await running.queue.define([closed])
    await running.recover(vm("db"), vm("app", 2))
    for stream in (DB, APP):
        await running.until(stream, lambda state: "create-instance" in state.running)
    await ask(running, steer.PauseJob)
    for stream in (DB, APP):
        await running.until(stream, lambda state: state.paused)
    opened = Budget(name="west/RunInstances", mode="rate", burst=1e6, per_second=1e6)
    await running.queue.define([opened])
    for stream in (DB, APP):
        await running.until(stream, lambda state: not state.running)
    assert not any(call == "create_instance" for call, _ in made(lab))
    await ask(running, steer.ResumeJob)
    end = await ended(running)
    assert (end.state, end.ready) == ("completed", 2)
    assert end.waited_s > 0
    assert set(made(lab).values()) == {1}


async def test_a_vm_that_failed_its_boot_is_retried_to_success_and_others_are_untouched(
    running: Running,
) -> None:
    lab = running.lab
    await lab.add_copy("db", boots_s=3.0)
    await lab.add_copy("app")
    await running.recover(vm("db", ready=SLOW), vm("app"))
    first = await ended(running)
    assert (first.state, first.ready, first.failed) == ("partially-completed", 1, 1)
    before = made(lab)
    end = first
    for _ in range(4):
        await ask(running, steer.RetryJob)
        await grant(running)
        await running.until(JOB, lambda state: state.retrying is None)
        end = await ended(running)
        if end.state == "completed":
            break
    assert (end.state, end.ready, end.failed) == ("completed", 2, 0)
    fresh = made(lab) - before
    assert all(vm == "db" and call == "power_on" for call, vm in fresh), fresh
    assert made(lab)["create_instance", "db"] == made(lab)["create_instance", "app"] == 1
    assert end.waited_s > 0
    steps = {step.name: step for step in (await running.state(DB)).steps}
    assert steps["wait-ready"].attempts > 1


async def test_a_retry_that_the_scheduler_refuses_leaves_the_job_as_it_ended(
    running: Running,
) -> None:
    await running.lab.add_copy("db", boots_s=60)
    await running.recover(vm("db", ready=SLOW))
    first = await ended(running)
    await ask(running, steer.RetryJob)
    await grant(running, problem=Problem(code="busy", message="held", remedy="wait"))
    state = await running.until(JOB, lambda state: state.retrying is None)
    assert state.finished == first


async def test_a_manual_step_is_answered_and_the_recovery_goes_on(running: Running) -> None:
    await running.lab.add_copy("db")
    policy = header(manual_steps=(by_hand("before-boot-order", boot_order=1),))
    db = vm("db", manual_steps=(by_hand("after-boot", "look"),))
    await running.recover(db, header=policy)
    asked = await running.until(JOB, lambda state: state.question)
    assert (asked.question.step, asked.question.owner) == ("manual-dns", "dns team")
    assert not made(running.lab)["power_on", "db"]
    await ask(running, steer.AnswerQuestion, step="manual-dns", choice="done")
    await running.until(DB, lambda state: state.question)
    await running.until(JOB, lambda state: state.members["db"].asks == "manual-look")
    await ask(running, steer.AnswerQuestion, DB, step="manual-look", choice="done")
    end = await ended(running)
    assert end.state == "completed" and end.waited_s > 0


async def test_a_manual_step_that_nobody_does_ends_by_its_time_out(running: Running) -> None:
    await running.lab.add_copy("db")
    step = by_hand("before-boot", timeout_s=1.0, on_timeout="continue")
    await running.recover(vm("db", manual_steps=(step,)))
    end = await ended(running)
    assert (end.state, end.ready) == ("partially-completed", 1)


async def test_an_unknown_end_is_asked_about_and_a_rerun_is_another_run(running: Running) -> None:
    lab = running.lab
    await lab.add_copy("db")
    script = await store(running, "sleep 30\n", on_unknown="prompt", on_failure="stop")
    await running.recover(vm("db", post_script=script))
    await running.until(DB, lambda state: state.post.started)
    # Its service ends while the script runs: how it would have ended nobody knows.
    await running.restart()
    asked = await running.until(DB, lambda state: state.question)
    assert asked.question.kind == "unknown-script"
    await ask(running, steer.AnswerQuestion, DB, step="post-script", choice="done")
    end = await ended(running)
    assert (end.state, end.ready) == ("completed", 1)
    assert (await running.state(DB)).post.run == 1


async def test_a_vm_whose_guest_never_answers_is_taken_as_it_is(running: Running) -> None:
    lab = running.lab
    await lab.add_copy("db", boots_s=60)
    await lab.add_copy("app")
    script = await store(running, "exit 0\n")
    await running.recover(vm("db", ready=SLOW, post_script=script), vm("app"))
    assert (await ended(running)).failed == 1
    before = made(lab)
    await ask(running, steer.SkipStep, DB, step="wait-ready")
    await grant(running)
    await running.until(JOB, lambda state: state.retrying is None)
    end = await ended(running)
    assert (end.state, end.ready, end.failed) == ("partially-completed", 2, 0)
    assert made(lab) == before
    db = await running.state(DB)
    assert db.post.over and db.skipped == ("wait-ready",)


async def test_what_was_retried_is_cleaned_up_whole(running: Running) -> None:
    await running.lab.add_copy("db", boots_s=2.0)
    await running.recover(vm("db", ready=msgspec.structs.replace(SLOW, within_s=0.5)))
    assert (await ended(running)).state == "failed"
    await ask(running, steer.RetryJob)
    await grant(running)
    await running.until(JOB, lambda state: state.retrying is None)
    await ended(running)
    cleanup = said.StartCleanup(command_id="k", job="cleanup:shop:k1", recovery=JOB)
    await running.send("gateway", cleanup)
    await running.until(JOB, lambda state: state.cleaned)
    owned = await running.lab.platform.compute.list_owned()
    assert not [each for each in owned if each.job == JOB]
