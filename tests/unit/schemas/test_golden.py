"""What any build ever stored can be read by this one, and is stored the same again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from schemas import language, registry
from tests.unit.schemas import golden

language.import_all()
PUBLISHED = {name: registry.struct_of(name) for name in registry.names()}
# Tests publish types of their own; only the language is promised.
CURRENT = [
    (name, registry.version_of(struct))
    for name, struct in PUBLISHED.items()
    if struct.__module__.partition(".")[0] == "schemas"
]
FILES = sorted(golden.FOLDER.glob("*.json"))


def test_every_published_type_has_a_golden_file_of_its_version() -> None:
    missing = [name for name, version in CURRENT if not golden.path_of(name, version).exists()]
    assert missing == [], "python -m tests.unit.schemas.golden writes them"


def test_every_golden_file_is_of_a_version_this_build_reads() -> None:
    versions = dict(CURRENT)
    for file in FILES:
        name, _, version = file.name.removesuffix(".json").rpartition(".v")
        assert 1 <= int(version) <= versions[name], f"{file.name}: this build cannot read it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_file_is_read_and_stored_the_same(file: Path) -> None:
    name, _, version = file.name.removesuffix(".json").rpartition(".v")
    data = file.read_bytes()
    decoded = registry.decode(name, int(version), data)
    assert type(decoded) is registry.struct_of(name)
    again, stored_version, stored = registry.encode(decoded)
    assert again == name
    if stored_version == int(version):
        assert msgspec.json.decode(stored) == msgspec.json.decode(data)


@pytest.mark.parametrize(("name", "version"), CURRENT, ids=lambda value: str(value))
def test_a_sample_leaves_no_field_at_its_default(name: str, version: int) -> None:
    struct = registry.struct_of(name)
    stored = msgspec.json.decode(msgspec.json.encode(golden.sample(struct)))
    # Defaults are left out when stored: a field that is missing would not be tried.
    assert set(stored) == {field.encode_name for field in msgspec.structs.fields(struct)}
