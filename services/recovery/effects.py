"""The effect handlers of the recovery service: which kind does what, with which patience.

Owns time limits and retry policies, and which scripts have begun. What each step does at a
platform is `platform_work`, `polling` and `preflight`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from schemas.clean_points import VerdictScriptStarted
from schemas.recovery import PlanScriptStarted, VmScriptStarted
from schemas.recovery_work import RunScript, ScriptRan
from services.recovery import (
    lost_sites,
    platform_work,
    polling,
    preflight,
    reversal_work,
    source_work,
    windows_work,
)
from services.recovery.domain.clean_point_state import Search
from services.recovery.domain.operations import driving
from services.recovery.domain.scripts import PRE_STEP, ScriptRun
from services.recovery.domain.vm_recovery import WITHDRAWN
from services.recovery.domain.vm_state import VmRecovery, is_paused, vm_stream
from services.recovery.platform_work import Tools
from shared.effects.policy import ONCE, STEP, UNTIL_DONE, RetryPolicy
from shared.effects.running import EffectHandler, EffectRun
from shared.errors import Permanent, Transient
from shared.scripts.effect import References
from shared.scripts.handler import ScriptHandler
from shared.scripts.stored import script_stream, whole_content

CALL_S_MAX: Final = 60.0
PREFLIGHT_S_MAX: Final = 300.0
REBUILD_S_MAX: Final = 6 * 3600.0
POLL_S_MAX: Final = 30.0
MEASURE_S_MAX: Final = 6.0
"""Of what a roll back discards: who asks for one waits 10 s for the answer, and "not known" is
one."""

LOOK_S_MAX: Final = 30.0
"""Of a look at a quarantined site: it, and what took its VMs' place, have 10 s each to answer.
Of a roll back's look at its sources, which is tried again: a site that is away is soon known."""

SHUT_DOWN_S_MAX: Final = driving.SHUT_DOWN_WITHIN_S + CALL_S_MAX
"""The guest's own time is the platform's to keep; this bounds a platform that does not."""

REMOVE: Final = RetryPolicy(retries_max=8, cap_s=600.0, alert_after=3)
"""A cleanup must end, and may be repeated: its deletions are tried nine times, not for ever."""

NODE_S_MAX: Final = 600.0
"""A prep node is a machine that boots."""

PREPARE_S_MAX: Final = 600.0
"""Two inspections of at most 120 s each, and a write; twice that on a slow site."""

VALIDATE: Final = RetryPolicy(retries_max=6, base_s=2.0, cap_s=60.0)
"""Services of a Windows start for minutes after its heartbeat: 2 min of waits at most."""

Do = Callable[[Tools, EffectRun], Awaitable[msgspec.Struct]]


class Withdrawn(Permanent):
    """Its VM was paused while the step waited for its turn: nothing was done."""

    code = WITHDRAWN


class StepHandler:
    """One kind of work within a time limit. A repeat is harmless by the key it carries.

    `pausable`: a step of a VM, which does not begin while that is paused.
    """

    def __init__(
        self,
        tools: Tools,
        do: Do,
        *,
        limit_s: float,
        policy: RetryPolicy,
        resumable: bool,
        pausable: bool,
    ) -> None:
        self._tools = tools
        self._do = do
        self._limit_s = limit_s
        self._pausable = pausable
        self.policy = policy
        self.resumable = resumable

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Do it; raises Transient when the time is over, Withdrawn where it may not begin."""
        # A step that has failed once has begun: a pause lets it come to its end. The store may be
        # away for longer than the step may take, and that costs no attempt.
        if self._pausable and not effect.attempt:
            states = await self._tools.read_states((effect.stream,))
            check_may_begin(states[effect.stream], effect.effect_id)
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._do(self._tools, effect)
        except TimeoutError:
            raise Transient(
                f"{effect.effect_id} had no answer within {self._limit_s:g} s",
                code="timed-out",
                remedy="look at the site's load and its network",
            ) from None


class RecoveryScript(ScriptHandler):
    """Runs a script of a recovery, the plan's or a VM's."""

    ran = ScriptRan
    remedy = "look at what the script changes, then run the operation again"

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._read_states = tools.read_states

    async def find(self, effect: EffectRun) -> tuple[bytes | None, bool]:
        """Both as committed now. Raises Withdrawn for a VM's that may not begin."""
        payload: RunScript = effect.payload
        kept = script_stream(payload.work.plan, payload.work.sha256)
        states = await self._read_states((effect.stream, kept))
        owner = states[effect.stream]
        begun = self.has_begun(owner, payload)
        if payload.vm and not begun:
            check_may_begin(owner, effect.effect_id)
        return whole_content(states[kept]), begun

    def start_of(self, payload: RunScript) -> msgspec.Struct:
        """The fact that a script begins."""
        fact = VmScriptStarted if payload.vm else PlanScriptStarted
        return fact(step=payload.work.step, run=payload.run)

    def has_begun(self, owner: Any, payload: RunScript) -> bool:
        """Whether that fact is on record."""
        run: ScriptRun = owner.pre if payload.work.step == PRE_STEP else owner.post
        return run.run == payload.run and run.started


