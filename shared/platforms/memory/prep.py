"""`PrepNodes` and `GuestAgent` in memory.

Its Windows is a disk that begins with `WINDOWS`: the byte behind it is the start type of the one
driver that the site needs. Anything else is none, and refused as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from shared.errors import Permanent, Refused, Transient
from shared.platforms.lab.windows_settings import NodeSpec
from shared.platforms.memory.compute import with_heartbeat
from shared.platforms.memory.site import Frame, HeldCopy
from shared.platforms.ports import (
    Call,
    DiskRef,
    Finding,
    GuestHealth,
    PrepFacts,
    PrepNode,
    WindowsPrepared,
)

WINDOWS: Final = b"windows:"
"""Then one byte: the start type, `0` once it is prepared."""


class MemoryPrep:
    """`PrepNodes` in memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._site = frame.site

    async def list_nodes(self) -> PrepFacts:
        def work() -> PrepFacts:
            specs = self._site.settings.prep_nodes
            return PrepFacts(nodes=tuple(self._facts(spec) for spec in specs))

        return await self._frame.run("list_prep_nodes", None, work)

    async def power_on(self, call: Call, *, node: str) -> PrepNode:
        def work() -> PrepNode:
            spec = self._spec(node)
            self._site.nodes_on.add(node)
            return self._facts(spec)

        return await self._frame.run("power_on_node", call, work, scope=node, mutates=True)

    async def power_off(self, call: Call, *, node: str) -> None:
        def work() -> None:
            self._site.nodes_on.discard(node)

        await self._frame.run("power_off_node", call, work, scope=node, mutates=True)

    async def prepare(self, call: Call, *, node: str, disks: Sequence[DiskRef]) -> WindowsPrepared:
        def work() -> WindowsPrepared:
            if self._facts(self._spec(node)).power != "on":
                raise Transient(f"prep node {node} is not on", code="node-off")
            loose = [self._site.disks.get(disk.disk_id) for disk in disks]
            if any(disk is None for disk in loose):
                raise Permanent("a disk is missing", code="no-such-disk", remedy="rebuild it")
            system = next((d for d in loose if d and d.content.startswith(WINDOWS)), None)
            if system is None:
                raise Refused("no Windows on the disks", code="no-windows", remedy="no windows")
            before = chr(system.content[len(WINDOWS)])
            content = WINDOWS + b"0" + system.content[len(WINDOWS) + 1 :]
            changed = msgspec.structs.replace(system, content=content)
            self._site.disks[system.facts.disk_id] = changed
            changes = () if before == "0" else (f"driver: Start {before} → 0",)
            return WindowsPrepared(target="memory", changes=changes)

        return await self._frame.run("prepare_windows", call, work, mutates=True)

    async def readiness(
        self, call: Call, *, copy_id: str, disks: Sequence[str]
    ) -> tuple[Finding, ...]:
        def work() -> tuple[Finding, ...]:
            copy = self._copy(call, copy_id)
            contents = [copy.content[disk] for disk in disks] if copy is not None else []
            if any(content.startswith(WINDOWS) for content in contents):
                return ()
            return (Finding(code="no-windows", message="no Windows on the disks"),)

        return await self._frame.run("windows_readiness", call, work)

    def _spec(self, node: str) -> NodeSpec:
        for spec in self._site.settings.prep_nodes:
            if spec.name == node:
                return spec
        raise Permanent(f"there is no prep node {node}", code="no-such-node", remedy="declare it")

    def _facts(self, spec: NodeSpec) -> PrepNode:
        is_on = spec.name in self._site.nodes_on
        return PrepNode(name=spec.name, seats=spec.seats, power="on" if is_on else "off")

    def _copy(self, call: Call, copy_id: str) -> HeldCopy | None:
        site = self._site
        current = site.current.get((call.plan, call.vm))
        if current is not None and current.facts.copy_id == copy_id:
            return current
        return site.held.get(copy_id) or site.checkpoints.get((call.plan, call.vm, copy_id))


class MemoryGuests:
    """`GuestAgent` in memory: well as soon as the guest is up."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def validate(self, call: Call, *, instance_id: str) -> GuestHealth:
        def work() -> GuestHealth:
            made = self._frame.site.instances.get(instance_id)
            if made is None:
                raise Permanent(
                    f"there is no instance {instance_id}",
                    code="no-such-instance",
                    remedy="run the recovery again",
                )
            if not with_heartbeat(made).heartbeat:
                raise Transient("the guest agent does not answer", code="guest-silent")
            return GuestHealth(disks_online=len(made.facts.disks), network_up=True)

        return await self._frame.run("validate_windows", call, work)
