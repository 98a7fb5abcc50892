"""Names, flat YAML, processes' stat lines, bounded journals."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Permanent, Refused
from shared.platforms.lab.copies import _decode_name
from shared.platforms.lab.folder import SiteFolder, component
from shared.platforms.lab.guests import parse_stat, runs
from shared.platforms.lab.machines import (
    InstanceRecord,
    add_host,
    drop_host,
    hosts_path,
)
from shared.platforms.lab.records import dump_flat, read_flat
from shared.platforms.lab.tracking import NEW, OUTSIDE, RESIZED, ChangeJournal

RECORD = InstanceRecord(
    id="i-1",
    name="no",
    plan="shop: the plan",
    vm="db",
    job="recovery:1",
    effect_id="recovery:1/create/db",
    power="on",
    powered_on_at=dt.datetime(2026, 11, 22, 20, 0, 0, 1, tzinfo=dt.UTC),
    network="isolated",
    addresses=("127.1.2.3",),
    disks=("sda.raw", "sdb.raw"),
    pid=77,
)


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_every_name_becomes_one_safe_path_component_and_back(name: str) -> None:
    safe = component(name)
    assert "/" not in safe and not safe.startswith(".") and safe.isascii()
    assert _decode_name(safe) == name


def test_names_that_mean_another_folder_are_encoded() -> None:
    assert component("shop-1.a_b") == "shop-1.a_b"
    assert component("..") == "%2E%2E"
    with pytest.raises(Refused):
        component("")


def test_an_instance_record_is_yaml_for_everyone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "instance.yaml"
    path.write_bytes(dump_flat(RECORD))
    assert read_flat(path, InstanceRecord) == RECORD
    seen = yaml.safe_load(path.read_text("utf-8"))
    assert (seen["power"], seen["name"], seen["pid"]) == ("on", "no", 77)
    assert seen["plan"] == "shop: the plan" and seen["disks"] == ["sda.raw", "sdb.raw"]
    assert dt.datetime.fromisoformat(seen["powered_on_at"]) == RECORD.powered_on_at


def test_a_record_edited_by_hand_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "instance.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(dump_flat(RECORD))), "utf-8")
    assert read_flat(path, InstanceRecord) == RECORD
    path.write_text("id: [", "utf-8")
    with pytest.raises(Permanent, match=r"instance\.yaml"):
        read_flat(path, InstanceRecord)
    assert read_flat(tmp_path / "none", InstanceRecord) is None


def test_a_process_is_known_by_number_and_start() -> None:
    with open("/proc/self/stat", encoding="ascii") as file:
        mine = parse_stat(file.read())
    assert mine is not None and mine.pid == os.getpid()
    assert runs(mine.pid, mine.started)
    assert not runs(mine.pid, mine.started + 1)
    odd = parse_stat("12 (a) S) b) S 1 12 11 0 -1 1 1 1 1 1 1 1 1 1 20 0 1 0 4242 1 1")
    assert odd is not None and (odd.pid, odd.session, odd.started) == (12, 11, 4242)
    assert parse_stat("nonsense") is None


@pytest.fixture
def disk(tmp_path: Path) -> int:
    path = tmp_path / "sda.raw"
    path.write_bytes(bytes(1 << 20))
    return os.open(path, os.O_RDWR)


def journal(tmp_path: Path, disk: int, epoch: int = 1) -> ChangeJournal:
    opened = ChangeJournal(tmp_path / "changes", disk, epoch)
    opened.notice(epoch)
    return opened


def test_a_new_journal_knows_nothing_of_the_time_before(tmp_path: Path, disk: int) -> None:
    found = journal(tmp_path, disk, epoch=3)
    assert (found.unknown_epoch, found.reason) == (3, NEW)


def test_a_write_in_the_same_tick_as_a_tracked_one_is_noticed(tmp_path: Path, disk: int) -> None:
    first = journal(tmp_path, disk)
    first.announce(2, [(0, 10)])
    os.pwrite(disk, b"x" * 10, 0)
    first.done()
    os.pwrite(disk, b"behind its back", 500)
    assert (journal(tmp_path, disk, 2).unknown_epoch, journal(tmp_path, disk, 2).reason) == (
        2,
        OUTSIDE,
    )


def test_a_write_cut_off_after_its_announcement_is_known(tmp_path: Path, disk: int) -> None:
    journal(tmp_path, disk).announce(2, [(4096, 8192)])
    os.pwrite(disk, b"half of it", 4096)
    found = journal(tmp_path, disk, 2)
    assert found.unknown_epoch == 1
    assert found.changed(1, 2) == [(4096, 8192)]


def test_a_change_long_after_an_announcement_is_not_explained_by_it(
    tmp_path: Path, disk: int
) -> None:
    journal(tmp_path, disk).announce(2, [(0, 10)])
    later = time.time_ns() + 60 * 10**9
    os.utime(disk, ns=(later, later))
    assert journal(tmp_path, disk, 2).reason == OUTSIDE


def test_a_resized_disk_is_noticed(tmp_path: Path, disk: int) -> None:
    journal(tmp_path, disk)
    os.ftruncate(disk, 5000)
    assert journal(tmp_path, disk, 2).reason == RESIZED


def test_the_journal_is_bounded_and_hides_no_change(
    tmp_path: Path, disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.platforms.lab.tracking._COMPACT_BYTES", 24 * 40)
    found = journal(tmp_path, disk)
    for number in range(100):
        found.announce(
            2 + number // 60, [(number * 8192 % (1 << 20), number * 8192 % (1 << 20) + 9)]
        )
    before = found.changed(1, 3)
    found.compact()
    assert found.records_end - 4096 <= 24 * 40
    after = ChangeJournal(tmp_path / "changes", disk, 3).changed(1, 3)
    for start, end in before:
        assert any(low <= start and end <= high for low, high in after)


def test_a_machine_is_one_line_of_its_networks_hosts_whatever_else_is_added(
    tmp_path: Path,
) -> None:
    site = SiteFolder(tmp_path)
    add_host(site, "isolated@shop", "db", "127.1.1.1:8000")
    add_host(site, "isolated@shop", "my-db", "127.1.1.1:8000")
    add_host(site, "isolated@shop", "db", "127.1.1.2:8000")
    add_host(site, "isolated@shop", "db", "127.1.1.1:9000")
    add_host(site, "prod", "db", "127.1.1.9:8000")
    assert hosts_path(site, "isolated@shop").read_text().splitlines() == [
        "my-db 127.1.1.1:8000",
        "db 127.1.1.2:8000",
        "db 127.1.1.1:9000",
    ]
    drop_host(site, "isolated@shop", "my-db", "127.1.1.1")
    assert "my-db" not in hosts_path(site, "isolated@shop").read_text()
