"""Failover: the sources are fenced if they can be reached, and what there is is brought up.

A source is shut down, or powered off where it ignores that. One that cannot be reached needs the
operator's word that it is gone. The last sync is tried and its failure reported. Where one VM
cannot be fenced, *continue* brings up the others and *stop* takes back what was done. Ends with
commit or roll back; the sources stay off until then.
"""

from __future__ import annotations

from typing import Final

from services.recovery.domain.operations.operation import Operation

FAILOVER: Final = Operation(
    mode="failover",
    isolated=False,
    source_step="fence-sources",
    forces=True,
    trusts_word=True,
)
