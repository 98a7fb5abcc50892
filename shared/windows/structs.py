"""What was found on a machine's disks, and what *prepare* decides to do about it. Plain data.

Offsets and lengths are bytes. A `Place` is on a disk of the machine, by its position in the list
that was inspected.
"""

from __future__ import annotations

from typing import Literal

import msgspec

VolumeKind = Literal["ntfs", "bitlocker", "other"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something a person should know. `code` is stable, `subject` is what it is about."""

    code: str
    message: str
    remedy: str
    subject: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where on which disk."""

    disk: int
    offset: int


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A partition, or a whole disk without a partition table (number 0).

    `problems` forbid writing into it.
    """

    disk: int
    number: int
    offset: int
    length: int
    kind: VolumeKind
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        """As people would say it; disks and partitions count from 1."""
        whole = f"disk {self.disk + 1}"
        return f"{whole}, partition {self.number}" if self.number else whole


class StartValue(msgspec.Struct, frozen=True, kw_only=True):
    """A start type in the registry: `name` is `Start`, or `StartOverride\\0` of newer Windows.

    0 boot, 1 system, 2 automatic, 3 on demand, 4 disabled. `place` is where its four bytes lie;
    without one, `problem` says why it cannot be written in place.
    """

    name: str
    value: int
    place: Place | None = None
    problem: Problem | None = None


class DriverState(msgspec.Struct, frozen=True, kw_only=True):
    """A driver as one Windows has it. `values` is empty where the service is not registered."""

    service: str
    registered: bool
    file: str
    file_present: bool
    values: tuple[StartValue, ...] = ()


class WindowsSystem(msgspec.Struct, frozen=True, kw_only=True):
    """One installed Windows. `problems` forbid writing into its registry.

    `registry_digest` is the SHA-256 of the SYSTEM hive with the start types of `drivers` taken
    as zero: what must be the same before and after *prepare*. `control_set` is empty where the
    registry could not be read: nothing is known of the drivers then.
    """

    disk: int
    partition: int
    control_set: str
    registry_size: int
    registry_digest: str
    drivers: tuple[DriverState, ...] = ()
    problems: tuple[Problem, ...] = ()

    def driver(self, service: str) -> DriverState | None:
        """The state of a driver that was asked for; service names ignore case."""
        wanted = service.lower()
        return next((d for d in self.drivers if d.service.lower() == wanted), None)


class WindowsFindings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything *inspect* saw. Equal disks give equal findings."""

    volumes: tuple[Volume, ...] = ()
    systems: tuple[WindowsSystem, ...] = ()
    problems: tuple[Problem, ...] = ()


class StartWrite(msgspec.Struct, frozen=True, kw_only=True):
    """Four bytes to replace: `old` must still be there, `new` is what shall be."""

    service: str
    name: str
    place: Place
    old: int
    new: int


class PrepareDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What *prepare* will do: the writes, or why there are none.

    With `refusals`, something would have to be written and must not be. `findings` do not stop
    *prepare*. `before` is what it was decided on.
    """

    target: str
    before: WindowsFindings
    writes: tuple[StartWrite, ...] = ()
    refusals: tuple[Problem, ...] = ()
    findings: tuple[Problem, ...] = ()


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What *apply* did and verified. A repeat has no `written` and is otherwise the same."""

    written: tuple[StartWrite, ...]
    after: WindowsFindings
    findings: tuple[Problem, ...]
