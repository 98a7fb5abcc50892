"""`seawall plan …` and `vm …`: protection plans and what they protect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.cli.client import ApiError, Client
from services.cli.commands.jobs import follow, patience_s
from services.cli.output import Format, err, machine, moment, out, seconds, table
from services.cli.planfile import PlanFile, read_plan_file
from services.cli.requests import with_plan
from services.cli.run import (
    DONE,
    USAGE,
    At,
    Output,
    Timeout,
    VmNames,
    Wait,
    guarded,
    run,
)

app = typer.Typer(no_args_is_help=True, help="Protection plans.")
vm_app = typer.Typer(no_args_is_help=True, help="Protected VMs.")


def plan_path(plan: str, action: str = "") -> str:
    """The path of a plan, or of something done to it."""
    return f"/v1/plans/{quote(plan, safe='')}" + (f"/{action}" if action else "")


@app.command()
def apply(
    file: Annotated[Path, typer.Option("-f", "--file", help="the plan's YAML file")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the diff only")] = False,
    over_capacity: Annotated[
        bool,
        typer.Option("--over-capacity", help="apply it though the sites cannot hold its interval"),
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Create or change a plan; what changes, and how it fits the sites' limits, is shown first."""
    read: list[PlanFile] = []

    def reading() -> int:
        read.append(read_plan_file(file))
        return DONE

    if (code := guarded(reading)) != DONE:
        raise typer.Exit(code)
    body = {**read[0].wire(), "over_capacity": over_capacity}
    run(lambda client: _apply(client, read[0], body, dry_run=dry_run, form=output))


async def _apply(
    client: Client, plan: PlanFile, body: dict[str, Any], *, dry_run: bool, form: Format
) -> int:
    try:
        proposed = await client.command("/v1/plans", {**body, "dry_run": True})
        changes = _details(proposed)["changes"]
        if form is Format.TABLE:
            _tell_changes(changes)
            _tell_capacity(_details(proposed))
        applied = proposed
        if not dry_run and changes:
            applied = await client.command("/v1/plans", {**body, "dry_run": False})
    except ApiError as refused:
        problems = refused.details.get("problems", [])
        if refused.status == 422 and problems and all("path" in p for p in problems):
            for line in plan.render(problems):
                err.print(line, markup=False, soft_wrap=True)
            return USAGE
        raise
    if not machine(applied, form):
        _tell_end(applied, dry_run=dry_run, changed=bool(changes))
    return DONE


