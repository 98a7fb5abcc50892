"""What every adapter's `Power` must do: source VMs off and on, once per key, and no further."""

from __future__ import annotations

import pytest

from shared.errors import Permanent, Throttled, Transient
from shared.platforms.lab.settings import Quota, SiteSettings
from tests.contract.platforms.world import VM, World, call, outcomes


class PowerContract:
    """Fencing a source, and taking it back."""

    async def test_a_source_is_shut_down_and_powered_on_again(self, world: World) -> None:
        power = world.east.power
        assert await power.state(vm=VM) == "on"
        await power.shut_down(call("d1"), vm=VM, within_s=5)
        assert await power.state(vm=VM) == "off"
        (facts,) = await world.east.inventory.list_vms()
        assert facts.power == "off"
        await power.power_on(call("u1"), vm=VM)
        assert await power.state(vm=VM) == "on"

    async def test_a_repeated_key_does_nothing_again(self, world: World) -> None:
        power = world.east.power
        await power.shut_down(call("d1"), vm=VM, within_s=5)
        await power.power_on(call("u1"), vm=VM)
        await power.power_off(call("o1"), vm=VM)
        await power.power_on(call("u2"), vm=VM)
        await power.power_off(call("o1"), vm=VM)
        assert await power.state(vm=VM) == "on"
        assert outcomes(world, world.east, "power_off_source", "o1") == ["ok", "known"]
        assert outcomes(world, world.east, "shut_down_source", "d1") == ["ok"]

    async def test_what_is_as_it_should_be_is_left_alone(self, world: World) -> None:
        power = world.east.power
        await power.power_off(call("o1"), vm=VM)
        await power.shut_down(call("d1"), vm=VM, within_s=5)
        await power.power_off(call("o2"), vm=VM)
        assert await power.state(vm=VM) == "off"
        await power.power_on(call("u1"), vm=VM)
        await power.power_on(call("u2"), vm=VM)
        assert await power.state(vm=VM) == "on"

    async def test_a_guest_that_ignores_the_shut_down_stays_on_until_it_is_powered_off(
        self, world: World
    ) -> None:
        world.deafen()
        power = world.east.power
        with pytest.raises(Permanent) as caught:
            await power.shut_down(call("d1"), vm=VM, within_s=0.2)
        assert caught.value.code == "shutdown-timed-out" and caught.value.remedy
        assert await power.state(vm=VM) == "on"
        await power.power_off(call("o1"), vm=VM)
        assert await power.state(vm=VM) == "off"

    async def test_what_runs_is_listed_and_what_is_not_there_is_left_out(
        self, world: World
    ) -> None:
        power = world.east.power
        (found,) = await power.list_running(("nobody", VM))
        assert found.name == VM
        await power.power_off(call("o1"), vm=VM)
        assert await power.list_running(("nobody", VM)) == ()
        assert await power.list_running(()) == ()

    async def test_a_vm_that_is_not_there_is_said(self, world: World) -> None:
        power = world.east.power
        for attempt in (
            lambda: power.state(vm="nobody"),
            lambda: power.shut_down(call("d"), vm="nobody", within_s=1),
            lambda: power.power_off(call("o"), vm="nobody"),
            lambda: power.power_on(call("u"), vm="nobody"),
        ):
            with pytest.raises(Permanent) as caught:
                await attempt()
            assert caught.value.code == "no-such-vm"

    async def test_power_spends_the_quotas_of_instances(self, world: World) -> None:
        quota = {"StopInstances": Quota(burst=1, per_second=0.1)}
        world.settings(world.east, SiteSettings(quotas=quota))
        await world.east.power.power_off(call("o1"), vm=VM)
        with pytest.raises(Throttled):
            await world.east.power.shut_down(call("d1"), vm=VM, within_s=1)
        assert world.east.limits.needs("power_on_source") == ()

    async def test_a_fault_leaves_the_source_as_it_is(self, world: World) -> None:
        world.settings(world.east, SiteSettings(faults={"shut_down_source": 1.0}))
        with pytest.raises(Transient):
            await world.east.power.shut_down(call("d1"), vm=VM, within_s=1)
        assert await world.east.power.state(vm=VM) == "on"
        world.settings(world.east, SiteSettings())
        await world.east.power.shut_down(call("d1"), vm=VM, within_s=5)
        assert await world.east.power.state(vm=VM) == "off"

    async def test_a_site_that_vanished_cannot_be_fenced(self, world: World) -> None:
        world.vanish(world.east)
        for attempt in (
            lambda: world.east.power.state(vm=VM),
            lambda: world.east.power.list_running((VM,)),
            lambda: world.east.power.shut_down(call("d"), vm=VM, within_s=1),
        ):
            with pytest.raises(Transient) as caught:
                await attempt()
            assert caught.value.code == "site-gone"
