"""`seawall job …`, `recover`, `cleanup`, `commit`, `rollback`: what runs, and what starts it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from schemas.plans import RECOVERY_HOOKS
from schemas.units import parse_duration_s
from services.cli import dry_runs
from services.cli.client import JOB_POLL_S, ApiError, Client
from services.cli.commands import lost_site
from services.cli.jobs_view import details
from services.cli.output import Format, err, machine, moment, out, seconds, table, tell_more
from services.cli.requests import ask
from services.cli.run import (
    DONE,
    At,
    Cursor,
    Output,
    Since,
    Timeout,
    Until,
    VmNames,
    Wait,
    confirm,
    one_of,
    outcome_code,
    run,
    tell_failure,
    type_name,
)
from services.cli.watch import watch

app = typer.Typer(no_args_is_help=True, help="Jobs: what runs, ran and is queued.")

MODES = ("test", "failover", "migrate", "reverse", "failback")

JobId = Annotated[str, typer.Argument(metavar="JOB")]


def job_path(job: str, action: str = "") -> str:
    """The path of a job, or of something done to it."""
    return f"/v1/jobs/{quote(job, safe='')}" + (f"/{action}" if action else "")


def patience_s(wait: bool, within: str) -> float:
    """How long a command's decision is waited for beyond the usual: as long as its job's end."""
    return parse_duration_s(within) if wait else 0.0


async def follow(
    client: Client, answer: dict[str, Any], *, wait: bool, within: str, form: Format
) -> int:
    """Print the id of a job that was started and, if asked, show it until its end."""
    job = answer.get("id") or answer["job"]
    if not wait:
        if not machine(answer, form):
            out.print(job, markup=False, soft_wrap=True)
        return DONE
    if form is not Format.TABLE:
        ended = await client.wait_job(job, timeout_s=parse_duration_s(within))
        machine(ended, form)
        tell_failure(ended)
        return outcome_code(ended)
    out.print(job, markup=False, soft_wrap=True)
    return outcome_code(await watch(client, job, timeout_s=parse_duration_s(within)))


@app.command("list")
def list_jobs(
    plan: str | None = None,
    vm: str | None = None,
    kind: str | None = None,
    state: str | None = None,
    parent: Annotated[str | None, typer.Option(help="the job whose parts to show")] = None,
    since: Since = None,
    until: Until = None,
    limit: int = 50,
    cursor: Cursor = None,
    output: Output = Format.TABLE,
) -> None:
    """Jobs, newest first; older ones with --cursor."""

    async def work(client: Client) -> int:
        page = await client.get(
            "/v1/jobs", plan=plan, vm=vm, kind=kind, state=state, parent_id=parent, since=since,
            until=until, limit=str(limit), cursor=cursor,
        )  # fmt: skip
        if not machine(page, output):
            rows = [
                (job["id"], job["kind"], job["plan"], job["vm"], job["state"],
                 f"{job['percent']:.0f} %", seconds(job.get("eta_s")), moment(job["created_at"]),
                 seconds(job["rto_s"]))
                for job in page["items"]
            ]  # fmt: skip
            columns = ("JOB", "KIND", "PLAN", "VM", "STATE", "DONE", "ETA", "CREATED", "RTO")
            table(columns, rows, empty="no jobs")
            tell_more(page)
        return DONE

    run(work)


@app.command()
def show(job: JobId, at: At = None, output: Output = Format.TABLE) -> None:
    """One job with its steps, errors and outputs, as it is or was."""

    async def work(client: Client) -> int:
        found = await dry_runs.with_calls(client, await client.get(job_path(job), at=at))
        if not machine(found, output):
            details(found, out)
            dry_runs.tell(found)
        return DONE

    run(work)


@app.command("output")
def show_output(job: JobId, step: str, output: Output = Format.TABLE) -> None:
    """The last 64 KiB that the script of a step printed."""

    async def work(client: Client) -> int:
        found = await client.get(job_path(job, f"steps/{quote(step, safe='')}/output"))
        if not machine(found, output):
            sys.stdout.write(found["output"])
            if not found["output"]:
                err.print("it printed nothing")
            if not found["whole"]:
                err.print("only the end of it could be kept")
        return DONE

    run(work)


@app.command("watch")
def watch_job(job: JobId, timeout: Timeout = "1d") -> None:
    """A job live until its end; exits with its outcome."""

    async def work(client: Client) -> int:
        return outcome_code(await watch(client, job, timeout_s=parse_duration_s(timeout)))

    run(work, going=job)


@app.command()
def cancel(job: JobId, output: Output = Format.TABLE) -> None:
    """Stop a job safely."""

    async def work(client: Client) -> int:
        answer = await client.command(job_path(job, "cancel"))
        if not machine(answer, output):
            out.print(f"{job} is being cancelled", markup=False)
        return DONE

    run(work)


@app.command()
def pause(job: JobId, output: Output = Format.TABLE) -> None:
    """Start no new step of a recovery, one of its VMs, or a cleanup; what runs, ends."""
    ask(job_path(job, "pause"), f"{job} is paused: `seawall job resume` goes on", output)


@app.command()
def resume(job: JobId, output: Output = Format.TABLE) -> None:
    """Go on with a paused job."""
    ask(job_path(job, "resume"), f"{job} goes on", output)


@app.command()
def retry(
    job: JobId,
    step: Annotated[str | None, typer.Argument(help="only this step of the recovery")] = None,
    source_gone: Annotated[
        bool,
        typer.Option(
            "--source-gone",
            help="your word, once more, that VMs whose source was never seen off do not run",
        ),
    ] = False,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Do again what failed of a recovery or a VM; what succeeded is kept.

    A failover or migration that has ended is retried while it awaits its commit or roll back.
    """
    body: dict[str, Any] = {"step": step} if step else {}
    if source_gone:
        body["source_gone"] = True
    _go_on(job, "retry", body, wait=wait, within=timeout, form=output)


