"""The work of a recovery's parent as data: preflight and the plan's scripts.

Decides nothing about order: `recovery_state.phase_of` does.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from schemas.common import Fact
from schemas.recovery_work import Preflight, RunScript
from services.recovery.domain import scripts
from services.recovery.domain.operations import of
from services.recovery.domain.recovery_state import (
    Recovery,
    outcome_of,
    phase_of,
    plan_script,
    told,
)
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.work import recovery_effect
from shared.decider import Effect


def part_of(state: Recovery) -> str:
    """The one effect part under way in the recovery's phase, or ''."""
    match phase_of(state):
        case "preflight":
            return "preflight"
        case "pre-script" if not state.pre.asks:
            return scripts.part_of_run(PRE_STEP, state.pre.run)
        case "post-script" if not state.post.asks:
            return scripts.part_of_run(POST_STEP, state.post.run)
    return ""


def effect_of(state: Recovery, part: str, now: dt.datetime) -> Effect:
    """The effect of a part."""
    start = told(state)
    step = part.partition("/")[0]
    kind, payload = ("preflight", _preflight(state))
    if step != "preflight":
        kind, payload = ("run-script", _script(state, step))
    return recovery_effect(
        part,
        kind,
        payload,
        site=start.header.recovery_site.site,
        plan=start.plan,
        due=start.requested_at,
        priority=start.header.replication.priority,
    )


def _preflight(state: Recovery) -> Fact:
    start = told(state)
    chosen = (plan_script(state, PRE_STEP), plan_script(state, POST_STEP))
    networks, operation = start.header.recovery.networks, of(start.mode)
    return Preflight(
        site=start.header.recovery_site,
        plan=start.plan,
        job=start.job,
        mode=start.mode,
        members=start.members,
        checkpoint=start.checkpoint,
        network=networks.test if operation.isolated else networks.production or "",
        isolated=operation.isolated,
        skip_scripts=start.skip_scripts,
        scripts=tuple(script for script in chosen if script is not None),
        dry_run=start.dry_run,
        source=start.header.protected if operation.source_step else None,
        source_gone=start.source_gone and operation.trusts_word,
        last_sync=start.last_sync,
        instances={vm: source.instance for vm, source in state.instances.items()},
        homeward=start.homeward,
    )


def _script(state: Recovery, step: str) -> Fact:
    start = told(state)
    script = plan_script(state, step)
    assert script is not None, "a script that is due was chosen"
    context: dict[str, Any] = {
        "hook": "pre-recovery" if step == PRE_STEP else "post-recovery",
        "operation": start.mode,
        "job": start.job,
        "plan": {
            "name": start.plan,
            "version": start.plan_version,
            "recovery_site": start.header.recovery_site.site,
        },
        "checkpoint": start.checkpoint,
        "vms": [vm_told(state, vm) for vm in state.roster],
        "outputs": {"plan": state.plan_outputs},
    }
    if step == POST_STEP:
        context["outcome"] = outcome_of(state)
    work = scripts.script_work(script, step=step, plan=start.plan, context=context)
    return RunScript(work=work, run=(state.pre if step == PRE_STEP else state.post).run)


def vm_told(state: Recovery, vm: str) -> dict[str, Any]:
    """A VM of the recovery as scripts read it, with its instance once that is known."""
    about: dict[str, Any] = {"name": vm, "boot_order": state.roster[vm].boot_order}
    member = state.members.get(vm)
    if member is None:
        # Before anything was launched nothing can be said; afterwards it was never reached.
        halted = state.stopping or state.cancelling
        return {**about, "outcome": "skipped"} if state.launched or halted else about
    return {
        **about,
        "outcome": member.outcome,
        "degraded": member.degraded,
        "instance_id": member.instance_id,
        "addresses": list(member.addresses),
        "powered_on_at": scripts.moment(member.powered_on_at),
        "ready_at": scripts.moment(member.ready_at),
        "error": member.error,
    }
