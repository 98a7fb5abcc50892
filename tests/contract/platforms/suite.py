"""What every platform adapter must do. A test module brings the `world` fixture and inherits."""

from __future__ import annotations

import hashlib

import pytest
import xxhash

from shared.errors import Permanent, Refused, SeawallError, Throttled, Transient
from shared.platforms.lab.settings import Quota, SiteSettings
from shared.platforms.lab.vocabulary import CALLS
from shared.platforms.ports import Extents
from tests.contract.platforms.power import PowerContract
from tests.contract.platforms.windows import WindowsContract
from tests.contract.platforms.world import (
    BOOTS_IN_S,
    DISK,
    VM,
    World,
    call,
    content_of,
    copied,
    created,
    extents,
    finalize,
    outcomes,
    put,
    read_all,
    rebuilt,
    snapshot,
    stage,
)
from tests.waiting import eventually

BLOCK = 4096


class SourceContract:
    """Snapshots, what changed, reads."""

    async def test_the_inventory_lists_vms_with_disks_and_configuration(
        self, world: World
    ) -> None:
        (vm,) = await world.east.inventory.list_vms()
        assert (vm.name, vm.power) == (VM, "on")
        assert [(d.name, d.size) for d in vm.disks] == [("sda", DISK), ("sdb", DISK)]
        assert vm.configuration["name"] == VM
        assert await world.east.inventory.list_vms(["other"]) == ()

    async def test_a_snapshot_is_one_moment_of_all_disks(self, world: World) -> None:
        world.write("sda", 0, b"before")
        taken = await snapshot(world, "s1")
        before = {disk: world.disk(disk) for disk in ("sda", "sdb")}
        world.write("sda", 0, b"after!")
        world.write("sdb", 5000, b"x" * 9000)
        world.write("sdb", 0, b"y" * DISK)
        assert [d.size for d in taken.disks] == [DISK, DISK]
        for disk, content in before.items():
            assert await read_all(world, taken, disk) == content
            assert world.disk(disk) != content

    async def test_without_a_mark_the_whole_disk_is_listed_with_its_holes(
        self, world: World
    ) -> None:
        world.write("sda", 3 * BLOCK, b"x" * BLOCK)
        taken = await snapshot(world, "s1")
        found = await extents(world, taken, "sda", None)
        assert found.complete
        content = await read_all(world, taken, "sda")
        listed = [(e.offset, e.length) for e in found.extents if not e.hole]
        assert any(at <= 3 * BLOCK < at + length for at, length in listed)
        for extent in found.extents:
            if extent.hole:
                assert not any(content[extent.offset : extent.offset + extent.length])

    async def test_changes_since_a_mark_are_exactly_what_was_written(self, world: World) -> None:
        first = await snapshot(world, "s1")
        world.write("sda", 2 * BLOCK, b"a" * BLOCK)
        world.write("sda", 9 * BLOCK, b"b" * 10)
        second = await snapshot(world, "s2")
        world.write("sda", 0, b"later")
        assert _ranges(await extents(world, second, "sda", first.mark)) == [
            (2 * BLOCK, 3 * BLOCK),
            (9 * BLOCK, 9 * BLOCK + 10),
        ]
        assert _ranges(await extents(world, second, "sdb", first.mark)) == []
        third = await snapshot(world, "s3")
        assert _ranges(await extents(world, third, "sda", second.mark)) == [(0, 5)]
        assert len(_ranges(await extents(world, third, "sda", first.mark))) == 3

    async def test_extents_go_on_from_where_a_page_starts(self, world: World) -> None:
        first = await snapshot(world, "s1")
        world.write("sda", 0, b"a" * 100)
        world.write("sda", 5 * BLOCK, b"b" * 100)
        second = await snapshot(world, "s2")
        page = await world.east.source.extents(
            call("e"), snapshot=second, disk="sda", since=first.mark, start=BLOCK
        )
        assert _ranges(page) == [(5 * BLOCK, 5 * BLOCK + 100)]

    async def test_a_mark_nobody_knows_gives_the_whole_disk_and_a_reason(
        self, world: World
    ) -> None:
        taken = await snapshot(world, "s1")
        found = await extents(world, taken, "sda", "elsewhere:7")
        assert not found.complete and found.reason
        assert sum(e.length for e in found.extents) == DISK

    async def test_the_same_key_gives_the_same_snapshot(self, world: World) -> None:
        first = await snapshot(world, "s1")
        world.write("sda", 0, b"changed")
        assert await snapshot(world, "s1") == first
        assert len(await world.east.source.list_snapshots()) == 1
        assert outcomes(world, world.east, "open_snapshot", "s1") == ["ok", "known"]

    async def test_a_closed_snapshot_is_gone_and_closing_again_is_fine(self, world: World) -> None:
        taken = await snapshot(world, "s1")
        other = await snapshot(world, "s2")
        (owned, _) = await world.east.source.list_snapshots()
        assert (owned.kind, owned.vm, owned.job, owned.key) == ("snapshot", VM, "job-1", "s1")
        for key in ("c1", "c2"):
            await world.east.source.close_snapshot(call(key), snapshot_id=taken.snapshot_id)
        assert [o.key for o in await world.east.source.list_snapshots()] == ["s2"]
        with pytest.raises(Permanent) as caught:
            await read_all(world, taken, "sda")
        assert caught.value.code == "snapshot-gone"
        assert await read_all(world, other, "sda") == world.disk("sda")

    async def test_reading_beyond_the_end_says_that_the_disk_shrank(self, world: World) -> None:
        taken = await snapshot(world, "s1")
        with pytest.raises(Permanent) as caught:
            await world.east.source.read(
                call("r"),
                snapshot=taken,
                disk="sda",
                offset=DISK - 1,
                into=memoryview(bytearray(9)),
            )
        assert caught.value.code == "disk-shrank" and caught.value.remedy

    async def test_a_vm_that_is_not_there_is_said_with_a_remedy(self, world: World) -> None:
        with pytest.raises(Permanent) as caught:
            await world.east.source.open_snapshot(call("s"), vm="nobody")
        assert caught.value.code == "no-such-vm" and caught.value.remedy


