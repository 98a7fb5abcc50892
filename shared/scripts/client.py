"""The service's side of a guard process, and the sweep of what dead guards left.

Owns the life of the process and the words exchanged with it; what the words mean for the caller
is results.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared.scripts import folder as folders
from shared.scripts import guard
from shared.scripts.errors import ScriptNotStarted, ScriptSetup
from shared.scripts.network import NOT_APART
from shared.scripts.users import ScriptUser

PREPARE_S_MAX = 15.0
GUARD_END_S_MAX = guard.KILL_S_MAX + guard.DRAIN_S_MAX + 30.0  # 30 s: removing a big folder
SWEEP_S_MAX = 60.0
KILL_PASSES_MAX = 50
PROBE_S_MAX = 10.0
PROGRAM = """import sys
sys.path.append({root!r})
from shared.scripts.{module} import main
sys.exit(main())
"""
"""How a helper process is started: isolated mode knows no folder of ours but the one it is given,
and its packages are imported from compiled files, as a script of its own would not be."""

_ROOT = str(Path(__file__).parents[2])


class GuardProcess:
    """One guard process seen from the service: prepare, run, always end."""

    def __init__(self, work_root: Path, user: ScriptUser) -> None:
        self._work_root = work_root
        self._user = user
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self, job: dict[str, Any]) -> None:
        """Bring the run to where only the script's process is missing, or ScriptNotStarted."""
        raw = marshal.dumps(job)
        try:
            async with asyncio.timeout(PREPARE_S_MAX):
                process = await self._spawn()
                stdin, stdout = _pipes(process)
                stdin.write(len(raw).to_bytes(8, "big") + raw)
                await stdin.drain()
                answer = (await stdout.readline()).decode(errors="replace").strip()
        except (OSError, TimeoutError) as error:
            raise _not_prepared(str(error) or f"not ready within {PREPARE_S_MAX} s") from error
        if not answer.startswith("R "):
            raise _not_prepared(answer.removeprefix("E ") or await self._last_words(process))

    async def run_script(self, timeout_s: float) -> bytes:
        """Start the script; the guard's report, empty if the guard itself was killed."""
        assert self._process is not None, "prepared before"
        stdin, stdout = _pipes(self._process)
        try:
            async with asyncio.timeout(timeout_s + GUARD_END_S_MAX):
                stdin.write(b"G")
                return await stdout.read()
        except (OSError, TimeoutError):
            return b""

    async def end(self) -> None:
        """The guard, the script's tree and the folder are gone afterwards. Idempotent.

        Closing the guard's input is what makes it clean up, so that comes before any await: it
        happens even if this call is itself cancelled.
        """
        process = self._process
        if process is None:
            return
        stdin, _ = _pipes(process)
        if not stdin.transport.is_closing():
            stdin.transport.abort()
        try:
            async with asyncio.timeout(GUARD_END_S_MAX):
                await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        if process.returncode != 0:
            # What does not fit in the time is left to the sweep of the next start.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S_MAX):
                    await asyncio.to_thread(
                        sweep_folders, self._work_root, self._user, guard_pid=process.pid
                    )

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *helper("guard"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_guard_environment(),
            cwd="/",
            start_new_session=True,
        )
        return self._process

    async def _last_words(self, process: asyncio.subprocess.Process) -> str:
        assert process.stderr is not None, "opened as a pipe"
        try:
            async with asyncio.timeout(1.0):
                words = await process.stderr.read(4096)
        except TimeoutError:
            return "the guard process gave no answer"
        last = words.decode(errors="replace").strip().rpartition("\n")[2]
        return last or "the guard process ended without an answer"


def helper(module: str) -> tuple[str, ...]:
    """The command that runs `main` of a module of this package, with the standard library only."""
    return (sys.executable, "-I", "-S", "-c", PROGRAM.format(root=_ROOT, module=module))


async def why_not_apart() -> str:
    """Why this machine cannot keep scripts from the network, by trying; "" where it can."""
    process = await asyncio.create_subprocess_exec(
        *helper("network"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_guard_environment(),
        cwd="/",
    )
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"{NOT_APART}: trying it took over {PROBE_S_MAX:g} s"
    if process.returncode != 0:
        return f"{NOT_APART}: trying it ended with {process.returncode}"
    return told.decode(errors="replace")


def _pipes(
    process: asyncio.subprocess.Process,
) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    assert process.stdin is not None, "opened as a pipe"
    assert process.stdout is not None, "opened as a pipe"
    return process.stdin, process.stdout


def _not_prepared(cause: str) -> ScriptNotStarted:
    return ScriptNotStarted(
        f"the script was not started, preparing it failed: {cause}",
        remedy="check free space, memory and process limits on the machine that runs the script",
    )


def _guard_environment() -> dict[str, str]:
    # Only what the interpreter itself may need to load; nothing of the service's environment.
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def choose_work_root(wanted: Path | None, user: ScriptUser) -> Path:
    """Where run folders go: `wanted`, else the first temporary folder `user` can walk to.

    Raises ScriptSetup where none fits.
    """
    usual = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    candidates = [wanted] if wanted else usual
    for root in candidates:
        if os.path.isdir(root) and user.reaches(root, os.X_OK):
            return root.absolute()
    raise ScriptSetup(
        f"scripts have no folder to run in: user {user.name!r} cannot enter "
        f"{' or '.join(map(str, candidates))}",
        remedy="name a folder for running scripts that this user can enter (mode 0711 on the way)",
    )


def sweep_folders(root: Path, user: ScriptUser, *, guard_pid: int | None = None) -> int:
    """Remove run folders without a living guard, ending orphans first; return how many.

    `guard_pid` limits it to the folder of that guard. Blocking. A folder that cannot be removed
    now is left for the next sweep.
    """
    prefix = folders.FOLDER_PREFIX if guard_pid is None else f"{folders.FOLDER_PREFIX}{guard_pid}-"
    swept = 0
    for folder in root.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            entry = folder.lstat()
            ours = stat.S_ISDIR(entry.st_mode) and entry.st_uid in (user.uid, os.geteuid())
            swept += ours and _sweep_one(str(folder))
    return swept


def _sweep_one(folder: str) -> bool:
    lock = folders.lock_folder(folder)
    if lock is None:
        return False
    try:
        for _ in range(KILL_PASSES_MAX):
            if guard.kill_with_context(f"{folder}/{folders.CONTEXT_NAME}") == 0:
                break
        folders.remove_folder(folder)
    finally:
        os.close(lock)
    return True
