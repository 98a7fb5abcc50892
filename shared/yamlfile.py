"""YAML files with the line of every value, for files people write (plans, sites, VMs).

Owns reading: plain data as JSON would hold it, a line and column per path, and errors that name
file, line and column. Does not own what a document means (`schemas.documents` and its callers).

Words stay words: only true/false are booleans and only decimal digits are numbers, so `no`, `on`,
`08:30`, `2026-11-22T20:00:00Z` read as text. Duplicate keys are errors. Size, depth and number of
values are bounded, so that a file of nested aliases cannot fill memory.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from schemas.documents import DefinitionErrors, Path, Problem, describe

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
VALUE_COUNT_MAX: Final = 200_000
DEPTH_MAX: Final = 32

# YAML 1.2's core schema instead of 1.1's, where `no` is false, `010` is 8 and `20:00` is 1200.
_PLAIN: Final[tuple[tuple[re.Pattern[str], Callable[[str], object]], ...]] = (
    (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(r"[-+]?(0|[1-9][0-9]{0,30})"), int),
    (re.compile(r"[-+]?(0|[1-9][0-9]{0,30})\.[0-9]{1,30}"), float),
)


class YamlError(ValueError):
    """The file cannot be read as one YAML document; the text names file, line and column."""

    def __init__(self, file: str, line: int, column: int, reason: str) -> None:
        where = f"{file}:{line}:{column}" if line else file
        super().__init__(f"{where}: {reason}")
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class YamlDocument:
    """A document's plain data and where each of its values stands.

    `places` maps a path to (line, column), both from 1: of the key for a mapping's field, of the
    item in a list.
    """

    file: str
    value: object
    places: Mapping[Path, tuple[int, int]]

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column of a path, or of its nearest ancestor that is in the file."""
        for length in range(len(path), -1, -1):
            if (place := self.places.get(tuple(path[:length]))) is not None:
                return place
        return (1, 1)

    def render(self, problem: Problem, *, prefix: Path = ()) -> str:
        """`shop.yaml:14: vms[1].boot_order: found "one"; allowed: …` for one problem.

        `prefix` is taken off the path first, for problems told about a document that was sent as
        part of a larger one.
        """
        path = tuple(problem.path)
        if prefix and path[: len(prefix)] == prefix:
            path = path[len(prefix) :]
        line, _ = self.place(path)
        shown = Problem(
            path=path, found=problem.found, allowed=problem.allowed, message=problem.message
        )
        return f"{self.file}:{line}: {describe(shown)}"

    def render_all(self, problems: Sequence[Problem] | DefinitionErrors) -> list[str]:
        """Every problem rendered, in the order of the file's lines."""
        found = problems.problems if isinstance(problems, DefinitionErrors) else problems
        ordered = sorted(found, key=lambda problem: self.place(tuple(problem.path))[0])
        return [self.render(problem) for problem in ordered]


def read_yaml(path: str | os.PathLike[str]) -> YamlDocument:
    """The one document of a file; raises `YamlError`, also for a file that cannot be opened."""
    file = os.fspath(path)
    try:
        with open(file, "rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise YamlError(file, 0, 0, error.strerror or "cannot be read") from error
    if len(content) > FILE_BYTES_MAX:
        raise YamlError(file, 0, 0, f"is larger than {FILE_BYTES_MAX} bytes")
    return parse_yaml(content, file=file)


def parse_yaml(content: bytes | str, *, file: str) -> YamlDocument:
    """The one document in `content`; `file` is only the name that errors carry."""
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise YamlError(file, line, 1, "is not UTF-8 text") from error
    builder = _Builder(file)
    value = builder.document(_events(content, file))
    return YamlDocument(file=file, value=value, places=builder.places)


def _events(content: str, file: str) -> Iterator[Any]:
    """The parser's events. Nodes would be simpler, but libyaml's composer recurses natively and
    a few thousand open brackets crash the process."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(content, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(file, line, column, reason or "is not YAML") from error
    except yaml.YAMLError as error:
        raise YamlError(file, 0, 0, " ".join(str(error).split())) from error


@dataclass(frozen=True, kw_only=True)
class _Anchored:
    value: object
    value_count: int
    height: int


class _Builder:
    """Turns parser events into plain data, keeping each value's place."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Path, tuple[int, int]] = {}
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, _Anchored] = {}
        self._value_count = 0

    def document(self, events: Iterator[Any]) -> object:
        """The value of the one document; None where the file is empty."""
        self._events = events
        value: object = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "holds a second document; one file, one document")
                value = self._value(next(events), (), 0)
        return value

    def _value(self, event: Any, path: Path, depth: int) -> object:
        self.places.setdefault(path, _place(event))
        self._count(event, 1)
        if depth > DEPTH_MAX:
            raise self._error(event, f"is nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if event.tag is not None:
            raise self._error(event, f"the tag {event.tag} is not supported")
        count_before = self._value_count
        value: object
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path, depth)
        else:
            value = _scalar(event)
        if event.anchor is not None:
            count = self._value_count - count_before + 1
            height = _height(value)
            self._anchors[event.anchor] = _Anchored(value=value, value_count=count, height=height)
        return value

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in values:
                first, _ = self.places[(*path, key)]
                raise self._error(event, f'duplicate key "{key}", first on line {first}')
            self.places[(*path, key)] = _place(event)
            values[key] = self._value(next(self._events), (*path, key), depth + 1)
        return values

    def _sequence(self, path: Path, depth: int) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values)), depth + 1))
        return values

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event, "a key must be text, not a list, mapping or alias")
        if event.value == "<<" and event.implicit[0]:
            raise self._error(event, "merge keys (<<) are not supported; write the fields out")
        return str(event.value)

    def _alias(self, event: Any, depth: int) -> object:
        """The anchored value again; it counts in full, so that aliases of aliases stay bounded."""
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise self._error(event, f'there is no "&{event.anchor}" before this alias')
        self._count(event, anchored.value_count)
        if depth + anchored.height > DEPTH_MAX:
            raise self._error(event, f"is nested deeper than {DEPTH_MAX} levels")
        return anchored.value

    def _count(self, event: Any, count: int) -> None:
        self._value_count += count
        if self._value_count > VALUE_COUNT_MAX:
            raise self._error(event, f"holds more than {VALUE_COUNT_MAX} values")

    def _error(self, event: Any, reason: str) -> YamlError:
        line, column = _place(event)
        return YamlError(self.file, line, column, reason)


def _scalar(event: Any) -> object:
    text = str(event.value)
    if event.implicit[0]:  # plain: neither quoted nor a block
        for pattern, convert in _PLAIN:
            if pattern.fullmatch(text):
                return convert(text)
    return text


def _height(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_height, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_height, value), default=0)
    return 0


def _place(event: Any) -> tuple[int, int]:
    return (event.start_mark.line + 1, event.start_mark.column + 1)
