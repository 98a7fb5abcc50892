"""Machines that must not be written to: each with its reason, none of them changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.windows import FileDisk, apply, inspect, plan
from shared.windows.errors import NotPreparable
from shared.windows.structs import PrepareDecision
from tests.windows import patches
from tests.windows.guests import (
    FILES,
    NVME,
    SERVICES,
    TARGET,
    data_volume,
    usual_hive,
    usual_volume,
    volume,
)
from tests.windows.hives import Driver, system_hive
from tests.windows.images import gpt_disk, mbr_disk

HIBERFIL = 64 * 1024
RESTARTS = patches.restart_page


def patched(patch: Callable[[bytearray], None]) -> bytes:
    data = bytearray(usual_volume())
    patch(data)
    return bytes(data)


def with_hibernation(magic: bytes) -> bytes:
    return volume(usual_hive(), extra=(("hiberfil.sys", magic.ljust(HIBERFIL, b"\0")),))


def journal(*pages: bytes) -> bytes:
    return patched(lambda data: patches.set_journal(data, b"".join(pages)))


def decide(tmp_path: Path, *volumes: bytes) -> PrepareDecision:
    """The decision; that its refusal is kept to and the disk untouched is checked here."""
    path = tmp_path / "disk"
    gpt_disk(path, volumes)
    before = path.read_bytes()
    with FileDisk(path, writable=True) as disk:
        decision = plan(inspect([disk], SERVICES), TARGET)
        if decision.refusals:
            with pytest.raises(NotPreparable) as refused:
                apply(decision, [disk])
            assert refused.value.code == decision.refusals[0].code
            assert refused.value.remedy
    assert path.read_bytes() == before
    return decision


REFUSED: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "dirty": (lambda: patched(patches.set_dirty), ["dirty-volume"]),
    "hibernated": (lambda: with_hibernation(b"HIBR"), ["hibernated"]),
    "hibernated, older": (lambda: with_hibernation(b"hibr"), ["hibernated"]),
    "being resumed": (lambda: with_hibernation(b"RSTR"), ["hibernated"]),
    "bitlocker": (lambda: patched(patches.set_bitlocker), ["bitlocker", "no-windows"]),
    "in use": (
        lambda: journal(RESTARTS(lsn=5, clean=False), RESTARTS(lsn=4, clean=True)),
        ["journal-not-clean"],
    ),
    "in use by Windows 8 or newer": (
        lambda: journal(RESTARTS(lsn=5, clean=True, major=2), RESTARTS(lsn=4, clean=True)),
        ["journal-not-clean"],
    ),
    "noise for a journal": (lambda: journal(b"noise" * 2000), ["journal-not-clean"]),
    "hive with a sequence begun": (
        lambda: volume(usual_hive(sequence=(8, 7))),
        ["registry-not-clean"],
    ),
    "hive with a wrong checksum": (
        lambda: volume(patches.edit_base_block(usual_hive(), 508, 1, signed=False)),
        ["registry-not-clean"],
    ),
    "compressed": (lambda: volume(usual_hive(), compressed=True), ["registry-compressed"]),
    "encrypted": (
        lambda: patched(lambda data: patches.set_data_flags(data, "SYSTEM", 0x4000)),
        ["registry-encrypted"],
    ),
    "never written so far": (
        lambda: patched(lambda data: patches.set_valid_length(data, "SYSTEM", 4096)),
        ["registry-sparse"],
    ),
    "no hive at all": (
        lambda: volume(b"not a hive, only text" * 500),
        ["damaged-registry"],
    ),
    "hive cut off": (lambda: volume(usual_hive()[:8192]), ["damaged-registry"]),
    "no Windows": (data_volume, ["no-windows"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_its_reason_and_untouched(tmp_path: Path, case: str) -> None:
    build, codes = REFUSED[case]
    decision = decide(tmp_path, build())
    assert [p.code for p in decision.refusals] == codes
    assert decision.writes == ()
    assert all(p.message and p.remedy for p in decision.refusals)


def test_a_hive_inside_the_file_table_is_refused(tmp_path: Path) -> None:
    """No real hive is that small; a stub with its signature is the nearest thing."""
    decision = decide(tmp_path, volume(usual_hive()[:500]))
    assert "registry-resident" in [p.code for p in decision.refusals]


CLEAN: dict[str, Callable[[], bytes]] = {
    "a journal that was reset": usual_volume,
    "a journal closed in order": lambda: journal(
        RESTARTS(lsn=4, clean=False), RESTARTS(lsn=5, clean=True)
    ),
    "a hibernation that was resumed": lambda: with_hibernation(b"WAKE"),
    "hibernation that is not in use": lambda: with_hibernation(b""),
}


@pytest.mark.parametrize("case", CLEAN)
def test_a_volume_left_in_order_is_not_refused(tmp_path: Path, case: str) -> None:
    decision = decide(tmp_path, CLEAN[case]())
    assert decision.refusals == () and len(decision.writes) == 1


def test_a_dirty_volume_with_nothing_to_write_is_prepared(tmp_path: Path) -> None:
    data = bytearray(volume(system_hive({"viostor": Driver(start=0), "netkvm": Driver(start=3)})))
    patches.set_dirty(data)
    decision = decide(tmp_path, bytes(data))
    assert decision.refusals == ()
    assert [p.code for p in decision.findings] == ["dirty-volume"]


def test_two_windows_are_refused(tmp_path: Path) -> None:
    decision = decide(tmp_path, usual_volume(), usual_volume())
    assert [p.code for p in decision.refusals] == ["several-windows"]


def test_an_encrypted_data_volume_does_not_matter(tmp_path: Path) -> None:
    decision = decide(tmp_path, usual_volume(), patched(patches.set_bitlocker))
    assert decision.refusals == () and len(decision.writes) == 1


def test_a_disk_cut_off_behind_its_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    mbr_disk(path, [usual_volume()])
    data = path.read_bytes()[: -(3 << 19)]
    path.write_bytes(data)
    with FileDisk(path) as disk:
        decision = plan(inspect([disk], SERVICES), TARGET)
    assert [p.code for p in decision.refusals] == ["truncated-disk"]


def test_a_dynamic_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    mbr_disk(path, [bytes(1 << 20)])
    data = bytearray(path.read_bytes())
    data[446 + 4] = 0x42
    path.write_bytes(data)
    with FileDisk(path) as disk:
        decision = plan(inspect([disk], SERVICES), TARGET)
    assert [p.code for p in decision.refusals] == ["dynamic-disk", "no-windows"]


def test_no_disks_at_all_are_no_windows() -> None:
    assert [p.code for p in plan(inspect([], SERVICES), NVME).refusals] == ["no-windows"]


def test_a_driver_folder_that_is_a_file_is_a_missing_driver(tmp_path: Path) -> None:
    data = volume(usual_hive(), files=FILES[1:], extra=(("Windows\\System32\\drv", b"x"),))
    assert "driver-file-missing" in [p.code for p in decide(tmp_path, data).findings]
