"""Follows steps that finish in any order and knows below which offset all of them are done.

Pure. Owns the chain of digests that a mark carries; does not flush or store marks.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import xxhash

from services.replicator.transfer.plan import Step

CHAIN_START: Final = bytes(16)
_HOLE_DIGEST: Final = b"hole"


class Ticket:
    """One issued step; its digest is None while it is under way."""

    __slots__ = ("digest", "step")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.digest: bytes | None = None


class Frontier:
    """`offset`: every issued step that starts below it is done. `chain`: digest over those steps.

    Steps are issued in offset order. Two transfers that did the same steps with the same content
    have the same chain, in whatever order the steps finished.
    """

    def __init__(self, *, offset: int = 0, chain: bytes = CHAIN_START) -> None:
        self.offset = offset
        self.chain = chain
        self._under_way: deque[Ticket] = deque()

    @property
    def outstanding(self) -> int:
        """Steps issued and not yet passed, finished ones behind a slow one included."""
        return len(self._under_way)

    def issue(self, step: Step) -> Ticket:
        """Note that `step` has begun."""
        ticket = Ticket(step)
        self._under_way.append(ticket)
        return ticket

    def complete(self, ticket: Ticket, digest: bytes | None) -> None:
        """Note that a step is done; `digest` is of the content that the target now holds."""
        ticket.digest = digest or _HOLE_DIGEST
        while self._under_way and (done := self._under_way[0].digest) is not None:
            step = self._under_way.popleft().step
            place = step.offset.to_bytes(8, "big") + step.length.to_bytes(8, "big")
            self.chain = xxhash.xxh3_128_digest(self.chain + place + done)
            self.offset = step.end
