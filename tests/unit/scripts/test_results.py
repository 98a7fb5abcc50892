"""A guard's report becomes outcome, masked text and outputs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.scripts.masking import Masker
from shared.scripts.network import NOT_APART
from shared.scripts.results import output_text, read_outputs, read_result
from shared.scripts.spec import OUTPUTS_BYTES_MAX, ScriptResult, ScriptSpec

NOW = datetime(2026, 11, 22, 20, tzinfo=UTC)
SPEC = ScriptSpec(content=b"", runtime="sh", output_bytes_max=100)
NONE = Masker([])


def result_of(reason: str, status: int = 0, *, note: str = "", tail: bytes = b"") -> ScriptResult:
    raw = f"{reason} {status} {len(tail)} {len(note.encode())}\n".encode() + note.encode() + tail
    return read_result(SPEC, raw, Masker(["hunter22"]), started_at=NOW, ended_at=NOW)


@pytest.mark.parametrize(
    ("reason", "status", "outcome", "exit_code", "words"),
    [
        ("exit", 3, "failed", 3, "exit code 3"),
        ("timeout", 0, "timed-out", None, "within 300 s"),
        ("cpu", 0, "killed", None, "CPU time"),
        ("memory", 0, "killed", None, "memory"),
        ("processes", 0, "killed", None, "processes and threads"),
        ("signal", 11, "killed", None, "SIGSEGV"),
        ("signal", 24, "killed", None, "CPU time"),
        ("signal", 25, "killed", None, "one file"),
        ("signal", 63, "killed", None, "signal 63"),
        ("stopped", 0, "killed", None, "stopping"),
        ("start-failed", 127, "failed", None, "could not be executed"),
    ],
)
def test_each_ending_has_its_outcome_and_a_cause(
    reason: str, status: int, outcome: str, exit_code: int | None, words: str
) -> None:
    result = result_of(reason, status)
    assert (result.outcome, result.exit_code) == (outcome, exit_code)
    assert words in (result.error or "")


def test_exit_zero_is_done_without_an_error() -> None:
    result = result_of("exit", 0, tail=b'hi hunter22\n{"outputs": {"ip": "10.0.0.1"}}\n')
    assert (result.outcome, result.exit_code, result.error) == ("done", 0, None)
    assert result.outputs == {"ip": "10.0.0.1"}
    assert result.output.startswith("hi ***\n")


def test_a_failed_script_has_no_outputs() -> None:
    assert result_of("exit", 1, tail=b'{"outputs": {"ip": "x"}}').outputs == {}


@pytest.mark.parametrize("raw", [b"", b"exit", b"exit x 0 0\n", b"E no space\n"])
def test_a_missing_report_means_the_guard_was_killed(raw: bytes) -> None:
    result = read_result(SPEC, raw, NONE, started_at=NOW, ended_at=NOW)
    assert result.outcome == "killed"
    assert "guard" in (result.error or "")


def test_what_could_not_be_cleaned_is_a_warning_and_masked() -> None:
    result = result_of("exit", 0, note="left hunter22")
    assert (result.outcome, result.warning) == ("done", "left ***")


@pytest.mark.parametrize(
    "line", [b"", b"text", b"[1]", b'{"other": 1}', b"{not json", b'{"outputs": {}} trailing x']
)
def test_a_last_line_that_is_not_ours_gives_no_outputs(line: bytes) -> None:
    assert read_outputs(b"before\n" + line + b"\n", NONE)[0] == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"outputs": [1]}', "an object is needed"),
        (b'{"outputs": {"a": }}', "not valid JSON"),
        (b'{"outputs": {"a": "\xff"}}', "not valid JSON"),
        (b'{"outputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
        (b'{"outputs": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", "nested"),
        (json.dumps({"outputs": {"a": "x" * OUTPUTS_BYTES_MAX}}).encode(), "at most 16384"),
    ],
)
def test_unusable_outputs_are_told_and_ignored(line: bytes, words: str) -> None:
    outputs, warning = read_outputs(line, NONE)
    assert outputs == {}
    assert words in (warning or "")


def test_only_the_last_line_counts_and_escapes_do_not_hide_a_secret() -> None:
    raw = b'{"outputs": {"a": 1}}\n{"outputs": {"b": "\\u0068unter22", "n": "a\\u0000b"}}\n\n'
    assert read_outputs(raw, Masker(["hunter22"])) == ({"b": "***", "n": "a\ufffdb"}, None)


@given(raw=st.binary(max_size=400), bytes_max=st.integers(1, 200))
def test_output_text_is_bounded_utf8_without_nul(raw: bytes, bytes_max: int) -> None:
    text = output_text(raw, NONE, bytes_max=bytes_max, cut_short=False)
    assert len(text.encode()) <= bytes_max
    assert "\0" not in text


@pytest.mark.parametrize("field", ["timeout_s", "output_bytes_max", "memory_bytes_max"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_is_none_is_refused_by_name(field: str, value: int) -> None:
    limits: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=field):
        ScriptSpec(content=b"", runtime="sh", **limits)


def test_a_failure_without_a_network_hints_at_it_unless_there_was_one() -> None:
    assert "`network: true`" in (result_of("exit", 1).error or "")
    assert "`network: true`" in (result_of("timeout").error or "")
    note = f"{NOT_APART}: the system refuses"
    exposed = result_of("exit", 1, note=note)
    assert "`network: true`" not in (exposed.error or "") and exposed.warning == note
