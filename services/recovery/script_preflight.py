"""What preflight looks at for scripts: runtimes, contents, credentials, what fences them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from schemas.common import Problem
from schemas.plans import ScriptDefinition
from schemas.recovery_work import Preflight
from services.recovery.domain.vm_state import VmRecovery, post_script, pre_script
from services.recovery.platform_work import Tools
from shared.scripts import stored
from shared.secrets import SecretError

Chosen: TypeAlias = Sequence[tuple[str, ScriptDefinition]]
"""Scripts that will run, each with whose it is."""


def chosen(work: Preflight, vms: Mapping[str, VmRecovery]) -> Chosen:
    """The scripts that will run, each with whose it is."""
    found = [("the plan", script) for script in work.scripts]
    for vm, state in vms.items():
        own = (pre_script(state), post_script(state))
        found += [(vm, script) for script in own if script is not None]
    return found


async def fences(tools: Tools, picked: Chosen) -> dict[str, Any]:
    """How this machine fences the scripts in, and a warning where it cannot as they ask.

    Never a reason to stop: they run, and their steps say so.
    """
    if not picked:
        return {}
    lacking = await tools.runner.why_not_apart()
    facts: dict[str, Any] = {
        "scripts": {"user": tools.runner.user, "network_apart": not lacking, "why_not": lacking}
    }
    exposed = sum(not script.network for _, script in picked)
    if lacking and exposed:
        warning = Problem(
            code="network-not-apart",
            message=f"{exposed} script(s) that ask for no network will run with one: {lacking}",
            remedy="let the service have what it takes, or look at what they may reach",
        )
        facts["warnings"] = [{"vm": "", **msgspec.to_builtins(warning)}]
    return facts


async def look(tools: Tools, work: Preflight, picked: Chosen) -> list[Problem]:
    """Runtimes that are missing here, and scripts whose content is not stored."""
    problems: list[Problem] = []
    for runtime in sorted({script.runtime for _, script in picked}):
        missing = tools.runner.check_runtime(runtime)
        if missing is not None:
            cause, _, remedy = missing.rpartition("; ")
            problems.append(Problem(code="missing-runtime", message=cause, remedy=remedy))
    return problems + await _contents(tools, work.plan, picked)


async def _contents(tools: Tools, plan: str, picked: Chosen) -> list[Problem]:
    streams = {script.sha256: stored.script_stream(plan, script.sha256) for _, script in picked}
    if not streams:
        return []
    states = await tools.read_states(tuple(streams.values()))
    return [
        Problem(
            code="script-not-stored",
            message=f"the content of {script.run} of {whose} is not stored",
            remedy="apply the plan again, so that its scripts are uploaded",
        )
        for whose, script in picked
        if stored.whole_content(states.get(streams[script.sha256])) is None
    ]


async def secrets(tools: Tools, vms: Mapping[str, VmRecovery]) -> list[Problem]:
    """Credentials that a post-script will need and that cannot be read. Values are dropped."""
    problems: list[Problem] = []
    for vm, state in vms.items():
        enrolled = state.enrolled
        if enrolled is None or post_script(state) is None:
            continue
        for name, reference in enrolled.definition.credentials.items():
            try:
                await tools.secrets.resolve(reference)
            except SecretError as error:
                text = f"credential {name} of {vm}: {error.message}"
                problems.append(Problem(code=error.code, message=text, remedy=error.remedy))
    return problems
