"""The effect handler of scripts: each is started at most once, whichever service has it run.

Owns the order of a run and what an unknown end means. Where a script's content and the record of
its start are kept is the service's own.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Final, Protocol

import msgspec

from schemas.common import ScriptWork
from shared.effects.policy import OutcomeUnknown, RetryPolicy
from shared.effects.running import EffectRun
from shared.errors import Transient
from shared.scripts.effect import PutBlob, References, run_script_work
from shared.scripts.errors import ScriptEndUnknown
from shared.scripts.runner import ScriptRunner
from shared.secrets import SecretResolver

SCRIPT: Final = RetryPolicy(retries_max=3)
"""Only preparing a script is repeated: once its start is on record nothing runs it again."""


class ScriptTools(Protocol):
    """What a script is run with."""

    @property
    def runner(self) -> ScriptRunner: ...
    @property
    def secrets(self) -> SecretResolver: ...
    @property
    def put_blob(self) -> PutBlob: ...


class ScriptHandler(abc.ABC):
    """Runs a script at most once per effect: its start is on record before its process exists.

    `ran` is the published result, made of the report; `remedy` is for an end that nobody knows.
    """

    policy = SCRIPT
    resumable = False
    ran: ClassVar[type[Any]]
    remedy: ClassVar[str]

    def __init__(self, tools: ScriptTools) -> None:
        self._scripts = tools

    @abc.abstractmethod
    async def find(self, effect: EffectRun) -> tuple[bytes | None, bool]:
        """The content, None until all of it is stored, and whether the start is on record."""

    @abc.abstractmethod
    def start_of(self, payload: Any) -> msgspec.Struct:
        """The fact that goes on record before the script's process exists."""

    async def references(self, effect: EffectRun) -> References:
        """Of the credentials it is given; those of its work unless said otherwise."""
        work: ScriptWork = effect.payload.work
        return work.credentials

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Run it, or raise OutcomeUnknown where it was started and its end is not known.

        One that is stopped is given back, and its next claim reads what the guard left of it.
        """
        work: ScriptWork = effect.payload.work
        content, begun = await self.find(effect)
        if content is None:
            # It comes from the gateway, the job that runs it from the scheduler: in no order.
            raise Transient(
                f"the content of script {work.sha256[:12]} is not stored",
                code="script-not-stored",
                remedy="apply the plan again, so that its scripts are uploaded",
            )

        async def record_start() -> None:
            await effect.report(self.start_of(effect.payload))

        try:
            report = await run_script_work(
                work,
                content,
                runner=self._scripts.runner,
                secrets=self._scripts.secrets,
                put_blob=self._scripts.put_blob,
                record_start=record_start,
                run_id=effect.effect_id,
                begun=begun,
                references=await self.references(effect),
            )
        except ScriptEndUnknown as unknown:
            raise OutcomeUnknown(
                "the script was started and its service ended before its end was recorded",
                remedy=self.remedy,
            ) from unknown
        ran: msgspec.Struct = self.ran(report=report)
        return ran
