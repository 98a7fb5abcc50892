"""Commands that would be refused for what others have not told the scheduler yet: put off.

An operator sees a job end in the read models, which may hear of it before the scheduler does, and
gives the next command at once (`plan run --wait`, then `plan recover`). A rule whose refusal such
news may overturn raises `NotYet`; the command is then decided again every BEAT_S, by a timer that
carries it, and refused as ever when PATIENCE_S are over.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.envelope import Received
from schemas.scheduler import PutOff
from shared.decider import DecideMany, Decision, Timer
from shared.errors import Refused

PATIENCE_S: Final = 5.0
"""How long news may be under way: twice what a restart of every service took in crash trials."""

BEAT_S: Final = 0.25


class NotYet(Refused):
    """A refusal that rests on a job still going on, as far as the scheduler has heard."""


def patient(decide: DecideMany) -> DecideMany:
    """`decide`, for a command with `put_off`, that waits a little where it raises NotYet."""

    def decide_or_put_off(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
        try:
            return decide(states, received)
        except NotYet:
            put_off = received.body.put_off or PutOff(
                asked_at=received.meta.occurred_at,
                until=received.at + dt.timedelta(seconds=PATIENCE_S),
            )
            if received.at >= put_off.until:
                raise
            return {next(iter(states)): _again(received, put_off)}

    return decide_or_put_off


def asked_at(received: Received) -> dt.datetime:
    """The moment the operator gave a command, whether it was put off since or not."""
    put_off: PutOff | None = received.body.put_off
    return received.meta.occurred_at if put_off is None else put_off.asked_at


def _again(received: Received, put_off: PutOff) -> Decision:
    command = received.body
    reminder = Timer(
        name=f"again-{command.command_id}",
        due=min(received.at + dt.timedelta(seconds=BEAT_S), put_off.until),
        message=msgspec.structs.replace(command, put_off=put_off),
    )
    return Decision(timers=(reminder,), defer=True)
