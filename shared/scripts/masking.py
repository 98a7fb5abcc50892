"""Replace known secret values in what a script printed. Pure.

Finds each value as it is, line by line (multi-line secrets), and as usual tools print it: JSON
string, shell quoting, percent-encoding, hex, base64 at any alignment and with line breaks. What a
script encrypts, reverses or prints letter by letter cannot be found. Values, and lines of values,
shorter than SECRET_CHARS_MIN are not masked: replacing every `1` of an output would destroy it
and tell the secret by its gaps.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

SECRET_CHARS_MIN = 4
MASK = "***"
_BREAKS = b"\r\n"


class Masker:
    """Masks one set of secret values; build it once per run."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {value for value in secrets if len(value.strip()) >= SECRET_CHARS_MIN}
        self._plain = _longest_first(form for value in values for form in _plain_forms(value))
        self._base64 = _longest_first(form for value in values for form in _base64_forms(value))

    @property
    def span_bytes_max(self) -> int:
        """Longest stretch of output one secret can take: keep as much before a cut."""
        plain = max(map(len, self._plain), default=0)
        # Line breaks as dense as every 16 characters, two bytes each, are allowed for.
        encoded = max(map(len, self._base64), default=0)
        return max(plain, encoded + encoded // 8 + 2)

    def mask_text(self, text: str) -> str:
        """`text` with every known secret replaced."""
        raw = text.encode("utf-8", "surrogatepass")
        return self.mask(raw).decode("utf-8", "surrogatepass")

    def mask(self, raw: bytes) -> bytes:
        """`raw` with every known secret replaced."""
        return self._replace(raw, self._spans(raw), 0)

    def mask_tail(self, raw: bytes, *, keep_bytes: int, cut_short: bool = False) -> bytes:
        """The masked last `keep_bytes` of `raw`.

        `raw` holds `span_bytes_max` more than is kept, so a secret across the cut is seen whole
        and goes whole. `cut_short`: the script was ended while printing, so the beginning of a
        secret at the very end is masked too.
        """
        spans = self._spans(raw)
        if cut_short:
            spans = _merged([*spans, *self._begun_at_end(raw)])
        start = max(0, len(raw) - keep_bytes)
        for first, last in spans:
            if first < start < last:
                start = last
        return self._replace(raw, spans, start)

    def mask_value(self, value: Any) -> Any:
        """A decoded JSON document with secrets masked in keys, strings and numbers."""
        match value:
            case str():
                return self.mask_text(value)
            case dict():
                return {self.mask_text(str(k)): self.mask_value(v) for k, v in value.items()}
            case list():
                return [self.mask_value(item) for item in value]
            case int() | float() if not isinstance(value, bool):
                masked = self.mask_text(str(value))
                return value if masked == str(value) else masked
        return value

    def _replace(self, raw: bytes, spans: list[tuple[int, int]], start: int) -> bytes:
        parts: list[bytes] = []
        for first, last in spans:
            if first >= start:
                parts += [raw[start:first], MASK.encode()]
                start = last
        return b"".join([*parts, raw[start:]])

    def _spans(self, raw: bytes) -> list[tuple[int, int]]:
        found = [span for form in self._plain for span in _find_all(raw, form)]
        found += self._base64_spans(raw)
        return _merged(found)

    def _base64_spans(self, raw: bytes) -> list[tuple[int, int]]:
        joined = raw.translate(None, _BREAKS)
        found = [span for form in self._base64 for span in _find_all(joined, form)]
        if not found or len(joined) == len(raw):
            return found
        place = [index for index, byte in enumerate(raw) if byte not in _BREAKS]
        return [(place[first], place[last - 1] + 1) for first, last in found]

    def _begun_at_end(self, raw: bytes) -> Iterator[tuple[int, int]]:
        for form in self._plain:
            begin = max(0, len(raw) - len(form) + 1)
            for first, _ in _find_all(raw, form[:SECRET_CHARS_MIN], begin):
                if form.startswith(raw[first:]):
                    yield first, len(raw)
                    break


def _plain_forms(value: str) -> Iterator[bytes]:
    pieces = {value.strip(), *(line.strip() for line in value.splitlines())}
    for piece in pieces:
        if len(piece) < SECRET_CHARS_MIN:
            continue
        raw = piece.encode("utf-8", "surrogatepass")
        yield raw
        yield json.dumps(piece)[1:-1].encode()
        # A document inside a document, as tools print the body of a request that they log.
        yield json.dumps(json.dumps(piece)[1:-1])[1:-1].encode()
        yield json.dumps(piece, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
        yield raw.replace(b"'", b"'\\''")
        yield raw.replace(b"'", b"'\"'\"'")
        yield quote(raw, safe="").encode()
        yield quote(raw).encode()
        yield raw.hex().encode()
        yield raw.hex().upper().encode()


def _base64_forms(value: str) -> Iterator[bytes]:
    """The characters of base64 that depend on the secret alone, for each of three alignments."""
    raw = value.strip().encode("utf-8", "surrogatepass")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw)
        yield encode(raw).rstrip(b"=")
        for before in range(3):
            coded = encode(bytes(before) + raw).rstrip(b"=")
            ends_inside = (len(raw) + before) % 3 != 0
            yield coded[(0, 2, 3)[before] : -1 if ends_inside else None]


def _longest_first(forms: Iterable[bytes]) -> tuple[bytes, ...]:
    kept = {form for form in forms if len(form) >= SECRET_CHARS_MIN}
    return tuple(sorted(kept, key=lambda form: (-len(form), form)))


def _find_all(raw: bytes, form: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Every place of `form`, overlapping ones too: `aaaa` in `aaaaaa` leaves nothing over."""
    while (start := raw.find(form, start)) >= 0:
        yield start, start + len(form)
        start += 1


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
