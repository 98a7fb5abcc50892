"""The verdict script of a search for a clean point, as a request brings it: content and all.

Owns the request's grammar. It is no part of a plan: it is brought with each search, and kept by
its hash like a plan's scripts.
"""

import hashlib
from typing import Final

import msgspec

from schemas import plans
from schemas.clean_points import VerdictScript
from schemas.definitions.plan import read_base64
from schemas.definitions.scripts import FILE_ALLOWED, TIMEOUT_MAX_S, read_runtime
from schemas.documents import Mismatch, Node, Report
from schemas.rules import duration, flag, text

_SHAPE: Final = "a mapping with run, content, and perhaps runtime, timeout and network"


class ParsedVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict script and its content."""

    script: VerdictScript
    content: bytes


def parse_verdict(value: object) -> ParsedVerdict:
    """The script that a request's `verdict` describes; raises `DefinitionErrors`.

    `{run, content: base64, runtime, timeout, network}`; the runtime follows from the suffix of
    `run` unless it is given.
    """
    report = Report()
    fields = Node(path=("verdict",), value=value, report=report).fields(_SHAPE)
    run = fields.need("run", text(allowed=FILE_ALLOWED, chars_max=500), fallback="")
    content = fields.need("content", _content, fallback=b"")
    script = VerdictScript(
        run=run,
        runtime=read_runtime(fields, run),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        timeout_s=fields.take(
            "timeout",
            duration(min_s=1.0, max_s=TIMEOUT_MAX_S),
            default=plans.SCRIPT_TIMEOUT_DEFAULT_S,
        ),
        network=fields.take("network", flag(), default=False),
    )
    fields.close()
    report.raise_if_any()
    return ParsedVerdict(script=script, content=content)


def _content(value: object) -> bytes:
    content = read_base64(value)
    if not content:
        raise Mismatch("a script that is not empty, in base64")
    return content
