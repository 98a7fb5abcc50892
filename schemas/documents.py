"""Reading a document somebody wrote (plan, site, VM): typed fields, paths, every problem at once.

Owns how a problem is collected and said. Does not own what a document means (that is the caller),
where its text came from, nor its line numbers: a caller maps `Problem.path` to a line.

    report = Report()
    doc = Node(path=(), value=document, report=report).fields("a mapping with name, disks, …")
    name = doc.need("name", text(), fallback="")
    cpus = doc.take("cpus", whole(minimum=1, maximum=256), default=1)
    for disk in doc.items("disks"):
        fields = disk.fields("a mapping with name and file")
        …
        fields.close()
    doc.close()                  # keys that nobody asked for are problems, with a did-you-mean
    report.raise_if_any()        # DefinitionErrors holding all problems

After a problem reading goes on with the fallback, so one pass finds them all; what was built from
fallbacks must be thrown away, which `raise_if_any` sees to.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec

Path: TypeAlias = tuple[str | int, ...]

T = TypeVar("T")
D = TypeVar("D")

# A document can hold a million mistakes; a person reads the first few.
PROBLEM_COUNT_MAX: Final = 200
_SHOWN_CHARS_MAX: Final = 60
_ESCAPED_CHARS_MAX: Final = 3 * _SHOWN_CHARS_MAX
_MISSING: Final = object()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong at one place. `message` is extra help and may be empty."""

    path: tuple[str | int, ...]
    found: str
    allowed: str
    message: str = ""


class DefinitionErrors(Exception):
    """The document has problems; `problems` holds all of them in the order they were met."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(describe(problem) for problem in problems))
        self.problems = tuple(problems)


class Mismatch(ValueError):
    """Raised by a rule: the value is not allowed here. `found` replaces the usual rendering."""

    def __init__(self, allowed: str, *, found: str | None = None, message: str = "") -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.found = found
        self.message = message


Rule: TypeAlias = Callable[[object], T]
"""Turns a document value into a typed one, or raises `Mismatch`. See `schemas.rules`."""


class Report:
    """Collects problems while a document is read; at most `PROBLEM_COUNT_MAX` are kept."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, path: Path, *, found: str, allowed: str, message: str = "") -> None:
        """Record one problem."""
        if len(self.problems) < PROBLEM_COUNT_MAX:
            self.problems.append(Problem(path=path, found=found, allowed=allowed, message=message))

    def raise_if_any(self) -> None:
        """Raise `DefinitionErrors` when anything was recorded."""
        if self.problems:
            raise DefinitionErrors(self.problems)


class Node:
    """One value of a document together with its path."""

    def __init__(self, *, path: Path, value: object, report: Report) -> None:
        self.path = path
        self.value = value
        self.report = report

    def read(self, rule: Rule[T], *, fallback: D) -> T | D:
        """The value by `rule`; a value that is not allowed is recorded and gives `fallback`."""
        try:
            return rule(self.value)
        except Mismatch as mismatch:
            found = show(self.value) if mismatch.found is None else mismatch.found
            self.problem(found=found, allowed=mismatch.allowed, message=mismatch.message)
            return fallback

    def fields(self, allowed: str) -> "Fields":
        """The value as a mapping; anything else is recorded and reads as empty."""
        if isinstance(self.value, Mapping):
            return Fields(self, dict(self.value))
        self.problem(found=show(self.value), allowed=allowed)
        return Fields(self, {}, broken=True)

    def items(self, allowed: str = "a list") -> "tuple[Node, ...]":
        """The value's items as nodes; anything but a list is recorded and reads as empty."""
        if isinstance(self.value, list | tuple):
            return tuple(
                Node(path=(*self.path, index), value=value, report=self.report)
                for index, value in enumerate(self.value)
            )
        self.problem(found=show(self.value), allowed=allowed)
        return ()

    def problem(self, *, found: str, allowed: str, message: str = "") -> None:
        """Record a problem at this place, for rules that look at more than one value."""
        self.report.add(self.path, found=found, allowed=allowed, message=message)