class VerdictScript(RecoveryScript):
    """Runs the verdict script of a search's trial, at most once like every other script."""

    async def references(self, effect: EffectRun) -> References:
        """Of the tested VMs' credentials, by VM: as the recovery that brought them up knows them.

        A test of a PIT checkpoint has the references of that moment, as its scripts do.
        """
        context = effect.payload.work.context
        streams = {vm["name"]: vm_stream(context["test"], vm["name"]) for vm in context["vms"]}
        states = await self._read_states(tuple(streams.values()))
        found: dict[str, References] = {}
        for vm, stream in streams.items():
            enrolled = states[stream].enrolled
            if enrolled is not None and enrolled.definition.credentials:
                found[vm] = enrolled.definition.credentials
        return found

    def start_of(self, payload: RunScript) -> msgspec.Struct:
        return VerdictScriptStarted(trial=payload.run)

    def has_begun(self, owner: Search, payload: RunScript) -> bool:
        trial = owner.trial
        return trial is not None and trial.number == payload.run and trial.script_started


def check_may_begin(state: VmRecovery, effect_id: str) -> None:
    """Raise Withdrawn for a step of a VM that is paused: it waited for its turn too long."""
    if is_paused(state):
        raise Withdrawn(f"{effect_id} had not begun when its VM was paused")


def handlers(tools: Tools) -> dict[str, EffectHandler]:
    """Kind → handler, for the worker."""

    def step(
        do: Do,
        *,
        limit_s: float = CALL_S_MAX,
        policy: RetryPolicy = STEP,
        resumable: bool = False,
        pausable: bool = False,
    ) -> EffectHandler:
        return StepHandler(
            tools, do, limit_s=limit_s, policy=policy, resumable=resumable, pausable=pausable
        )

    return {
        "preflight": step(preflight.look, limit_s=PREFLIGHT_S_MAX, resumable=True),
        "run-script": RecoveryScript(tools),
        "run-verdict": VerdictScript(tools),
        "hold-copy": step(platform_work.hold_copy, pausable=True),
        "rebuild-disk": step(
            platform_work.rebuild_disk, limit_s=REBUILD_S_MAX, resumable=True, pausable=True
        ),
        "create-instance": step(platform_work.create_instance, pausable=True),
        "power-on": step(platform_work.power_on, pausable=True),
        "list-prep-nodes": step(windows_work.list_nodes, resumable=True),
        "power-on-node": step(windows_work.power_on_node, limit_s=NODE_S_MAX),
        "power-off-node": step(windows_work.power_off_node, limit_s=NODE_S_MAX, policy=UNTIL_DONE),
        "prepare-windows": step(windows_work.prepare, limit_s=PREPARE_S_MAX, pausable=True),
        "validate-windows": step(
            windows_work.validate, policy=VALIDATE, resumable=True, pausable=True
        ),
        "release-copy": step(platform_work.release_copy, policy=UNTIL_DONE),
        "poll-site": step(polling.poll_site, limit_s=POLL_S_MAX, policy=ONCE, resumable=True),
        "look-at-source": step(source_work.look, resumable=True),
        "look-at-sources": step(source_work.look_at_all, limit_s=LOOK_S_MAX, resumable=True),
        "shut-down-source": step(source_work.shut_down, limit_s=SHUT_DOWN_S_MAX, resumable=True),
        "power-off-source": step(source_work.power_off),
        "power-on-source": step(source_work.power_on),
        "measure-written": step(
            platform_work.measure_written, limit_s=MEASURE_S_MAX, policy=ONCE, resumable=True
        ),
        # The watcher looks again by itself: a dead site costs one call per beat.
        "look-at-lost-site": step(
            lost_sites.look, limit_s=LOOK_S_MAX, policy=ONCE, resumable=True
        ),
        "look-at-originals": step(lost_sites.look, resumable=True),
        "look-at-instances": step(reversal_work.look, limit_s=PREFLIGHT_S_MAX, resumable=True),
        "verify-copies": step(reversal_work.verify, limit_s=PREFLIGHT_S_MAX, resumable=True),
        "list-owned": step(platform_work.list_owned, policy=REMOVE, resumable=True),
        "remove-object": step(platform_work.remove_object, policy=REMOVE),
    }
