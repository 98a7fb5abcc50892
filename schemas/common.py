"""What all services say alike: commands and their settlement, scripts, steps and outcomes."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from schemas.registry import published

RecoveryState = Literal["completed", "partially-completed", "failed", "cancelled"]
"""How a recovery or a cleanup ends."""

JobState = Literal[
    "queued",
    "running",
    "paused",
    "waiting",
    "completed",
    "partially-completed",
    "failed",
    "cancelled",
]
StepState = Literal[
    "pending",
    "queued",
    "running",
    "waiting",
    "completed",
    "failed",
    "unknown",
    "skipped",
    "cancelled",
]
HoldMode = Literal["write-copy", "read-copy", "own-instance"]

OUTPUT_TAIL_BYTES = 2048
"""How much of a script's output an event carries; the whole is a blob by SHA-256."""


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every published event and message."""


class Command(Fact, frozen=True, kw_only=True):
    """Base of what a person asks for; its owner answers with exactly one CommandSettled."""

    command_id: str


@published("common.command-settled")
class CommandSettled(Fact, frozen=True, kw_only=True):
    """The owner's answer to a command: done or refused, with the refusal's stable code."""

    command_id: str
    outcome: Literal["done", "refused"]
    code: str = ""
    message: str = ""
    remedy: str = ""
    details: dict[str, Any] = {}
    stream: str = ""
    version: int = 0


@published("common.message-parked")
class MessageParked(Fact, frozen=True, kw_only=True):
    """A service set a message aside, because it cannot decide it; later ones of its key wait.

    It stands in the topic of dead letters. The message itself stays where it was sent: row `seq`
    of the log of `source`.
    """

    source: str
    topic: str
    partition: int
    seq: int
    key: str
    reason: str


@published("common.message-skipped")
class MessageSkipped(Fact, frozen=True, kw_only=True):
    """A person dropped a message that its receiver could not decide; `reason` says why not.

    The message itself stays where it was sent: row `seq` of the log of `source`.
    """

    source: str
    topic: str
    partition: int
    seq: int
    reason: str
    parked_at: dt.datetime
    type: str = ""
    schema_version: int = 0


class StepTiming(Fact, frozen=True, kw_only=True):
    """One finished step of a job, as a field of the event that ends it."""

    name: str
    state: StepState
    attempts: int = 1
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    error: str = ""
    remedy: str = ""
    output: str = ""
    output_sha256: str = ""
    warning: str = ""


class Problem(Fact, frozen=True, kw_only=True):
    """Why something failed: stable code, what happened, and how to mend it."""

    code: str
    message: str
    remedy: str = ""


class ScriptReport(Fact, frozen=True, kw_only=True):
    """How a script ended. `output` is the masked tail; the whole is the blob `output_sha256`.

    `warning` is what a person must know of the run, whatever its outcome."""

    outcome: Literal["done", "failed", "timed-out", "missing-runtime", "killed", "unknown"]
    exit_code: int | None = None
    output: str = ""
    output_sha256: str = ""
    outputs: dict[str, Any] = {}
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    error: str = ""
    remedy: str = ""
    warning: str = ""


class ScriptWork(Fact, frozen=True, kw_only=True):
    """Everything needed to run a stored script: content by hash, and what it is told.

    `context` is the JSON document without credentials; `credentials` are references, resolved
    by the process that runs the script, at that moment. `network`: whether it may reach any.
    """

    step: str
    plan: str
    sha256: str
    runtime: str
    timeout_s: float
    context: dict[str, Any]
    credentials: dict[str, str] = {}
    network: bool = False
