"""Run one script through its own guard process and say what came of it.

Owns the order of a run: prepare everything, let the caller record the start, start, wait, mask;
before that, where a start is on record already, what came of it. Limits, output and the process
tree belong to guard.py, what it leaves of a run to record.py. Never starts twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shared.scripts import runtimes
from shared.scripts.client import GuardProcess, choose_work_root, sweep_folders, why_not_apart
from shared.scripts.errors import ScriptEndUnknown, ScriptNotStarted
from shared.scripts.folder import FOLDER_PREFIX
from shared.scripts.masking import Masker
from shared.scripts.record import (
    KEEP_S,
    Earlier,
    boot_id,
    read_record,
    record_path,
    sweep_records,
)
from shared.scripts.results import read_result
from shared.scripts.spec import OUTPUTS_BYTES_MAX, Runtime, ScriptResult, ScriptSpec
from shared.scripts.users import make_private_folder, script_user
from shared.secrets import Secret

SWEEP_S_MAX = 60.0
EARLIER_S_MAX = 10.0
"""How long a guard whose service died may take to end the script's tree, and itself."""

EARLIER_POLL_S = 0.05
EARLIER_LOOKS_MAX = int(EARLIER_S_MAX / EARLIER_POLL_S)
CONTEXT_BYTES_MAX = 1024 * 1024
# Where a root service keeps script homes when its own home lies where no other user can go.
ROOT_CACHE = Path("/var/cache/seawall-scripts")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ScriptRunner:
    """Runs scripts one by one or side by side; any number of runs may be in flight.

    `home` holds one cache folder per script user (their HOME). `as_user`: None means `nobody`
    when started as root, else the service's own user. `work_root` holds the folders of running
    scripts (default: the system's folder for temporary files). `path` is the PATH scripts see.
    Scripts of one user can read each other's files while they run: give services that must not
    trust each other's scripts different users.
    """

    def __init__(
        self,
        *,
        home: Path,
        as_user: str | None = None,
        work_root: Path | None = None,
        path: str | None = None,
        root_cache: Path = ROOT_CACHE,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Raises ScriptSetup where no script could ever run so. Touches no file."""
        self._user = script_user(as_user)
        self._path = path or os.environ.get("PATH") or runtimes.DEFAULT_PATH
        self._homes = home
        self._records = home / ".runs"
        self._root_cache = root_cache
        self._now = now
        self._work_root = choose_work_root(work_root, self._user)
        self._swept = asyncio.Lock()
        self._sweep_done = False
        self._not_apart: str | None = None

    @property
    def user(self) -> str:
        """Name of the user scripts run as."""
        return self._user.name

    def check_runtime(self, runtime: Runtime) -> str | None:
        """None if `runtime` can be used here and now, else cause and remedy. For preflight."""
        if runtimes.find_program(runtime, path=self._path, user=self._user) is None:
            return runtimes.missing_text(runtime, path=self._path, user=self._user)
        return None

    async def why_not_apart(self) -> str:
        """Why scripts cannot be kept from the network here, "" where they can.

        Tried once, by a process like the one that runs a script: what a system allows does not
        follow from who asks. For preflight and for people; each run tries for itself.
        """
        if self._not_apart is None:
            self._not_apart = await why_not_apart()
        return self._not_apart

    async def fences(self) -> str:
        """How scripts are fenced in here, for people."""
        own = f"user {self.user}" if self._user.switch else f"the service's own user {self.user}"
        lacking = await self.why_not_apart()
        return f"run as {own}, {lacking or 'without a network unless their plan allows it'}"

    async def sweep(self) -> int:
        """Remove what runs of dead guards left (folders, processes); return how many folders.

        Only folders with our prefix, of our or the script's user, whose guard no longer lives.
        Done once by itself before the first run. Raises ScriptNotStarted after SWEEP_S_MAX.
        """
        try:
            async with asyncio.timeout(SWEEP_S_MAX):
                count = await asyncio.to_thread(sweep_folders, self._work_root, self._user)
                await asyncio.to_thread(sweep_records, self._records)
        except TimeoutError:
            raise ScriptNotStarted(
                f"removing what ended scripts left in {self._work_root} took over {SWEEP_S_MAX} s",
                remedy=f"remove {self._work_root}/{FOLDER_PREFIX}* by hand",
            ) from None
        self._sweep_done = True
        return count

    async def run(
        self,
        spec: ScriptSpec,
        *,
        context: Mapping[str, Any],
        secrets: Mapping[str, str | Secret],
        on_started: Callable[[], Awaitable[None]],
        run_id: str = "",
        begun: bool = False,
    ) -> ScriptResult:
        """Run `spec` once and return how it ended; its whole process tree is gone by then.

        `run_id` names the run, so that a later call may learn what came of it: with `begun`,
        which says that a start of it is on record, the end of that start is returned, the script
        is started if it never was, and else ScriptEndUnknown is raised.

        `context` is the JSON document the script reads; `Secret` values in it are revealed to the
        script and masked like `secrets`. `on_started` is awaited when all is prepared, directly
        before the script's process exists; if it raises, nothing starts and the error goes on.
        It is not called for a missing runtime (a result) or a failed preparation
        (ScriptNotStarted). Cancellation ends the tree, removes the folder and goes on.
        """
        revealed: list[str] = []
        document = _encode_context(context, revealed)
        masker = Masker([*map(_reveal, secrets.values()), *revealed])
        if begun and (earlier := await self._ended_before(run_id)) is not None:
            return self._result(spec, masker, earlier, run_id)
        missing = self.check_runtime(spec.runtime)
        if missing is not None:
            return self._missing(missing)
        if not self._sweep_done:
            async with self._swept:
                if not self._sweep_done:
                    await self.sweep()
        process = GuardProcess(self._work_root, self._user)
        try:
            await process.prepare(self._job(spec, document, masker, run_id))
            await on_started()
            started_at = self._now()
            report = await process.run_script(spec.timeout_s)
        finally:
            await process.end()
        return self._result(
            spec, masker, Earlier("ended", report, started_at, self._now()), run_id
        )

    async def _ended_before(self, run_id: str) -> Earlier | None:
        """How an earlier start ended; None if none was given. Raises ScriptEndUnknown."""
        found = None
        try:
            path = record_path(self._records, run_id)
            for _ in range(EARLIER_LOOKS_MAX):
                found = await asyncio.to_thread(read_record, path)
                if found is not None:
                    break
                await asyncio.sleep(EARLIER_POLL_S)
        except OSError:
            pass  # nothing can be read: nothing is known
        if found is None or found.state == "unknown":
            raise ScriptEndUnknown(
                "the script was started and its service ended before its end was known",
                remedy="look at what the script changes before it runs again",
            )
        return found if found.state == "ended" else None

    def _result(
        self, spec: ScriptSpec, masker: Masker, ended: Earlier, run_id: str
    ) -> ScriptResult:
        """The result of a run that ended; its record stays until the result has been told."""
        assert ended.started_at is not None and ended.ended_at is not None, "it ended"
        if run_id:
            path = record_path(self._records, run_id)
            asyncio.get_running_loop().call_later(KEEP_S, path.unlink, True)
        return read_result(
            spec, ended.report, masker, started_at=ended.started_at, ended_at=ended.ended_at
        )

    def _missing(self, text: str) -> ScriptResult:
        now = self._now()
        return ScriptResult(
            exit_code=None,
            outcome="missing-runtime",
            output="",
            truncated=False,
            outputs={},
            started_at=now,
            ended_at=now,
            error=text,
        )

    def _job(
        self, spec: ScriptSpec, document: bytes, masker: Masker, run_id: str
    ) -> dict[str, Any]:
        program = runtimes.find_program(spec.runtime, path=self._path, user=self._user)
        assert program is not None, "checked by run()"
        recipe = runtimes.recipe(spec.runtime, program)
        limits = msgspec.structs.asdict(spec)
        del limits["runtime"]
        return {
            **limits,
            "record": self._record(run_id),
            "boot": boot_id(),
            "folder_root": str(self._work_root),
            "owner": self._user.owner,
            "groups": list(self._user.groups),
            "script_name": recipe.script_name,
            "argv": list(recipe.argv),
            "build": list(recipe.build),
            "build_environment": recipe.build_environment,
            "environment": {"PATH": self._path, "LANG": "C.UTF-8", "HOME": str(self._home())},
            "context": document,
            "keep_bytes": max(spec.output_bytes_max, OUTPUTS_BYTES_MAX + 1)
            + masker.span_bytes_max,
        }

    def _record(self, run_id: str) -> str:
        """Where the guard keeps the run's record; nowhere for a run without a name."""
        try:
            return str(record_path(self._records, run_id)) if run_id else ""
        except OSError as error:
            raise ScriptNotStarted(
                f"the folder for records of scripts cannot be made: {error}",
                remedy=f"let the service write to {self._homes}, or free space there",
            ) from error

    def _home(self) -> Path:
        homes = self._homes
        try:
            homes.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not self._user.reaches(homes, os.X_OK):
                homes = self._root_cache
                homes.mkdir(mode=0o755, parents=True, exist_ok=True)
            home = homes / self._user.name
            make_private_folder(home, self._user)
        except OSError as error:
            raise ScriptNotStarted(
                f"the cache folder of script user {self._user.name!r} cannot be made: {error}",
                remedy=f"let the service write to {homes}, or free space there",
            ) from error
        return home


def _reveal(value: str | Secret) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _encode_context(context: Mapping[str, Any], revealed: list[str]) -> bytes:
    def encode(value: Any) -> Any:
        if isinstance(value, Secret):
            revealed.append(value.reveal())
            return value.reveal()
        raise TypeError(f"a script's context cannot hold a {type(value).__name__}")

    document = msgspec.json.encode(context, enc_hook=encode)
    if len(document) > CONTEXT_BYTES_MAX:
        raise ScriptNotStarted(
            f"the script's context has {len(document)} bytes, the limit is {CONTEXT_BYTES_MAX}",
            remedy="hand the script less: fewer VMs, or smaller outputs of earlier scripts",
        )
    return document
