"""Programs from docs/examples, run as their docstrings say, in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.tidy.tree import ROOT
from tests.waiting import eventually

EXAMPLES = ROOT / "docs" / "examples"
END_S = 15.0
SEEN_S = 60.0


class Program:
    """A process that writes to files. `printed` are the whole lines so far."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err

    @property
    def printed(self) -> list[str]:
        return [
            line for line in self._out.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    @property
    def complained(self) -> str:
        return self._err.read_text()

    async def until(
        self, holds: Callable[[list[str]], bool], what: str, *, within_s: float = SEEN_S
    ) -> None:
        """Wait until what is printed is as wanted; an end before that is a failure."""

        async def seen() -> bool:
            ended = self._process.poll() is not None
            found = holds(self.printed)
            assert found or not ended, f"ended before {what}: {self.complained[-2000:]}"
            return found

        try:
            await eventually(seen, what, within_s=within_s)
        except AssertionError as late:
            late.add_note("".join(self.printed[-20:]) + self.complained[-2000:])
            raise

    def kill(self) -> None:
        """kill −9."""
        self._process.kill()
        self._process.wait(END_S)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(END_S)


@contextmanager
def running(
    folder: Path, name: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """An example, killed at the end if it still runs."""
    out, err = (folder / f"{name}.{len(list(folder.iterdir()))}.{end}" for end in ("out", "err"))
    with out.open("wb") as output, err.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *arguments],
            cwd=folder, env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
        )  # fmt: skip
    program = Program(process, out, err)
    try:
        yield program
    finally:
        program.kill()
