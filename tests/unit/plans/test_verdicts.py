"""The verdict script of a request: what it must say, and what is refused with its field."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from schemas.definitions import DefinitionErrors, parse_verdict
from schemas.documents import path_text

CONTENT = b"exit 0\n"
SENT = base64.b64encode(CONTENT).decode()


def test_a_script_is_known_by_the_hash_of_its_content() -> None:
    parsed = parse_verdict({"run": "scan.py", "content": SENT, "timeout": "90s"})
    assert parsed.content == CONTENT
    script = parsed.script
    assert (script.runtime, script.timeout_s, script.size) == ("python", 90.0, len(CONTENT))
    assert script.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_the_runtime_that_is_given_counts() -> None:
    verdict = {"run": "scan", "content": SENT, "runtime": "bash"}
    assert parse_verdict(verdict).script.runtime == "bash"


@pytest.mark.parametrize(
    ("verdict", "field"),
    [
        (None, "verdict"),
        ("scan.sh", "verdict"),
        ({"content": SENT}, "verdict.run"),
        ({"run": "scan.sh"}, "verdict.content"),
        ({"run": "scan.sh", "content": ""}, "verdict.content"),
        ({"run": "scan.sh", "content": "%"}, "verdict.content"),
        ({"run": "scan", "content": SENT}, "verdict.runtime"),
        ({"run": "scan.sh", "content": SENT, "runtime": "perl"}, "verdict.runtime"),
        ({"run": "scan.sh", "content": SENT, "timeout": "0s"}, "verdict.timeout"),
        ({"run": "scan.sh", "content": SENT, "retries": 3}, "verdict.retries"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_field(verdict: Any, field: str) -> None:
    with pytest.raises(DefinitionErrors) as refused:
        parse_verdict(verdict)
    assert [path_text(found.path) for found in refused.value.problems] == [field]


def test_a_verdict_script_has_a_network_only_where_that_is_asked_for() -> None:
    verdict = {"run": "scan.sh", "content": SENT}
    assert not parse_verdict(verdict).script.network
    assert parse_verdict({**verdict, "network": True}).script.network
