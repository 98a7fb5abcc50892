"""A plan file on the operator's disk: its YAML, the script files it names, and line numbers.

Owns reading and the wire form that `POST /v1/plans` takes. What a plan may say is decided by
`schemas.definitions`, here for a quick answer and again by the service.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec

from schemas.definitions import (
    SCRIPT_BYTES_MAX,
    DefinitionErrors,
    Problem,
    parse_plan,
    script_paths,
)
from shared.yamlfile import YamlDocument, YamlError, read_yaml

# The service knows its own shortest interval; here only what no service allows is refused.
_INTERVAL_MIN_S: Final = 1.0


class PlanFileError(Exception):
    """The file is not a valid plan; `lines` holds one line of text per problem, file and line
    first."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A plan that reads well here: the document and, by the path written in it, each script."""

    document: YamlDocument
    scripts: dict[str, bytes]

    def wire(self) -> dict[str, object]:
        """The body of `POST /v1/plans`."""
        contents = {
            path: base64.b64encode(content).decode() for path, content in self.scripts.items()
        }
        return {"plan": self.document.value, "scripts": contents}

    def render(self, problems: Sequence[Problem | dict[str, Any]]) -> list[str]:
        """The service's problems with file and line, in the order of the lines."""
        return _render(self.document, [msgspec.convert(problem, Problem) for problem in problems])


def read_plan_file(path: str | FilePath) -> PlanFile:
    """Read a plan and its scripts, which are relative to it; raises `PlanFileError`.

    Every problem is reported at once, unreadable scripts included.
    """
    try:
        document = read_yaml(path)
    except YamlError as error:
        raise PlanFileError([str(error)]) from error
    scripts, problems = _read_scripts(document, folder=FilePath(path).resolve().parent)
    try:
        parse_plan(document.value, scripts=scripts, interval_min_s=_INTERVAL_MIN_S)
    except DefinitionErrors as error:
        problems.extend(error.problems)
    if problems:
        raise PlanFileError(_render(document, problems))
    return PlanFile(document=document, scripts=scripts)


def _read_scripts(
    document: YamlDocument, *, folder: FilePath
) -> tuple[dict[str, bytes], list[Problem]]:
    scripts: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path, run in script_paths(document.value):
        if run not in scripts:
            try:
                scripts[run] = _read_script(folder, run)
                continue
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
            problems.append(
                Problem(
                    path=path,
                    found=f'"{run}": {reason.lower()}',
                    allowed="the path of a file, relative to the plan file",
                )
            )
            # Reported already: a stand-in keeps the definition's own check silent about it.
            scripts[run] = b"\n"
    return scripts, problems


def _read_script(folder: FilePath, run: str) -> bytes:
    file = folder / run
    if file.exists() and not file.is_file():
        raise ValueError("is not a regular file")
    with file.open("rb") as stream:
        content = stream.read(SCRIPT_BYTES_MAX + 1)
    if len(content) > SCRIPT_BYTES_MAX:
        raise ValueError(f"is larger than {SCRIPT_BYTES_MAX} bytes")
    return content


def _render(document: YamlDocument, problems: Sequence[Problem]) -> list[str]:
    places = {run: path for path, run in script_paths(document.value)}
    moved = []
    for problem in problems:
        path = tuple(problem.path)
        if len(path) == 2 and path[0] == "scripts" and path[1] in places:
            # Told about the content that was sent; the file shows it where the script stands.
            problem = msgspec.structs.replace(problem, path=places[str(path[1])])
        moved.append(problem)
    return document.render_all(moved)
