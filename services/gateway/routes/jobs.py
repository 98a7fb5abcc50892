"""`/v1/jobs`, `/v1/commands/ID`, `/v1/checkpoints/ID`, `/v1/alerts/ID`: show and steer what is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from aiohttp import web

from schemas.children import CleanupGroup
from schemas.common import Command
from schemas.ids import family_of, key_of, parts_of, stream_id
from schemas.job_ids import JOBS, RECOVERY_JOBS, REPLICATION_JOBS, expected_shape, is_job_id
from schemas.notifier import ChangeAlert
from schemas.operations import StartCommit, StartRollback
from schemas.recovery import CancelRecoveryJob, StartCleanup
from schemas.recovery_steering import (
    AnswerQuestion,
    PauseJob,
    ResumeJob,
    RetryJob,
    SkipStep,
)
from schemas.replicator import CancelJob
from schemas.rules import is_name
from schemas.scheduler import ChangeCheckpoint
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import (
    answer,
    ask,
    body_of,
    flag,
    gateway_of,
    moment,
    moment_of,
    stand_at,
    text,
)
from services.gateway.ids import new_id
from services.gateway.problems import Invalid, NotFound
from shared.errors import Refused

STEERED_FAMILIES: Final = ("recovery", "vm-recovery", "cleanup")
ALERT_PARTS: Final = 4
"""Of an alert's id: alert:PLAN:CONDITION:SUBJECT."""

ALERT_ACTIONS = ("ack", "snooze", "resolve")
CHECKPOINT_ACTIONS = ("preserve", "unpreserve")


def _job_of(request: web.Request) -> str:
    return request.match_info["job"]


def _plan_of(job: str, families: Collection[str] = JOBS) -> str | None:
    """The plan or site that a job's id names; None for what is no id of one of the families."""
    return key_of(job) if is_job_id(job, families) and is_name(key_of(job)) else None


def _plan_of_alert(alert: str) -> str | None:
    """The plan or site that an alert's id names; None for what is no id of an alert."""
    parts = parts_of(alert)
    if parts[0] != "alert" or len(parts) != ALERT_PARTS or not all(parts):
        return None
    return parts[1] if is_name(parts[1]) else None


async def show(request: web.Request) -> web.Response:
    """GET /v1/jobs/ID, with its steps and children, a dry run's with its forecast as of now,
    a running recovery's with how long it still takes; `?at=` as it was then."""
    if (at := moment_of(request, "at")) is not None:
        return answer(await gateway_of(request).past.job(_job_of(request), at))
    await stand_at(request)
    found = await gateway_of(request).queries.job(_job_of(request))
    if found is None:
        raise _no_job(_job_of(request))
    forecasts = gateway_of(request).forecasts
    return answer(await forecasts.of_running(await forecasts.of_dry_run(found)))


def _no_job(job: str, families: Collection[str] = JOBS) -> NotFound:
    shape = "" if is_job_id(job) else f"an id is {expected_shape(job, families)}; "
    return NotFound(f"no job has the id {job!r}", remedy=f"{shape}see GET /v1/jobs")


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/cancel."""
    job = _job_of(request)
    family, plan = family_of(job), _plan_of(job)
    command: Any
    if plan is None:
        raise _no_job(job)
    if family in RECOVERY_JOBS:
        owner, command = "recovery", CancelRecoveryJob(command_id=new_command_id(), job=job)
    else:
        owner, command = "replicator", CancelJob(command_id=new_command_id(), job=job)
    asked = Asked(to=owner, key=plan, body=command)
    return await ask(request, asked, resource=f"jobs/{job}")


def _recovery_of(request: web.Request) -> tuple[str, str | None]:
    """The job that the path names, and its plan if it is a recovery."""
    job = _job_of(request)
    return job, _plan_of(job, ("recovery",))


async def _no_recovery(request: web.Request, job: str) -> Exception:
    if await gateway_of(request).queries.job(job) is None:
        return _no_job(job, ("recovery",))
    return Invalid(f"{job!r} is not a recovery", remedy="name the job of a recovery")


def _steered(request: web.Request, action: str) -> tuple[str, str]:
    """The job to steer and its plan. Raises NotFound, and Refused for what cannot be steered."""
    job = _job_of(request)
    plan = _plan_of(job)
    if plan is None:
        raise _no_job(job, STEERED_FAMILIES)
    if family_of(job) in REPLICATION_JOBS:
        raise Refused(
            f"{job} is a job of replication: `{action}` is for recoveries and cleanups",
            code="not-available",
            remedy="cancel it; `seawall plan stop` keeps new ones from starting",
        )
    if family_of(job) not in STEERED_FAMILIES:
        raise Refused(
            f"{job} is a {family_of(job)}: `{action}` is for recoveries and cleanups",
            code="not-available",
            remedy="wait for its end",
        )
    return job, plan


async def _steer(request: web.Request, job: str, plan: str, command: Command) -> web.Response:
    asked = Asked(to="recovery", key=plan, body=command)
    return await ask(request, asked, resource=f"jobs/{job}")


async def pause(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/pause: no new step of a recovery, a VM or a cleanup starts."""
    job, plan = _steered(request, "pause")
    return await _steer(request, job, plan, PauseJob(command_id=new_command_id(), job=job))


