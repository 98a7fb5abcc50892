"""The seam between a worker and its service's stepper: verdicts become inputs, facts too.

An effect that goes on and has failed too often to keep silent is told to its owner in the very
step that puts it back.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.envelope import Received
from shared.clock import Clock
from shared.decider import EffectOutcome
from shared.effects.policy import Verdict, result_of, trouble
from shared.effects.port import Claimed
from shared.eventlog.port import Settled
from shared.fold import Input, Tried
from shared.stepper import Stepper


class Settling:
    """Brings what became of effects to their owners' deciders, under the claims' numbers."""

    def __init__(self, stepper: Stepper, *, clock: Clock) -> None:
        self._stepper = stepper
        self._clock = clock

    async def settle(self, ended: Sequence[tuple[Claimed, Verdict]]) -> None:
        """Decide and commit outcomes; those of claims lost meanwhile are dropped."""
        await self._stepper.submit([self._input(claimed, end) for claimed, end in ended])

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None:
        """Let the owner decide a fact while the effect goes on; raises what it refuses with."""
        settled = Settled(claimed.effect_id, claimed.lease_no, keep=True)
        await self._stepper.submit_alone(self._decided(claimed, fact, settled))

    def _input(self, claimed: Claimed, end: Verdict) -> Input:
        if isinstance(end, EffectOutcome):
            settled = Settled(claimed.effect_id, claimed.lease_no)
            return self._decided(claimed, end, settled, Tried(claimed.kind, result_of(end)))
        tried = Tried(claimed.kind, result_of(end))
        put_back = Settled(
            claimed.effect_id,
            claimed.lease_no,
            requeue_at=end.at,
            attempt=end.attempt,
            pushback=end.pushback,
        )
        if end.alert:
            return self._decided(claimed, trouble(claimed, end), put_back, tried)
        return Input(settled=put_back, tried=tried)

    def _decided(
        self,
        claimed: Claimed,
        body: msgspec.Struct,
        settled: Settled,
        tried: Tried | None = None,
    ) -> Input:
        received = Received(
            body=body,
            meta=claimed.meta,
            at=self._clock.now(),
            cause=f"effect.{claimed.effect_id}",
            stream=claimed.stream,
        )
        return Input(
            received=received, settled=settled, at_least=claimed.stream_version, tried=tried
        )
