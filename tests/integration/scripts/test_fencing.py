"""A script that hangs, floods, multiplies or eats is ended, and nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from shared.scripts import guard
from tests.failures import failure_mode
from tests.integration.scripts.watching import Lab, alive, daemon, eventually, guards, wait_for

MIB = 1024 * 1024


async def test_a_script_that_hangs_is_timed_out_with_all_it_started(lab: Lab) -> None:
    content = f"""{daemon(lab, "daemon")}
{wait_for(lab.scratch / "daemon")}
trap '' TERM INT HUP
echo $$ > {lab.scratch}/shell
echo before
sleep 600 & sleep 600"""
    start = time.monotonic()
    result = await lab.run(content, timeout_s=2)
    assert (result.outcome, result.exit_code) == ("timed-out", None)
    assert "within 2 s" in (result.error or "")
    assert result.output == "before\n"
    assert time.monotonic() - start < 6
    assert not alive(lab.pid("daemon"))
    assert not alive(lab.pid("shell"))
    assert lab.folders() == []


async def test_children_left_behind_are_ended_with_the_script(lab: Lab) -> None:
    content = f"""{daemon(lab, "daemon")}
{wait_for(lab.scratch / "daemon")}
sleep 600 & echo $! > {lab.scratch}/background
(setsid sleep 600 & echo $! > {lab.scratch}/session)
echo done"""
    start = time.monotonic()
    result = await lab.run(content, timeout_s=30)
    assert (result.outcome, result.output) == ("done", "done\n")
    assert time.monotonic() - start < 10, "waited for children that hold the output open"
    assert not any(alive(lab.pid(name)) for name in ("daemon", "background", "session"))


async def test_a_gigabyte_of_output_neither_blocks_nor_fills_memory(lab: Lab) -> None:
    printed, leave = lab.scratch / "printed", lab.scratch / "leave"
    content = f"""head -c 1000000000 /dev/zero | tr '\\0' 'x'
printf 'hunter22 THE END'
touch {printed}
{wait_for(leave)}"""
    own_before = psutil.Process().memory_info().rss
    run = asyncio.create_task(lab.run(content, secrets={"s": "hunter22"}, timeout_s=120))
    await eventually(printed.exists, within_s=110)
    (process,) = guards()
    status = Path(f"/proc/{process.pid}/status").read_text()
    guard_kib_max = int(status.partition("VmHWM:")[2].split()[0])
    leave.touch()
    result = await run
    assert result.outcome == "done"
    assert result.truncated
    assert result.output.endswith("xxx*** THE END")
    assert 65_000 < len(result.output.encode()) <= 65_536
    assert guard_kib_max < 32 * 1024
    assert psutil.Process().memory_info().rss - own_before < 32 * MIB


@failure_mode(
    "Script",
    "lying",
    sees="Endless output is cut at the limit and does not hold up its time-out.",
    does="Mend the script.",
)
async def test_output_that_never_stops_does_not_hold_the_timeout_up(lab: Lab) -> None:
    start = time.monotonic()
    result = await lab.run("yes", timeout_s=1)
    assert result.outcome == "timed-out"
    assert result.truncated
    assert time.monotonic() - start < 5


async def test_memory_of_one_process_is_limited(lab: Lab) -> None:
    result = await lab.run("x = bytearray(2**30)", "python", memory_bytes_max=256 * MIB)
    assert result.outcome == "failed"
    assert "MemoryError" in result.output


async def test_memory_of_the_whole_tree_is_limited(lab: Lab) -> None:
    content = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        x = bytearray(100 * 2**20)
        time.sleep(60)
time.sleep(60)
"""
    result = await lab.run(content, "python", memory_bytes_max=256 * MIB, timeout_s=30)
    assert result.outcome == "killed"
    assert "memory" in (result.error or "")


async def test_cpu_time_of_one_process_is_limited(lab: Lab) -> None:
    result = await lab.run("while :; do :; done", cpu_s_max=1, timeout_s=30)
    assert result.outcome == "killed"
    assert "CPU time" in (result.error or "")


async def test_cpu_time_of_the_whole_tree_is_limited(lab: Lab) -> None:
    # Each of the processes stays below the limit that the kernel sets to one.
    content = "i=0; while test $i -lt 1000; do timeout 0.3 sh -c 'while :; do :; done'; done"
    result = await lab.run(content, cpu_s_max=1, timeout_s=30)
    assert result.outcome == "killed"
    assert "CPU time" in (result.error or "")


async def test_the_size_of_a_file_is_limited(lab: Lab) -> None:
    content = "exec head -c 5000000 /dev/zero > big"
    result = await lab.run(content, file_bytes_max=MIB)
    assert result.outcome == "killed"
    assert "one file" in (result.error or "")


async def test_the_number_of_processes_is_limited(lab: Lab) -> None:
    # Bounded by itself: a real fork bomb would take the machine along where the limit is broken.
    content = """
import os, time
made = 0
try:
    for made in range(200):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
except BlockingIOError:
    print(made)
"""
    before = len(psutil.pids())
    result = await lab.run(content, "python", processes_max=40, timeout_s=10)
    assert result.outcome == "done"
    assert 20 < int(result.output) <= 40
    assert len(psutil.pids()) < before + 20


