"""Judges what a world's services wrote by the published contract: topic, type, JSON Schema."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from jsonschema import Draft202012Validator

from schemas.contract import topics
from schemas.contract.types import file_name
from schemas.envelope import Recorded
from tests.unit.schemas import published

LOOKED_AT_MAX: Final = 12
"""Documents of each type that are validated; more of the same would only take time."""


def contract_kept(history: Mapping[tuple[str, str], Sequence[Recorded]]) -> list[str]:
    """Rows on a topic where their type is not promised, or unlike their schema."""
    broken: set[str] = set()
    seen: Counter[str] = Counter()
    for row in (row for rows in history.values() for row in rows):
        seen[row.type] += 1
        if row.topic not in _topics(row.type):
            broken.add(f"contract: {row.type} on {row.topic}")
        elif seen[row.type] <= LOOKED_AT_MAX:
            document = msgspec.json.decode(row.data)
            for error in _validator(row.type, row.schema_version).iter_errors(document):
                broken.add(f"contract: {row.type} {error.json_path}: {error.message}")
    return sorted(broken)


def _topics(name: str) -> tuple[str, ...]:
    try:
        return topics.topics_of(name)
    except KeyError:
        return ()


@functools.cache
def _validator(name: str, version: int) -> Draft202012Validator:
    return Draft202012Validator(published.stored(published.FOLDER / file_name(name, version)))
