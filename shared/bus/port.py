"""The port of the bus. A reader holds its cursors itself; the bus only brings rows past them.

Cursor = (source, topic, partition) → seq, under an epoch. `cursor + 1` applies, anything lower
is a repeat and is dropped, anything higher is a gap: the reader stops and reads again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from schemas.envelope import Recorded

Subscription = tuple[str, str]
"""(source service, topic)."""

Positions = Mapping[tuple[str, str, int], int]
"""(source, topic, partition) → last seq applied. Only the partitions named are read."""


class Bus(Protocol):
    """Brings rows past positions, in seq order per (source, topic, partition), never skipping."""

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        """Rows past `positions`, possibly none. Repeats of what was read before are allowed.

        Raises Transient when the bus cannot be reached.
        """

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        """(epoch, last seq) of each of `positions` whose source is there; seq 0 where empty.

        A reader whose cursor is past a head, or of another epoch, must not go on: the log was
        restored, and the same seq may stand for another row now. Raises Transient.
        """

    async def lag(self, positions: Positions) -> int:
        """How many rows are past `positions`, for health and metrics."""
