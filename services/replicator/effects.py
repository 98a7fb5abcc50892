"""The effect handlers of the replicator: which kind does what, with which patience.

Owns retry policies, and which scripts have begun. What each step does at a platform is
`platform_work`, `transferring` and `inspecting`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from schemas.replicator import RunScriptStarted, ScriptStarted
from schemas.replicator_work import RunScript, ScriptRan
from services.replicator import inspecting, platform_work, transferring
from services.replicator.domain.scripts import PRE_STEP, ScriptRun
from services.replicator.tools import Tools, within
from shared.effects.policy import STEP, UNTIL_DONE, RetryPolicy
from shared.effects.running import EffectHandler, EffectRun
from shared.errors import Permanent, Refused, Transient
from shared.scripts.handler import ScriptHandler
from shared.scripts.stored import script_stream, whole_content

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


class ReplicationScript(ScriptHandler):
    """Runs a script around replication, a run's or an iteration's."""

    ran = ScriptRan
    remedy = "look at what the script changes; the next iteration runs it again"

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._tools = tools

    async def find(self, effect: EffectRun) -> tuple[bytes | None, bool]:
        """Both as committed now."""
        payload: RunScript = effect.payload
        kept = script_stream(payload.work.plan, payload.work.sha256)
        states = await within(
            self._tools.read_states((effect.stream, kept)),
            what="reading the script",
            timeout_s=self._tools.settings.call_timeout_s,
        )
        owner = states[effect.stream]
        run: ScriptRun = owner.pre if payload.work.step == PRE_STEP else owner.post
        begun = run.run == payload.run and run.started
        return whole_content(states[kept]), begun

    def start_of(self, payload: RunScript) -> msgspec.Struct:
        """The fact that a script begins."""
        fact = ScriptStarted if payload.vm else RunScriptStarted
        return fact(step=payload.work.step, run=payload.run)


def handlers(tools: Tools) -> dict[str, EffectHandler]:
    """Kind → handler, for the worker."""
    return {
        "inspect-site": StepHandler(tools, inspecting.inspect_site, resumable=True),
        "run-script": ReplicationScript(tools),
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
