"""From a script's work order to its report: secrets, context, the run, what is kept of it.

Knows nothing of plans or recoveries: whoever runs scripts as durable effects uses it, records the
start through `record_start`, and decides what an end means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from schemas.common import OUTPUT_TAIL_BYTES, ScriptReport, ScriptWork
from shared.errors import SeawallError
from shared.scripts.errors import ScriptEndUnknown
from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import Runtime, ScriptResult, ScriptSpec
from shared.secrets import SecretError, SecretResolver

BLOB_S_MAX: Final = 10.0

PutBlob = Callable[[bytes], Awaitable[str]]
"""Keeps content and gives its SHA-256."""

References: TypeAlias = Mapping[str, "str | References"]
"""References of credentials by name, in the shape that the script's context has them."""


async def run_script_work(
    work: ScriptWork,
    content: bytes,
    *,
    runner: ScriptRunner,
    secrets: SecretResolver,
    put_blob: PutBlob,
    record_start: Callable[[], Awaitable[None]],
    run_id: str,
    begun: bool,
    references: References | None = None,
) -> ScriptReport:
    """Run `content` once as `work` says and report how it ended.

    `run_id` is the effect's; `begun`: its start is on record already, so that what came of that
    is reported, or ScriptEndUnknown raised, and only a start that was never given is made good.

    Credentials, the work's or those of `references`, are resolved now, and are in the context
    document under `credentials` by name; the report holds none of them. `record_start` is awaited
    directly before the process exists; if it raises, nothing starts. Raises SecretError or
    ScriptNotStarted before anything started; cancellation ends the script and goes on.
    """
    try:
        credentials = await _resolved(references or work.credentials, secrets)
    except SecretError as error:
        if begun:
            raise ScriptEndUnknown(error.message, remedy=error.remedy) from error
        raise
    context: dict[str, Any] = {**work.context}
    if credentials:
        context["credentials"] = credentials
    result = await runner.run(
        ScriptSpec(
            content=content,
            runtime=_runtime(work.runtime),
            timeout_s=work.timeout_s,
            network=work.network,
        ),
        context=context,
        secrets={},
        on_started=record_start,
        run_id=run_id,
        begun=begun,
    )
    return await _report(result, put_blob)


async def _resolved(references: References, secrets: SecretResolver) -> dict[str, Any]:
    """The values in the shape of their references. Raises SecretError."""
    return {
        name: await (
            secrets.resolve(found) if isinstance(found, str) else _resolved(found, secrets)
        )
        for name, found in references.items()
    }


def _runtime(name: str) -> Runtime:
    for runtime in ("sh", "bash", "python", "go"):
        if runtime == name:
            return runtime
    raise AssertionError(f"no runtime is called {name!r}; plans are checked when applied")


async def _report(result: ScriptResult, put_blob: PutBlob) -> ScriptReport:
    output = result.output.encode()
    # The runner's errors end in their remedy: `cause; remedy`.
    error, _, remedy = (result.error or "").rpartition("; ")
    return ScriptReport(
        outcome=result.outcome,
        exit_code=result.exit_code,
        output=_tail(output),
        output_sha256=await _kept(output, put_blob),
        outputs=result.outputs,
        started_at=result.started_at,
        ended_at=result.ended_at,
        error=error or remedy,
        remedy=remedy if error else "",
        warning=result.warning or "",
    )


def _tail(output: bytes) -> str:
    """The last bytes of an output; a character that the cut splits is left out."""
    tail = output[-OUTPUT_TAIL_BYTES:]
    while tail and tail[0] & 0xC0 == 0x80:
        tail = tail[1:]
    return tail.decode("utf-8", "replace")


async def _kept(output: bytes, put_blob: PutBlob) -> str:
    """The whole output's SHA-256, or '' where it could not be kept.

    The script has run: its end must be told even if its output cannot be stored now.
    """
    if len(output) <= OUTPUT_TAIL_BYTES:
        return ""
    try:
        async with asyncio.timeout(BLOB_S_MAX):
            return await put_blob(output)
    except (SeawallError, TimeoutError):
        return ""
