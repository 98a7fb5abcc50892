"""Errors of exports and imports.

SeawallError
├── Refused
│   ├── NotAnExport      there is no manifest where one was expected, or one of another format
│   ├── Broken           a file is missing, or is not the one that was written; `name` says which
│   ├── AnotherLog       the place holds the export of a log that is not this one
│   ├── AnotherExport    another export writes to the place, or did meanwhile
│   ├── NotEmpty         the database to import into has been used, or is in use
│   ├── NoBucket         there is no such bucket
│   └── StoreRefused     the object store, or the SDK before it, says no; `code` says why
└── Transient
    ├── StoreUnreachable the object store does not answer
    └── StoreBusy        it asks for fewer calls, or fails by itself
"""

from __future__ import annotations

from shared.errors import Refused, Transient


class NotAnExport(Refused):
    """The place holds no export."""

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
    """The place continues another log than the one that is to be exported."""

    code = "another-log"


class AnotherExport(Refused):
    """Of two exports to one place, one is refused. What the other wrote is whole."""

    code = "export-running"

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="wait for it to end, or choose another place")


class NotEmpty(Refused):
    """An import makes a whole installation: it can begin only with an empty database."""

    code = "not-empty"


class NoBucket(Refused):
    """The object store has no bucket of that name."""

    code = "no-bucket"


class StoreRefused(Refused):
    """A call was not granted; asking again would not help."""

    code = "store-refused"


class StoreUnreachable(Transient):
    """No answer came."""

    code = "store-unreachable"


class StoreBusy(Transient):
    """The object store answered that it cannot just now."""

    code = "store-busy"
