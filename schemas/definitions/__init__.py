"""The plan document: from what a person writes to what services decide on, and back to a diff.

`plan` reads documents, `timing` and `scripts` their parts, `selection` finds the VMs, `changes`
compares versions. Import from here.
"""

from schemas.definitions.changes import Change, canonical, describe_change, diff
from schemas.definitions.plan import ParsedPlan, parse_plan, parse_request, scripts_of
from schemas.definitions.scripts import SCRIPT_BYTES_MAX, script_paths
from schemas.definitions.selection import Resolution, resolve
from schemas.definitions.timing import INTERVAL_MIN_S
from schemas.definitions.verdict import ParsedVerdict, parse_verdict
from schemas.documents import DefinitionErrors, Problem, describe

__all__ = [
    "INTERVAL_MIN_S",
    "SCRIPT_BYTES_MAX",
    "Change",
    "DefinitionErrors",
    "ParsedPlan",
    "ParsedVerdict",
    "Problem",
    "Resolution",
    "canonical",
    "describe",
    "describe_change",
    "diff",
    "parse_plan",
    "parse_request",
    "parse_verdict",
    "resolve",
    "script_paths",
    "scripts_of",
]
