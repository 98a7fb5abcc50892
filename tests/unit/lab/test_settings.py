"""site.yaml and vm.yaml: what is read, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import Permanent
from shared.platforms.lab.settings import Quota, SiteSettings, VmSpec, read_site, read_vm

VM = """name: db
os: windows
cpus: 2
memory: 4GiB
disks:
  - {name: sda, file: sda.raw}
  - {name: sdb, file: sdb.raw}
networks: [prod]
guest:
  boots_in: 2s
  command: [python3, serve.py]
"""


def vm_folder(root: Path, text: str, name: str = "db") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "vm.yaml").write_text(text, "utf-8")
    return folder


def site_file(root: Path, text: str) -> Path:
    path = root / "site.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_vm_is_read_with_its_guest(tmp_path: Path) -> None:
    vm = read_vm(vm_folder(tmp_path, VM))
    assert (vm.name, vm.os, vm.cpus, vm.memory) == ("db", "windows", 2, 4 << 30)
    assert [(disk.name, disk.file) for disk in vm.disks] == [
        ("sda", "sda.raw"),
        ("sdb", "sdb.raw"),
    ]
    assert vm.guest.boots_in_s == 2.0 and vm.guest.command == ("python3", "serve.py")
    assert vm.guest.port == 8000


def test_the_guests_small_files_travel_with_the_configuration(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path, VM)
    (folder / "serve.py").write_text("pass", "utf-8")
    (folder / "sda.raw").write_text("a disk", "utf-8")
    (folder / "blob").write_bytes(b"\xff\xfe")
    configuration = read_vm(folder).configuration()
    assert configuration["files"] == {"serve.py": "pass"}
    assert VmSpec.from_configuration(configuration, name="x") == read_vm(folder)


def test_files_too_large_for_an_event_stay_behind(tmp_path: Path) -> None:
    folder = vm_folder(tmp_path, VM)
    (folder / "serve.py").write_text("#" * 20_000, "utf-8")
    (folder / "notes.txt").write_text("#" * 20_000, "utf-8")
    assert set(read_vm(folder).files) == {"serve.py"}
    (folder / "serve.py").write_text("#" * 40_000, "utf-8")
    assert set(read_vm(folder).files) == {"notes.txt"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("os: windows", "os: dos"), ':2: os: found "dos"; allowed: linux, windows'),
        (("cpus: 2", "cpus: many"), ':3: cpus: found "many"; allowed: a whole number'),
        (("cpus: 2", "cpu: 2"), ":3: cpu: found an unknown key"),
        (("file: sdb.raw", "file: ../sdb.raw"), "disks[1].file: found"),
        (("name: sdb", "name: sda"), 'found a second disk "sda"; allowed: each name once'),
        (("name: db", "name: other"), 'allowed: "db", the name of the folder'),
        (("boots_in: 2s", "boots_in: 2"), ":10: guest.boots_in: found 2; allowed: a duration"),
        (("memory: 4GiB", "memory: [4GiB"), ":5"),
    ],
)
def test_an_error_names_file_line_field_found_and_allowed(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    folder = vm_folder(tmp_path, VM.replace(*change))
    with pytest.raises(Permanent) as caught:
        read_vm(folder)
    assert str(folder / "vm.yaml") in caught.value.message
    assert said in caught.value.message
    assert caught.value.remedy


def test_a_vm_without_disks_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="disks: found nothing"):
        read_vm(vm_folder(tmp_path, "name: db\n"))
    with pytest.raises(Permanent, match=r"vm\.yaml"):
        read_vm(tmp_path / "nobody")


def test_a_site_is_read_and_may_be_empty(tmp_path: Path) -> None:
    assert read_site(tmp_path / "site.yaml") == SiteSettings()
    assert read_site(site_file(tmp_path, "")) == SiteSettings()
    site = read_site(
        site_file(
            tmp_path,
            "latency: {create_instance: 1.5s, power_on: 300ms}\n"
            "quotas:\n"
            "  RunInstances: {burst: 5, per_second: 2}\n"
            "  PutBlock: {burst: 1000, per_second: 1000}\n"
            "  snapshot-writes: {concurrent: 100}\n"
            "faults: {seed: 7, create_instance: 0.01, write_chunk: 0.001}\n"
            "capacity: 100GiB\n"
            "journal: hashes\n",
        )
    )
    assert site.latency_s == {"create_instance": 1.5, "power_on": 0.3}
    assert site.quotas["RunInstances"] == Quota(burst=5, per_second=2)
    assert site.quotas["snapshot-writes"] == Quota(concurrent=100)
    assert (site.fault_seed, site.faults["write_chunk"]) == (7, 0.001)
    assert (site.capacity, site.journal) == (100 << 30, "hashes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency: {create_instanse: 1s}", 'did you mean "create_instance"?'),
        ("quotas: {RunInstance: {burst: 1, per_second: 1}}", 'did you mean "RunInstances"?'),
        ("quotas: {PutBlock: {burst: 1}}", "quotas.PutBlock.per_second: found nothing"),
        ("quotas: {PutBlock: {concurrent: 1, burst: 2}}", "allowed: nothing beside concurrent"),
        ("faults: {power_on: 2}", "faults.power_on: found 2; allowed: a number from 0 to 1"),
        ("faults: {seed: x}", 'faults.seed: found "x"'),
        ("faults: yes", 'faults: found "yes"'),
        ("journal: maybe", 'journal: found "maybe"; allowed: true, false or hashes'),
        ("capacity: 5", "capacity: found 5; allowed: a size"),
        ("colour: red", 'an unknown key "colour"'),
    ],
)
def test_an_error_in_a_site_says_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Permanent) as caught:
        read_site(site_file(tmp_path, text))
    assert said in caught.value.message and "site.yaml:1" in caught.value.message
