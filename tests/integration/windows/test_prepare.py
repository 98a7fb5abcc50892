"""Preparing whole machines: what changes on their disks, and that nothing else does."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.windows import TARGETS, FileDisk, apply, inspect, plan
from shared.windows.drivers import DriverTarget
from shared.windows.errors import NotPreparable, NotVerified
from shared.windows.structs import Prepared, PrepareDecision, WindowsFindings
from tests.windows.guests import (
    DRIVERS,
    FILES,
    NVME,
    SERVICES,
    TARGET,
    changed,
    data_volume,
    target_with,
    usual_hive,
    usual_volume,
    volume,
)
from tests.windows.hives import Driver, system_hive
from tests.windows.images import MIB, gpt_disk, mbr_disk


def prepare(target: DriverTarget, *paths: Path) -> tuple[PrepareDecision, Prepared]:
    """As a platform does it: inspect, decide, write."""
    with ExitStack() as stack:
        disks = [stack.enter_context(FileDisk(path, writable=True)) for path in paths]
        decision = plan(inspect(disks, SERVICES), target)
        return decision, apply(decision, disks)


def look(*paths: Path) -> WindowsFindings:
    with ExitStack() as stack:
        return inspect([stack.enter_context(FileDisk(path)) for path in paths], SERVICES)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A GPT disk with a data volume and the usual Windows."""
    gpt_disk(tmp_path / "disk", [data_volume(), usual_volume()])
    return tmp_path / "disk"


def test_findings_tell_volumes_and_drivers(disk: Path) -> None:
    findings = look(disk)
    assert [(v.number, v.kind, v.problems) for v in findings.volumes] == [
        (1, "ntfs", ()),
        (2, "ntfs", ()),
    ]
    (system,) = findings.systems
    assert (system.partition, system.control_set, system.problems) == (2, "ControlSet001", ())
    states = {
        d.service: (d.registered, d.file_present, [(v.name, v.value) for v in d.values])
        for d in system.drivers
    }
    assert states == {
        "viostor": (True, True, [("Start", 3)]),
        "netkvm": (True, True, [("Start", 3)]),
        "stornvme": (True, True, [("Start", 0), ("StartOverride\\0", 3)]),
        "vioscsi": (False, False, []),
    }


def test_inspecting_changes_nothing(disk: Path) -> None:
    before = disk.read_bytes()
    look(disk)
    assert disk.read_bytes() == before


def test_enabling_a_driver_changes_the_four_bytes_of_its_start_type_alone(disk: Path) -> None:
    before = disk.read_bytes()
    decision, prepared = prepare(TARGET, disk)
    after = disk.read_bytes()
    (write,) = prepared.written
    assert (write.service, write.old, write.new) == ("viostor", 3, 0)
    # Three to zero: of the four bytes, only the lowest is different.
    assert changed(before, after) == [write.place.offset]
    assert after[write.place.offset : write.place.offset + 4] == bytes(4)
    assert prepared.after.systems[0].driver("viostor") is not None
    assert decision.findings == prepared.findings == ()
    assert look(disk) == prepared.after


def test_a_second_run_changes_nothing_and_answers_the_same(disk: Path) -> None:
    _, first = prepare(TARGET, disk)
    before = disk.read_bytes()
    decision, second = prepare(TARGET, disk)
    assert disk.read_bytes() == before
    assert decision.writes == second.written == ()
    assert (second.after, second.findings) == (first.after, first.findings)


def test_the_same_decision_may_be_applied_again_after_a_crash(disk: Path) -> None:
    decision, first = prepare(TARGET, disk)
    with FileDisk(disk, writable=True) as opened:
        second = apply(decision, [opened])
    assert second.written == () and second.after == first.after


def test_the_override_of_newer_windows_is_changed_beside_the_start_type(disk: Path) -> None:
    before = disk.read_bytes()
    _, prepared = prepare(NVME, disk)
    assert [(w.name, w.old, w.new) for w in prepared.written] == [("StartOverride\\0", 3, 0)]
    assert changed(before, disk.read_bytes()) == [prepared.written[0].place.offset]


def test_several_drivers_are_enabled_in_one_run(disk: Path) -> None:
    before = disk.read_bytes()
    _, prepared = prepare(target_with("viostor", "stornvme"), disk)
    assert sorted(w.place.offset for w in prepared.written) == changed(before, disk.read_bytes())
    assert len(prepared.written) == 2


@pytest.mark.parametrize("logical", [False, True])
def test_a_disk_with_a_boot_record_is_prepared(tmp_path: Path, logical: bool) -> None:
    disk = tmp_path / "disk"
    mbr_disk(disk, [data_volume(), usual_volume()], logical=logical)
    before = disk.read_bytes()
    _, prepared = prepare(TARGET, disk)
    assert changed(before, disk.read_bytes()) == [prepared.written[0].place.offset]


