"""The JSON Schema of each published type, as it is stored and sent in this version.

One document per type and version, whole in itself (`$defs`). Readers must let unknown fields
pass: a new optional field keeps the version, so no schema forbids what it does not name.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas import registry

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def file_name(name: str, version: int) -> str:
    """The file of a type's version, in `schemas/jsonschema/`."""
    return f"{name}.v{version}.json"


def identifier(name: str, version: int) -> str:
    """The schema's `$id`: a name, not an address that anybody must be able to fetch."""
    return f"urn:seawall:schema:{name}:{version}"


def json_schema(name: str) -> dict[str, Any]:
    """The schema of the newest version that this build reads. Raises UnknownType."""
    struct = registry.struct_of(name)
    head = {"$schema": DIALECT, "$id": identifier(name, registry.version_of(struct))}
    # Defaults are Python's: through JSON and back they are as they will be read.
    found: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode({**head, **msgspec.json.schema(struct)})
    )
    return found


def as_text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"
