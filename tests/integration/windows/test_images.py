"""The tests' own hives and volumes are what they claim, judged by others' readers."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from dissect.ntfs import NTFS
from dissect.ntfs.c_ntfs import ATTRIBUTE_TYPE_CODE
from dissect.regf import regf

from tests.windows.guests import DRIVER_FILE, DRIVERS, HIVE, usual_hive, usual_volume, volume
from tests.windows.hives import Key, dword, hive, text
from tests.windows.images import MIB


@pytest.mark.parametrize("index", [b"lf", b"lh"])
def test_a_hive_is_read_by_dissect(index: bytes) -> None:
    keys = [Key(f"key{n}", values=[dword("Number", n), text("Name", "näme")]) for n in range(9)]
    found = regf.RegistryHive(io.BytesIO(hive(Key("ROOT", keys=keys, index=index))))
    assert [key.name for key in found.root().subkeys()] == [f"key{n}" for n in range(9)]
    assert found.open("KEY7").value("number").value == 7
    assert found.open("key7").value("Name").value == "näme"
    assert not found.in_transaction


def test_every_cell_of_a_hive_can_be_walked() -> None:
    data = usual_hive()
    cells = [offset for offset, _, _ in regf.RegistryHive(io.BytesIO(data)).walk()]
    assert len(cells) > 60 and cells == sorted(cells)


def test_a_volume_holds_what_was_put_into_it() -> None:
    ntfs = NTFS(io.BytesIO(usual_volume()))
    assert ntfs.mft.get(HIVE).open().read() == usual_hive()
    assert ntfs.mft.get(f"{DRIVERS}viostor.sys").open().read() == DRIVER_FILE


def test_ntfs_tools_find_the_volume_in_order(tmp_path: Path) -> None:
    (tmp_path / "volume").write_bytes(usual_volume())
    done = subprocess.run(
        ["ntfsfix", "--no-action", str(tmp_path / "volume")], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout.decode()


def test_pieces_are_fragments() -> None:
    ntfs = NTFS(io.BytesIO(volume(usual_hive(), pieces=30)))
    assert len(ntfs.mft.get(HIVE).dataruns()) >= 30
    assert ntfs.mft.get(HIVE).open().read() == usual_hive()


def test_many_pieces_need_a_list_of_attributes() -> None:
    data = volume(usual_hive(padding=700), pieces=700, size=32 * MIB)
    record = NTFS(io.BytesIO(data)).mft.get(HIVE)
    assert ATTRIBUTE_TYPE_CODE.ATTRIBUTE_LIST in record.attributes
    assert len(record.dataruns()) > 250
    assert record.open().read() == usual_hive(padding=700)


def test_a_compressed_file_is_compressed() -> None:
    ntfs = NTFS(io.BytesIO(volume(usual_hive(), compressed=True)))
    record = ntfs.mft.get(HIVE)
    assert record.attributes.DATA.header.flags & 0xFF
    assert record.open().read() == usual_hive()