class Fields:
    """The keys of one mapping, each read at most once by name; `close` reports the rest.

    An explicit null counts as a key that is not there: YAML gives it for `key:` left empty.
    """

    def __init__(self, node: Node, values: dict[object, object], *, broken: bool = False) -> None:
        self.path = node.path
        self.report = node.report
        self._values = values
        self._asked: dict[str, None] = {}
        self._refused: set[str] = set()
        # A broken mapping was reported already: its missing keys are no further news.
        self._broken = broken

    def take(self, key: str, rule: Rule[T], *, default: D) -> T | D:
        """An optional field: `default` where it is absent or (recorded) not allowed."""
        node = self.node(key)
        return default if node is None else node.read(rule, fallback=default)

    def need(self, key: str, rule: Rule[T], *, fallback: D) -> T | D:
        """A required field: absent or not allowed is recorded and gives `fallback`."""
        node = self.node(key)
        if node is not None:
            return node.read(rule, fallback=fallback)
        self.missing(key, allowed=_allowed_by(rule))
        return fallback

    def node(self, key: str) -> Node | None:
        """The field's node, or None where it is absent."""
        self._asked[key] = None
        value = self._values.get(key, _MISSING)
        if value is _MISSING or value is None:
            return None
        return Node(path=(*self.path, key), value=value, report=self.report)

    def fields(self, key: str, allowed: str) -> "Fields | None":
        """The field as a mapping, or None where it is absent."""
        node = self.node(key)
        return None if node is None else node.fields(allowed)

    def items(self, key: str, allowed: str = "a list") -> tuple[Node, ...]:
        """The field's items; none where it is absent."""
        node = self.node(key)
        return () if node is None else node.items(allowed)

    def entries(self, allowed: str = "text as the key") -> tuple[tuple[str, Node], ...]:
        """All fields of a mapping with free keys (a dictionary), in their order."""
        entries = []
        for key, value in self._values.items():
            if isinstance(key, str):
                self._asked[key] = None
                node = Node(path=(*self.path, key), value=value, report=self.report)
                entries.append((key, node))
            else:
                self.report.add(self.path, found=show(key), allowed=allowed)
                self._asked[str(key)] = None
        return tuple(entries)

    def missing(self, key: str, *, allowed: str, message: str = "") -> None:
        """Record that `key` is needed and absent."""
        if not self._broken:
            self.report.add((*self.path, key), found="nothing", allowed=allowed, message=message)

    def refuse(self, key: str, *, allowed: str, message: str = "") -> None:
        """Record a problem if `key` is there at all: the name is known but has no place here."""
        node = self.node(key)
        # Never offered as a key that is allowed.
        self._refused.add(key)
        if node is not None:
            node.problem(found=show(node.value), allowed=allowed, message=message)

    def close(self) -> None:
        """Record every key that was never asked for, with the nearest known name."""
        known = sorted(set(self._asked) - self._refused)
        for key in self._values:
            if isinstance(key, str) and key in self._asked:
                continue
            if not isinstance(key, str) and str(key) in self._asked:
                continue
            self.report.add(
                (*self.path, str(key)),
                found=f"an unknown key {show(key)}",
                allowed=", ".join(known),
                message=did_you_mean(str(key), known),
            )


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean "x"?` for the nearest known name, or empty text."""
    near = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.7)
    return f'did you mean "{near[0]}"?' if near else ""


def describe(problem: Problem) -> str:
    """One line for people: path, what was found, what is allowed, further help."""
    text = f"found {problem.found}; allowed: {problem.allowed}"
    if problem.message:
        text += f"; {problem.message}"
    path = path_text(problem.path)
    return f"{path}: {text}" if path else text


def path_text(path: Path) -> str:
    """`("vms", 1, "boot_order")` → `vms[1].boot_order`; the whole document is empty text."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def show(value: object) -> str:
    """A short rendering of a document value: text in quotes, collections by their size."""
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_CHARS_MAX else value[: _SHOWN_CHARS_MAX - 1] + "…"
        return (
            msgspec.json.encode(cut).decode()
            if cut.isascii()
            else f'"{_one_line(cut)[:_ESCAPED_CHARS_MAX]}"'
        )
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys" if len(value) != 1 else "a mapping of 1 key"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        # Python refuses to print very large integers, and nobody would read them.
        return "a very large number"
    return str(value)[:_SHOWN_CHARS_MAX]


def _one_line(text: str) -> str:
    """The text with what cannot be printed escaped: line breaks, surrogates, other controls."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _allowed_by(rule: Rule[T]) -> str:
    """What a rule allows, as it says itself when offered nothing."""
    try:
        rule(None)
    except Mismatch as mismatch:
        return mismatch.allowed
    return "a value"
