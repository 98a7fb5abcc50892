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


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of recovery.

    `asked` gives the fields of its command that are its own. `loses_site`: how often the source
    site is away when it is asked for. `together`: all of its VMs come up or none was touched.
    """

    mode: RecoveryMode
    weight: int
    ends_with: Literal["cleanup", "commit"]
    asked: Callable[[random.Random], dict[str, Any]]
    loses_site: float = 0.0
    from_checkpoint: bool = True
    together: bool = False


def _test(_: random.Random) -> dict[str, Any]:
    return {}


def _failover(chance: random.Random) -> dict[str, Any]:
    return {
        "last_sync": chance.choice((None, None, True, False)),
        "source_gone": chance.random() < 0.15,
    }


OPERATIONS: Final = (
    Operation(mode="test", weight=4, ends_with="cleanup", asked=_test),
    Operation(mode="failover", weight=5, ends_with="commit", asked=_failover, loses_site=0.3),
    Operation(
        mode="migrate",
        weight=3,
        ends_with="commit",
        asked=_test,
        loses_site=0.05,
        from_checkpoint=False,
        together=True,
    ),
)


def of(mode: str) -> Operation:
    """The operation of a mode."""
    return next(each for each in OPERATIONS if each.mode == mode)


def chosen(chance: random.Random) -> Operation:
    """One of them."""
    (found,) = chance.choices(OPERATIONS, [each.weight for each in OPERATIONS])
    return found