async def resume(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/resume: a paused job goes on."""
    job, plan = _steered(request, "resume")
    return await _steer(request, job, plan, ResumeJob(command_id=new_command_id(), job=job))


async def retry(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/retry {step, source_gone}: do again what failed, under the same id."""
    job, plan = _steered(request, "retry")
    document = await body_of(request, "step", "source_gone")
    command = RetryJob(
        command_id=new_command_id(),
        job=job,
        step=text(document, "step", ""),
        source_gone=flag(document, "source_gone"),
    )
    return await _steer(request, job, plan, command)


async def skip(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/skip {step}: go on without a failed step."""
    job, plan = _steered(request, "skip")
    step = text(await body_of(request, "step"), "step")
    command = SkipStep(command_id=new_command_id(), job=job, step=step)
    return await _steer(request, job, plan, command)


async def answer_question(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/answer {step, choice}: answer what a job asks a person at a step."""
    job, plan = _steered(request, "answer")
    document = await body_of(request, "step", "choice")
    command = AnswerQuestion(
        command_id=new_command_id(),
        job=job,
        step=text(document, "step"),
        choice=text(document, "choice"),
    )
    return await _steer(request, job, plan, command)


async def cleanup(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/cleanup {confirm}: remove everything a recovery made, or all of a group."""
    recovery, plan = _recovery_of(request)
    if family_of(recovery) == "recovery-group":
        return await _cleanup_group(request, recovery)
    if plan is None:
        raise await _no_recovery(request, recovery)
    document = await body_of(request, "confirm")
    job = stream_id("cleanup", plan, new_id())
    command = StartCleanup(
        command_id=new_command_id(),
        job=job,
        recovery=recovery,
        confirm=text(document, "confirm", ""),
    )
    return await ask(request, Asked(to="recovery", key=plan, body=command, job=job))


async def _cleanup_group(request: web.Request, group: str) -> web.Response:
    plan = _plan_of(group, ("recovery-group",))
    if plan is None:
        raise _no_job(group, ("recovery-group",))
    await body_of(request, "confirm")  # tests alone are cleaned by their group
    job = stream_id("group-cleanup", plan, new_id())
    command = CleanupGroup(command_id=new_command_id(), job=job, group=group)
    return await ask(request, Asked(to="recovery", key=plan, body=command, job=job))


async def commit(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/commit {without_failed}: close a full recovery's commit window for good.

    `without_failed` removes what was made of VMs that did not come up, and gives them back."""
    recovery, plan = _recovery_of(request)
    if plan is None:
        raise await _no_recovery(request, recovery)
    document = await body_of(request, "without_failed")
    job = stream_id("commit", plan, new_id())
    command = StartCommit(
        command_id=new_command_id(),
        job=job,
        recovery=recovery,
        without_failed=flag(document, "without_failed"),
    )
    return await ask(request, Asked(to="recovery", key=plan, body=command, job=job))


async def rollback(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/rollback {confirm, leave_off}: undo a full recovery, its plan's name typed.

    `leave_off`: VMs that have nothing to come back to, or cannot, may run nowhere.
    """
    recovery, plan = _recovery_of(request)
    if plan is None:
        raise await _no_recovery(request, recovery)
    document = await body_of(request, "confirm", "leave_off")
    job = stream_id("rollback", plan, new_id())
    command = StartRollback(
        command_id=new_command_id(),
        job=job,
        recovery=recovery,
        confirm=text(document, "confirm", ""),
        leave_off=flag(document, "leave_off"),
    )
    return await ask(request, Asked(to="recovery", key=plan, body=command, job=job))


async def show_command(request: web.Request) -> web.Response:
    """GET /v1/commands/ID: whether it is accepted, parked, done or refused, and why."""
    await stand_at(request)
    name = request.match_info["command"]
    found = await gateway_of(request).queries.command_state(name)
    if found is None:
        raise NotFound(
            f"no command has the id {name!r}",
            remedy="send the Seawall-Position of the 202 along: it may not be readable yet",
        )
    return answer(found)


async def show_checkpoint(request: web.Request) -> web.Response:
    """GET /v1/checkpoints/ID."""
    await stand_at(request)
    name = request.match_info["checkpoint"]
    found = await gateway_of(request).queries.resource("checkpoints", name)
    if found is None:
        raise _no_checkpoint(name)
    return answer(found)


def _no_checkpoint(checkpoint: str) -> NotFound:
    return NotFound(f"no checkpoint has the id {checkpoint!r}", remedy="see GET /v1/checkpoints")


async def _change_checkpoint(request: web.Request, action: Any) -> web.Response:
    checkpoint = request.match_info["checkpoint"]
    plan = _plan_of(checkpoint, ("checkpoint",))
    if plan is None:
        raise _no_checkpoint(checkpoint)
    command = ChangeCheckpoint(
        command_id=new_command_id(), plan=plan, checkpoint=checkpoint, action=action
    )
    # A deletion is a job, folded from its checkpoint's stream.
    job = f"{checkpoint}.delete" if action == "delete" else ""
    asked = Asked(to="scheduler", key=plan, body=command, job=job)
    return await ask(request, asked, resource=f"checkpoints/{checkpoint}")


async def preserve(request: web.Request) -> web.Response:
    """POST /v1/checkpoints/ID/{preserve,unpreserve}."""
    action = request.match_info["action"]
    if action not in CHECKPOINT_ACTIONS:
        raise NotFound(f"no action {action!r}", remedy=f"one of {', '.join(CHECKPOINT_ACTIONS)}")
    return await _change_checkpoint(request, action)


async def delete_checkpoint(request: web.Request) -> web.Response:
    """DELETE /v1/checkpoints/ID: a job; refused while in use or preserved."""
    return await _change_checkpoint(request, "delete")


async def change_alert(request: web.Request) -> web.Response:
    """POST /v1/alerts/ID/{ack,snooze,resolve} {until}."""
    alert, action = request.match_info["alert"], request.match_info["action"]
    if action not in ALERT_ACTIONS:
        raise NotFound(f"no action {action!r}", remedy=f"one of {', '.join(ALERT_ACTIONS)}")
    document = await body_of(request, "until")
    until = None
    if action == "snooze":
        until = moment("until", text(document, "until"))
    change: Any = action
    plan = _plan_of_alert(alert)
    if plan is None:
        raise NotFound(
            f"no alert has the id {alert!r}",
            code="unknown-alert",
            remedy="an id is alert:PLAN:CONDITION:SUBJECT; see GET /v1/alerts",
        )
    command = ChangeAlert(command_id=new_command_id(), alert=alert, action=change, until=until)
    asked = Asked(to="notifier", key=plan, body=command)
    return await ask(request, asked, resource=f"alerts/{alert}")


ROUTES = [
    web.get("/v1/jobs/{job}", show),
    web.post("/v1/jobs/{job}/cancel", cancel),
    web.post("/v1/jobs/{job}/pause", pause),
    web.post("/v1/jobs/{job}/resume", resume),
    web.post("/v1/jobs/{job}/retry", retry),
    web.post("/v1/jobs/{job}/skip", skip),
    web.post("/v1/jobs/{job}/answer", answer_question),
    web.post("/v1/jobs/{job}/cleanup", cleanup),
    web.post("/v1/jobs/{job}/commit", commit),
    web.post("/v1/jobs/{job}/rollback", rollback),
    web.get("/v1/commands/{command}", show_command),
    web.get("/v1/checkpoints/{checkpoint}", show_checkpoint),
    web.post("/v1/checkpoints/{checkpoint}/{action}", preserve),
    web.delete("/v1/checkpoints/{checkpoint}", delete_checkpoint),
    web.post("/v1/alerts/{alert}/{action}", change_alert),
]
