"""The part of the platform contract about Windows: prep nodes, disks to prepare, guests to ask."""

from __future__ import annotations

import pytest

from shared.errors import Permanent, Refused, Throttled, Transient
from shared.platforms.lab.settings import Quota, SiteSettings
from shared.platforms.lab.windows_settings import NodeSpec
from tests.contract.platforms.world import DISK, World, call, copied, created, outcomes, rebuilt
from tests.waiting import eventually


class WindowsContract:
    """Prep nodes, what they refuse, and who asks a Windows how it is."""

    @staticmethod
    def declare(world: World, *specs: NodeSpec) -> None:
        world.settings(world.west, SiteSettings(prep_nodes=specs))

    async def test_a_site_has_the_prep_nodes_it_declares_in_order_and_off(
        self, world: World
    ) -> None:
        assert (await world.west.prep.list_nodes()).nodes == ()
        self.declare(world, NodeSpec(name="prep2"), NodeSpec(name="prep1", seats=3))
        nodes = (await world.west.prep.list_nodes()).nodes
        assert [(n.name, n.seats, n.power) for n in nodes] == [
            ("prep2", 25, "off"),
            ("prep1", 3, "off"),
        ]

    async def test_a_node_is_powered_once_per_key_and_seen_by_every_process(
        self, world: World
    ) -> None:
        self.declare(world, NodeSpec(name="prep1"))
        on = await world.west.prep.power_on(call("on1"), node="prep1")
        assert on.power == "on"
        other = world.again().prep
        assert (await other.list_nodes()).nodes == (on,)
        await other.power_off(call("off1"), node="prep1")
        # A late repeat of an earlier call gives its answer, and does nothing.
        assert await world.west.prep.power_on(call("on1"), node="prep1") == on
        assert [n.power for n in (await other.list_nodes()).nodes] == ["off"]
        assert outcomes(world, world.west, "power_on_node", "on1") == ["ok", "known"]
        assert outcomes(world, world.west, "power_off_node", "off1") == ["ok"]

    async def test_a_node_that_is_gone_cannot_be_powered_on_and_counts_as_off(
        self, world: World
    ) -> None:
        with pytest.raises(Permanent) as caught:
            await world.west.prep.power_on(call("on"), node="prep1")
        assert caught.value.code == "no-such-node" and caught.value.remedy
        await world.west.prep.power_off(call("off"), node="prep1")

    async def test_powering_spends_the_quotas_of_instances_and_may_fail(
        self, world: World
    ) -> None:
        limits = world.west.limits
        quotas = {name: Quota(burst=1, per_second=1) for name in ("StartInstances",)}
        world.settings(
            world.west,
            SiteSettings(
                quotas=quotas,
                faults={"power_off_node": 1.0},
                prep_nodes=(NodeSpec(name="prep1"), NodeSpec(name="prep2")),
            ),
        )
        assert limits.needs("power_on_node") == ("StartInstances",)
        await world.west.prep.power_on(call("1"), node="prep1")
        with pytest.raises(Throttled):
            await world.west.prep.power_on(call("2"), node="prep2")
        with pytest.raises(Transient) as caught:
            await world.west.prep.power_off(call("3"), node="prep1")
        assert caught.value.code == "fault"

    async def test_only_a_node_that_is_on_prepares(self, world: World) -> None:
        self.declare(world, NodeSpec(name="prep1"))
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await world.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        with pytest.raises(Transient) as caught:
            await world.west.prep.prepare(call("p"), node="prep1", disks=[disk])
        assert caught.value.code == "node-off"
        with pytest.raises(Permanent):
            await world.west.prep.prepare(call("q"), node="prep9", disks=[disk])

    async def test_disks_without_a_windows_are_refused_and_stay_as_they_were(
        self, world: World
    ) -> None:
        self.declare(world, NodeSpec(name="prep1"))
        await world.west.prep.power_on(call("on"), node="prep1")
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await world.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        for _ in range(2):
            with pytest.raises(Refused) as caught:
                await world.west.prep.prepare(call("p"), node="prep1", disks=[disk])
            assert caught.value.code == "no-windows" and caught.value.remedy
        made = await created(world.west, "i", disk)
        assert world.instance_disk(made.instance_id, disk.file) == b"1" * DISK
        findings = await world.west.prep.readiness(call("r"), copy_id=copy.copy_id, disks=["sda"])
        assert [finding.code for finding in findings] == ["no-windows"]

    async def test_a_disk_that_an_instance_has_is_prepared_no_more(self, world: World) -> None:
        self.declare(world, NodeSpec(name="prep1"))
        await world.west.prep.power_on(call("on"), node="prep1")
        copy = await copied(world.west, "m1", b"1" * DISK)
        disk = await world.west.compute.rebuild_disk(call("d"), copy_id=copy.copy_id, disk="sda")
        await created(world.west, "i", disk)
        with pytest.raises(Permanent) as caught:
            await world.west.prep.prepare(call("p"), node="prep1", disks=[disk])
        assert caught.value.code == "no-such-disk"

    async def test_a_guest_says_how_it_is_once_it_is_up(self, world: World) -> None:
        copy = await copied(world.west, "m1", b"1" * DISK)
        made, _ = await rebuilt(world, "x", copy.copy_id)
        guests = world.west.guests
        with pytest.raises(Transient) as silent:
            await guests.validate(call("v1"), instance_id=made.instance_id)
        assert silent.value.code == "guest-silent"
        await world.west.compute.power_on(call("on"), instance_id=made.instance_id)

        async def answers() -> bool:
            try:
                health = await guests.validate(call("v2"), instance_id=made.instance_id)
            except Transient:
                return False
            assert (health.disks_online, health.network_up, health.stopped) == (1, True, ())
            return True

        await eventually(answers, "the guest agent to answer")
        with pytest.raises(Permanent) as caught:
            await guests.validate(call("v3"), instance_id="i-nothing")
        assert caught.value.code == "no-such-instance"
