"""The effect handlers of the replicator: which kind does what, with which patience.

Owns retry policies and the running of scripts at most once. What each step does at a platform is
`platform_work`, `transferring` and `inspecting`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from schemas.replicator import RunScriptStarted, ScriptStarted
from schemas.replicator_work import RunScript, ScriptRan
from services.replicator import inspecting, platform_work, transferring
from services.replicator.domain import scripts
from services.replicator.domain.scripts import PRE_STEP, ScriptRun
from services.replicator.tools import Tools, within
from shared.effects.policy import STEP, UNTIL_DONE, OutcomeUnknown, RetryPolicy
from shared.effects.running import EffectHandler, EffectRun
from shared.errors import Permanent, Refused, Transient
from shared.scripts import ScriptEndUnknown
from shared.scripts.effect import run_script_work

SCRIPT: Final = RetryPolicy(retries_max=3)
"""Only preparing a script is repeated: once its start is on record nothing runs it again."""

Do = Callable[[Tools, EffectRun], Awaitable[msgspec.Struct]]


class StepHandler:
    """One kind of work. A repeat is harmless by the key it carries."""

    def __init__(
        self, tools: Tools, do: Do, *, policy: RetryPolicy = STEP, resumable: bool = False
    ) -> None:
        self._tools = tools
        self._do = do
        self.policy = policy
        self.resumable = resumable

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Do it."""
        return await self._do(self._tools, effect)


class UntilDone(StepHandler):
    """Work that is given up by nobody: what a person must mend first is tried again as well."""

    def __init__(self, tools: Tools, do: Do) -> None:
        super().__init__(tools, do, policy=UNTIL_DONE)

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Do it; every failure is one that may pass."""
        try:
            return await super().run(effect)
        except (Permanent, Refused) as error:
            raise Transient(error.message, remedy=error.remedy, code=error.code) from error


class ScriptHandler:
    """Runs a script at most once per effect: its start is on record before its process exists."""

    policy = SCRIPT
    resumable = False

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self, effect: EffectRun) -> ScriptRan:
        """Run it, or raise OutcomeUnknown where it was started and its end is not known.

        One that is stopped is given back, and its next claim reads what the guard left of it.
        """
        payload: RunScript = effect.payload
        content, begun = await self._content(effect, payload)

        async def record_start() -> None:
            fact = ScriptStarted if payload.vm else RunScriptStarted
            await effect.report(fact(step=payload.work.step, run=payload.run))

        try:
            report = await run_script_work(
                payload.work,
                content,
                runner=self._tools.runner,
                secrets=self._tools.secrets,
                put_blob=self._tools.put_blob,
                record_start=record_start,
                run_id=effect.effect_id,
                begun=begun,
            )
        except ScriptEndUnknown as unknown:
            raise _unknown() from unknown
        return ScriptRan(report=report)

    async def _content(self, effect: EffectRun, payload: RunScript) -> tuple[bytes, bool]:
        """The script, and whether its start is on record; states are read as committed now."""
        stored = scripts.script_stream(payload.work.plan, payload.work.sha256)
        states = await within(
            self._tools.read_states((effect.stream, stored)),
            what="reading the script",
            timeout_s=self._tools.settings.call_timeout_s,
        )
        owner = states[effect.stream]
        run: ScriptRun = owner.pre if payload.work.step == PRE_STEP else owner.post
        content = scripts.whole_content(states[stored])
        if content is None:
            # The content comes from the gateway, the iteration from the scheduler: in no order.
            raise Transient(
                f"the content of script {payload.work.sha256[:12]} is not stored",
                code="script-not-stored",
                remedy="apply the plan again, so that its scripts are uploaded",
            )
        return content, run.run == payload.run and run.started


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the script was started and its service ended before its end was recorded",
        remedy="look at what the script changes; the next iteration runs it again",
    )


def handlers(tools: Tools) -> dict[str, EffectHandler]:
    """Kind → handler, for the worker."""
    return {
        "inspect-site": StepHandler(tools, inspecting.inspect_site, resumable=True),
        "run-script": ScriptHandler(tools),
        "open-snapshot": StepHandler(tools, platform_work.open_snapshot),
        "transfer": StepHandler(tools, transferring.transfer_disk, resumable=True),
        "finalize": StepHandler(tools, platform_work.finalize),
        "close-snapshot": StepHandler(tools, platform_work.close_snapshot),
        "close-snapshot-left": UntilDone(tools, platform_work.close_snapshot),
        "discard": StepHandler(tools, platform_work.discard_staged),
        "discard-left": UntilDone(tools, platform_work.discard_staged),
        "create-checkpoint": StepHandler(tools, platform_work.create_checkpoint),
        "delete-checkpoint": UntilDone(tools, platform_work.delete_checkpoint),
        "verify-deleted": UntilDone(tools, platform_work.verify_deleted),
    }
