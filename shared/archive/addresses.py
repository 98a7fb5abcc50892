"""Where an export lies, as people write it: `s3://BUCKET[/PREFIX]`, or else a folder."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from shared.errors import Refused

ALLOWED: Final = "a folder, or s3://BUCKET[/PREFIX]"

_URL: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_BUCKET: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")


class S3Address(msgspec.Struct, frozen=True):
    """A bucket and what all names in it begin with; `prefix` neither begins nor ends with `/`."""

    bucket: str
    prefix: str = ""

    def key(self, name: str) -> str:
        """The object in which a file of the export is kept."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        return "/".join(filter(None, (f"s3://{self.bucket}", self.prefix)))


def s3_address(place: str) -> S3Address | None:
    """The address that `place` is, None for a folder. Raises Refused `bad-place`."""
    url = _URL.fullmatch(place)
    if url is None:
        if place.startswith("s3:"):
            raise _bad(place)
        return None
    bucket, _, prefix = url["rest"].partition("/")
    prefix = prefix.removesuffix("/")
    parts = prefix.split("/") if prefix else []
    if (
        url["scheme"] != "s3"
        or not _BUCKET.fullmatch(bucket)
        or not all(part.isprintable() and part not in {"", ".", ".."} for part in parts)
    ):
        raise _bad(place)
    return S3Address(bucket, prefix)


def _bad(place: str) -> Refused:
    return Refused(f"found {place!r}; allowed: {ALLOWED}", code="bad-place")
