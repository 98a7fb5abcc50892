"""Commands: what the gateway recorded, and apart from it what the owner answered.

Two logs tell of one command and arrive in any order: each has its table, joined by id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.common import CommandSettled
from schemas.envelope import Recorded
from schemas.folds.base import Route, View, at
from schemas.gateway import CommandAccepted
from schemas.views import AcceptedCommand, SettledCommand


def _row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (event.command_id,)


def _accepted(
    doc: AcceptedCommand | None, event: CommandAccepted, recorded: Recorded, row: str
) -> AcceptedCommand:
    return AcceptedCommand(
        command_id=row,
        to=event.to,
        type=event.type,
        key=event.key,
        actor=event.actor,
        job=event.job,
        accepted_at=at(recorded),
    )


def _settled(
    doc: SettledCommand | None, event: CommandSettled, recorded: Recorded, row: str
) -> SettledCommand:
    if doc is not None:
        return doc
    return SettledCommand(
        command_id=row,
        outcome=event.outcome,
        code=event.code,
        message=event.message,
        remedy=event.remedy,
        details=event.details,
        stream=event.stream,
        version=event.version,
        source=recorded.source,
        partition=recorded.partition,
        seq=recorded.seq,
        settled_at=at(recorded),
    )


ACCEPTS = View(
    table="command_accepts",
    document=AcceptedCommand,
    routes={CommandAccepted: (Route(_accepted, _row),)},
)
SETTLEMENTS = View(
    table="command_settlements",
    document=SettledCommand,
    routes={CommandSettled: (Route(_settled, _row),)},
)
