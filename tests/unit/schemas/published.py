"""The files of the published contract: JSON Schemas and the AsyncAPI document.

`make schemas` writes them. A schema that others may already rely on is not overwritten by one
that breaks them: the type needs its next version and an upcast, and the old file stays for the
documents that are in logs and topics.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

import schemas
from schemas import registry
from schemas.contract import asyncapi, compatibility, types
from schemas.language import import_all

ROOT = Path(schemas.__file__).parent
FOLDER = ROOT / "jsonschema"
ASYNCAPI = ROOT / "asyncapi.yaml"
HEAD = "# Written by `make schemas`; a test compares it with the published types.\n"


class _Plain(yaml.SafeDumper):
    """Writes what is there twice twice: anchors would be harder to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def language() -> tuple[str, ...]:
    """Stored names that are promised; tests publish types of their own."""
    import_all()
    return tuple(
        name
        for name in registry.names()
        if registry.struct_of(name).__module__.partition(".")[0] == "schemas"
    )


def generated() -> dict[Path, dict[str, Any]]:
    """The schema of every type, by the file it belongs in."""
    return {
        FOLDER / types.file_name(name, registry.version_of(registry.struct_of(name))):
        types.json_schema(name)
        for name in language()
    }  # fmt: skip


def stored(path: Path) -> dict[str, Any]:
    """A schema from its file."""
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return found


def asyncapi_text() -> str:
    """The text of `schemas/asyncapi.yaml`."""
    language()
    return HEAD + yaml.dump(
        asyncapi.document(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=99
    )


def broken() -> list[str]:
    """Stored schemas that the types of this build no longer keep to, with the place."""
    return [
        f"{path.name}: {place}"
        for path, schema in generated().items()
        if path.exists()
        for place in compatibility.breaks(stored(path), schema)
    ]


def write() -> list[Path]:
    """Write what is missing or changed; gives the files."""
    FOLDER.mkdir(exist_ok=True)
    texts = {path: types.as_text(schema) for path, schema in generated().items()}
    texts[ASYNCAPI] = asyncapi_text()
    changed = [p for p, text in texts.items() if not p.exists() or p.read_text() != text]
    for path in changed:
        path.write_text(texts[path])
    return changed


if __name__ == "__main__":
    if found := broken():
        lines = "\n".join(found)
        sys.exit(f"{lines}\nraise the version of these types and add an upcast; nothing written")
    for written in write():
        sys.stdout.write(f"{written.relative_to(ROOT.parent)}\n")