class TargetContract:
    """Staged generations, the switch, holds, checkpoints."""

    async def test_the_first_generation_is_blank_and_later_ones_start_as_the_copy(
        self, world: World
    ) -> None:
        target = world.west.target
        first = await target.open_generation(call("g1"), disk="sda", size=DISK)
        assert first.blank and first.base_mark == ""
        assert await content_of(world.west, first) == bytes(DISK)
        await put(world.west, first, 100, b"hello")
        await finalize(world.west, "f1", [first], mark="m1")
        second = await target.open_generation(call("g2"), disk="sda", size=DISK)
        assert not second.blank and second.base_mark == "m1"
        content = bytearray(DISK)
        content[100:105] = b"hello"
        assert await content_of(world.west, second) == content
        resized = await target.open_generation(call("g3"), disk="sda", size=2 * DISK)
        assert resized.blank

    async def test_overlapping_odd_writes_land_byte_by_byte(self, world: World) -> None:
        base = bytes(range(256)) * (DISK // 256)
        await copied(world.west, "m1", base)
        made = await world.west.target.open_generation(call("g2"), disk="sda", size=DISK)
        wanted = bytearray(base)
        for offset, length in (
            (0, 1),
            (4095, 2),
            (5000, 10),
            (4999, 3),
            (8192, 4096),
            (DISK - 7, 7),
        ):
            data = bytes([length % 251]) * length
            wanted[offset : offset + length] = data
            digest = await put(world.west, made, offset, data)
            assert digest == xxhash.xxh3_128_digest(data)
        for offset, length in ((20_001, 1), (30_000, 9_000), (DISK - 3, 3)):
            wanted[offset : offset + length] = bytes(length)
            await world.west.target.zero(call("z"), generation=made, offset=offset, length=length)
        assert await content_of(world.west, made) == wanted
        await world.west.target.flush(call("fl"), generation=made)
        copy = await finalize(world.west, "f2", [made])
        assert (await rebuilt(world, "x", copy.copy_id))[1] == wanted

    async def test_a_digest_is_of_what_the_target_holds(self, world: World) -> None:
        made = await stage(world.west, "g1", b"a" * DISK)
        part = {"generation": made, "offset": 10, "length": 1000}
        sha = await world.west.target.digest(call("h"), **part, algorithm="sha256")  # type: ignore[arg-type]
        xxh = await world.west.target.digest(call("h"), **part, algorithm="xxh3_128")  # type: ignore[arg-type]
        assert sha == hashlib.sha256(b"a" * 1000).digest()
        assert xxh == xxhash.xxh3_128_digest(b"a" * 1000)

    async def test_nothing_staged_touches_the_copy(self, world: World) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        made = await stage(world.west, "g2", b"2" * DISK)
        assert await world.west.target.current(plan="shop", vm=VM) == copy
        assert (await rebuilt(world, "x", copy.copy_id))[1] == b"1" * DISK
        await world.west.target.discard(call("x"), generation_id=made.generation_id)
        assert await world.west.target.list_generations() == ()
        assert (await rebuilt(world, "y", copy.copy_id))[1] == b"1" * DISK

    async def test_all_disks_switch_at_once(self, world: World) -> None:
        both = [
            await stage(world.west, "a", b"a" * DISK, disk="sda"),
            await stage(world.west, "b", b"b" * DISK, disk="sdb"),
        ]
        copy = await finalize(world.west, "f", both, mark="m1")
        assert [(d.name, d.file) for d in copy.disks] == [("sda", "sda.raw"), ("sdb", "sdb.raw")]
        assert (copy.mark, copy.manifest["mark"]) == ("m1", "m1")
        assert copy.taken_at.isoformat() == "2026-11-22T20:00:00+00:00"
        assert await world.west.target.list_generations() == ()
        one = await finalize(world.west, "f2", [await stage(world.west, "c", b"c" * DISK)])
        assert [d.name for d in one.disks] == ["sda", "sdb"]

    async def test_all_current_copies_of_a_plan_are_one_call(self, world: World) -> None:
        assert await world.west.target.list_current(plan="shop") == ()
        copy = await copied(world.west, "m1", b"1" * DISK)
        newer = await copied(world.west, "m2", b"2" * DISK)
        assert newer != copy
        assert await world.again().target.list_current(plan="shop") == (newer,)
        assert await world.west.target.list_current(plan="other") == ()

    async def test_finalizing_twice_with_a_key_switches_once(self, world: World) -> None:
        made = await stage(world.west, "g", b"1" * DISK)
        first = await finalize(world.west, "f", [made])
        assert await finalize(world.again(), "f", [made]) == first
        assert outcomes(world, world.west, "finalize", "f") == ["ok", "known"]

    async def test_a_lease_below_the_highest_seen_is_refused(self, world: World) -> None:
        copy = await copied(world.west, "m0", b"0" * DISK)
        old = await stage(world.west, "old", b"1" * DISK, lease=4)
        new = await stage(world.west, "new", b"2" * DISK, lease=5)
        with pytest.raises(Refused) as caught:
            await finalize(world.west, "f-old", [old], lease=4)
        assert caught.value.code == "stale-lease"
        assert await world.west.target.current(plan="shop", vm=VM) == copy
        await finalize(world.west, "f-new", [new], lease=5)
        with pytest.raises(Refused) as caught:
            await world.again().target.open_generation(
                call("older", lease=3), disk="sda", size=DISK
            )
        assert caught.value.code == "stale-lease"

    async def test_a_generation_from_another_copy_is_refused(self, world: World) -> None:
        await copied(world.west, "m0", b"0" * DISK)
        late = await stage(world.west, "late", b"1" * DISK)
        await copied(world.west, "m1", b"2" * DISK)
        with pytest.raises(Refused) as caught:
            await finalize(world.west, "f", [late])
        assert caught.value.code in ("stale-base", "generation-gone")

    async def test_a_key_opens_one_generation_per_lease(self, world: World) -> None:
        first = await stage(world.west, "g", b"1" * DISK, lease=4)
        assert (
            await world.again().target.open_generation(call("g", lease=4), disk="sda", size=DISK)
            == first
        )
        other = await world.again().target.open_generation(
            call("g", lease=5), disk="sda", size=DISK
        )
        assert other.generation_id != first.generation_id and "5" in other.generation_id
        assert len(await world.west.target.list_generations()) == 2

    async def test_the_switch_removes_what_lower_leases_left_of_its_disks(
        self, world: World
    ) -> None:
        await stage(world.west, "dead", b"1" * DISK, lease=4)
        other = await stage(world.west, "other", b"2" * DISK, lease=4, disk="sdb")
        made = await stage(world.west, "new", b"3" * DISK, lease=5)
        await finalize(world.west, "f", [made], lease=5)
        left = await world.west.target.list_generations()
        assert [each.object_id for each in left] == [other.generation_id]

    async def test_what_was_finalized_or_discarded_is_written_no_more(self, world: World) -> None:
        done = await stage(world.west, "g1", b"1" * DISK)
        copy = await finalize(world.west, "f1", [done])
        dropped = await stage(world.west, "g2", b"2" * DISK)
        await world.west.target.discard(call("d"), generation_id=dropped.generation_id)
        for made in (done, dropped):
            with pytest.raises(Refused) as caught:
                await put(world.west, made, 0, b"late")
            assert caught.value.code == "generation-gone"
        assert (await rebuilt(world, "x", copy.copy_id))[1] == b"1" * DISK

    async def test_writes_outside_the_disk_are_refused(self, world: World) -> None:
        made = await stage(world.west, "g", b"1" * DISK)
        with pytest.raises(Refused):
            await put(world.west, made, DISK - 1, b"ab")

    async def test_adopting_takes_over_what_an_earlier_claim_wrote(self, world: World) -> None:
        await copied(world.west, "m0", b"0" * DISK)
        opened = await world.west.target.open_generation(
            call("old", lease=2), disk="sda", size=DISK
        )
        await put(world.west, opened, 0, b"1" * 5000)
        await world.west.target.zero(call("z"), generation=opened, offset=8192, length=4096)
        await put(world.west, opened, 40_000, b"never adopted")
        taker = world.again()
        mine = await taker.target.open_generation(call("new", lease=3), disk="sda", size=DISK)
        assert await taker.target.adopt(
            call("a", lease=3), generation=mine, earlier_id=opened.generation_id, below=20_000
        )
        wanted = b"1" * 5000 + b"0" * (8192 - 5000) + bytes(4096) + b"0" * (20_000 - 12_288)
        assert (await content_of(taker, mine))[:20_000] == wanted
        await world.west.target.discard(call("x"), generation_id=opened.generation_id)
        assert not await taker.target.adopt(
            call("b", lease=3), generation=mine, earlier_id=opened.generation_id, below=20_000
        )

    async def test_a_held_copy_stays_readable_while_newer_ones_come(self, world: World) -> None:
        await copied(world.west, "m1", b"1" * DISK)
        held = await world.west.target.hold(call("h1"))
        assert await world.again().target.hold(call("h1")) == held
        other = await world.west.target.hold(call("h2"))
        for number in range(2, 14):
            await copied(world.west, f"m{number}", str(number % 10).encode() * DISK)
        assert held.mark == "m1"
        await world.west.target.release(call("r1"), copy_id=held.copy_id)
        assert (await rebuilt(world, "x", other.copy_id))[1] == b"1" * DISK
        await world.west.target.release(call("r2"), copy_id=other.copy_id)
        with pytest.raises(Permanent) as caught:
            await rebuilt(world, "y", other.copy_id)
        assert caught.value.code == "no-such-copy"

    async def test_a_copy_grown_by_many_iterations_holds_the_last_of_each_byte(
        self, world: World
    ) -> None:
        content = bytearray(b"0" * DISK)
        copy = await copied(world.west, "m0", bytes(content))
        for number in range(1, 25):
            made = await world.west.target.open_generation(
                call(f"g{number}"), disk="sda", size=DISK
            )
            offset = number * 2500 % (DISK - 300)
            content[offset : offset + 300] = bytes([number]) * 300
            await put(world.west, made, offset, bytes([number]) * 300)
            copy = await finalize(world.west, f"f{number}", [made])
        assert (await rebuilt(world, "x", copy.copy_id))[1] == content

    async def test_a_checkpoint_does_not_change(self, world: World) -> None:
        target = world.west.target
        await copied(world.west, "m1", b"1" * DISK)
        made = await target.create_checkpoint(
            call("c"), checkpoint_id="cp-1", manifest={"plan_version": 3}
        )
        assert made == await target.create_checkpoint(
            call("c"), checkpoint_id="cp-1", manifest={"plan_version": 3}
        )
        for number in range(2, 14):
            await copied(world.west, f"m{number}", str(number % 10).encode() * DISK)
        (listed,) = await world.again().target.list_checkpoints(plan="shop")
        assert listed == made and made.copy_id == "cp-1"
        assert made.manifest["plan_version"] == 3 and made.manifest["configuration"]
        assert (await rebuilt(world, "x", "cp-1"))[1] == b"1" * DISK
        for key in ("d1", "d2"):
            await target.delete_checkpoint(call(key), checkpoint_id="cp-1")
        assert await target.list_checkpoints(plan="shop") == ()
        with pytest.raises(Permanent):
            await rebuilt(world, "y", "cp-1")

    async def test_without_a_copy_there_is_nothing_to_hold_or_to_keep(self, world: World) -> None:
        assert await world.west.target.current(plan="shop", vm=VM) is None
        with pytest.raises(Permanent) as caught:
            await world.west.target.hold(call("h"))
        assert caught.value.code == "no-copy" and caught.value.remedy
        with pytest.raises(Permanent):
            await world.west.target.create_checkpoint(call("c"), checkpoint_id="cp", manifest={})


class ComputeContract:
    """Disks, instances, power, tags."""

    async def test_an_instance_is_made_booted_and_deleted(self, world: World) -> None:
        compute = world.west.compute
        copy = await copied(world.west, "m1", b"1" * DISK)
        made, content = await rebuilt(world, "x", copy.copy_id)
        assert content == b"1" * DISK
        assert (made.power, made.heartbeat, made.powered_on_at) == ("off", False, None)
        assert (made.plan, made.vm, made.job, made.key) == ("shop", VM, "job-1", "x/i")
        assert made.network == "isolated" and len(made.addresses) == 1
        on = await compute.power_on(call("on"), instance_id=made.instance_id)
        assert (on.power, on.heartbeat) == ("on", False) and on.powered_on_at is not None

        async def answers() -> bool:
            (listed,) = await compute.list_instances()
            return listed.heartbeat

        await eventually(answers, f"a heartbeat {BOOTS_IN_S} s after power-on")
        await compute.power_off(call("off"), instance_id=made.instance_id)
        (listed,) = await compute.list_instances()
        assert (listed.power, listed.heartbeat) == ("off", False)
        await compute.delete_instance(call("del"), instance_id=made.instance_id)
        assert await compute.list_instances() == ()
        assert await compute.list_owned() == ()

    async def test_what_an_instance_wrote_is_told_or_said_to_be_unknown(
        self, world: World
    ) -> None:
        compute = world.west.compute
        copy = await copied(world.west, "m1", b"1" * DISK)
        made, _ = await rebuilt(world, "x", copy.copy_id)
        await compute.power_on(call("on"), instance_id=made.instance_id)
        told = await world.again().compute.list_written(("i-nothing", made.instance_id))
        assert told in ({made.instance_id: 0}, {made.instance_id: None})

    async def test_a_repeated_key_does_nothing_and_says_the_same(self, world: World) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await world.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        other = world.again().compute
        assert await other.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda") == disk
        made = await created(world.west, "i", disk)
        assert await created(world.again(), "i", disk) == made
        assert await other.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda") == disk
        on = await other.power_on(call("on"), instance_id=made.instance_id)
        await other.power_off(call("off"), instance_id=made.instance_id)
        assert await other.power_on(call("on"), instance_id=made.instance_id) == on
        (listed,) = await other.list_instances()
        assert listed.power == "off"
        assert outcomes(world, world.west, "create_instance", "i") == ["ok", "known"]
        assert outcomes(world, world.west, "rebuild_disk", "d") == ["ok", "known", "known"]
        assert outcomes(world, world.west, "power_on", "on") == ["ok", "known"]

    async def test_what_a_key_made_can_be_looked_up(self, world: World) -> None:
        compute = world.west.compute
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        loose = await compute.find("d")
        assert loose is not None and (loose.kind, loose.object_id) == ("disk", disk.disk_id)
        made = await created(world.west, "i", disk)
        found = await world.again().compute.find("i")
        assert found is not None
        assert (found.kind, found.object_id, found.job) == ("instance", made.instance_id, "job-1")
        attached = await compute.find("d")
        assert attached is not None and attached.object_id == disk.disk_id
        await compute.delete_instance(call("del"), instance_id=made.instance_id)
        assert await compute.find("i") is None and await compute.find("d") is None

    async def test_left_overs_are_listed_with_their_tags(self, world: World) -> None:
        compute = world.west.compute
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        held = await world.west.target.hold(call("h"))
        found = {(o.kind, o.object_id, o.job, o.key) for o in await compute.list_owned()}
        assert found == {
            ("disk", disk.disk_id, "job-1", "d"),
            ("hold", held.copy_id, "job-1", "h"),
        }
        for key in ("x1", "x2"):
            await compute.delete_disk(call(key), disk_id=disk.disk_id)
        await world.west.target.release(call("r"), copy_id=held.copy_id)
        assert await compute.list_owned() == ()

    async def test_what_another_plan_made_is_not_touched(self, world: World) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        made, _ = await rebuilt(world, "x", copy.copy_id)
        disk = await world.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        stranger = call("s", plan="other")
        with pytest.raises(Refused) as caught:
            await world.west.compute.delete_instance(stranger, instance_id=made.instance_id)
        assert caught.value.code == "not-ours"
        with pytest.raises(Refused):
            await world.west.compute.power_off(stranger, instance_id=made.instance_id)
        with pytest.raises(Refused):
            await world.west.compute.delete_disk(stranger, disk_id=disk.disk_id)
        assert len(await world.west.compute.list_owned()) == 2

    async def test_what_is_not_there_is_said_or_already_done(self, world: World) -> None:
        compute = world.west.compute
        await compute.delete_instance(call("a"), instance_id="i-nothing")
        await compute.power_off(call("b"), instance_id="i-nothing")
        with pytest.raises(Permanent) as caught:
            await compute.power_on(call("c"), instance_id="i-nothing")
        assert caught.value.code == "no-such-instance"
        with pytest.raises(Permanent) as caught:
            await compute.rebuild_disk(call("d"), copy_id="c-nothing", disk="sda")
        assert caught.value.code == "no-such-copy" and caught.value.remedy

    async def test_instances_have_addresses_of_their_own(self, world: World) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        made = [(await rebuilt(world, f"x{n}", copy.copy_id))[0] for n in range(5)]
        addresses = {address for instance in made for address in instance.addresses}
        assert len(addresses) == 5 and all(a.startswith("127.") for a in addresses)


class LimitsContract:
    """Quotas, faults, a site that vanishes."""

    async def test_a_quota_refuses_does_nothing_and_lets_pass_later(self, world: World) -> None:
        quota = {"CreateSnapshots": Quota(burst=2, per_second=1)}
        world.settings(world.east, SiteSettings(quotas=quota))
        await snapshot(world, "s1")
        await snapshot(world, "s2")
        with pytest.raises(Throttled) as caught:
            await snapshot(world, "s3")
        assert caught.value.retry_after_s is not None and 0 < caught.value.retry_after_s <= 1
        assert len(await world.east.source.list_snapshots()) == 2
        assert outcomes(world, world.east, "open_snapshot", "s3") == ["throttled"]

        async def passes() -> bool:
            try:
                await snapshot(world, "s3")
            except Throttled:
                return False
            return True

        await eventually(passes, "the bucket to fill again")
        (budget,) = world.east.limits.budgets()
        assert (budget.name, budget.burst, budget.per_second) == ("CreateSnapshots", 2, 1)
        assert world.east.limits.needs("open_snapshot") == ("CreateSnapshots",)
        assert world.east.limits.needs("read_chunk") == ()

    async def test_snapshot_writes_are_seats_of_staged_generations(self, world: World) -> None:
        quota = {"snapshot-writes": Quota(concurrent=2)}
        world.settings(world.west, SiteSettings(quotas=quota))
        first = await stage(world.west, "g1", b"1" * DISK)
        await stage(world.west, "g2", b"2" * DISK, disk="sdb")
        with pytest.raises(Throttled):
            await world.again().target.open_generation(call("g3"), disk="sdc", size=DISK)
        again = await world.west.target.open_generation(call("g1"), disk="sda", size=DISK)
        assert again == first
        await world.west.target.discard(call("d"), generation_id=first.generation_id)
        await stage(world.west, "g3", b"3" * DISK, disk="sdc")

    async def test_a_simulated_fault_does_nothing_and_the_key_stays_usable(
        self, world: World
    ) -> None:
        world.settings(world.east, SiteSettings(faults={"open_snapshot": 1.0}))
        with pytest.raises(Transient) as caught:
            await snapshot(world, "s1")
        assert caught.value.code == "fault"
        assert await world.east.source.list_snapshots() == ()
        world.settings(world.east, SiteSettings())
        await snapshot(world, "s1")
        assert outcomes(world, world.east, "open_snapshot", "s1") == ["fault", "ok"]

    async def test_one_seed_gives_one_sequence_of_faults(self, world: World) -> None:
        world.settings(world.west, SiteSettings(fault_seed=7, faults={"hold": 0.5}))
        await copied(world.west, "m1", b"1" * DISK)

        async def failures(count: int) -> list[int]:
            failed = []
            for number in range(count):
                try:
                    await world.west.target.hold(call(f"h{number}"))
                except Transient:
                    failed.append(number)
            return failed

        found = await failures(40)
        assert 8 <= len(found) <= 32

    async def test_every_call_has_its_needs(self, world: World) -> None:
        assert all(world.east.limits.needs(name) == () for name in CALLS)
        with pytest.raises(KeyError):
            world.east.limits.needs("fly")

    async def test_a_site_that_vanished_is_said_with_a_remedy_and_stays_gone(
        self, world: World
    ) -> None:
        made = await stage(world.west, "g", b"1" * DISK)
        world.vanish(world.west)
        attempts = (
            lambda: put(world.west, made, 0, b"x"),
            lambda: finalize(world.west, "f", [made]),
            lambda: world.west.compute.list_instances(),
            lambda: world.west.inventory.check(),
            lambda: world.west.target.open_generation(call("g2"), disk="sda", size=DISK),
        )
        for attempt in attempts:
            with pytest.raises(SeawallError) as caught:
                await attempt()
            assert isinstance(caught.value, Transient)
            assert caught.value.code == "site-gone" and caught.value.remedy
        with pytest.raises(Transient):
            await world.west.inventory.check()


class PlatformContract(
    SourceContract,
    PowerContract,
    TargetContract,
    ComputeContract,
    WindowsContract,
    LimitsContract,
):
    """All of it."""


def _ranges(found: Extents) -> list[tuple[int, int]]:
    return [(e.offset, e.offset + e.length) for e in found.extents]
