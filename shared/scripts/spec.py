"""What to run and what came of it. Data only; how it is run is runner.py and guard.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

Runtime = Literal["sh", "bash", "python", "go"]
Outcome = Literal["done", "failed", "timed-out", "missing-runtime", "killed"]

OUTPUTS_BYTES_MAX = 16 * 1024
MIB = 1024 * 1024


class ScriptSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One script and its limits. Every limit must be positive.

    `timeout_s` counts from the start of the process; for `go` it includes compiling.
    `memory_bytes_max` bounds each process's private writable memory at once, and the resident
    memory of the whole tree within half a second; `cpu_s_max` likewise per process and tree.
    `file_bytes_max` bounds each file. `processes_max` bounds processes and threads of the tree.
    `output_bytes_max` bounds what is kept, not what may be printed. Without `network` the script
    has none, where the system lets it be kept from it; else the result's `warning` says so.
    """

    content: bytes
    runtime: Runtime
    timeout_s: float = 300.0
    output_bytes_max: int = 64 * 1024
    memory_bytes_max: int = 1024 * MIB
    cpu_s_max: int = 300
    file_bytes_max: int = 1024 * MIB
    processes_max: int = 512
    network: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that are no limits, as ValueError naming the field."""
        for name in self.__struct_fields__[2:]:
            if name != "network" and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")


class ScriptResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a script ended. All text is masked, valid UTF-8 and free of NUL.

    `exit_code` is None where the script did not exit by itself. `output` is the last
    `output_bytes_max` bytes of standard output and error, as they came; `truncated` says that
    more was printed. `error` is cause and remedy where the outcome is not *done*. `warning` tells
    of something that did not change the outcome, such as outputs that could not be used.
    """

    exit_code: int | None
    outcome: Outcome
    output: str
    truncated: bool
    outputs: dict[str, Any]
    started_at: datetime
    ended_at: datetime
    error: str | None = None
    warning: str | None = None
