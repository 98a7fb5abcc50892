"""Disks with bytes flipped, cut or looped: answers or known errors, in bounded time."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.windows import ReaderLimits, inspect, plan
from shared.windows.errors import DiskFailed, ReaderFailed, ReaderMissing
from shared.windows.reading import read_machine
from shared.windows.structs import PrepareDecision
from tests.tidy import tree
from tests.windows import patches
from tests.windows.guests import (
    SERVICES,
    TARGET,
    usual_hive,
    usual_volume,
    volume,
)
from tests.windows.memory import MemoryDisk

FLIPS = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), min_size=1, max_size=12)
THOROUGH = settings(
    max_examples=int(os.environ.get("SEAWALL_FUZZ_EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.too_slow],
)


@functools.cache
def whole_disk() -> bytes:
    return volume(usual_hive(padding=4), start=0, size=4 << 20)


@functools.cache
def regions() -> dict[str, range]:
    """Where on that disk the parts are that reading depends on."""
    data = bytearray(whole_disk())
    table = patches.record_offset(data, 0)
    hive = patches.first_byte(data, patches.record_of(data, "SYSTEM"))
    return {
        "boot": range(512),
        "table": range(table, table + 96 * patches.RECORD),
        "hive": range(hive, hive + len(usual_hive(padding=4))),
    }


def judged(data: bytes) -> PrepareDecision:
    """What is decided on a damaged disk; the writes must fall on what is a start type."""
    disk = MemoryDisk(data)
    decision = plan(read_machine([disk], SERVICES), TARGET)
    for write in decision.writes:
        assert disk.read_at(write.place.offset, 4) == write.old.to_bytes(4, "little")
    return decision


@pytest.mark.parametrize("region", ["boot", "table", "hive"])
@THOROUGH
@given(flips=FLIPS)
def test_flipped_bytes_give_an_answer_or_a_refusal(
    region: str, flips: list[tuple[int, int]]
) -> None:
    where = regions()[region]
    data = bytearray(whole_disk())
    for at, mask in flips:
        data[where[at % len(where)]] ^= mask
    judged(bytes(data))


@THOROUGH
@given(at=st.integers(0, 1 << 30), noise=st.binary(min_size=1, max_size=64), kind=st.booleans())
def test_words_of_noise_in_the_table_or_the_hive_give_an_answer_or_a_refusal(
    at: int, noise: bytes, kind: bool
) -> None:
    where = regions()["table" if kind else "hive"]
    start = where[at % (len(where) - 64)] & ~3
    data = bytearray(whole_disk())
    data[start : start + len(noise)] = noise
    judged(bytes(data))


@THOROUGH
@given(size=st.integers(0, 4 << 20))
def test_a_disk_cut_off_anywhere_gives_an_answer_or_a_refusal(size: int) -> None:
    # The last sectors are the spare boot sector and slack, which the volume does not count.
    decision = judged(whole_disk()[:size])
    assert decision.writes == () or size > len(whole_disk()) - 4096


@given(st.binary(max_size=4096), st.booleans())
def test_garbage_is_no_windows(data: bytes, signed: bool) -> None:
    disk = (b"\xeb\x52\x90NTFS    " if signed else b"") + data
    assert judged(disk.ljust(8192, b"\0")).refusals


def index_loop() -> bytes:
    """The root folder's index has one node, which points to itself."""
    data = bytearray(usual_volume())
    root = next(at for kind, at in patches.attributes(data, 5) if kind == 0x90)
    (value,) = struct.unpack_from("<H", data, root + 20)
    node = patches.first_byte(data, 5, kind=0xA0)
    assert data[node : node + 4] == b"INDX"
    for header in (root + value + 16, node + 24):
        (first,) = struct.unpack_from("<I", data, header)
        struct.pack_into("<I", data, header + 4, first + 24)
        struct.pack_into("<QHHHHQ", data, header + first, 0, 24, 0, 3, 0, 0)
    return bytes(data)


def test_a_folder_whose_index_points_to_itself_comes_to_an_end() -> None:
    began = time.monotonic()
    codes = [p.code for p in judged(index_loop()).refusals]
    assert codes == ["damaged-file-system", "no-windows"] and time.monotonic() - began < 20


def test_the_package_alone_would_follow_that_index_for_ever() -> None:
    """Why we descend ourselves, and why the reader is a process that can be ended."""
    program = (
        "import io, sys; from dissect.ntfs import NTFS; "
        "NTFS(io.BytesIO(sys.stdin.buffer.read())).mft.get('Windows')"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", program], input=index_loop(), timeout=5)


@pytest.mark.parametrize(
    "limits",
    [
        ReaderLimits(time_s=0.05),
        ReaderLimits(memory_bytes=1 << 20),
        ReaderLimits(read_bytes=4096),
    ],
    ids=["time", "memory", "bytes"],
)
def test_a_reader_that_goes_over_its_limits_is_ended(limits: ReaderLimits) -> None:
    began = time.monotonic()
    with pytest.raises(ReaderFailed) as failed:
        inspect([MemoryDisk(usual_volume())], SERVICES, limits=limits)
    assert failed.value.remedy and time.monotonic() - began < 30


def test_the_process_answers_as_the_reading_does() -> None:
    disk = MemoryDisk(usual_volume())
    assert inspect([disk], SERVICES) == read_machine([disk], SERVICES)


def test_reading_the_registry_does_not_read_the_disk() -> None:
    """A disk of terabytes costs what its hive and some folders cost."""
    disk = MemoryDisk(usual_volume())
    read_machine([disk], SERVICES)
    assert disk.read_bytes < 2 << 20


class FailingDisk(MemoryDisk):
    """Breaks in the middle."""

    def read_at(self, offset: int, length: int) -> bytes:
        if self.read_bytes > 300_000:
            raise DiskFailed("cannot read sda: Input/output error")
        return super().read_at(offset, length)


def test_a_disk_that_fails_while_it_is_read_is_said_to_have_failed() -> None:
    with pytest.raises(DiskFailed, match="Input/output error"):
        inspect([FailingDisk(usual_volume())], SERVICES)


def test_without_the_optional_packages_the_remedy_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python of its own that has our other packages but not these."""
    bare = tmp_path / "python"
    hide = "import sys; sys.modules['dissect'] = None; sys.modules['dissect.ntfs'] = None; "
    run = "import shared.windows.reader as r; sys.exit(r.main())"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hide}{run}"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ReaderMissing) as missing:
        inspect([MemoryDisk(b"")], SERVICES)
    assert "requirements-windows.txt" in missing.value.remedy


def test_what_only_inspects_never_loads_the_optional_packages() -> None:
    program = (
        "import sys, shared.windows; "
        "sys.exit(any(name.split('.')[0] == 'dissect' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tree.ROOT, timeout=60)
    assert done.returncode == 0


def test_the_reader_gets_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    real = subprocess.Popen

    def watched(*words: Any, **named: Any) -> Any:
        seen.append(named["env"])
        return real(*words, **named)

    monkeypatch.setenv("SEAWALL_TOKEN", "secret")
    monkeypatch.setattr(subprocess, "Popen", watched)
    inspect([], SERVICES)
    assert [sorted(env) for env in seen] == [["LANG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH"]]
