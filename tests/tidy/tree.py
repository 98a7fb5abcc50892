"""The files of the project, and their syntax trees: what the tidy tests look at."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("schemas", "shared", "services", "tests")


@functools.cache
def files() -> tuple[str, ...]:
    """Paths of all files that are tracked or would be, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    names = sorted(set(listing.stdout.decode().split("\0")) - {""})
    return tuple(name for name in names if (ROOT / name).is_file())


def modules() -> tuple[str, ...]:
    """The Python files of our packages."""
    return tuple(f for f in files() if f.endswith(".py") and f.split("/")[0] in PACKAGES)


@functools.cache
def text(name: str) -> str:
    """Content of a text file, empty for one that is not text."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@functools.cache
def syntax(name: str) -> ast.Module:
    """Syntax tree of a module."""
    return ast.parse(text(name), filename=name)


def nodes(name: str) -> Iterator[ast.AST]:
    """Every node of a module's syntax tree."""
    return ast.walk(syntax(name))