@app.command()
def skip(
    job: JobId,
    step: str,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Go on without a failed step; the job is then partially completed at best."""

    _go_on(job, "skip", {"step": step}, wait=wait, within=timeout, form=output)


@app.command()
def answer(
    job: JobId,
    step: str,
    choice: Annotated[str, typer.Argument(help="one of the choices that `job show` lists")],
    output: Output = Format.TABLE,
) -> None:
    """Answer what a job asks a person at a step."""
    body = {"step": step, "choice": choice}
    ask(job_path(job, "answer"), f"{job} goes on: {step} {choice}", output, body=body)


def _go_on(
    job: str, action: str, body: dict[str, Any], *, wait: bool, within: str, form: Format
) -> NoReturn:
    """Have a job go on and, if asked, show it until its next end."""

    async def work(client: Client) -> int:
        before = (await client.job(job))["ended_at"] if wait else None
        answer = await client.command(job_path(job, action), body)
        if wait:
            await _begun_again(client, job, before, within=within)
        return await follow(client, {**answer, "id": job}, wait=wait, within=within, form=form)

    run(work, going=job)


async def _begun_again(client: Client, job: str, before: str | None, *, within: str) -> None:
    """A VM hears from its recovery that it goes on: until then it shows its last end."""
    async with asyncio.timeout(parse_duration_s(within)):
        while before is not None and (await client.job(job))["ended_at"] == before:  # noqa: ASYNC110
            await asyncio.sleep(JOB_POLL_S)


LastSync = Annotated[
    bool | None,
    typer.Option(
        "--last-sync/--no-last-sync",
        help="copy sources that can be reached once more; yes unless a checkpoint is named",
    ),
]
AutoRollback = Annotated[
    bool | None,
    typer.Option(
        "--auto-rollback/--no-auto-rollback",
        help="undo a test or migration of which a VM does not come up [as the plan says]",
    ),
]


def recover(
    plan: str,
    mode: Annotated[str, typer.Option(help="|".join(MODES), callback=one_of(*MODES))],
    checkpoint: Annotated[str, typer.Option(help="a checkpoint's id, or latest")] = "latest",
    vm: VmNames = None,
    skip_script: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOOK[:VM]",
            help=f"leave a script out; HOOK is {' or '.join(RECOVERY_HOOKS)}, the plan's "
            "own without :VM; may be repeated",
        ),
    ] = None,
    on_error: Annotated[
        str | None, typer.Option(help="continue or stop", callback=one_of("continue", "stop"))
    ] = None,
    last_sync: LastSync = None,
    source_gone: Annotated[
        bool,
        typer.Option(
            "--source-gone", help="your word that VMs whose site cannot be reached do not run"
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="preflight only; print what would be called")
    ] = False,
    with_prerequisites: Annotated[
        bool,
        typer.Option(
            "--with-prerequisites",
            help="first the plans that it comes `after`, and those they come after; "
            "--vm, --checkpoint and --skip-script are for PLAN alone",
        ),
    ] = False,
    auto_rollback: AutoRollback = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Recover a plan's VMs, replicate them the other way (reverse), or bring them back."""
    if mode != "test" and not yes and not dry_run:
        confirm(f"{mode} of plan {plan} acts on production. Go on?")

    body: dict[str, Any] = {
        "mode": mode,
        "vms": vm or [],
        "checkpoint": checkpoint,
        "skip_scripts": skip_script or [],
        "on_error": on_error,
        "dry_run": dry_run,
        "last_sync": last_sync,
        "source_gone": source_gone,
    }
    if with_prerequisites:
        # Left out where it is not asked for: a control plane of the build before knows it not.
        body["with_prerequisites"] = True
    if auto_rollback is not None:
        body["auto_rollback"] = auto_rollback
    asks = mode == "failover" and not (source_gone or yes or dry_run or with_prerequisites)
    run(
        lambda client: _recover(
            client, plan, body, asks=asks, wait=wait, within=timeout, form=output
        )
    )


async def _recover(
    client: Client,
    plan: str,
    body: dict[str, Any],
    *,
    asks: bool,
    wait: bool,
    within: str,
    form: Format,
) -> int:
    """Start it and, where that is wanted, follow it; `asks` about a site that is gone."""
    path = f"/v1/plans/{quote(plan, safe='')}/recover"
    patience = patience_s(wait or body["dry_run"], within)
    answer = await client.command(path, body, within_s=patience)
    if body["dry_run"]:
        return await _rehearse(client, answer, within=within, form=form)
    if asks and lost_site.may_ask():
        answer, is_over = await lost_site.with_word(client, plan, body, answer)
        wait = wait or is_over
    return await follow(client, answer, wait=wait, within=within, form=form)


async def _rehearse(client: Client, answer: dict[str, Any], *, within: str, form: Format) -> int:
    """Wait for a dry run, which only reads, and print what it found."""
    job = answer.get("id") or answer["job"]
    if form is Format.TABLE:
        out.print(job, markup=False, soft_wrap=True)
    ended = await client.wait_job(job, timeout_s=parse_duration_s(within))
    ended = await dry_runs.with_calls(client, ended)
    if not machine(ended, form):
        details(ended, out)
        dry_runs.tell(ended)
    return outcome_code(ended)


Confirmation = Annotated[
    str | None, typer.Option("--confirm", metavar="PLAN", help="the plan's name, typed")
]


def cleanup(
    job: JobId,
    confirmation: Confirmation = None,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Remove everything a recovery or a group of them made, and verify that it is gone."""
    _decide(job, "cleanup", confirmation, wait=wait, within=timeout, form=output)


WithoutFailed = Annotated[
    bool,
    typer.Option(
        "--without-failed",
        help="leave out the VMs that did not come up: what was made of them is deleted, and they "
        "may be recovered again",
    ),
]


def commit(
    job: JobId,
    without_failed: WithoutFailed = False,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Keep what a failover, migration or failback brought up: these are the VMs for good."""

    async def work(client: Client) -> int:
        body = {"without_failed": True} if without_failed else None
        path, within_s = job_path(job, "commit"), patience_s(wait, timeout)
        answer = await client.command(path, body, within_s=within_s)
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)


LeaveOff = Annotated[
    bool,
    typer.Option(
        "--leave-off", help="VMs that have nothing to come back to, or cannot, may run nowhere"
    ),
]


def rollback(
    job: JobId,
    confirmation: Confirmation = None,
    leave_off: LeaveOff = False,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Undo a failover, migration or failback: sources come back, replication goes on."""
    body = {"leave_off": True} if leave_off else None
    _decide(job, "rollback", confirmation, body=body, wait=wait, within=timeout, form=output)


def _decide(
    job: str,
    action: str,
    confirmation: str | None,
    *,
    body: Mapping[str, Any] | None = None,
    wait: bool,
    within: str,
    form: Format,
) -> None:
    async def work(client: Client) -> int:
        path, within_s = job_path(job, action), patience_s(wait, within)
        answer = await confirmed(client, path, confirmation, body=body, within_s=within_s)
        return await follow(client, answer, wait=wait, within=within, form=form)

    run(work)


async def confirmed(
    client: Client,
    path: str,
    confirmation: str | None,
    *,
    body: Mapping[str, Any] | None = None,
    what: str = "plan",
    within_s: float = 0.0,
) -> dict[str, Any]:
    """A command that may want the name of a plan or site typed: a person is asked, told why."""
    document = dict(body or {})
    try:
        answer: dict[str, Any] = await client.command(
            path, {**document, "confirm": confirmation or ""}, within_s=within_s
        )
    except ApiError as refused:
        if refused.code != "confirm" or confirmation or not sys.stdin.isatty():
            raise
        typed = type_name(refused.message, what=what)
        typed_body = {**document, "confirm": typed}
        answer = await client.command(path, typed_body, within_s=within_s)
    return answer
