"""Partition tables, good and bad."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.windows.partitions import read_partitions
from tests.windows.images import FIRST_BYTE, MIB, gpt_disk, mbr_disk
from tests.windows.memory import MemoryDisk

VOLUMES = [bytes([n]) * MIB for n in (1, 2, 3)]
PLACES = [(FIRST_BYTE + n * 2 * MIB, MIB) for n in range(3)]


def places(data: bytes) -> list[tuple[int, int]]:
    table = read_partitions(MemoryDisk(data))
    assert not table.damaged
    return [(part.offset, part.length) for part in table.partitions]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt_is_read_with_either_size_of_sector(file: Path, sector: int) -> None:
    gpt_disk(file, VOLUMES, sector=sector)
    assert places(file.read_bytes()) == PLACES


@pytest.mark.parametrize("logical", [False, True])
def test_mbr_is_read_with_primary_and_logical_partitions(file: Path, logical: bool) -> None:
    mbr_disk(file, VOLUMES, logical=logical)
    assert places(file.read_bytes()) == PLACES


def test_partitions_are_numbered_as_people_see_them(file: Path) -> None:
    mbr_disk(file, VOLUMES, logical=True)
    table = read_partitions(MemoryDisk(file.read_bytes()))
    assert [part.number for part in table.partitions] == [5, 6, 7]


def test_a_bad_gpt_is_read_from_its_copy(file: Path) -> None:
    gpt_disk(file, VOLUMES)
    data = bytearray(file.read_bytes())
    data[512 + 40] ^= 1
    assert places(bytes(data)) == PLACES


def test_bad_entries_are_read_from_their_copy(file: Path) -> None:
    gpt_disk(file, VOLUMES)
    data = bytearray(file.read_bytes())
    data[1024 + 32] ^= 1
    assert places(bytes(data)) == PLACES


def test_a_gpt_with_both_copies_bad_is_damaged(file: Path) -> None:
    gpt_disk(file, VOLUMES)
    data = bytearray(file.read_bytes())
    data[512 + 40] ^= 1
    data[-512 + 40] ^= 1
    assert read_partitions(MemoryDisk(bytes(data))).damaged


def test_a_volume_without_a_table_is_the_whole_disk() -> None:
    disk = MemoryDisk(b"\xeb\x52\x90NTFS    ".ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB))
    (whole,) = read_partitions(disk).partitions
    assert (whole.number, whole.offset, whole.length) == (0, 0, disk.size)


def test_dynamic_disks_are_told(file: Path) -> None:
    mbr_disk(file, VOLUMES[:1])
    data = bytearray(file.read_bytes())
    data[446 + 4] = 0x42
    assert [part.dynamic for part in read_partitions(MemoryDisk(bytes(data))).partitions] == [True]


def test_a_chain_of_logical_partitions_that_never_ends_is_cut() -> None:
    data = bytearray(4 * MIB)
    data[446:462] = struct.pack("<4xB3xII", 0x0F, 1, 1000)
    data[510:512] = b"\x55\xaa"
    data[512 + 446 : 512 + 478] = struct.pack("<4xB3xII4xB3xII", 7, 1, 1, 5, 0, 1)
    data[1022:1024] = b"\x55\xaa"
    assert len(read_partitions(MemoryDisk(bytes(data))).partitions) == 128


@pytest.mark.parametrize("size", [0, 1, 511, 512, MIB])
def test_an_empty_disk_has_no_partitions(size: int) -> None:
    assert places(bytes(size)) == []


@given(st.binary(min_size=0, max_size=8192))
def test_noise_is_answered(data: bytes) -> None:
    signed = data[:510].ljust(510, b"\0") + b"\x55\xaa" + data[510:]
    for part in read_partitions(MemoryDisk(signed)).partitions:
        assert 0 <= part.offset < len(signed)
