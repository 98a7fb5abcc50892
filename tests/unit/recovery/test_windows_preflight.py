"""What preflight warns of for the sake of Windows VMs, at sites that can do less than the lab."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import recovery as said
from schemas.plans import WindowsPolicy
from schemas.recovery_work import Preflight
from services.recovery import windows_preflight
from services.recovery.domain.vm_state import VmRecovery, evolve
from services.recovery.windows_preflight import WindowsFacts
from shared.errors import Permanent, Transient
from shared.platforms.memory import MemoryPlatform, MemorySite
from shared.platforms.ports import Call, CopyFacts, DiskFacts, PrepNode
from shared.platforms.winrm import WinRm
from shared.testing.spec import T0
from shared.testing.virtual import run_virtual
from tests.unit.recovery.world import JOB, SITE, enrol, header, vm


def platform(*, agent: bool = True) -> Any:
    made = MemoryPlatform(MemorySite("west"))
    made.capabilities = msgspec.structs.replace(made.capabilities, guest_agent=agent)
    return made


def copy_of(name: str) -> CopyFacts:
    disks = (DiskFacts(name="sda", size=1),)
    return CopyFacts(
        copy_id="c", plan="shop", vm=name, taken_at=T0, mark="m", disks=disks, manifest={}
    )


def enrolled(name: str, *, validate: bool = True) -> VmRecovery:
    definition = vm(name, windows=WindowsPolicy(validate=validate))
    told = msgspec.structs.asdict(enrol(definition, header=header()))
    return evolve(VmRecovery(), said.VmEnrolled(**told))


def warned(site: Any, *names: str, validate: bool = True) -> list[str]:
    members = tuple(said.Member(name, 1, 0.0) for name in names)
    work = Preflight(
        site=SITE, plan="shop", job=JOB, mode="test", members=members, checkpoint="latest",
        network="", isolated=True,
    )  # fmt: skip
    facts = WindowsFacts(copies={name: copy_of(name) for name in names})
    vms = {name: enrolled(name, validate=validate) for name in names}
    found = run_virtual(windows_preflight.warnings(site, work, facts, vms))
    return [warning["code"] for warning in found]


def test_a_site_that_cannot_ask_a_windows_is_warned_of_unless_nobody_asks() -> None:
    assert warned(platform(agent=False), "win")[0] == "no-guest-agent"
    assert "no-guest-agent" not in warned(platform(agent=False), "win", validate=False)
    assert "no-guest-agent" not in warned(platform(), "win")


def test_what_nobody_can_ask_over_winrm_is_refused_with_what_to_do() -> None:
    with pytest.raises(Permanent) as caught:
        run_virtual(WinRm().validate(Call(key="k"), instance_id="i-1"))
    assert caught.value.code == "no-guest-agent" and "validate: false" in caught.value.remedy


def test_so_many_copies_are_looked_into_and_the_rest_is_counted() -> None:
    codes = warned(platform(), *(f"win{n:02}" for n in range(25)))
    assert codes == ["no-windows"] * 20 + ["not-looked-into"]


def test_a_copy_that_cannot_be_looked_into_now_is_a_warning_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = platform()

    async def away(*_: Any, **__: Any) -> Any:
        raise Transient("the disk does not answer", code="disk-failed")

    monkeypatch.setattr(site.prep, "readiness", away)
    assert warned(site, "win1", "win2") == ["disk-failed"] * 2


def test_a_dry_run_lists_as_many_nodes_as_all_windows_fill() -> None:
    nodes = tuple(PrepNode(name=f"prep{n}", seats=2, power="off") for n in range(3))
    names = ("win1", "win2", "win3")
    facts = WindowsFacts(copies={name: copy_of(name) for name in names}, nodes=nodes)
    assert windows_preflight.needed_nodes(facts) == ("prep0", "prep1")
    assert windows_preflight.seats_of(facts) == 6
