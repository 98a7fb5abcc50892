"""Errors of exports and imports.

SeawallError
└── Refused
    ├── NotAnExport      there is no manifest where one was expected, or one of another format
    ├── Broken           a file is missing, or is not the one that was written; `name` says which
    ├── AnotherLog       the folder holds the export of a log that is not this one
    └── NotEmpty         the database to import into has been used, or is in use
"""

from __future__ import annotations

from shared.errors import Refused


class NotAnExport(Refused):
    """The folder holds no export."""

    code = "not-an-export"


class Broken(Refused):
    """A file of the export is missing or is not what was written."""

    code = "broken-export"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"{name}: {why}",
            remedy="take the file from another copy of this export, or import an older export",
        )
        self.name = name
        self.why = why


class AnotherLog(Refused):
    """The folder continues another log than the one that is to be exported."""

    code = "another-log"


class NotEmpty(Refused):
    """An import makes a whole installation: it can begin only with an empty database."""

    code = "not-empty"
