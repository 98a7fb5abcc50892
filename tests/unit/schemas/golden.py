"""Golden files: one stored document per published type and version, written once, never edited.

`python -m tests.unit.schemas.golden` writes those that are missing, from samples in which every
field differs from its default. A file that no longer decodes, or comes back different, is a
broken promise to every log that was ever written: mend the type, not the file.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

import schemas
from schemas import registry
from schemas.language import import_all

FOLDER = Path(schemas.__file__).parent / "golden"
MOMENT = dt.datetime(2026, 11, 22, 20, 15, 30, 250000, tzinfo=dt.UTC)


def path_of(name: str, version: int) -> Path:
    """Where the golden file of a type's version lies."""
    return FOLDER / f"{name}.v{version}.json"


def sample(struct: type[msgspec.Struct]) -> msgspec.Struct:
    """An instance in which no field has its default, the same in every run."""
    document = _struct(inspect.type_info(struct), depth=0)
    return msgspec.convert(document, struct)


def _struct(info: Any, *, depth: int) -> dict[str, Any] | list[Any]:
    document: dict[str, Any] = {}
    if info.tag_field is not None:
        document[info.tag_field] = info.tag
    for field in info.fields:
        document[field.encode_name] = _value(
            field.type, avoid=field.default, name=field.encode_name, depth=depth + 1
        )
    return list(document.values()) if info.array_like else document


_SIMPLE: dict[type, Any] = {
    inspect.BoolType: True,
    inspect.IntType: 7,
    inspect.FloatType: 2.5,
    inspect.DateTimeType: MOMENT.isoformat().replace("+00:00", "Z"),
    inspect.AnyType: {"any": [1, "two", None]},
    inspect.RawType: {"raw": True},
    inspect.BytesType: "Ynl0ZXM=",
    inspect.NoneType: None,
}


def _value(info: Any, *, avoid: Any, name: str, depth: int) -> Any:
    """A plain value of a type that is not `avoid`; nested types end at a depth of 12."""
    assert depth < 12, f"{name} nests too deeply"
    if isinstance(info, inspect.UnionType):
        return _of_union(info.types, avoid=avoid, name=name, depth=depth)
    if isinstance(info, inspect.LiteralType):
        return next(value for value in info.values if value != avoid)
    if isinstance(info, inspect.StrType):
        return f"{name} ü"
    if isinstance(info, inspect.StructType):
        return _struct(info, depth=depth)
    if isinstance(info, inspect.DictType):
        key = _value(info.key_type, avoid=None, name="key", depth=depth + 1)
        return {key: _value(info.value_type, avoid=None, name=name, depth=depth + 1)}
    if isinstance(info, inspect.TupleType):
        return [_value(each, avoid=None, name=name, depth=depth + 1) for each in info.item_types]
    if isinstance(info, inspect.CollectionType):
        return [_value(info.item_type, avoid=None, name=name, depth=depth + 1)]
    value = _SIMPLE[type(info)]
    return (not value if isinstance(value, bool) else value + 1) if value == avoid else value


def _of_union(types: Sequence[Any], *, avoid: Any, name: str, depth: int) -> Any:
    chosen = next(each for each in types if not isinstance(each, inspect.NoneType))
    return _value(chosen, avoid=avoid, name=name, depth=depth)


def write_missing() -> list[Path]:
    """Write the files that are not there; gives them."""
    import_all()
    FOLDER.mkdir(exist_ok=True)
    written = []
    for name in registry.names():
        struct = registry.struct_of(name)
        path = path_of(name, registry.version_of(struct))
        if not path.exists():
            data = msgspec.json.encode(sample(struct))
            path.write_bytes(msgspec.json.format(data, indent=2) + b"\n")
            written.append(path)
    return written


if __name__ == "__main__":
    for written_path in write_missing():
        sys.stdout.write(f"{written_path.name}\n")