def _details(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer["command"]["details"]
    return found


def _tell_changes(changes: list[str]) -> None:
    for change in changes:
        out.print(f"  {change}", markup=False, soft_wrap=True)


def _tell_capacity(details: dict[str, Any]) -> None:
    """The limit that binds first; all that are too tight for a plan that is applied knowingly."""
    limits = details.get("capacity", [])
    for limit in [each for each in limits if each["over"]] or limits[:1]:
        word = "over capacity" if limit["over"] else "capacity"
        out.print(f"  {word}: {limit['message']}", markup=False, soft_wrap=True)


def _tell_end(applied: dict[str, Any], *, dry_run: bool, changed: bool) -> None:
    if not changed:
        out.print("unchanged")
    elif dry_run:
        out.print("dry run: nothing was changed")
    else:
        details = _details(applied)
        out.print(f"applied as version {details['version']}")


@app.command("list")
def list_plans(
    protected_site: str | None = None,
    recovery_site: str | None = None,
    output: Output = Format.TABLE,
) -> None:
    """All plans with their RPO and last RTO."""

    async def work(client: Client) -> int:
        page = await client.everything(
            "/v1/plans", protected_site=protected_site, recovery_site=recovery_site
        )
        if not machine(page, output):
            rows = [
                (p["name"], p["state"], *_sites(p), len(p["vms"]),
                 seconds(p["rpo"]["achieved_s"]), seconds(p["rpo"]["target_s"]),
                 seconds(p["rto"]["last_s"]), p["version"])
                for p in page["items"]
            ]  # fmt: skip
            columns = (
                "PLAN",
                "STATE",
                "FROM",
                "TO",
                "VMS",
                "RPO",
                "TARGET",
                "LAST RTO",
                "VERSION",
            )
            table(columns, rows, empty="no plans: `seawall plan apply -f shop.yaml` makes one")
        return DONE

    run(work)


@app.command()
def show(
    plan: str,
    at: At = None,
    vm: Annotated[
        str | None, typer.Option(help="with --at: this VM alone, of a plan with a long past")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """One plan and its VMs, as they are or were."""
    if vm and not at:
        typer.echo(f"--vm goes with --at: see `seawall vm list --plan {plan} --vm {vm}`", err=True)
        raise typer.Exit(USAGE)

    async def work(client: Client) -> int:
        found = await client.get(plan_path(plan), at=at, vm=vm)
        if not machine(found, output):
            rpo, rto = found["rpo"], found["rto"]
            out.print(
                f"{found['name']}  {found['state']}  version {found['version']}"
                f"  {' → '.join(_sites(found))}",
                markup=False,
            )
            out.print(
                f"  RPO {seconds(rpo['achieved_s'])} of {seconds(rpo['target_s'])}"
                f"{'  breached' if rpo['breached'] else ''}"
                f"   RTO last {seconds(rto['last_s'])} of {seconds(rto['target_s'])}"
                f", forecast {seconds(rto['forecast_s'])}",
                markup=False,
            )
            _vm_table(found["vms"])
        return DONE

    run(work)


@app.command()
def history(plan: str, output: Output = Format.TABLE) -> None:
    """The plan's versions, from its events."""

    async def work(client: Client) -> int:
        events = await client.everything(
            "/v1/events", plan=plan, type="seawall.scheduler.plan-applied", order="oldest"
        )
        events = await with_plan(client, events, plan)
        if not machine(events, output):
            rows = [
                (e["data"]["plan_version"], moment(e["time"]), e.get("actor"),
                 len(e["data"]["vms"]))
                for e in events["items"]
            ]  # fmt: skip
            table(("VERSION", "APPLIED", "BY", "VMS"), rows, empty="no versions")
        return DONE

    run(work)


@app.command()
def delete(plan: str, output: Output = Format.TABLE) -> None:
    """Stop protecting; copies at the recovery site stay."""
    _simple(plan_path(plan), None, f"{plan} deleted", output, method="DELETE")


@app.command()
def start(plan: str, vm: VmNames = None, output: Output = Format.TABLE) -> None:
    """Turn replication on."""
    _simple(plan_path(plan, "start"), {"vms": vm or []}, f"{plan} started", output)


@app.command()
def stop(
    plan: str,
    vm: VmNames = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="also cancel what runs")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Turn replication off; what runs finishes unless --cancel."""
    body = {"vms": vm or [], "cancel": cancel}
    _simple(plan_path(plan, "stop"), body, f"{plan} stopped", output)


@app.command("run")
def run_plan(
    plan: str,
    vm: VmNames = None,
    wait: Wait = False,
    timeout: Timeout = "10m",
    output: Output = Format.TABLE,
) -> None:
    """Replicate now."""

    async def work(client: Client) -> int:
        answer = await client.command(
            plan_path(plan, "run"), {"vms": vm or []}, within_s=patience_s(wait, timeout)
        )
        return await follow(client, answer, wait=wait, within=timeout, form=output)

    run(work)


@app.command()
def prioritise(
    plan: str, priority: int, vm: VmNames = None, output: Output = Format.TABLE
) -> None:
    """Set the priority: 1 highest, 5 lowest."""
    body = {"priority": priority, "vms": vm or []}
    _simple(plan_path(plan, "prioritise"), body, f"{plan} has priority {priority}", output)


def _simple(path: str, body: Any, told: str, form: Format, *, method: str = "POST") -> None:
    async def work(client: Client) -> int:
        answer = await client.command(path, body, method=method)
        if not machine(answer, form):
            out.print(told, markup=False)
        return DONE

    run(work)


@vm_app.command("list")
def list_vms(
    plan: str | None = None,
    vm: str | None = None,
    sync_state: Annotated[str | None, typer.Option(help="as in-sync")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Protected VMs and how fresh their copies are."""

    async def work(client: Client) -> int:
        page = await client.everything("/v1/vms", plan=plan, vm=vm, sync_state=sync_state)
        page = await with_plan(client, page, plan)
        if not machine(page, output):
            _vm_table(page["items"])
        return DONE

    run(work)


def _sites(plan: dict[str, Any]) -> tuple[str, str]:
    """From where to where a plan is replicated; a plan whose VMs go both ways as it is defined."""
    sites = (plan["protected_site"], plan["recovery_site"])
    return (sites[1], sites[0]) if plan.get("direction") == "reverse" else sites


def _vm_table(vms: Any) -> None:
    rows = [
        (vm["name"], vm["plan"], vm["sync_state"], vm.get("instance"), seconds(vm["rpo_s"]),
         moment(vm["last_checkpoint_at"]), moment(vm["next_due_at"]), vm["boot_order"],
         (vm["error"] or {}).get("message"))
        for vm in vms
    ]  # fmt: skip
    columns = ("VM", "PLAN", "SYNC", "RUNS AS", "RPO", "COPY OF", "NEXT", "BOOT", "ERROR")
    table(columns, rows, empty="no protected VMs")


@vm_app.command()
def reset(plan: str, vm: str, output: Output = Format.TABLE) -> None:
    """Declare the copy invalid: the next iteration is a resync."""
    _simple(plan_path(plan, f"vms/{quote(vm, safe='')}/reset"), None, f"{vm} will resync", output)
