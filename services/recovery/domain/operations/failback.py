"""Failback: a migration the other way, after which replication goes in its original direction.

The instances are shut down cleanly and copied once more, or nothing is moved. The VMs come up at
their own site as new instances beside their originals, which stay off and are never written to
(decision 0042). Committed, what came up is what is replicated; rolled back, the instances run on
and are replicated in reverse as before.
"""

from __future__ import annotations

from typing import Final

from services.recovery.domain.operations.operation import Operation

FAILBACK: Final = Operation(
    mode="failback",
    isolated=False,
    source_step="shut-down-instances",
    together=True,
    turns=True,
)
