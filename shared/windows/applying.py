"""Carries out a decision of *prepare*: the writes, then the proof that nothing else changed.

Blocking; call it on a thread, with nobody else writing to the disks. May be repeated after a crash
at any moment: each write replaces four bytes inside one sector, old or new.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.errors import InvariantBroken
from shared.windows.disks import Disk
from shared.windows.errors import NotPreparable, NotVerified
from shared.windows.inspecting import ReaderLimits, inspect
from shared.windows.structs import (
    DriverState,
    Prepared,
    PrepareDecision,
    StartValue,
    StartWrite,
    WindowsFindings,
    WindowsSystem,
)

_REBUILD = "rebuild the disks from the copy and prepare them again"


def apply(
    decision: PrepareDecision, disks: Sequence[Disk], *, limits: ReaderLimits | None = None
) -> Prepared:
    """Write what was decided, flush it, read everything anew and compare.

    The disks are those that were inspected, in the same order. Raises `NotPreparable` for a
    decision with refusals, or where a place holds neither the old nor the new value (nothing is
    written then), `NotVerified` where the disks afterwards do not read exactly as intended, and
    what `inspect` raises. A place that holds the new value already is not written again.
    """
    if decision.refusals:
        first = decision.refusals[0]
        raise NotPreparable(first.message, remedy=first.remedy, code=first.code)
    due = [write for write in decision.writes if _is_due(write, disks)]
    for write in due:
        disks[write.place.disk].write_at(write.place.offset, _word(write.new))
    for number in sorted({write.place.disk for write in due}):
        disks[number].fsync()
    if not decision.writes:
        return Prepared(written=(), after=decision.before, findings=decision.findings)
    services = [driver.service for driver in decision.before.systems[0].drivers]
    after = inspect(disks, services, limits=limits)
    if after != intended(decision):
        raise NotVerified(
            "after the write, the disks do not read as intended: " + _difference(decision, after),
            remedy=_REBUILD,
        )
    return Prepared(written=tuple(due), after=after, findings=decision.findings)


def intended(decision: PrepareDecision) -> WindowsFindings:
    """The findings that a fresh inspection must give after the writes. Pure.

    All that was seen before, the digest of the registry outside the start types included, with
    the new values at their places.
    """
    new = {(w.place.disk, w.place.offset): w.new for w in decision.writes}
    systems = tuple(_system_with(system, new) for system in decision.before.systems)
    return msgspec.structs.replace(decision.before, systems=systems)


def _system_with(system: WindowsSystem, new: dict[tuple[int, int], int]) -> WindowsSystem:
    drivers = tuple(_driver_with(driver, new) for driver in system.drivers)
    return msgspec.structs.replace(system, drivers=drivers)


def _driver_with(driver: DriverState, new: dict[tuple[int, int], int]) -> DriverState:
    values = tuple(_value_with(value, new) for value in driver.values)
    return msgspec.structs.replace(driver, values=values)


def _value_with(value: StartValue, new: dict[tuple[int, int], int]) -> StartValue:
    if value.place is None:
        return value
    word = new.get((value.place.disk, value.place.offset), value.value)
    return msgspec.structs.replace(value, value=word)


def _is_due(write: StartWrite, disks: Sequence[Disk]) -> bool:
    """Whether the old value is there (True) or the new one already (False)."""
    if not 0 <= write.place.disk < len(disks):
        raise InvariantBroken(f"a write to disk {write.place.disk} of {len(disks)}")
    found = disks[write.place.disk].read_at(write.place.offset, 4)
    if found not in (_word(write.old), _word(write.new)):
        raise NotPreparable(
            f"the start type of {write.service} is no longer where it was found",
            code="changed-meanwhile",
            remedy="see that nothing uses the disks, then inspect and prepare them again",
        )
    return found == _word(write.old)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _difference(decision: PrepareDecision, after: WindowsFindings) -> str:
    """The first field that differs, in words for a log."""
    wanted = msgspec.to_builtins(intended(decision))
    found = msgspec.to_builtins(after)
    return next((key for key in wanted if wanted[key] != found[key]), "nothing")
