"""`PrepNodes` and `GuestAgent` of the lab: nodes that are only on or off, disks that are real.

Whatever is done to a Windows is done to the bytes of its disks, on the lab's own threads; a node
is a record of its power, and may be slow, refused or faulty as any other call.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec

from shared.errors import Permanent, Transient
from shared.platforms import windows
from shared.platforms.lab import sparse
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.copies import CopyFolder
from shared.platforms.lab.folder import component, locked
from shared.platforms.lab.layers import View
from shared.platforms.lab.machines import InstanceRecord
from shared.platforms.lab.records import read_flat, write_flat
from shared.platforms.lab.settings import VmSpec
from shared.platforms.lab.windows_settings import NodeSpec
from shared.platforms.ports import (
    Call,
    DiskRef,
    Finding,
    GuestHealth,
    PrepFacts,
    PrepNode,
    WindowsPrepared,
)
from shared.windows import FileDisk


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`prep/<node>.yaml`: its power, and by which call."""

    name: str
    power: Literal["on", "off"]
    changed_at: dt.datetime
    effect_id: str


class LabPrep:
    """The prep nodes that `site.yaml` declares."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._root = frame.folder.root

    async def list_nodes(self) -> PrepFacts:
        def work() -> PrepFacts:
            specs = self._frame.settings().prep_nodes
            nodes = tuple(self._facts(spec) for spec in specs)
            return PrepFacts(nodes=nodes, problems=windows.reader_problems())

        return await self._frame.read("list_prep_nodes", None, work)

    async def power_on(self, call: Call, *, node: str) -> PrepNode:
        def work(pause: sparse.Checkpoint) -> PrepNode:
            spec = self._spec(node)
            self._switch(node, "on", call)
            return self._facts(spec)

        return await self._frame.mutate("power_on_node", call, work, PrepNode, scope=node)

    async def power_off(self, call: Call, *, node: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            self._switch(node, "off", call)

        await self._frame.mutate("power_off_node", call, work, type(None), scope=node)

    async def prepare(self, call: Call, *, node: str, disks: Sequence[DiskRef]) -> WindowsPrepared:
        def work(pause: sparse.Checkpoint) -> WindowsPrepared:
            self._require_on(node)
            with ExitStack() as stack:
                opened = [
                    stack.enter_context(FileDisk(self._disk_path(disk), writable=True))
                    for disk in disks
                ]
                return windows.prepare(opened, self._frame.settings().drivers, pause=pause)

        return await self._frame.mutate("prepare_windows", call, work, WindowsPrepared)

    async def readiness(
        self, call: Call, *, copy_id: str, disks: Sequence[str]
    ) -> tuple[Finding, ...]:
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work() -> tuple[Finding, ...]:
            with ExitStack() as stack:
                views = [
                    stack.enter_context(_CopyDisk(home.open_view(copy_id, disk)[0]))
                    for disk in disks
                ]
                return windows.ready(views, self._frame.settings().drivers)

        return await self._frame.read("windows_readiness", call, work)

    # -- helpers ------------------------------------------------------------------------------

    def _spec(self, node: str) -> NodeSpec:
        specs = {spec.name: spec for spec in self._frame.settings().prep_nodes}
        if node not in specs:
            raise Permanent(
                f"there is no prep node {node}",
                code="no-such-node",
                remedy=f"declare it under prep_nodes in {self._root / 'site.yaml'}",
            )
        return specs[node]

    def _record_path(self, node: str) -> Path:
        return self._root / "prep" / f"{component(node)}.yaml"

    def _facts(self, spec: NodeSpec) -> PrepNode:
        record = read_flat(self._record_path(spec.name), NodeRecord)
        power = record.power if record is not None else "off"
        return PrepNode(name=spec.name, seats=spec.seats, power=power)

    def _switch(self, node: str, power: Literal["on", "off"], call: Call) -> None:
        self._frame.folder.ensure("prep")
        with locked(self._root / "prep" / ".lock"):
            now = dt.datetime.now(dt.UTC)
            record = NodeRecord(name=node, power=power, changed_at=now, effect_id=call.key)
            write_flat(self._record_path(node), record)

    def _require_on(self, node: str) -> None:
        if self._facts(self._spec(node)).power != "on":
            raise Transient(
                f"prep node {node} is not on",
                code="node-off",
                remedy="see who powered it off; a recovery powers it on while it needs it",
            )

    def _disk_path(self, disk: DiskRef) -> Path:
        path = self._root / "disks" / component(disk.disk_id) / component(disk.file)
        if not path.is_file():
            self._frame.folder.require()
            raise Permanent(
                f"disk {disk.disk_id} is not there, or an instance has it already",
                code="no-such-disk",
                remedy="rebuild the disk again",
            )
        return path


class _CopyDisk:
    """A disk of a copy, read through its layers."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.size = view.size

    def __enter__(self) -> _CopyDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """As `shared.windows.ReadableDisk`."""
        piece = bytearray(max(0, min(length, self.size - offset)))
        self._view.read(memoryview(piece), offset)
        return bytes(piece)


class LabGuests:
    """The agent in a lab's Windows: says what `guest.agent` of its `vm.yaml` says."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._root = frame.folder.root

    async def validate(self, call: Call, *, instance_id: str) -> GuestHealth:
        def work() -> GuestHealth:
            path = self._root / "instances" / component(instance_id)
            record = read_flat(path / "instance.yaml", InstanceRecord)
            if record is None:
                raise Permanent(
                    f"there is no instance {instance_id}",
                    code="no-such-instance",
                    remedy="run the recovery again; somebody deleted its instance",
                )
            vm = msgspec.json.decode((path / ".lab" / "vm.json").read_bytes(), type=VmSpec)
            return _health(record, vm)

        return await self._frame.read("validate_windows", call, work)


def _health(record: InstanceRecord, vm: VmSpec) -> GuestHealth:
    agent, now = vm.guest.agent, dt.datetime.now(dt.UTC)
    since = record.powered_on_at
    settled = (
        agent.settles_in_s is not None
        and since is not None
        and now >= since + dt.timedelta(seconds=agent.settles_in_s)
    )
    if not record.machine().heartbeat(now) or (agent.silent and not settled):
        raise Transient(
            f"the guest agent in {record.id} does not answer",
            code="guest-silent",
            remedy="look at the instance's console",
        )
    if settled:
        return GuestHealth(disks_online=len(record.disks), network_up=True)
    return GuestHealth(
        stopped=agent.stopped,
        disks_online=len(record.disks) - len(agent.offline),
        network_up=agent.network_up,
    )
