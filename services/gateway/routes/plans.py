"""`/v1/plans`: apply, run, steer and recover protection plans."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

import msgspec
from aiohttp import web

from schemas.definitions import parse_request
from schemas.documents import DefinitionErrors, path_text
from schemas.ids import stream_id
from schemas.recovery import StoreRecoveryScript
from schemas.recovery_groups import RecoverGroup
from schemas.replicator import StoreScript
from schemas.scheduler import (
    ApplyPlan,
    CreateCheckpoint,
    DeletePlan,
    PrioritisePlan,
    Recover,
    ResetVm,
    RunPlan,
    StartPlan,
    StopPlan,
)
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import (
    answer,
    ask,
    body_of,
    flag,
    gateway_of,
    moment_of,
    names,
    stand_at,
    text,
)
from services.gateway.ids import new_id
from services.gateway.names import name_in_path
from services.gateway.problems import Invalid, NotFound

OWNER = "scheduler"
PART_BYTES = 24 * 1024
"""Of a script's content in one message: 32 KiB in base64."""

MODES = ("test", "failover", "migrate", "reverse", "failback")


async def apply(request: web.Request) -> web.Response:
    """POST /v1/plans {plan, scripts, dry_run, over_capacity}: create or change a plan."""
    document = await body_of(request, "plan", "scripts", "dry_run", "over_capacity")
    dry_run, over_capacity = flag(document, "dry_run"), flag(document, "over_capacity")
    document = {key: document[key] for key in ("plan", "scripts") if key in document}
    settings = gateway_of(request).settings
    try:
        parsed = parse_request(document, interval_min_s=settings.interval_min_s)
    except DefinitionErrors as errors:
        raise invalid_document("plan", errors) from errors
    name = parsed.definition.name
    command = ApplyPlan(
        command_id=new_command_id(),
        definition=parsed.definition,
        dry_run=dry_run,
        over_capacity=over_capacity,
    )
    extras = tuple(script_parts(name, parsed.blobs)) if not dry_run else ()
    asked = Asked(to=OWNER, key=name, body=command, extras=extras)
    return await ask(request, asked, resource=f"plans/{name}")


def invalid_document(what: str, errors: DefinitionErrors) -> Invalid:
    """The answer to a document that cannot be read: every problem, with its field."""
    return Invalid(
        f"the {what} has {len(errors.problems)} problem(s)",
        remedy="mend the fields named in details.problems",
        details={
            "problems": [
                {
                    "path": list(found.path),
                    "field": path_text(found.path),
                    "found": found.found,
                    "allowed": found.allowed,
                    "message": found.message,
                }
                for found in errors.problems
            ]
        },
    )


def script_parts(plan: str, blobs: Mapping[str, bytes]) -> Iterator[tuple[str, msgspec.Struct]]:
    """A plan's scripts as messages to the services that will run them."""
    for sha256, content in blobs.items():
        pieces = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
        for number, piece in enumerate(pieces or [b""]):
            fields = {
                "plan": plan,
                "sha256": sha256,
                "part": number,
                "parts": max(len(pieces), 1),
                "content": base64.b64encode(piece).decode(),
            }
            yield "replicator", msgspec.convert(fields, StoreScript)
            yield "recovery", msgspec.convert(fields, StoreRecoveryScript)


async def show(request: web.Request) -> web.Response:
    """GET /v1/plans/NAME, with its version as ETag and its RTO forecast; `?at=` as it was then,
    without these, and with `&vm=` of one VM alone."""
    name, vm = request.match_info["name"], request.query.get("vm", "")
    if (at := moment_of(request, "at")) is not None:
        return answer(await gateway_of(request).past.plan(name, at, vm=vm))
    if vm:
        raise Invalid(
            "vm is for plans as they were", remedy="give `at`, or see GET /v1/vms?plan=…&vm=…"
        )
    await stand_at(request)
    found = await gateway_of(request).queries.resource("plans", name)
    if found is None:
        raise NotFound(f"no plan is named {name!r}", remedy="see GET /v1/plans")
    found = await gateway_of(request).forecasts.with_forecast(found)
    return answer(found, headers={"ETag": f'"{found["version"]}"'})


async def delete(request: web.Request) -> web.Response:
    """DELETE /v1/plans/NAME: stop protecting; copies at the target stay."""
    plan = name_in_path(request, "plan")
    command = DeletePlan(command_id=new_command_id(), plan=plan)
    return await ask(request, Asked(to=OWNER, key=plan, body=command))


