"""What prepare decides, from findings alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shared.windows import plan, readiness
from shared.windows.applying import intended
from shared.windows.drivers import TARGETS, driver_target, known_services
from shared.windows.problems import problem
from shared.windows.structs import (
    DriverState,
    Place,
    PrepareDecision,
    StartValue,
    StartWrite,
    Volume,
    WindowsFindings,
    WindowsSystem,
)

TARGET = driver_target("kvm", ["viostor|vioscsi"], ["netkvm"])
VOLUME = Volume(disk=0, number=1, offset=1 << 20, length=8 << 20, kind="ntfs")


def start(value: int, at: int = 4096, name: str = "Start", **fields: Any) -> StartValue:
    return StartValue(name=name, value=value, place=Place(disk=0, offset=at), **fields)


def driver(service: str, *values: StartValue, **fields: Any) -> DriverState:
    known = {"registered": True, "file_present": True, "file": f"{service}.sys", **fields}
    return DriverState(service=service, values=values, **known)


def found(*drivers: DriverState, **fields: Any) -> WindowsFindings:
    known = {"control_set": "ControlSet001", "registry_size": 1, "registry_digest": "d", **fields}
    system = WindowsSystem(disk=0, partition=1, drivers=drivers, **known)
    return WindowsFindings(volumes=(VOLUME,), systems=(system,))


def troubled(findings: WindowsFindings, *codes: str) -> WindowsFindings:
    volume = replace(VOLUME, problems=tuple(problem(code, VOLUME.name) for code in codes))
    return replace(findings, volumes=(volume,))


def codes(decision: PrepareDecision) -> tuple[list[str], list[str]]:
    return [p.code for p in decision.refusals], [p.code for p in decision.findings]


NETKVM = driver("netkvm", start(3, 8192))
PENDING = found(driver("viostor", start(3)), NETKVM)
READY = found(driver("viostor", start(0)), NETKVM)


def test_an_installed_storage_driver_is_made_boot_start() -> None:
    decision = plan(PENDING, TARGET)
    place = Place(disk=0, offset=4096)
    write = StartWrite(service="viostor", name="Start", place=place, old=3, new=0)
    assert decision.writes == (write,)
    assert codes(decision) == ([], [])


def test_an_override_of_the_start_type_is_changed_too() -> None:
    override = start(3, 5000, "StartOverride\\0")
    decision = plan(found(driver("viostor", start(0), override), NETKVM), TARGET)
    assert [(w.name, w.old, w.new) for w in decision.writes] == [("StartOverride\\0", 3, 0)]


def test_a_driver_that_starts_at_boot_is_left_alone() -> None:
    decision = plan(READY, TARGET)
    assert decision.writes == () and codes(decision) == ([], [])


def test_every_installed_driver_of_a_group_is_enabled() -> None:
    both = found(driver("viostor", start(3)), driver("vioscsi", start(3, 4200)), NETKVM)
    assert [w.service for w in plan(both, TARGET).writes] == ["viostor", "vioscsi"]


@pytest.mark.parametrize(("value", "new"), [(0, None), (1, None), (2, None), (3, None), (4, 3)])
def test_a_network_driver_is_only_changed_where_it_is_disabled(
    value: int, new: int | None
) -> None:
    findings = found(driver("viostor", start(0)), driver("netkvm", start(value, 8192)))
    assert [w.new for w in plan(findings, TARGET).writes] == ([] if new is None else [new])


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (driver("viostor", registered=False), "driver-not-registered"),
        (driver("viostor", start(3), file_present=False), "driver-file-missing"),
    ],
)
def test_a_missing_driver_is_a_finding_and_no_refusal(state: DriverState, code: str) -> None:
    decision = plan(found(state, NETKVM), driver_target("kvm", ["viostor"], ["netkvm"]))
    assert decision.writes == ()
    assert codes(decision) == ([], ["no-boot-driver", code])


def test_a_missing_network_driver_does_not_keep_the_storage_driver_from_being_enabled() -> None:
    decision = plan(found(driver("viostor", start(3))), TARGET)
    assert [w.service for w in decision.writes] == ["viostor"]
    assert codes(decision) == ([], ["no-network-driver", "driver-not-registered"])


@pytest.mark.parametrize("code", ["dirty-volume", "journal-not-clean", "hibernated"])
def test_a_volume_in_disorder_is_refused_where_something_must_be_written(code: str) -> None:
    decision = plan(troubled(PENDING, code), TARGET)
    assert decision.writes == () and codes(decision) == ([code], [])


@pytest.mark.parametrize("code", ["registry-not-clean", "registry-compressed"])
def test_a_hive_in_disorder_is_refused_where_something_must_be_written(code: str) -> None:
    findings = found(*PENDING.systems[0].drivers, problems=(problem(code, VOLUME.name),))
    assert codes(plan(findings, TARGET)) == ([code], [])


def test_disorder_is_only_a_finding_where_nothing_must_be_written() -> None:
    decision = plan(troubled(READY, "dirty-volume"), TARGET)
    assert codes(decision) == ([], ["dirty-volume"])


def test_a_registry_that_could_not_be_read_is_refused() -> None:
    broken = found(control_set="", problems=(problem("damaged-registry", VOLUME.name),))
    assert codes(plan(broken, TARGET)) == (["damaged-registry"], [])


def test_a_start_type_without_a_place_is_refused_with_its_reason() -> None:
    lost = StartValue(name="Start", value=3, problem=problem("start-type-elsewhere", "viostor"))
    decision = plan(found(driver("viostor", lost), NETKVM), TARGET)
    assert decision.writes == () and codes(decision) == (["start-type-elsewhere"], [])


def test_problems_of_other_volumes_do_not_matter() -> None:
    data = replace(VOLUME, number=2, problems=(problem("dirty-volume", "disk 1, partition 2"),))
    findings = replace(PENDING, volumes=(VOLUME, data))
    assert [w.new for w in plan(findings, TARGET).writes] == [0]


def test_no_windows_is_refused_with_everything_that_may_hide_one() -> None:
    findings = WindowsFindings(volumes=troubled(PENDING, "bitlocker").volumes)
    assert codes(plan(findings, TARGET)) == (["bitlocker", "no-windows"], [])


def test_two_windows_are_refused_by_name() -> None:
    other = replace(PENDING.systems[0], partition=2)
    findings = replace(
        PENDING,
        volumes=(VOLUME, replace(VOLUME, number=2)),
        systems=(*PENDING.systems, other),
    )
    (refusal,) = plan(findings, TARGET).refusals
    assert refusal.code == "several-windows"
    assert refusal.subject == "disk 1, partition 1, disk 1, partition 2"


def test_deciding_again_after_the_writes_gives_none() -> None:
    after = intended(plan(PENDING, TARGET))
    assert after == READY
    assert plan(after, TARGET).writes == ()


def test_a_source_that_is_in_order_needs_nothing_even_while_it_runs() -> None:
    running = troubled(READY, "journal-not-clean")
    assert readiness(running, TARGET) == ()


def test_a_running_source_is_told_which_driver_depends_on_the_copy() -> None:
    told = readiness(troubled(PENDING, "journal-not-clean"), TARGET)
    assert [p.code for p in told] == ["journal-not-clean", "driver-not-boot-start"]
    assert all(p.remedy for p in told)


def test_a_source_is_told_what_is_missing_before_it_is_needed() -> None:
    told = readiness(found(driver("viostor", start(0))), TARGET)
    assert [p.code for p in told] == ["no-network-driver", "driver-not-registered"]
    assert "before you need it" in told[0].remedy


def test_every_target_names_drivers_that_inspect_looks_for() -> None:
    known = set(known_services())
    assert all(target.storage and set(target.services()) <= known for target in TARGETS.values())
