"""Errors of the script runner.

ScriptError
├── ScriptNotStarted   (Transient) the machine could not prepare the run; nothing was started
├── ScriptEndUnknown   (Permanent) an earlier start may have begun its work; nothing was started
└── ScriptSetup        (Permanent) the runner's own settings cannot work on this machine

How a script ended is never an error: it is a `ScriptResult`.
"""

from __future__ import annotations

from shared.errors import Permanent, SeawallError, Transient


class ScriptError(SeawallError):
    """Root of the script runner's errors."""


class ScriptNotStarted(ScriptError, Transient):
    """The run could not be prepared; `on_started` was not called and no script process existed."""

    code = "script-not-started"


class ScriptEndUnknown(ScriptError, Permanent):
    """A start of the run is on record, and whether the script did its work cannot be told."""

    code = "script-end-unknown"


class ScriptSetup(ScriptError, Permanent):
    """Scripts cannot run on this machine as configured; the remedy says what to change."""

    code = "script-setup"
