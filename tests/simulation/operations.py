"""The operations that people of a world may ask for: the one place where another is added.

Each says which mode it is, how it is asked for, and what its end waits for. What must hold of it
is found by the judges from what the sites show.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from schemas.scheduler import RecoveryMode

Where = Literal["home", "away", "reversed"]
"""Where a VM runs: at its own site; elsewhere, not replicated; elsewhere, replicated back."""

EVERYWHERE: Final[tuple[Where, ...]] = ("home", "away", "reversed")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of recovery.

    `asked` gives the fields of its command that are its own. `sensible`: of VMs that run there
    people ask for it on purpose, else by mistake. `loses_site`: how often the source site is away
    when it is asked for. `together`: all of its VMs come up or none was touched. `undoes_itself`:
    a plan may want that.
    """

    mode: RecoveryMode
    weight: int
    ends_with: Literal["cleanup", "commit", "nothing"]
    asked: Callable[[random.Random], dict[str, Any]]
    sensible: tuple[Where, ...]
    family: Literal["recovery", "reversal"] = "recovery"
    loses_site: float = 0.0
    from_checkpoint: bool = True
    together: bool = False
    undoes_itself: bool = False


def _nothing(_: random.Random) -> dict[str, Any]:
    return {}


def _undone(chance: random.Random) -> dict[str, Any]:
    return {"auto_rollback": chance.choice((None, None, None, True, False))}


def _failover(chance: random.Random) -> dict[str, Any]:
    return {
        "last_sync": chance.choice((None, None, True, False)),
        "source_gone": chance.random() < 0.15,
    }


OPERATIONS: Final = (
    Operation(
        mode="test",
        weight=4,
        ends_with="cleanup",
        asked=_undone,
        sensible=EVERYWHERE,
        undoes_itself=True,
    ),
    Operation(
        mode="failover",
        weight=5,
        ends_with="commit",
        asked=_failover,
        sensible=("home", "reversed"),
        loses_site=0.3,
    ),
    Operation(
        mode="migrate",
        weight=3,
        ends_with="commit",
        asked=_undone,
        sensible=("home",),
        loses_site=0.05,
        from_checkpoint=False,
        together=True,
        undoes_itself=True,
    ),
    Operation(
        mode="reverse",
        weight=6,
        ends_with="nothing",
        asked=_nothing,
        sensible=("away",),
        family="reversal",
        loses_site=0.05,
        from_checkpoint=False,
    ),
    Operation(
        mode="failback",
        weight=6,
        ends_with="commit",
        asked=_nothing,
        sensible=("reversed",),
        loses_site=0.05,
        from_checkpoint=False,
        together=True,
    ),
)
MISTAKEN: Final = 0.06
"""How much rarer people ask for what makes no sense where a VM runs."""


def of(mode: str) -> Operation:
    """The operation of a mode."""
    return next(each for each in OPERATIONS if each.mode == mode)


def chosen(chance: random.Random, where: Where) -> Operation:
    """One of them, for VMs that run there."""
    weights = [each.weight * (1.0 if where in each.sensible else MISTAKEN) for each in OPERATIONS]
    (found,) = chance.choices(OPERATIONS, weights)
    return found
