"""From the guard's report to the result the caller sees: outcome, masked text, outputs. Pure."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from shared.scripts.masking import Masker
from shared.scripts.network import NOT_APART
from shared.scripts.spec import OUTPUTS_BYTES_MAX, Outcome, ScriptResult, ScriptSpec

NESTING_MAX = 64
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Report(NamedTuple):
    """What the guard told; `reason` is empty if it told nothing."""

    reason: str
    status: int
    total: int
    note: str
    tail: bytes


def read_report(raw: bytes) -> Report:
    """Split the guard's report; a broken or missing one has reason ''."""
    header, _, rest = raw.partition(b"\n")
    field = header.decode("ascii", "replace").split(" ")
    if len(field) != 4 or not all(text.isdecimal() for text in field[1:]):
        return Report("", 0, 0, header.decode("utf-8", "replace").removeprefix("E "), b"")
    length = int(field[3])
    note = rest[:length].decode("utf-8", "replace")
    return Report(field[0], int(field[1]), int(field[2]), note, rest[length:])


def read_result(
    spec: ScriptSpec, raw: bytes, masker: Masker, *, started_at: datetime, ended_at: datetime
) -> ScriptResult:
    """The result of a run whose guard reported `raw` (empty: the guard itself was killed)."""
    report = read_report(raw)
    exited = report.reason == "exit"
    outputs: dict[str, Any] = {}
    warning: str | None = None
    if exited and report.status == 0:
        outputs, warning = read_outputs(report.tail, masker)
    outcome, error = _judge(spec, report)
    aside = report.note if report.reason not in ("start-failed", "") else ""
    warnings = "; ".join(text for text in (warning, aside) if text)
    return ScriptResult(
        exit_code=report.status if exited else None,
        outcome=outcome,
        output=output_text(
            report.tail, masker, bytes_max=spec.output_bytes_max, cut_short=not exited
        ),
        truncated=report.total > spec.output_bytes_max,
        outputs=outputs,
        started_at=started_at,
        ended_at=ended_at,
        error=masker.mask_text(error) if error else None,
        warning=masker.mask_text(warnings) if warnings else None,
    )


def _judge(spec: ScriptSpec, report: Report) -> tuple[Outcome, str | None]:
    match report.reason:
        case "exit" if report.status == 0:
            return "done", None
        case "exit":
            told = f"the script ended with exit code {report.status}; see its output"
            return "failed", told + _without_network(spec, report)
        case "start-failed":
            return "failed", (
                f"the script's program could not be executed: {report.note}; check the runtime "
                "and the limits on the machine that runs the script"
            )
        case "timeout":
            return "timed-out", (
                f"the script did not end within {spec.timeout_s:g} s and was ended with all it "
                "had started; find what it waits for, or give it a longer timeout"
                + _without_network(spec, report)
            )
        case "cpu":
            return "killed", _over("CPU time", f"{spec.cpu_s_max} s")
        case "memory":
            return "killed", _over("memory", f"{spec.memory_bytes_max} bytes")
        case "processes":
            return "killed", _over("processes and threads", str(spec.processes_max))
        case "signal":
            return "killed", _signal_text(spec, report.status)
        case "stopped":
            return "killed", (
                "the script was ended because the service that runs it is stopping; run the step "
                "again if its effects are not there"
            )
    return "killed", (
        f"the guard process of the script was killed ({report.note or 'it gave no report'}), and "
        "the script with it; look for memory shortage on the machine that runs the script"
    )


def _without_network(spec: ScriptSpec, report: Report) -> str:
    """A hint at what a script may have missed, to stand behind the remedy."""
    if spec.network or NOT_APART in report.note:
        return ""
    return " (it had no network: `network: true` gives it one)"


def _over(what: str, limit: str) -> str:
    return f"the script used more {what} than its limit of {limit} and was ended; it must use less"


def _signal_text(spec: ScriptSpec, number: int) -> str:
    match signal.Signals(number) if number in set(signal.Signals) else number:
        case signal.SIGXCPU:
            return _over("CPU time", f"{spec.cpu_s_max} s")
        case signal.SIGXFSZ:
            return _over("space in one file", f"{spec.file_bytes_max} bytes")
        case signal.Signals() as known:
            return f"the script was ended by {known.name}; see its output, or the system's log"
    return f"the script was ended by signal {number}; see its output, or the system's log"


def output_text(raw: bytes, masker: Masker, *, bytes_max: int, cut_short: bool) -> str:
    """The last `bytes_max` bytes of `raw` as masked UTF-8 text; NUL becomes U+FFFD.

    Postgres text cannot hold NUL. Replacing broken bytes makes them longer, so the bound is
    applied again to the text.
    """
    masked = masker.mask_tail(raw, keep_bytes=bytes_max, cut_short=cut_short)
    encoded = _without_nul(masked.decode("utf-8", "replace")).encode()
    return encoded[-bytes_max:].decode("utf-8", "ignore")


def read_outputs(raw: bytes, masker: Masker) -> tuple[dict[str, Any], str | None]:
    """The outputs in the last line `{"outputs": {…}}`, masked, and why they were not usable.

    No such line: ({}, None). A line that is not ours is not an error: scripts may end with any
    JSON. At most OUTPUTS_BYTES_MAX bytes.
    """
    line = raw.rstrip()[raw.rstrip().rfind(b"\n") + 1 :].strip()
    if not line.startswith(b"{") or b'"outputs"' not in line:
        return {}, None
    if len(line) > OUTPUTS_BYTES_MAX:
        return {}, _unusable(f"{len(line)} bytes, at most {OUTPUTS_BYTES_MAX} are allowed")
    try:
        document = _clean(msgspec.json.decode(line), NESTING_MAX)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}, _unusable("the line is not valid JSON")
    except RecursionError:
        return {}, _unusable(f"the JSON is nested over {NESTING_MAX} deep")
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, dict):
        return {}, _unusable(f"found {type(outputs).__name__}, an object is needed")
    return masker.mask_value(outputs), None


def _unusable(cause: str) -> str:
    return f'outputs ignored: {cause}; print {{"outputs": {{…}}}} as one line of JSON, last of all'


def _clean(value: Any, nesting_left: int) -> Any:
    if nesting_left == 0:
        raise RecursionError
    match value:
        case str():
            return _without_nul(value)
        case dict():
            return {_without_nul(k): _clean(v, nesting_left - 1) for k, v in value.items()}
        case list():
            return [_clean(item, nesting_left - 1) for item in value]
    return value


def _without_nul(text: str) -> str:
    return text.replace("\0", _UNKNOWN)