async def start(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/start {vms}."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, "vms")
    command = StartPlan(command_id=new_command_id(), plan=plan, vms=names(document, "vms"))
    return await ask(request, Asked(to=OWNER, key=plan, body=command), resource=f"plans/{plan}")


async def stop(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/stop {vms, cancel}."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, "vms", "cancel")
    command = StopPlan(
        command_id=new_command_id(),
        plan=plan,
        vms=names(document, "vms"),
        cancel=flag(document, "cancel"),
    )
    return await ask(request, Asked(to=OWNER, key=plan, body=command), resource=f"plans/{plan}")


async def run(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/run {vms}: replicate now."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, "vms")
    job = stream_id("replication-run", plan, new_id())
    command = RunPlan(command_id=new_command_id(), plan=plan, job=job, vms=names(document, "vms"))
    return await ask(request, Asked(to=OWNER, key=plan, body=command, job=job))


async def prioritise(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/prioritise {priority, vms}."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, "priority", "vms")
    priority = document.get("priority")
    if isinstance(priority, bool) or not isinstance(priority, int) or not 1 <= priority <= 5:
        raise Invalid(
            f"priority: found {priority!r}", remedy="priority is 1 (highest) to 5 (lowest)"
        )
    command = PrioritisePlan(
        command_id=new_command_id(), plan=plan, priority=priority, vms=names(document, "vms")
    )
    return await ask(request, Asked(to=OWNER, key=plan, body=command), resource=f"plans/{plan}")


async def reset_vm(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/vms/VM/reset: force a resync."""
    plan = name_in_path(request, "plan")
    vm = request.match_info["vm"]
    command = ResetVm(command_id=new_command_id(), plan=plan, vm=vm)
    return await ask(request, Asked(to=OWNER, key=plan, body=command), resource=f"plans/{plan}")


async def checkpoint(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/checkpoints {preserved}: make a PIT checkpoint now."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, "preserved")
    job = stream_id("checkpoint", plan, new_id())
    command = CreateCheckpoint(
        command_id=new_command_id(), plan=plan, job=job, preserved=flag(document, "preserved")
    )
    return await ask(request, Asked(to=OWNER, key=plan, body=command, job=job))


async def recover(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/recover {mode, vms, checkpoint, …}, perhaps with its prerequisites."""
    plan = name_in_path(request, "plan")
    document = await body_of(
        request,
        "mode",
        "vms",
        "checkpoint",
        "skip_scripts",
        "on_error",
        "dry_run",
        "last_sync",
        "source_gone",
        "with_prerequisites",
        "auto_rollback",
    )
    mode = text(document, "mode")
    on_error = document.get("on_error")
    if mode not in MODES:
        raise Invalid(f"mode: found {mode!r}", remedy=f"mode is one of {', '.join(MODES)}")
    if on_error not in (None, "continue", "stop"):
        raise Invalid(f"on_error: found {on_error!r}", remedy="on_error is continue or stop")
    family = "reversal" if mode == "reverse" else "recovery"
    job = stream_id(family, plan, new_id())
    command = Recover(
        command_id=new_command_id(),
        plan=plan,
        job=job,
        mode=mode,  # type: ignore[arg-type]
        vms=names(document, "vms"),
        checkpoint=text(document, "checkpoint", "latest"),
        skip_scripts=names(document, "skip_scripts"),
        on_error=on_error,
        dry_run=flag(document, "dry_run"),
        last_sync=None if document.get("last_sync") is None else flag(document, "last_sync"),
        source_gone=flag(document, "source_gone"),
        auto_rollback=None
        if document.get("auto_rollback") is None
        else flag(document, "auto_rollback"),
    )
    if flag(document, "with_prerequisites"):
        return await _recover_group(request, command)
    return await ask(request, Asked(to=OWNER, key=plan, body=command, job=job))


async def _recover_group(request: web.Request, recover: Recover) -> web.Response:
    """The plan and all it comes after, as one job."""
    job = stream_id("recovery-group", recover.plan, new_id())
    command = RecoverGroup(
        command_id=recover.command_id, plan=recover.plan, job=job, recover=recover
    )
    return await ask(request, Asked(to=OWNER, key=recover.plan, body=command, job=job))


ROUTES = [
    web.post("/v1/plans", apply),
    web.get("/v1/plans/{name}", show),
    web.delete("/v1/plans/{name}", delete),
    web.post("/v1/plans/{name}/start", start),
    web.post("/v1/plans/{name}/stop", stop),
    web.post("/v1/plans/{name}/run", run),
    web.post("/v1/plans/{name}/prioritise", prioritise),
    web.post("/v1/plans/{name}/recover", recover),
    web.post("/v1/plans/{name}/checkpoints", checkpoint),
    web.post("/v1/plans/{name}/vms/{vm}/reset", reset_vm),
]
