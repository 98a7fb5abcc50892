"""When the service or the guard dies, the script and its folder go too."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from shared.scripts.runner import ScriptRunner
from tests.failures import failure_mode
from tests.integration.scripts.watching import Lab, alive, daemon, eventually, guards, wait_for

ROOT = Path(__file__).parents[3]

SERVICE = """
import asyncio, sys
from pathlib import Path
from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import ScriptSpec

async def nothing(): pass

async def main(base, content):
    runner = ScriptRunner(home=Path(base) / "homes", work_root=Path(base) / "work")
    spec = ScriptSpec(content=content.encode(), runtime="sh")
    await runner.run(spec, context={"a": 1}, secrets={}, on_started=nothing, run_id="a")

asyncio.run(main(*sys.argv[1:]))
"""


def lasting(lab: Lab, *, in_daemon: str = "") -> str:
    """A script that leaves a daemon, writes its own pid to `shell`, and stays."""
    started = in_daemon or daemon(lab, "daemon")
    return f"""{started}
{wait_for(lab.scratch / "daemon")}
echo $$ > {lab.scratch}/shell.new && mv {lab.scratch}/shell.new {lab.scratch}/shell
sleep 600"""


@asynccontextmanager
async def service(lab: Lab, content: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A service process that runs `content`, once the script is up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, str(lab.base), content, cwd=ROOT
    )
    try:
        await eventually((lab.scratch / "shell").exists, within_s=20)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_kill_9_of_the_service_ends_the_whole_tree_within_two_seconds(lab: Lab) -> None:
    async with service(lab, lasting(lab)) as process:
        (guard,) = guards(process.pid)
        pids = [lab.pid("daemon"), lab.pid("shell")]
        assert all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
        await eventually(lambda: not any(map(alive, pids)), within_s=2, what="script tree gone")
        await eventually(lambda: not alive(guard.pid), within_s=2, what="guard gone")
        assert lab.folders() == []


async def test_a_script_at_its_end_when_the_service_is_killed_reaches_it_and_is_known(
    lab: Lab,
) -> None:
    content = f"echo $$ > {lab.scratch}/shell; sleep 0.02; exit 3\n"
    async with service(lab, content) as process:
        process.send_signal(signal.SIGKILL)
    result = await lab.run(content, run_id="a", begun=True)
    assert (result.outcome, result.exit_code) == ("failed", 3)


async def test_sigterm_to_the_guard_ends_the_script_as_killed(lab: Lab) -> None:
    run = asyncio.create_task(lab.run(lasting(lab)))
    await eventually((lab.scratch / "shell").exists)
    (guard,) = guards()
    guard.send_signal(signal.SIGTERM)
    result = await run
    assert result.outcome == "killed"
    assert not alive(lab.pid("daemon"))
    assert lab.folders() == []


@failure_mode(
    "Script",
    "dead",
    sees="The step says that the script was killed; all it had started is ended.",
    does=("Look at what it had done; scripts are never repeated unless they declare retries."),
)
async def test_kill_9_of_the_guard_ends_the_script_and_is_told(lab: Lab) -> None:
    # This daemon keeps its environment: without a guard nothing else tells whose it is.
    content = lasting(lab, in_daemon=f"setsid sh -c 'echo $$ > {lab.scratch}/daemon; sleep 600' &")
    run = asyncio.create_task(lab.run(content))
    await eventually((lab.scratch / "shell").exists)
    (guard,) = guards()
    guard.send_signal(signal.SIGKILL)
    result = await run
    assert result.outcome == "killed"
    assert "guard" in (result.error or "")
    assert not alive(lab.pid("shell"))
    await eventually(lambda: not alive(lab.pid("daemon")), within_s=2)
    assert lab.folders() == []


async def test_a_sweep_removes_what_a_dead_guard_left_and_spares_the_living(lab: Lab) -> None:
    content = lasting(lab, in_daemon=f"setsid sh -c 'echo $$ > {lab.scratch}/daemon; sleep 600' &")
    async with service(lab, content) as process:
        (guard,) = guards(process.pid)
        process.send_signal(signal.SIGSTOP)  # so that it cannot clean up after its guard
        guard.send_signal(signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await eventually(lambda: not alive(lab.pid("shell")), within_s=2)
    assert alive(lab.pid("daemon")), "the orphan that the sweep has to find"
    (left,) = lab.folders()

    leave, up = lab.scratch / "leave", lab.scratch / "up"
    living = Lab.__new__(Lab)
    living.runner = ScriptRunner(home=lab.base / "homes", work_root=lab.work)
    living.runner._sweep_done = True
    run = asyncio.create_task(living.run(f"touch {up}; {wait_for(leave)}; pwd"))
    await eventually(up.exists)

    assert await lab.runner.sweep() == 1
    assert not left.exists()
    await eventually(lambda: not alive(lab.pid("daemon")), within_s=2)
    leave.touch()
    assert (await run).outcome == "done"
    assert lab.folders() == []


async def test_a_sweep_leaves_what_is_not_ours(lab: Lab) -> None:
    (lab.work / "other").mkdir()
    (lab.work / "seawall-script-1-file").write_text("")
    target = lab.base / "target"
    target.mkdir()
    (target / "kept").write_text("")
    (lab.work / "seawall-script-1-link").symlink_to(target)
    assert await lab.runner.sweep() == 0
    assert (target / "kept").exists()
    assert len(lab.folders()) == 3


async def test_the_first_run_sweeps(lab: Lab) -> None:
    (lab.work / "seawall-script-999999-old").mkdir()
    await lab.run("true")
    assert lab.folders() == []


async def test_no_guard_and_no_zombie_stays_after_many_runs(lab: Lab) -> None:
    for _ in range(5):
        await lab.run("true")
    children = psutil.Process(os.getpid()).children()
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    assert guards() == []
