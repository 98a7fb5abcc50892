"""Chains of layers read as the disk they stand for, whatever was written in whatever order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.platforms.lab.layers import Layer, StagedDisk, View, flatten_chain, merge_deltas

SIZE = 5 * 4096 + 100
CHANGE = st.tuples(
    st.integers(0, SIZE - 1), st.integers(1, 9000), st.one_of(st.none(), st.integers(1, 255))
)
GENERATIONS = st.lists(st.lists(CHANGE, max_size=5), min_size=1, max_size=5)


def staged(folder: Path, number: int, chain: list[Layer]) -> StagedDisk:
    base = View(folder, chain, SIZE) if chain else None
    return StagedDisk(folder / f"l{number}", SIZE, base, create=True)


def apply(disk: StagedDisk, model: bytearray, change: tuple[int, int, int | None]) -> None:
    offset, length, value = change
    length = min(length, SIZE - offset)
    if value is None:
        disk.zero(offset, length)
        model[offset : offset + length] = bytes(length)
    else:
        disk.write(memoryview(bytes([value]) * length), offset)
        model[offset : offset + length] = bytes([value]) * length


def read(source: View | StagedDisk) -> bytes:
    buffer = bytearray(SIZE)
    source.read(memoryview(buffer), 0)
    return bytes(buffer)


def plain(folder: Path, chain: list[Layer]) -> bytes:
    layer = flatten_chain(folder, chain, SIZE, into="flat")
    content = (folder / "flat").read_bytes()
    os.unlink(folder / "flat")
    assert layer.size == len(content) == SIZE
    return content


@settings(max_examples=60)
@given(GENERATIONS, st.data())
def test_reading_flattening_and_merging_agree_with_the_writes(
    generations: list[list[tuple[int, int, int | None]]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = bytearray(SIZE)
        chain: list[Layer] = []
        for number, changes in enumerate(generations):
            disk = staged(folder, number, chain)
            for change in changes:
                apply(disk, model, change)
            assert read(disk) == model
            chain.append(Layer(file=f"l{number}", kind=disk.kind, size=SIZE, stored=0))
            disk.close()
        view = View(folder, chain, SIZE)
        start = data.draw(st.integers(0, SIZE - 1))
        part = bytearray(data.draw(st.integers(1, SIZE - start)))
        view.read(memoryview(part), start)
        assert part == model[start : start + len(part)]
        for low, high in _gaps(view.data_ranges()):
            assert not any(model[low:high])
        view.close()
        assert plain(folder, chain) == model
        if len(chain) > 2:
            at = data.draw(st.integers(1, len(chain) - 2))
            merged = merge_deltas(folder, chain[at], chain[at + 1], into="merged")
            chain[at : at + 2] = [merged]
            assert plain(folder, chain) == model


def _gaps(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    edges = [0, *(edge for found in ranges for edge in found), SIZE]
    return [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]


def test_a_disk_that_shrank_and_grew_shows_zeros_where_it_was_cut(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"a" * 12288)
    small = StagedDisk(tmp_path / "small", 4096, View(tmp_path, [], 4096), create=True)
    small.close()
    chain = [
        Layer(file="full", kind="full", size=12288, stored=0),
        Layer(file="small", kind="delta", size=4096, stored=0),
    ]
    view = View(tmp_path, chain, 8192)
    buffer = bytearray(8192)
    view.read(memoryview(buffer), 0)
    assert buffer == b"a" * 4096 + bytes(4096)
    view.close()
    flatten_chain(tmp_path, chain, 8192, into="flat")
    assert (tmp_path / "flat").read_bytes() == b"a" * 4096 + bytes(4096)


def test_holes_stay_holes(tmp_path: Path) -> None:
    size = 8 << 20
    disk = StagedDisk(tmp_path / "l0", size, None, create=True)
    disk.write(memoryview(b"x" * 4096), 4 << 20)
    disk.write(memoryview(b"y" * (1 << 20)), 0)
    disk.zero(0, 1 << 20)
    disk.close()
    chain = [Layer(file="l0", kind="full", size=size, stored=0)]
    delta = StagedDisk(tmp_path / "l1", size, View(tmp_path, chain, size), create=True)
    delta.zero(4 << 20, 4096)
    delta.write(memoryview(b"z" * 4096), 7 << 20)
    delta.close()
    chain.append(Layer(file="l1", kind="delta", size=size, stored=0))
    assert flatten_chain(tmp_path, chain, size, into="flat").stored <= 3 * 4096
    assert (tmp_path / "flat").stat().st_size == size
