"""Guests as real processes: they answer, outlive who started them, and end for sure."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from shared.platforms.lab import tools
from shared.platforms.ports import Instance
from tests.failures import failure_mode
from tests.integration.lab.sites import (
    VM,
    call,
    east,
    marked_processes,
    recover,
    replicate,
    site,
    west,
)
from tests.waiting import eventually, wait_until

ROOT = Path(__file__).parents[3]
GUEST = "guest:\n  boots_in: 100ms\n  command: [python3, serve.py]\n"
# Serves the start of its disk and its host file, and leaves a child in a session of its own.
SERVE = """
import http.server, os, subprocess
disks = os.environ["SEAWALL_LAB_DISKS"].split(os.pathsep)
host, port = os.environ["SEAWALL_LAB_ADDRESS"].split(":")
subprocess.Popen(["sleep", "600"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with open(disks[0], "rb") as disk, open(os.environ["SEAWALL_LAB_HOSTS"], "rb") as hosts:
            self.wfile.write(disk.read(5) + b"|" + hosts.read())
    def log_message(self, *arguments):
        pass
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


def sites(root: Path) -> Path:
    folder = east(root, size=65536, guest=GUEST)
    (folder / "serve.py").write_text(SERVE, "utf-8")
    with open(folder / "sda.raw", "r+b") as disk:
        disk.write(b"hello")
    west(root)
    return folder


def answer(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}:8000/", timeout=2) as found:
            return str(found.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


async def recovered(root: Path) -> Instance:
    source, target = site(root, "east"), site(root, "west")
    copy = await replicate(source, target, "it")
    made = await recover(target, "rec", copy, "isolated")
    await source.close()
    await target.close()
    return made


async def test_a_recovered_guest_serves_its_disk_outlives_us_and_ends_with_its_children(
    tmp_path: Path,
) -> None:
    folder = sites(tmp_path)
    made = await recovered(tmp_path)
    # What it needs came with the copy: the original may be gone.
    (folder / "serve.py").unlink()
    instance = tmp_path / "west" / "instances" / made.instance_id
    mark = f"SEAWALL_LAB_GUEST={instance}#"
    try:
        await asyncio.to_thread(
            wait_until, lambda: answer(made.addresses[0]) != "", "the guest to answer"
        )
        seen = yaml.safe_load((instance / "instance.yaml").read_text("utf-8"))
        assert seen["power"] == "on" and seen["pid"] in marked_processes(mark)
        assert answer(made.addresses[0]) == f"hello|{VM} {made.addresses[0]}:8000\n"
        assert len(marked_processes(mark)) == 2
        target = site(tmp_path, "west")
        (listed,) = await target.compute.list_instances()
        assert listed.heartbeat
        await target.compute.power_off(call("off"), instance_id=made.instance_id)
        assert marked_processes(mark) == []
        assert answer(made.addresses[0]) == ""
        await target.compute.power_on(call("on again"), instance_id=made.instance_id)
        assert len(marked_processes(mark)) >= 1
        await target.compute.delete_instance(call("del"), instance_id=made.instance_id)
        assert marked_processes(mark) == [] and not instance.exists()
        hosts = tmp_path / "west" / ".lab" / "networks"
        assert [path.read_text("utf-8") for path in hosts.glob("*.hosts")] == [""]
        await target.close()
    finally:
        end(mark)


@failure_mode(
    "Guest",
    "dead",
    sees="The instance is on and has no heartbeat: its VM is not ready.",
    does="Look at its console on the platform; the disk is the copy's.",
)
async def test_a_guest_that_died_has_no_heartbeat(tmp_path: Path) -> None:
    sites(tmp_path)
    made = await recovered(tmp_path)
    instance = tmp_path / "west" / "instances" / made.instance_id
    mark = f"SEAWALL_LAB_GUEST={instance}#"
    target = site(tmp_path, "west")

    async def beats() -> bool:
        (listed,) = await target.compute.list_instances()
        return listed.heartbeat

    async def silent() -> bool:
        return not await beats()

    try:
        await eventually(beats, "a heartbeat")
        end(mark)
        await eventually(silent, "no heartbeat of a dead guest")
        (listed,) = await target.compute.list_instances()
        assert listed.power == "on"
    finally:
        end(mark)
        await target.close()


def test_a_source_vm_is_started_and_stopped_by_hand(tmp_path: Path) -> None:
    folder = sites(tmp_path)
    mark = f"SEAWALL_LAB_GUEST={folder}#"
    program = (
        "import sys; from shared.platforms.lab import tools\n"
        "(vm,) = tools.start(sys.argv[1]); print(vm.address)"
    )
    try:
        command = [sys.executable, "-c", program, str(tmp_path / "east")]
        first, second = (
            subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
            ).stdout.strip()
            for _ in range(2)
        )
        assert first == second
        address = first
        wait_until(lambda: answer(address) != "", "the source VM's guest to answer")
        (vm,) = tools.status(tmp_path / "east")
        assert (vm.name, vm.power, vm.heartbeat, vm.address) == (VM, "on", True, address)
        assert len(marked_processes(mark)) == 2
        state = yaml.safe_load((folder / "state.yaml").read_text("utf-8"))
        assert state["power"] == "on" and state["pid"] == vm.pid
        (vm,) = tools.stop(folder, grace_s=0.2)
        assert (vm.power, vm.heartbeat) == ("off", False)
        assert marked_processes(mark) == []
    finally:
        end(mark)


async def test_the_inventory_shows_the_power_of_a_stopped_vm(tmp_path: Path) -> None:
    folder = east(tmp_path, size=65536)
    source = site(tmp_path, "east")
    tools.stop(folder)
    assert [vm.power for vm in await source.inventory.list_vms()] == ["off"]
    tools.start(folder)
    assert [vm.power for vm in await source.inventory.list_vms()] == ["on"]
    await source.close()


def end(mark: str) -> None:
    for pid in marked_processes(mark):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
