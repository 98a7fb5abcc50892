"""What `site.yaml` and `vm.yaml` may say about Windows, and how errors in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import Permanent
from shared.platforms.lab.settings import read_site, read_vm
from shared.platforms.lab.windows_settings import AgentSpec, NodeSpec
from shared.windows import TARGETS, driver_target

VM = """
name: db
os: windows
disks: [{name: sda, file: sda.raw}]
guest:
  agent: {stopped: [W32Time], offline: [sda], network: down, silent: true, settles_in: 2s}
"""


def site(tmp_path: Path, text: str) -> Path:
    (tmp_path / "site.yaml").write_text(text, "utf-8")
    return tmp_path / "site.yaml"


def test_a_site_has_no_nodes_and_the_labs_drivers_unless_it_says_so(tmp_path: Path) -> None:
    found = read_site(tmp_path / "site.yaml")
    assert (found.prep_nodes, found.drivers) == ((), TARGETS["lab"])


def test_nodes_have_25_seats_unless_they_say_otherwise(tmp_path: Path) -> None:
    text = "prep_nodes: [{name: prep1}, {name: prep2, seats: 3}]"
    assert read_site(site(tmp_path, text)).prep_nodes == (
        NodeSpec(name="prep1", seats=25),
        NodeSpec(name="prep2", seats=3),
    )


def test_drivers_are_named_by_a_target_or_listed(tmp_path: Path) -> None:
    assert read_site(site(tmp_path, "drivers: kvm-scsi")).drivers == TARGETS["kvm-scsi"]
    text = "drivers: {storage: [a|b, c], network: [d]}"
    assert read_site(site(tmp_path, text)).drivers == driver_target("site", ["a|b", "c"], ["d"])


def test_a_guest_agent_says_what_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "vm.yaml").write_text(VM, "utf-8")
    assert read_vm(tmp_path / "db").guest.agent == AgentSpec(
        stopped=("W32Time",), offline=("sda",), network_up=False, silent=True, settles_in_s=2.0
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prep_nodes: [{name: a}, {name: a}]", 'a second node "a"'),
        ("prep_nodes: [{name: a, seats: 0}]", "seats"),
        ("prep_nodes: [{name: a, seat: 1}]", "seat"),
        ("drivers: kvn", "kvm"),
        ("drivers: [viostor]", "the name of a target"),
        ("drivers: {storage: [1]}", "storage"),
    ],
)
def test_an_error_says_where_and_what(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Permanent) as caught:
        read_site(site(tmp_path, text))
    assert told in caught.value.message
