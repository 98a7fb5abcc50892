"""What an operator does by hand: a lab site's machines and disks, and a look at the whole."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.operator import MIB, ControlPlane, Sites
from tests.waiting import wait_until

SERVER = """\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(open(os.environ["SEAWALL_LAB_DISKS"].split(os.pathsep)[0], "rb").read(5))
host, port = os.environ["SEAWALL_LAB_ADDRESS"].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as started:
        yield started


def machines(plane: ControlPlane, verb: str, path: Path) -> list[dict[str, Any]]:
    """What `lab start|stop|status -o json` tells."""
    answer = plane.say("lab", verb, str(path), "-o", "json")
    assert answer.code == 0, answer
    found: list[dict[str, Any]] = json.loads(answer.out)["items"]
    return found


def test_a_sites_machines_are_started_looked_at_and_stopped(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = Sites(plane, tmp_path, "hand")
    disk = sites.vm("db")
    document = yaml.safe_load((disk.parent / "vm.yaml").read_text())
    document["guest"] = {"boots_in": "50ms", "command": ["python3", "serve.py"]}
    (disk.parent / "vm.yaml").write_text(yaml.safe_dump(document))
    (disk.parent / "serve.py").write_text(SERVER)
    assert plane.say("lab", "write", str(disk), "--text", "hello").code == 0
    assert [each["pid"] for each in machines(plane, "status", sites.east)] == [None]
    try:
        (started,) = machines(plane, "start", sites.east)
        assert (started["name"], started["power"]) == ("db", "on")
        wait_until(
            lambda: machines(plane, "status", sites.east)[0]["heartbeat"],
            "the guest's heartbeat",
            within_s=20,
        )
        (running,) = machines(plane, "status", sites.east)
        wait_until(lambda: _answers(running["address"]) == b"hello", "it serves its own disk")
    finally:
        (stopped,) = machines(plane, "stop", sites.east)
    assert stopped["power"] == "off"
    assert "db" in plane.say("lab", "status", str(sites.east)).out


def _answers(address: str) -> bytes:
    try:
        # 8000 is a guest's port where its vm.yaml names none.
        with urllib.request.urlopen(f"http://{address}:8000/", timeout=2) as answer:
            content: bytes = answer.read()
            return content
    except OSError:
        return b""


def test_what_is_written_by_hand_is_what_the_next_iteration_sends(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = Sites(plane, tmp_path, "written")
    disk = sites.vm("db", size=8 * MIB)
    sites.add()
    assert sites.apply("db").status == 200
    assert sites.replicate()["state"] == "completed"
    before = disk.read_bytes()
    answer = plane.say("lab", "write", str(disk), "--random", "2", "--size", "64KiB")
    assert answer.code == 0, answer
    piece = plane.say("lab", "write", str(disk), "--offset", "4MiB", "--text", "by hand")
    assert piece.code == 0, piece
    assert disk.read_bytes()[4 * MIB :].startswith(b"by hand") and disk.read_bytes() != before
    sent = sites.replicate()
    assert sent["state"] == "completed"
    assert 0 < sent["bytes_done"] <= 3 * MIB
    outside = plane.say("lab", "write", str(disk), "--offset", "9MiB", "--text", "x")
    assert outside.code == 3 and "Traceback" not in outside.err


def test_a_ready_control_plane_is_told_so_by_doctor(plane: ControlPlane, tmp_path: Path) -> None:
    sites = Sites(plane, tmp_path, "well")
    sites.vm("db")
    sites.add()
    answer = plane.say("doctor")
    assert answer.code == 0, answer
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["control", "plane", "ready", "at", plane.url] in lines
    assert ["site", "well-east", "ok"] in lines
    told = json.loads(plane.say("doctor", "-o", "json").out)
    assert told["ready"]["status"] == "ready"
    assert told["as_of"]["lag_s"] >= 0
    assert {"well-east", "well-west"} <= {site["name"] for site in told["sites"]}
