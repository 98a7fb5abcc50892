"""A runner with folders the script user can reach, and ways to watch processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import Runtime, ScriptResult, ScriptSpec

# Starts a child that leaves session, group and parent behind, writes its pid and stays.
DOUBLE_FORK = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(600)
    os._exit(0)
os.wait()
"""


class Lab:
    """A runner of its own, a scratch folder that scripts may write, and a run in one call."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.scratch = base / "scratch"
        self.work = base / "work"
        for folder in (self.scratch, self.work):
            folder.mkdir()
            folder.chmod(0o777)
        self.runner = ScriptRunner(home=base / "homes", work_root=self.work)

    async def run(
        self,
        content: str,
        runtime: Runtime = "sh",
        *,
        context: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        on_started: Callable[[], Awaitable[None]] | None = None,
        run_id: str = "",
        begun: bool = False,
        **limits: Any,
    ) -> ScriptResult:
        async def nothing() -> None:
            return None

        return await self.runner.run(
            ScriptSpec(content=content.encode(), runtime=runtime, **limits),
            context=context or {},
            secrets=secrets or {},
            on_started=on_started or nothing,
            run_id=run_id,
            begun=begun,
        )

    def folders(self) -> list[Path]:
        return list(self.work.iterdir())

    def pid(self, name: str) -> int:
        return int((self.scratch / name).read_text())


async def eventually(
    condition: Callable[[], Any], *, within_s: float = 10.0, what: str = ""
) -> None:
    """Wait until `condition()` is true, or fail after `within_s` seconds."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {within_s} s: {what or condition}")
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether `pid` is a process that still runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def guards(of: int | None = None) -> list[psutil.Process]:
    """Guard processes started by process `of` (this one by default)."""
    children = psutil.Process(of or os.getpid()).children()
    return [child for child in children if "shared.scripts.guard" in " ".join(child.cmdline())]


def daemon(lab: Lab, name: str) -> str:
    """Shell line that starts a daemon which escapes group, session, parent and environment."""
    source = lab.scratch / "daemon.py"
    source.write_text(DOUBLE_FORK)
    source.chmod(0o644)
    return f"python3 {source} {lab.scratch / name}"


def wait_for(path: Path) -> str:
    """Shell line that waits for a file."""
    return f"while ! test -e {path}; do sleep 0.02; done"
