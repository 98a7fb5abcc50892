"""Small flat YAML files the lab writes and people read: `instance.yaml`, `state.yaml`.

One `key: value` per line, the value as JSON (which is YAML too), so that reading back costs
microseconds; a file edited by hand in any other YAML style is read the slow way.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from shared.errors import Permanent
from shared.platforms.lab.folder import replace_file
from shared.yamlfile import YamlError, parse_yaml

T = TypeVar("T", bound=msgspec.Struct)

# Words that some YAML readers take for a boolean, a number or nothing stay in quotes.
_PLAIN: Final = re.compile(r"(?!(?:on|off|yes|no|true|false|null|y|n)$)[a-z][a-z0-9_.-]*")


def write_flat(path: Path, record: msgspec.Struct) -> None:
    """Replace the file with the record's fields."""
    replace_file(path, dump_flat(record))


def dump_flat(record: msgspec.Struct) -> bytes:
    """The record as flat YAML."""
    lines = []
    for key, value in msgspec.to_builtins(record).items():
        plain = isinstance(value, str) and _PLAIN.fullmatch(value)
        text = value if plain else msgspec.json.encode(value).decode()
        lines.append(f"{key}: {text}\n")
    return "".join(lines).encode()


def read_flat(path: Path, shape: type[T]) -> T | None:
    """The record; None where there is no file, Permanent where it is not readable."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        values: object = _fast(raw)
        if values is None:
            values = parse_yaml(raw, file=str(path)).value
        return msgspec.convert(values, shape, strict=False)
    except (YamlError, msgspec.ValidationError) as error:
        raise Permanent(
            f"{path} cannot be read: {error}",
            code="bad-file",
            remedy="put back what the lab wrote there, or delete the object by hand",
        ) from error


def _fast(raw: bytes) -> dict[str, Any] | None:
    """What `dump_flat` wrote; None for anything else."""
    values: dict[str, Any] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        key, separator, text = line.partition(": ")
        if not separator or not key.isidentifier() or key in values:
            return None
        if _PLAIN.fullmatch(text):
            values[key] = text
            continue
        try:
            values[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return None
    return values
