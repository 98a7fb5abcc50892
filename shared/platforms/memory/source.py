"""`Source` in memory: a snapshot is a copy of the bytes, changes are a list of writes."""

from __future__ import annotations

from typing import Any

from shared.errors import Permanent
from shared.platforms.memory.site import (
    Frame,
    MemoryVm,
    Opened,
    check_chunk,
    disk_facts,
    made_instance,
    moment,
    owned_by,
    unkeyed,
)
from shared.platforms.ports import (
    Call,
    Extent,
    Extents,
    Owned,
    Snapshot,
)


class MemorySource:
    """`Source` in memory: a snapshot is a copy of the bytes, changes are a list of writes."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._site = frame.site

    async def open_snapshot(
        self, call: Call, *, vm: str, quiesce: bool = False, instance: str = ""
    ) -> Snapshot:
        def work() -> Snapshot:
            machine = self._source(call, vm, instance)
            facts = Snapshot(
                snapshot_id=self._site.next_id("s"),
                vm=vm,
                taken_at=moment(),
                mark=f"{instance or vm}:{machine.epoch}",
                disks=disk_facts(machine.disks),
                instance=instance,
            )
            self._site.snapshots[facts.snapshot_id] = Opened(
                facts=facts,
                owned=owned_by("snapshot", facts.snapshot_id, call),
                epoch=machine.epoch,
                content={name: bytes(content) for name, content in machine.disks.items()},
            )
            machine.epoch += 1
            return facts

        return await self._frame.run("open_snapshot", call, work, mutates=True)

    async def extents(
        self, call: Call, *, snapshot: Snapshot, disk: str, since: str | None, start: int = 0
    ) -> Extents:
        def work() -> Extents:
            opened = self._opened(snapshot.snapshot_id)
            content = opened.content[disk]
            machine = self._source(None, snapshot.vm, snapshot.instance)
            own = snapshot.instance or snapshot.vm
            prefix, _, number = (since or f"{own}:0").rpartition(":")
            known = prefix == own and number.isdecimal()
            ranges = [(0, len(content))]
            if since is not None and known:
                ranges = _joined(
                    (offset, offset + length)
                    for epoch, name, offset, length in machine.writes
                    if name == disk and int(number) < epoch <= opened.epoch
                )
            found = tuple(
                Extent(low, high - low, not any(content[low:high]))
                for low, high in ((max(a, start), b) for a, b in ranges)
                if low < high
            )
            reason = "" if known else "the mark is not known"
            return Extents(extents=found, complete=known, reason=reason)

        return await self._frame.run("extents", unkeyed(call), work)

    async def read(
        self, call: Call, *, snapshot: Snapshot, disk: str, offset: int, into: memoryview
    ) -> None:
        check_chunk(len(into))

        def work() -> None:
            content = self._opened(snapshot.snapshot_id).content[disk]
            if offset + len(into) > len(content):
                raise Permanent("the disk ends before", code="disk-shrank", remedy="reset the VM")
            into[:] = content[offset : offset + len(into)]

        await self._frame.run("read_chunk", unkeyed(call), work, size=len(into))

    async def close_snapshot(self, call: Call, *, snapshot_id: str) -> None:
        def work() -> None:
            self._site.snapshots.pop(snapshot_id, None)

        await self._frame.run("close_snapshot", call, work, scope=snapshot_id, mutates=True)

    async def list_snapshots(self) -> tuple[Owned, ...]:
        return await self._frame.run(
            "list_snapshots", None, lambda: tuple(s.owned for s in self._site.snapshots.values())
        )

    def _source(self, call: Call | None, name: str, instance: str) -> MemoryVm:
        if instance:
            return made_instance(self._site, call, instance).machine
        if name not in self._site.vms:
            raise Permanent(f"there is no VM {name}", code="no-such-vm", remedy="bring it back")
        return self._site.vms[name]

    def _opened(self, snapshot_id: str) -> Opened:
        if snapshot_id not in self._site.snapshots:
            raise Permanent(
                f"snapshot {snapshot_id} is closed", code="snapshot-gone", remedy="start again"
            )
        return self._site.snapshots[snapshot_id]


def _joined(ranges: Any) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        elif low < high:
            joined.append((low, high))
    return joined
