"""`Compute` in memory: instances are records, a guest is up when its time to boot has passed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec

from shared.errors import Permanent, Refused
from shared.platforms.memory.site import Frame, HeldCopy, LooseDisk, MadeInstance, moment, owned_by
from shared.platforms.ports import (
    Call,
    DiskRef,
    Instance,
    InstanceSpec,
    Owned,
)


class MemoryCompute:
    """`Compute` in memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._site = frame.site

    async def rebuild_disk(self, call: Call, *, copy_id: str, disk: str) -> DiskRef:
        def work() -> DiskRef:
            content = self._copy(call, copy_id).content.get(disk)
            if content is None:
                raise Permanent(f"no disk {disk}", code="no-such-disk", remedy="replicate again")
            disk_id = self._site.next_id("d")
            facts = DiskRef(disk_id=disk_id, name=disk, file=f"{disk}.raw", size=len(content))
            self._site.disks[disk_id] = LooseDisk(
                facts=facts, owned=owned_by("disk", disk_id, call), content=content
            )
            return facts

        return await self._frame.run("rebuild_disk", call, work, mutates=True)

    async def create_instance(self, call: Call, *, spec: InstanceSpec) -> Instance:
        def work() -> Instance:
            missing = [disk for disk in spec.disks if disk.disk_id not in self._site.disks]
            if missing:
                raise Permanent("a disk is missing", code="no-such-disk", remedy="rebuild it")
            number = self._site.count + 1
            facts = Instance(
                instance_id=self._site.next_id("i"),
                name=spec.name,
                plan=call.plan,
                vm=call.vm or spec.name,
                job=call.job,
                key=call.key,
                power="off",
                powered_on_at=None,
                network=spec.network,
                addresses=(f"127.{1 + number // 65536}.{number // 256 % 256}.{number % 256}",),
                disks=tuple(disk.disk_id for disk in spec.disks),
                heartbeat=False,
            )
            content = {d.file: self._site.disks.pop(d.disk_id).content for d in spec.disks}
            self._site.instances[facts.instance_id] = MadeInstance(
                facts=facts,
                owned=owned_by("instance", facts.instance_id, call),
                boots_in_s=float(spec.configuration.get("guest", {}).get("boots_in_s", 0.0)),
                content=content,
            )
            return facts

        return await self._frame.run("create_instance", call, work, mutates=True)

    async def power_on(self, call: Call, *, instance_id: str) -> Instance:
        def work() -> Instance:
            made = self._ours(call, instance_id)
            if made is None:
                raise Permanent(
                    f"there is no instance {instance_id}",
                    code="no-such-instance",
                    remedy="run the recovery again",
                )
            if made.facts.power != "on":
                made.facts = msgspec.structs.replace(
                    made.facts, power="on", powered_on_at=moment()
                )
            return with_heartbeat(made)

        return await self._frame.run("power_on", call, work, scope=instance_id, mutates=True)

    async def power_off(self, call: Call, *, instance_id: str) -> None:
        def work() -> None:
            made = self._ours(call, instance_id)
            if made is not None:
                made.facts = msgspec.structs.replace(made.facts, power="off")

        await self._frame.run("power_off", call, work, scope=instance_id, mutates=True)

    async def delete_instance(self, call: Call, *, instance_id: str) -> None:
        def work() -> None:
            if self._ours(call, instance_id) is not None:
                del self._site.instances[instance_id]

        await self._frame.run("delete_instance", call, work, scope=instance_id, mutates=True)

    async def delete_disk(self, call: Call, *, disk_id: str) -> None:
        def work() -> None:
            found = self._site.disks.get(disk_id)
            if found is not None and call.plan and found.owned.plan != call.plan:
                raise Refused(f"{disk_id} was not made for this plan", code="not-ours")
            self._site.disks.pop(disk_id, None)

        await self._frame.run("delete_disk", call, work, scope=disk_id, mutates=True)

    async def list_instances(self) -> tuple[Instance, ...]:
        return await self._frame.run(
            "list_instances",
            None,
            lambda: tuple(with_heartbeat(made) for made in self._site.instances.values()),
        )

    async def list_written(self, instance_ids: Sequence[str]) -> dict[str, int | None]:
        """A guest in memory writes without being watched: nobody can tell."""
        return await self._frame.run(
            "list_written",
            None,
            lambda: dict.fromkeys(each for each in instance_ids if each in self._site.instances),
        )

    async def list_owned(self) -> tuple[Owned, ...]:
        return await self._frame.run("list_owned", None, self._all_owned)

    async def find(self, key: str) -> Owned | None:
        def work() -> Owned | None:
            staged = (made.owned for made in self._site.staged.values())
            for owned in (*self._all_owned(), *staged):
                if owned.key == key:
                    return owned
            attached = self._site.done.get(("rebuild_disk", key, ""))
            for made in self._site.instances.values():
                if attached is not None and attached.disk_id in made.facts.disks:
                    return msgspec.structs.replace(
                        made.owned, kind="disk", object_id=attached.disk_id, key=key
                    )
            return None

        return await self._frame.run("find", None, work)

    def _all_owned(self) -> tuple[Owned, ...]:
        site = self._site
        made: list[MadeInstance | LooseDisk | HeldCopy] = [
            *site.instances.values(),
            *site.disks.values(),
        ]
        return tuple(found.owned for found in (*made, *site.held.values()))

    def _ours(self, call: Call, instance_id: str) -> MadeInstance | None:
        made = self._site.instances.get(instance_id)
        if made is not None and call.plan and made.facts.plan != call.plan:
            raise Refused(f"{instance_id} was not made for this plan", code="not-ours")
        return made

    def _copy(self, call: Call, copy_id: str) -> HeldCopy:
        current = self._site.current.get((call.plan, call.vm))
        found = self._site.held.get(copy_id) or self._site.checkpoints.get(
            (call.plan, call.vm, copy_id)
        )
        if found is None and current is not None and current.facts.copy_id == copy_id:
            found = current
        if found is None:
            raise Permanent(
                f"there is no copy {copy_id}", code="no-such-copy", remedy="choose another"
            )
        return found


def with_heartbeat(made: MadeInstance) -> Instance:
    """An instance as it is now: its guest answers once its time to boot has passed."""
    on = made.facts.powered_on_at
    up = made.facts.power == "on" and on is not None
    boots = dt.timedelta(seconds=made.boots_in_s)
    beats = up and on is not None and moment() >= on + boots
    return msgspec.structs.replace(made.facts, heartbeat=beats)
