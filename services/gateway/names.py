"""Names that people choose, checked before they become keys of streams."""

from __future__ import annotations

import re

from services.gateway.problems import Invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def checked_name(value: str, field: str) -> str:
    """`value` if it may name a site, plan or VM; Invalid otherwise."""
    if not _NAME.fullmatch(value):
        raise Invalid(
            f"{field}: found {value!r}",
            remedy=f"{field} is 1 to 63 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit",
        )
    return value


def checked_key(value: str) -> str:
    """A name out of a path: whatever cannot be a name names nothing."""
    return value if _NAME.fullmatch(value) else "-"
