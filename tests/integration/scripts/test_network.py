"""A script has no network unless its plan allows it; where that cannot be, it runs and says so."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.scripts.network import NOT_APART
from shared.scripts.users import ScriptUser
from tests import parts
from tests.integration.scripts.watching import Lab

ROOT = Path(__file__).parents[3]
NOBODY = 65534

CALL = """
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", {port}), 5):
        print("reached")
except OSError as error:
    print("cut off")
"""

OWN = """
import json, socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"
port = listener.getsockname()[1]
talked = subprocess.run([sys.executable, "-c", child, str(port)], timeout=20).returncode == 0
print(json.dumps({"outputs": {
    "interfaces": [name for _, name in socket.if_nameindex()], "talked": talked,
}}))
"""

SERVICE = """
import asyncio, concurrent.futures.thread, ctypes, json, os, sys
from pathlib import Path

if "weak" in sys.argv:  # root without CAP_SYS_ADMIN, as in most containers
    assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0
    os.execv(sys.executable, [*sys.orig_argv[:-1], "weakened"])

from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import ScriptSpec

if "nobody" in sys.argv:  # not from the start: its interpreter may lie where only root can go
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    sys.executable = sys.argv[-1]

async def nothing(): pass

async def main(base, content, *_):
    runner = ScriptRunner(home=Path(base) / "homes", work_root=Path(base) / "work")
    told = []
    for network in (False, True):
        spec = ScriptSpec(content=content.encode(), runtime="python", network=network)
        result = await runner.run(
            spec, context={}, secrets={}, on_started=nothing, run_id=f"r{network}"
        )
        told.append([result.outcome, result.output.strip(), result.warning])
    print(json.dumps({"runs": told, "why_not": await runner.why_not_apart(),
                      "fences": await runner.fences()}))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Something that answers on this machine's loopback."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def apart(lab: Lab) -> Lab:
    """A lab on a system that can keep scripts from the network."""
    if why_not := await lab.runner.why_not_apart():
        parts.require("netns", why_not)
    return lab


async def service(lab: Lab, content: str, *arguments: str) -> Any:
    """What a service process tells of a script that may not, and one that may use the network."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, str(lab.base), content, *arguments,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return json.loads(out)


async def _may_leave() -> bool:
    """Whether `unshare` of util-linux finds that nobody in particular may have a network apart."""
    program = shutil.which("unshare")
    if program is None:
        return False
    arguments = ("--user", "--net", "--map-current-user", "true")
    process = await asyncio.create_subprocess_exec(program, *arguments, user=NOBODY, group=NOBODY)
    return await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize("allowed", [False, True])
async def test_only_a_script_that_is_allowed_to_reaches_the_machines_network(
    apart: Lab, port: int, allowed: bool
) -> None:
    result = await apart.run(CALL.format(port=port), "python", network=allowed)
    assert (result.output, result.warning) == ("reached\n" if allowed else "cut off\n", None)


async def test_without_a_network_a_script_and_its_children_have_a_loopback_of_their_own(
    apart: Lab,
) -> None:
    result = await apart.run(OWN, "python")
    assert result.outputs == {"interfaces": ["lo"], "talked": True}, result


async def test_nothing_outside_the_machine_is_reached_without_a_network(apart: Lab) -> None:
    content = """
import errno, socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert (await apart.run(content, "python")).output == "ENETUNREACH\n"


async def test_the_failure_of_a_script_without_a_network_hints_at_it(apart: Lab) -> None:
    without = await apart.run("exit 3")
    allowed = await apart.run("exit 3", network=True)
    assert "`network: true`" in (without.error or "")
    assert "network" not in (allowed.error or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a power to lose")
async def test_where_the_system_does_not_allow_it_a_script_runs_and_says_so(
    lab: Lab, port: int
) -> None:
    told = await service(lab, CALL.format(port=port), "weak")
    kept, allowed = told["runs"]
    assert kept[:2] == ["done", "reached"] and kept[2].startswith(NOT_APART), kept
    assert "CAP_SYS_ADMIN" in kept[2]
    assert allowed == ["done", "reached", None]
    assert told["why_not"] == kept[2] and NOT_APART in told["fences"]
    # Whoever comes after a service that died is told as well.
    again = await lab.run("exit 0", run_id="rFalse", begun=True)
    assert again.warning == kept[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a service as somebody else")
async def test_a_service_that_is_not_root_keeps_scripts_apart_or_says_so(port: int) -> None:
    user = ScriptUser(name="nobody", uid=NOBODY, gid=NOBODY, switch=True)
    found = (Path(sys.executable), Path("/usr/bin/python3"))
    python = next((str(each) for each in found if user.reaches(each, os.X_OK)), None)
    if python is None:
        pytest.skip("nobody can reach no Python here")
    with tempfile.TemporaryDirectory(prefix="seawall-test-scripts-") as folder:
        base = Path(folder)
        base.chmod(0o755)
        lab = Lab(base)
        for path in (base, lab.work):
            os.chown(path, NOBODY, NOBODY)
        told = await service(lab, CALL.format(port=port), "nobody", python)
        kept, allowed = told["runs"]
        assert kept[1] == ("reached" if kept[2] else "cut off"), told
        assert not (kept[2] and await _may_leave()), "the system allows it, by another's word"
        assert (kept[2] or "") == told["why_not"]
        assert allowed == ["done", "reached", None]
        assert lab.folders() == []
