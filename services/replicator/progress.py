"""How far transfers are, for people: per disk, and per VM as far as this process copies it."""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    """Where progress is told; lossy."""

    def report(self, job: str, *, bytes_done: int, bytes_total: int) -> None: ...

    def forget(self, job: str) -> None: ...


class Silence:
    """Tells nobody."""

    def report(self, job: str, *, bytes_done: int, bytes_total: int) -> None: ...

    def forget(self, job: str) -> None: ...


class TransferProgress:
    """Sums the disks of each VM's iteration while one of them is copied here."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._bytes: dict[str, dict[str, tuple[int, int]]] = {}
        self._active: dict[str, set[str]] = {}

    def report(self, iteration: str, disk: str, *, bytes_done: int, bytes_total: int) -> None:
        """Replace what was said of the disk."""
        self._active.setdefault(iteration, set()).add(disk)
        disks = self._bytes.setdefault(iteration, {})
        disks[disk] = (bytes_done, bytes_total)
        self._publisher.report(
            f"{iteration}.{disk}", bytes_done=bytes_done, bytes_total=bytes_total
        )
        self._publisher.report(
            iteration,
            bytes_done=sum(done for done, _ in disks.values()),
            bytes_total=sum(total for _, total in disks.values()),
        )

    def ended(self, iteration: str, disk: str) -> None:
        """The disk's transfer ended here; its VM's sum keeps it as long as others run."""
        self._publisher.forget(f"{iteration}.{disk}")
        active = self._active.get(iteration, set())
        active.discard(disk)
        if not active:
            self._active.pop(iteration, None)
            self._bytes.pop(iteration, None)
            self._publisher.forget(iteration)