def test_a_volume_without_a_partition_table_is_prepared(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(volume(usual_hive(), start=0))
    _, prepared = prepare(TARGET, disk)
    assert [w.service for w in prepared.written] == ["viostor"]


def test_the_system_is_found_among_several_disks_and_the_others_stay_as_they_are(
    tmp_path: Path,
) -> None:
    disks = [tmp_path / name for name in ("sda", "sdb", "sdc")]
    gpt_disk(disks[0], [data_volume()])
    disks[1].write_bytes(bytes(MIB))
    mbr_disk(disks[2], [usual_volume()])
    before = [disk.read_bytes() for disk in disks]
    _, prepared = prepare(TARGET, *disks)
    assert [w.place.disk for w in prepared.written] == [2]
    after = [disk.read_bytes() for disk in disks]
    assert after[:2] == before[:2]
    assert changed(before[2], after[2]) == [prepared.written[0].place.offset]


@pytest.mark.parametrize("pieces", [30, 60])
def test_a_fragmented_hive_is_written_in_the_right_fragment(tmp_path: Path, pieces: int) -> None:
    disk = tmp_path / "disk"
    gpt_disk(disk, [volume(usual_hive(), pieces=pieces)])
    before = disk.read_bytes()
    _, prepared = prepare(TARGET, disk)
    assert changed(before, disk.read_bytes()) == [prepared.written[0].place.offset]


def test_a_hive_of_more_fragments_than_one_file_record_holds_is_written(tmp_path: Path) -> None:
    """Its map lies in several file records, joined by a list of attributes."""
    disk = tmp_path / "disk"
    hive = usual_hive(padding=700)
    gpt_disk(disk, [volume(hive, pieces=700, size=32 * MIB)])
    before = disk.read_bytes()
    _, prepared = prepare(TARGET, disk)
    assert changed(before, disk.read_bytes()) == [prepared.written[0].place.offset]


def test_only_the_control_set_in_use_is_changed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    gpt_disk(disk, [volume(usual_hive(current=2))])
    before = disk.read_bytes()
    decision, prepared = prepare(TARGET, disk)
    assert decision.before.systems[0].control_set == "ControlSet002"
    assert changed(before, disk.read_bytes()) == [prepared.written[0].place.offset]


def test_a_start_type_outside_its_cell_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    hive = system_hive({"viostor": Driver(start=3, inline=False)})
    gpt_disk(disk, [volume(hive)])
    with pytest.raises(NotPreparable) as refused:
        prepare(target_with("viostor"), disk)
    assert refused.value.code == "start-type-elsewhere"


def test_a_driver_whose_file_is_missing_is_told_and_not_enabled(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    gpt_disk(disk, [volume(usual_hive(), files=FILES[1:])])
    before = disk.read_bytes()
    decision, prepared = prepare(TARGET, disk)
    assert [p.code for p in decision.findings] == ["no-boot-driver", "driver-file-missing"]
    assert decision.findings[1].subject == f"viostor ({DRIVERS}viostor.sys)"
    assert prepared.written == () and disk.read_bytes() == before


def test_a_driver_that_is_not_installed_is_told(disk: Path) -> None:
    decision, prepared = prepare(target_with("vioscsi"), disk)
    assert [p.code for p in decision.findings] == ["no-boot-driver", "driver-not-registered"]
    assert prepared.written == ()


def test_every_known_target_can_be_asked_for_at_once(disk: Path) -> None:
    with FileDisk(disk) as opened:
        findings = inspect([opened])
    written = {name: plan(findings, target).writes for name, target in TARGETS.items()}
    assert {name for name, writes in written.items() if writes} == {"aws", "kvm", "lab"}


def test_a_disk_that_changed_since_the_decision_is_left_alone(disk: Path) -> None:
    with FileDisk(disk, writable=True) as opened:
        decision = plan(inspect([opened], SERVICES), TARGET)
        opened.write_at(decision.writes[0].place.offset, b"\x02\0\0\0")
        before = disk.read_bytes()
        with pytest.raises(NotPreparable) as refused:
            apply(decision, [opened])
    assert refused.value.code == "changed-meanwhile"
    assert disk.read_bytes() == before


class LosingDisk(FileDisk):
    """Says that it wrote."""

    def write_at(self, offset: int, data: bytes) -> None:
        pass


class SpillingDisk(FileDisk):
    """Writes one byte more, as a wrong offset or length would."""

    def write_at(self, offset: int, data: bytes) -> None:
        super().write_at(offset, data + b"\xee")


@pytest.mark.parametrize("kind", [LosingDisk, SpillingDisk])
def test_a_write_that_did_not_do_just_what_it_should_is_found(
    disk: Path, kind: type[FileDisk]
) -> None:
    with kind(disk, writable=True) as opened:
        decision = plan(inspect([opened], SERVICES), TARGET)
        with pytest.raises(NotVerified) as failed:
            apply(decision, [opened])
    assert "rebuild the disks" in failed.value.remedy


def test_writes_are_flushed_before_they_are_verified(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(FileDisk, "fsync", lambda _: done.append("fsync"))
    real = FileDisk.read_at

    def read_at(disk: FileDisk, offset: int, length: int) -> bytes:
        done.append("read")
        return real(disk, offset, length)

    monkeypatch.setattr(FileDisk, "read_at", read_at)
    with FileDisk(disk, writable=True) as opened:
        decision = plan(inspect([opened], SERVICES), TARGET)
        done.clear()
        apply(decision, [opened])
    assert done[:2] == ["read", "fsync"] and done.count("fsync") == 1 and len(done) > 2
