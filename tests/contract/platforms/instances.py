"""What every adapter must do with instances as sources: read at one moment, told what changed,
switched off and on, and touched for no plan but their own."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import Permanent, Refused
from shared.platforms.lab.blocks import BLOCK
from shared.platforms.ports import Call, Instance, Snapshot
from tests.contract.platforms.world import DISK, PLAN, VM, World, call, copied, rebuilt

CONTENT = b"as it was copied".ljust(DISK, b".")


async def made(world: World) -> Instance:
    """A running instance of the VM, with one disk."""
    copy = await copied(world.west, "m1", CONTENT)
    held = await world.west.target.hold(call("h1"))
    assert held.mark == copy.mark
    instance, _ = await rebuilt(world, "r1", held.copy_id)
    return await world.west.compute.power_on(call("on1"), instance_id=instance.instance_id)


async def opened(world: World, key: str, instance: Instance) -> Snapshot:
    return await world.west.source.open_snapshot(call(key), vm=VM, instance=instance.instance_id)


async def read(world: World, taken: Snapshot) -> bytes:
    buffer = bytearray(DISK)
    await world.west.source.read(
        call("r"), snapshot=taken, disk="sda", offset=0, into=memoryview(buffer)
    )
    return bytes(buffer)


class InstanceSourceContract:
    """Reverse replication: what a recovery brought up is read as its VM was."""

    async def test_a_snapshot_of_an_instance_is_one_moment(self, world: World) -> None:
        assert world.west.capabilities.instance_sources
        instance = await made(world)
        taken = await opened(world, "s1", instance)
        assert (taken.vm, taken.instance) == (VM, instance.instance_id)
        assert [(d.name, d.file, d.size) for d in taken.disks] == [("sda", "sda.raw", DISK)]
        world.instance_write(instance.instance_id, "sda", 0, b"written by the guest")
        assert await read(world, taken) == CONTENT
        later = await opened(world, "s2", instance)
        assert (await read(world, later)).startswith(b"written by the guest")

    async def test_what_changed_since_an_instances_own_mark_is_exact(self, world: World) -> None:
        instance = await made(world)
        first = await opened(world, "s1", instance)
        world.instance_write(instance.instance_id, "sda", 3 * BLOCK, b"x" * 10)
        second = await opened(world, "s2", instance)
        found = await world.west.source.extents(
            call("e"), snapshot=second, disk="sda", since=first.mark
        )
        assert found.complete and not found.reason
        assert [(e.offset, e.length) for e in found.extents] == [(3 * BLOCK, 10)]

    async def test_a_mark_of_the_vm_it_was_made_from_gives_the_whole_disk(
        self, world: World
    ) -> None:
        instance = await made(world)
        own = await world.east.source.open_snapshot(call("s0"), vm=VM)
        taken = await opened(world, "s1", instance)
        for mark in (own.mark, "m1"):
            found = await world.west.source.extents(
                call("e"), snapshot=taken, disk="sda", since=mark
            )
            assert not found.complete and found.reason
            assert sum(e.length for e in found.extents) == DISK

    async def test_an_instance_is_listed_as_the_vm_that_it_is(self, world: World) -> None:
        instance = await made(world)
        asked = [instance.instance_id, "i-nobody"]
        (facts,) = await world.west.inventory.list_made(asked)
        assert (facts.name, facts.instance, facts.power) == (VM, instance.instance_id, "on")
        assert [(d.name, d.file, d.size) for d in facts.disks] == [("sda", "sda.raw", DISK)]
        assert facts.configuration["name"] == VM
        # What a site has of its own is not mixed up with what was made there.
        assert await world.west.inventory.list_vms() == ()

    async def test_its_snapshots_are_found_by_their_tag_and_closed(self, world: World) -> None:
        instance = await made(world)
        taken = await opened(world, "s1", instance)
        assert await opened(world, "s1", instance) == taken
        (owned,) = await world.west.source.list_snapshots()
        assert (owned.object_id, owned.vm, owned.key) == (taken.snapshot_id, VM, "s1")
        await world.west.source.close_snapshot(call("c1"), snapshot_id=taken.snapshot_id)
        assert await world.west.source.list_snapshots() == ()
        with pytest.raises(Permanent) as caught:
            await read(world, taken)
        assert caught.value.code == "snapshot-gone"

    async def test_it_is_shut_down_and_powered_on_again(self, world: World) -> None:
        instance = await made(world)
        power, of = world.west.power, {"vm": VM, "instance": instance.instance_id}
        assert await power.state(**of) == "on"
        await power.shut_down(call("d1"), within_s=5, **of)
        assert await power.state(**of) == "off"
        (listed,) = await world.west.compute.list_instances()
        assert listed.power == "off"
        await power.power_on(call("u1"), **of)
        await power.power_on(call("u1"), **of)
        assert await power.state(**of) == "on"
        await power.power_off(call("o1"), **of)
        (facts,) = await world.west.inventory.list_made([instance.instance_id])
        assert facts.power == "off"
        # It is listed as what the VM runs as; the site has no VM of that name.
        as_instance = {VM: instance.instance_id}
        assert await power.list_running((VM,), instances=as_instance) == ()
        await power.power_on(call("u2"), **of)
        (running,) = await power.list_running(("nobody", VM), instances=as_instance)
        assert running.name == VM
        assert await power.list_running((VM,), instances={VM: "i-nobody"}) == ()
        assert await power.list_running((VM,)) == ()
        # The VM that it was made from has a power of its own.
        assert await world.east.power.state(vm=VM) == "on"

    async def test_an_instance_of_another_plan_is_left_alone(self, world: World) -> None:
        instance = await made(world)
        of: dict[str, Any] = {"vm": VM, "instance": instance.instance_id}
        other = Call(key="x", plan="other", vm=VM)
        assert other.plan != PLAN
        for attempt in (
            lambda: world.west.source.open_snapshot(other, **of),
            lambda: world.west.power.shut_down(other, within_s=1, **of),
            lambda: world.west.power.power_off(other, **of),
            lambda: world.west.power.power_on(other, **of),
        ):
            with pytest.raises(Refused) as caught:
                await attempt()
            assert caught.value.code == "not-ours"
        assert await world.west.power.state(**of) == "on"

    async def test_an_instance_that_is_not_there_is_said(self, world: World) -> None:
        of: dict[str, Any] = {"vm": VM, "instance": "i-nobody"}
        for attempt in (
            lambda: world.west.source.open_snapshot(call("s"), **of),
            lambda: world.west.power.state(**of),
            lambda: world.west.power.power_off(call("o"), **of),
        ):
            with pytest.raises(Permanent) as caught:
                await attempt()
            assert caught.value.code == "no-such-instance" and caught.value.remedy
