"""What each mode of recovery does that the others do not: one file per mode.

`recovery`, the parent they share, reads these rules and never a mode's name. What is done to the
sources, and undone, is in `securing` (rules), `driving` (what is asked for), `source` (one VM's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.scheduler import RecoveryMode
from services.recovery.domain.operations.failback import FAILBACK
from services.recovery.domain.operations.failover import FAILOVER
from services.recovery.domain.operations.migration import MIGRATION
from services.recovery.domain.operations.operation import Operation
from services.recovery.domain.operations.trial import TEST_RECOVERY

OPERATIONS: Final[Mapping[RecoveryMode, Operation]] = {
    each.mode: each for each in (TEST_RECOVERY, FAILOVER, MIGRATION, FAILBACK)
}
"""The modes that bring VMs up. A reversal brings none up: it is a saga of its own."""


def of(mode: RecoveryMode) -> Operation:
    """The rules of a mode."""
    return OPERATIONS[mode]