async def test_the_whole_tree_is_limited_where_the_kernel_counts_what_others_have_ended(
    lab: Lab,
) -> None:
    # The kernel counts all processes of a user: what another script had when this one began is
    # room that this one has when the other has ended.
    other = asyncio.create_task(
        lab.run(f"for i in $(seq 60); do sleep 60 & done; touch {lab.scratch}/up; sleep 60")
    )
    await eventually((lab.scratch / "up").exists)
    content = f"""
import os, time
open("{lab.scratch}/begun", "w")
while not os.path.exists("{lab.scratch}/ended"):
    time.sleep(0.01)
for _ in range(50):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
time.sleep(20)
"""
    run = asyncio.create_task(lab.run(content, "python", processes_max=20, timeout_s=30))
    await eventually((lab.scratch / "begun").exists)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    (lab.scratch / "ended").touch()
    result = await run
    assert result.outcome == "killed", result
    assert "processes and threads" in (result.error or "")


async def test_the_kernel_holds_every_limit_of_each_process_too(lab: Lab) -> None:
    content = """
import json, os, resource
names = ("DATA", "FSIZE", "CPU", "CORE")
limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"outputs": {
    "limits": limits, "privileges": status["NoNewPrivs"].strip(),
    "powers": status["CapEff"].strip(" \\t\\n0"), "group": os.getpgid(0) == os.getsid(0),
}}))
"""
    result = await lab.run(
        content, "python", memory_bytes_max=256 * MIB, file_bytes_max=MIB, cpu_s_max=7
    )
    assert result.outputs == {
        "limits": {
            "DATA": [256 * MIB] * 2, "FSIZE": [MIB] * 2, "CPU": [7, 8], "CORE": [0, 0],
        },
        "privileges": "1", "powers": "", "group": True,
    }, result  # fmt: skip


async def test_a_chain_that_forks_and_exits_faster_than_one_can_look_is_ended(lab: Lab) -> None:
    content = f"""
import os, time
open("{lab.scratch}/context", "w").write(os.environ["SEAWALL_CONTEXT"])
end = time.monotonic() + 10
while time.monotonic() < end:
    try:
        if os.fork():
            os._exit(0)
    except BlockingIOError:
        pass
open("{lab.scratch}/survived", "w")
"""
    start = time.monotonic()
    result = await lab.run(content, "python")
    assert (result.outcome, result.warning) == ("done", None)
    assert time.monotonic() - start < 8, "the chain ended by itself"
    assert guard.kill_with_context((lab.scratch / "context").read_text()) == 0


async def test_cancelling_ends_the_tree_and_removes_the_folder(lab: Lab) -> None:
    content = f"""{daemon(lab, "daemon")}
{wait_for(lab.scratch / "daemon")}
echo $$ > {lab.scratch}/shell.new && mv {lab.scratch}/shell.new {lab.scratch}/shell; sleep 600"""
    run = asyncio.create_task(lab.run(content))
    await eventually((lab.scratch / "shell").exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not alive(lab.pid("daemon"))
    assert not alive(lab.pid("shell"))
    assert lab.folders() == []
    assert guards() == []


async def test_cancelling_while_the_start_is_recorded_starts_nothing(lab: Lab) -> None:
    recording = asyncio.Event()

    async def on_started() -> None:
        recording.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(lab.run(f"touch {lab.scratch}/ran", on_started=on_started))
    await asyncio.wait_for(recording.wait(), 10)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not (lab.scratch / "ran").exists()
    assert lab.folders() == []


async def test_a_secret_is_on_no_command_line_and_in_no_environment(lab: Lab) -> None:
    secret = uuid4().hex
    content = f"cat > /dev/null; touch {lab.scratch}/up; {wait_for(lab.scratch / 'leave')}"
    run = asyncio.create_task(
        lab.run(content, context={"password": secret}, secrets={"p": secret})
    )
    await eventually((lab.scratch / "up").exists)
    found = []
    looked_at = 0
    for pid in psutil.pids():
        for name in ("cmdline", "environ"):
            try:
                text = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            looked_at += 1
            if secret.encode() in text:
                found.append((pid, name))
    (lab.scratch / "leave").touch()
    assert (await run).outcome == "done"
    assert found == []
    assert looked_at > 4


@pytest.mark.parametrize(
    "content",
    [
        'rm "$SEAWALL_CONTEXT"',
        "mkdir a; touch a/b; chmod 000 a; chmod 000 .",
        "ln -s /etc link; ln -s / ../root; mkfifo pipe; touch .hidden",
        'rm -rf "$(dirname "$SEAWALL_CONTEXT")" 2>/dev/null; true',
    ],
)
async def test_whatever_a_script_does_to_its_folder_the_folder_goes(
    lab: Lab, content: str
) -> None:
    result = await lab.run(content)
    assert (result.outcome, result.warning) == ("done", None)
    assert lab.folders() == []
    assert Path("/etc/passwd").exists()


async def test_folders_nested_deeper_than_a_path_may_be_are_removed(lab: Lab) -> None:
    content = "import os\nfor _ in range(3000):\n    os.mkdir('d' * 20)\n    os.chdir('d' * 20)\n"
    result = await lab.run(content, "python")
    assert (result.outcome, result.warning) == ("done", None)
    assert lab.folders() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is what protects the guard")
async def test_a_script_cannot_end_or_read_its_guard(lab: Lab) -> None:
    content = """kill -9 $PPID 2>/dev/null && echo killed
cat /proc/$PPID/environ 2>/dev/null && echo read
echo x > /proc/$PPID/fd/1 && echo wrote
true"""
    result = await lab.run(content)
    assert result.outcome == "done"
    assert not {"killed", "read", "wrote"} & set(result.output.split())
