"""The error families every package builds on, divided by what the caller can do.

SeawallError
├── Refused            the request cannot be granted; stable code; never retried
├── Transient          may work later; may carry retry_after_s
│   └── Throttled      the other side asked for less; costs no attempt
│       └── Busy       … and takes more as soon as something under way there has ended
├── Permanent          needs a person; the remedy says what to do
└── InvariantBroken    our bug; the task that meets it must crash
"""

from __future__ import annotations


class SeawallError(Exception):
    """Root of all errors that Seawall raises on purpose.

    `message` says what was attempted and what is wrong, `remedy` how to mend it.
    """

    code = "error"

    def __init__(self, message: str, *, remedy: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if code:
            self.code = code


class Refused(SeawallError):
    """The request breaks a rule. `code` is stable and scripted against; not retried."""

    code = "refused"


class Transient(SeawallError):
    """Failed for a reason that may pass. `retry_after_s` is obeyed where given."""

    code = "transient"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        code: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.retry_after_s = retry_after_s


class Throttled(Transient):
    """The platform asked for fewer calls: nothing was done, and no attempt is used.

    `quota` is what it said that is about, under the name that budgets have for it; "" if not.
    """

    code = "throttled"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        code: str = "",
        retry_after_s: float | None = None,
        quota: str = "",
    ) -> None:
        super().__init__(message, remedy=remedy, code=code, retry_after_s=retry_after_s)
        self.quota = quota


class Busy(Throttled):
    """As many are under way at the platform as it allows: slower calls do not help, only an end.

    Such as ConcurrentLimitExceeded, PendingSnapshotLimitExceeded.
    """

    code = "busy"


class Permanent(SeawallError):
    """Retrying cannot help; a person must act as `remedy` says."""

    code = "permanent"


class InvariantBroken(SeawallError):
    """A promise of our own code does not hold. The task must crash, never go on."""

    code = "invariant-broken"
