"""One way to run a command: a client, the exit codes of surface.md §4, errors in words."""

from __future__ import annotations

import asyncio
import difflib
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NoReturn

import typer

from schemas.units import UnitError, parse_duration_s
from services.cli.client import ApiError, Client, Undecided, Unreachable, WrongSetting
from services.cli.database import NoDatabase
from services.cli.output import Format, err
from services.cli.planfile import PlanFileError
from shared.errors import SeawallError

DONE, USAGE, REFUSED, NOT_FOUND, FAILED, PARTIAL, UNREACHABLE, TIMED_OUT, INTERRUPTED = (
    0, 2, 3, 4, 5, 6, 7, 8, 130,
)  # fmt: skip

OUTCOME_CODES = {"completed": DONE, "partially-completed": PARTIAL}

Output = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml")]
Wait = Annotated[bool, typer.Option("--wait", help="wait for the job's end")]


def duration(value: str) -> str:
    """Usage is checked before anything is asked for."""
    try:
        parse_duration_s(value)
    except UnitError as error:
        raise typer.BadParameter(f"found {value!r}; allowed: {error.allowed}") from error
    return value


def one_of(*allowed: str) -> Callable[[str | None], str | None]:
    """A check of an option before anything is asked for, people included."""

    def check(value: str | None) -> str | None:
        if value is None or value in allowed:
            return value
        near = difflib.get_close_matches(value.lower(), allowed, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise typer.BadParameter(f"found {value!r}{meant}; allowed: {', '.join(allowed)}")

    return check


Timeout = Annotated[
    str, typer.Option("--timeout", help="how long --wait waits, as 10m", callback=duration)
]
Since = Annotated[str | None, typer.Option(help="from this time on, with a zone")]
At = Annotated[
    str | None, typer.Option(metavar="TIME", help="as it was at this time, with a zone")
]
Until = Annotated[str | None, typer.Option(help="before this time, with a zone")]
Cursor = Annotated[
    str | None, typer.Option(help="go on where a page ended: what it gave as `next`")
]
VmNames = Annotated[list[str] | None, typer.Option("--vm", help="only this VM; may be repeated")]


def run(work: Callable[[Client], Awaitable[int]], *, going: str = "") -> NoReturn:
    """Run `work` with a client and exit with its code. `going` names a job that goes on."""

    clients: list[Client] = []

    async def main() -> int:
        async with Client() as client:
            clients.append(client)
            return await work(client)

    def followed() -> str:
        return next((client.following for client in clients if client.following), going)

    sys.exit(guarded(lambda: asyncio.run(main()), going=followed))


def guarded(work: Callable[[], int], *, going: Callable[[], str] = str) -> int:
    """The exit code of `work`, errors told on standard error. `going` names a job that goes on
    where the wait for it ends early."""
    try:
        return work()
    except KeyboardInterrupt:
        _say_it_goes_on("interrupted", going())
        return INTERRUPTED
    except TimeoutError:
        _say_it_goes_on("timed out waiting", going())
        return TIMED_OUT
    except UnitError as wrong_value:
        err.print(f"error: {wrong_value}", markup=False, soft_wrap=True)
        return USAGE
    except PlanFileError as wrong:
        for line in wrong.lines:
            err.print(line, markup=False, soft_wrap=True)
        return USAGE
    except SeawallError as error:
        return tell(error)


def _say_it_goes_on(what: str, job: str) -> None:
    goes_on = f"job {job} goes on" if job else "what was begun goes on"
    err.print(f"{what}; {goes_on}", markup=False, soft_wrap=True)
    if job:
        err.print(f"  seawall job watch {job}", markup=False, soft_wrap=True)


def confirm(question: str) -> None:
    """Go on only after a yes; where nobody can answer, say how to."""
    if not sys.stdin.isatty():
        typer.echo(f"{question} Nobody can answer here: add --yes.", err=True)
        raise typer.Exit(USAGE)
    if not typer.confirm(question):
        typer.echo("nothing was done", err=True)
        raise typer.Exit(REFUSED)


def type_name(warning: str, *, what: str = "plan") -> str:
    """Say what is about to be lost, and have the name typed that confirms it."""
    typer.echo(warning, err=True)
    return str(typer.prompt(f"Type the {what}'s name to go on", err=True)).strip()


_API: Final = re.compile(r"GET /v1/(site|node|plan|vm|checkpoint|job|alert|event)s\b")


def _for_people(remedy: str) -> str:
    """A remedy that names a path of the API, with the command that asks for it."""
    told = _API.sub(r"`seawall \1 list`", remedy)
    return told.replace("`seawall checkpoint list`", "`seawall checkpoint list PLAN`")


def tell(error: SeawallError) -> int:
    """Say what is wrong and how to mend it; gives the exit code."""
    err.print(f"error: {error.message}", markup=False, soft_wrap=True)
    for line in _details(error):
        err.print(f"  {line}", markup=False, soft_wrap=True)
    if error.remedy:
        err.print(f"  {_for_people(error.remedy)}", markup=False, soft_wrap=True)
    if isinstance(error, Unreachable) or error.code in {"store-unreachable", "store-busy"}:
        return UNREACHABLE
    if isinstance(error, NoDatabase) or error.code in {"no-log", "not-parked", "no-bucket"}:
        return NOT_FOUND
    if isinstance(error, WrongSetting):
        return USAGE
    if isinstance(error, Undecided):
        return TIMED_OUT
    if isinstance(error, ApiError):
        if error.status >= 500:
            return UNREACHABLE
        return {404: NOT_FOUND, 422: USAGE}.get(error.status, REFUSED)
    return REFUSED


def _details(error: SeawallError) -> list[str]:
    """Each wrong field with what was found there and what is allowed, each problem in words."""
    problems: list[dict[str, Any]] = getattr(error, "details", {}).get("problems", [])
    return [_in_words(problem) for problem in problems if isinstance(problem, dict)]


def _in_words(problem: dict[str, Any]) -> str:
    found, allowed = problem.get("found"), problem.get("allowed")
    told = [f"found {found}" if found else "", f"allowed: {allowed}" if allowed else ""]
    words = "; ".join(filter(None, (*told, str(problem.get("message") or ""))))
    return ": ".join(filter(None, (str(problem.get("field", "")), words)))


def tell_failure(job: dict[str, Any]) -> None:
    """Why a job ended badly, on standard error: who reads the document need not look for it."""
    error = job.get("error")
    if error and job["state"] != "completed":
        err.print(f"error: {error['message']}", markup=False, soft_wrap=True)
        if error.get("remedy"):
            err.print(f"  {error['remedy']}", markup=False, soft_wrap=True)


def outcome_code(job: dict[str, Any]) -> int:
    """The exit code of a job that has ended."""
    return OUTCOME_CODES.get(job["state"], FAILED)
