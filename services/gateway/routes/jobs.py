"""`/v1/jobs`, `/v1/commands/ID`, `/v1/checkpoints/ID`, `/v1/alerts/ID`: show and steer what is."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from schemas.children import CleanupGroup
from schemas.common import Command
from schemas.ids import family_of, parts_of, stream_id
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
from services.gateway.names import checked_key
from services.gateway.problems import Invalid, NotFound
from shared.errors import Refused

RECOVERY_FAMILIES = frozenset(
    {
        "recovery",
        "vm-recovery",
        "cleanup",
        "commit",
        "rollback",
        "find-clean-point",
        "recovery-group",
        "group-cleanup",
        "site-power-off",
        "reversal",
    }
)
STEERED_FAMILIES = frozenset({"recovery", "vm-recovery", "cleanup"})
REPLICATION_FAMILIES = frozenset({"iteration", "replication-run", "checkpoint"})
ALERT_ACTIONS = ("ack", "snooze", "resolve")
CHECKPOINT_ACTIONS = ("preserve", "unpreserve")


def _job_of(request: web.Request) -> str:
    return request.match_info["job"]


def _plan_of(stream: str, *, parts_min: int = 3) -> str | None:
    """The plan that an id names; None for what has not the shape of an id."""
    parts = parts_of(stream)
    return checked_key(parts[1]) if len(parts) >= parts_min and all(parts) else None


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


def _no_job(job: str) -> NotFound:
    return NotFound(f"no job has the id {job!r}", remedy="see GET /v1/jobs")


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/jobs/ID/cancel."""
    job = _job_of(request)
    family, plan = family_of(job), _plan_of(job)
    command: Any
    if plan is None:
        raise _no_job(job)
    if family in RECOVERY_FAMILIES:
        owner, command = "recovery", CancelRecoveryJob(command_id=new_command_id(), job=job)
    elif family in REPLICATION_FAMILIES:
        owner, command = "replicator", CancelJob(command_id=new_command_id(), job=job)
    else:
        raise _no_job(job)
    asked = Asked(to=owner, key=plan, body=command)
    return await ask(request, asked, resource=f"jobs/{job}")


def _recovery_of(request: web.Request) -> tuple[str, str | None]:
    """The job that the path names, and its plan if it is a recovery."""
    job = _job_of(request)
    return job, _plan_of(job) if family_of(job) == "recovery" else None


async def _no_recovery(request: web.Request, job: str) -> Exception:
    if await gateway_of(request).queries.job(job) is None:
        return _no_job(job)
    return Invalid(f"{job!r} is not a recovery", remedy="name the job of a recovery")


def _steered(request: web.Request, action: str) -> tuple[str, str]:
    """The job to steer and its plan. Raises NotFound, and Refused for what cannot be steered."""
    job = _job_of(request)
    plan = _plan_of(job)
    if plan is None or family_of(job) not in RECOVERY_FAMILIES | REPLICATION_FAMILIES:
        raise _no_job(job)
    if family_of(job) in REPLICATION_FAMILIES:
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
    plan = _plan_of(group)
    if plan is None:
        raise _no_job(group)
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
    """POST /v1/jobs/ID/rollback {confirm}: undo a full recovery; confirm is the plan's name."""
    recovery, plan = _recovery_of(request)
    if plan is None:
        raise await _no_recovery(request, recovery)
    document = await body_of(request, "confirm")
    job = stream_id("rollback", plan, new_id())
    command = StartRollback(
        command_id=new_command_id(),
        job=job,
        recovery=recovery,
        confirm=text(document, "confirm", ""),
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
    plan = _plan_of(checkpoint)
    if plan is None or family_of(checkpoint) != "checkpoint":
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
    plan = _plan_of(alert, parts_min=4)
    if plan is None or family_of(alert) != "alert":
        raise NotFound(
            f"no alert has the id {alert!r}", code="unknown-alert", remedy="see GET /v1/alerts"
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
