"""Run one script of an operator at a time, fenced in: limits, own user, no trace left behind.

Knows nothing of plans, jobs or recovery. It does not remember that a script ran either: the
caller records the start in `on_started` and the end from the result. A start on record without an
end (the service died in between) is the caller's *unknown*; nothing here starts a script again.
"""

from shared.scripts.errors import ScriptError, ScriptNotStarted, ScriptSetup
from shared.scripts.runner import ScriptRunner
from shared.scripts.spec import Outcome, Runtime, ScriptResult, ScriptSpec

__all__ = [
    "Outcome",
    "Runtime",
    "ScriptError",
    "ScriptNotStarted",
    "ScriptResult",
    "ScriptRunner",
    "ScriptSetup",
    "ScriptSpec",
]
