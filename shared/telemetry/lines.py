"""Lines of the log that tell what was done, one for each message, row and effect.

What went well is told at `debug` (a tick of 20,000 VMs is as many steps), an effect that is tried
again at `info`, one that failed for good at `warning`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from schemas.envelope import Recorded
from shared.effects.policy import Verdict, result_of
from shared.effects.port import Claimed
from shared.effects.worker import Silent
from shared.fold import Input
from shared.telemetry import ids

log = structlog.get_logger()

_LEVELS: Final = {
    "retried": logging.INFO,
    "failed": logging.WARNING,
    "unknown": logging.WARNING,
}
"""By how a try went; all others are for `debug`."""


def tell_decided(inputs: Sequence[Input]) -> None:
    """What one commit decided."""
    if log.is_enabled_for(logging.DEBUG):
        for each in inputs:
            if each.received is not None:
                log.debug("step.decided", **ids.of_input(each))


def tell_projected(rows: Iterable[Recorded]) -> None:
    """What one commit brought into the read models."""
    if log.is_enabled_for(logging.DEBUG):
        for row in rows:
            log.debug("row.projected", type=row.type, stream=row.stream, **ids.of_meta(row.meta))


class EffectLines(Silent):
    """Tells how tries of effects went; called where the effect is bound."""

    def __init__(self) -> None:
        self._all = log.is_enabled_for(logging.DEBUG)

    def ended(self, claimed: Claimed, verdict: Verdict, seconds: float) -> None:
        if not (self._all or verdict.code):
            return  # It went well.
        result = result_of(verdict)
        level = _LEVELS.get(result, logging.DEBUG)
        if log.is_enabled_for(level):
            wrong = {"code": verdict.code, "error": verdict.error} if verdict.code else {}
            log.log(level, "effect.ended", result=result, seconds=round(seconds, 3), **wrong)
