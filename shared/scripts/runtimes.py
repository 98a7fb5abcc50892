"""How each runtime is called, and whether this machine has it for the script user."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from shared.scripts.spec import Runtime
from shared.scripts.users import ScriptUser

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The commands of one runtime; `{folder}` stands for the run's folder."""

    script_name: str
    argv: tuple[str, ...]
    build: tuple[str, ...] = ()
    build_environment: dict[str, str] = {}


class _Runtime(msgspec.Struct, frozen=True, kw_only=True):
    programs: tuple[str, ...]
    suffix: str
    options: tuple[str, ...] = ()
    install: str


_RUNTIMES: dict[Runtime, _Runtime] = {
    "sh": _Runtime(programs=("sh",), suffix="sh", install="install a POSIX shell"),
    "bash": _Runtime(programs=("bash",), suffix="bash", install="install bash"),
    # Unbuffered: what a script printed before it was ended should be there to read.
    "python": _Runtime(
        programs=("python3", "python"),
        suffix="py",
        options=("-u",),
        install="install Python 3 for all users",
    ),
    "go": _Runtime(programs=("go",), suffix="go", install="install Go (https://go.dev/dl)"),
}


def find_program(runtime: Runtime, *, path: str, user: ScriptUser) -> str | None:
    """The first program for `runtime` on `path` that `user` can execute, or None."""
    for program in _RUNTIMES[runtime].programs:
        for folder in filter(os.path.isabs, path.split(":")):
            candidate = Path(folder, program)
            if os.path.isfile(candidate) and user.reaches(candidate, os.R_OK | os.X_OK):
                return str(candidate)
    return None


def missing_text(runtime: Runtime, *, path: str, user: ScriptUser) -> str:
    """Cause and remedy for a runtime that was not found."""
    known = _RUNTIMES[runtime]
    return (
        f"runtime {runtime!r} is missing: user {user.name!r} can execute no "
        f"{' or '.join(known.programs)} on PATH {path}; {known.install} on the machine that runs "
        "the script, or declare another runtime"
    )


def recipe(runtime: Runtime, program: str) -> Recipe:
    """How to run a script with `program`.

    Go is built and then executed, as `go run` does it, in two steps of our own: `go run` turns
    every exit code into 1 and leaves its build folder in /tmp when it is ended. One file, standard
    library only: nothing is downloaded.
    """
    script_name = f"script.{_RUNTIMES[runtime].suffix}"
    script = f"{{folder}}/{script_name}"
    if runtime != "go":
        options = _RUNTIMES[runtime].options
        return Recipe(script_name=script_name, argv=(program, *options, script))
    binary = "{folder}/tmp/script"
    return Recipe(
        script_name=script_name,
        argv=(binary,),
        # Four compilers at once: the task limit must not depend on the machine's size.
        build=(program, "build", "-p", "4", "-o", binary, script),
        build_environment={
            "GOTMPDIR": "{folder}/tmp",
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOFLAGS": "",
            "GO111MODULE": "auto",
            "CGO_ENABLED": "0",
        },
    )
