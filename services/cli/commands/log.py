"""`seawall log …`: the services' logs themselves, worked on directly in the database.

The services may run meanwhile; they need not. What acts on parked messages is in `parked.py`, what
backs up and restores in `archive.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer

from services.cli.direct import directly, on_database
from services.cli.output import Format, machine, out, table
from services.cli.progress import ProgressLine
from services.cli.run import DONE, FAILED, Output
from shared.databases import Databases
from shared.errors import Refused
from shared.verify.report import Checked

app = typer.Typer(no_args_is_help=True, help="Check, mend, back up and restore the logs.")

PLACES: Final = r"a folder, or s3://BUCKET\[/PREFIX]"
"""For help texts, which are markup."""


def place(value: str | None) -> str | None:
    """Usage is checked before anything is asked for."""
    if value is not None:
        from shared.archive.addresses import s3_address

        try:
            s3_address(value)
        except Refused as refused:
            raise typer.BadParameter(refused.message) from refused
    return value


@app.command()
def verify(
    decode: Annotated[
        bool, typer.Option("--decode", help="read every row, not only every type")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="PLACE",
            help=f"check an export instead: {PLACES}",
            callback=place,
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check that every log is whole; exit code 5 where one is not. Never writes."""
    if export is not None:
        directly(lambda: _verify_export(export, output))

    async def work(databases: Databases) -> int:
        checked = await verified(databases, decode=decode)
        if not machine(report(checked), output):
            show(checked)
        return FAILED if any(each.flaw_count for each in checked) else DONE

    on_database(work)


async def _verify_export(at: str, form: Format) -> int:
    """Check the files of an export: no database is needed for that."""
    from shared.archive.check import check
    from shared.archive.places import opened

    async with opened(at) as archive:
        with ProgressLine() as line:
            checked = await check(
                archive, told=lambda service, rows: line.say(f"{service}: {rows:,} rows checked")
            )
    if not machine(report(checked), form):
        show(checked)
    return FAILED if any(each.flaw_count for each in checked) else DONE


async def verified(databases: Databases, *, decode: bool) -> list[Checked]:
    """What a check of every log and cursor found."""
    # Imported here, as for `up`: the other commands need neither the language nor the services.
    from schemas.language import import_all
    from services.projector.main import SCHEMA
    from shared.process import LOGGED_SERVICES
    from shared.verify.installation import Consumer, verify

    import_all()
    consumers = [Consumer(name, name) for name in LOGGED_SERVICES]
    with ProgressLine() as line:
        return await verify(
            databases,
            LOGGED_SERVICES,
            consumers=[*consumers, Consumer("projector", SCHEMA)],
            decode=decode,
            told=lambda service, rows: line.say(f"{service}: {rows:,} rows checked"),
        )


def report(checked: Sequence[Checked]) -> dict[str, Any]:
    """The document of a check."""
    return {
        "whole": not any(each.flaw_count for each in checked),
        "rows": sum(each.rows for each in checked),
        "elapsed_s": round(sum(each.elapsed_s for each in checked), 3),
        "items": msgspec.to_builtins(checked),
        "next": None,
    }


def show(checked: Sequence[Checked]) -> None:
    """A table, and each problem with its remedy."""
    rows = [
        (each.service, f"{each.rows:,}", f"{each.streams:,}", each.types, each.cursors,
         f"{each.elapsed_s:.1f} s", each.flaw_count or "whole")
        for each in checked
    ]  # fmt: skip
    columns = ("SERVICE", "ROWS", "STREAMS", "TYPES", "CURSORS", "TOOK", "PROBLEMS")
    table(columns, rows, empty="no logs")
    for each in checked:
        for flaw in each.flaws:
            out.print(f"{each.service} {flaw.where}: {flaw.message} ({flaw.code})", markup=False)
            out.print(f"  {flaw.remedy}", markup=False)
        if (untold := each.flaw_count - len(each.flaws)) > 0:
            out.print(f"{each.service}: {untold} more", markup=False)


@app.command()
def rebuild(output: Output = Format.TABLE) -> None:
    """Fold the read models again from the logs beside the live ones, then swap them."""

    async def work(databases: Databases) -> int:
        from services.projector.main import rebuild as rebuild_models

        with ProgressLine() as line:
            done = await rebuild_models(
                databases,
                told=lambda rows, of: line.say(f"{rows:,} of {of:,} rows folded"),
            )
        figures = {
            "rows": done.rows,
            "elapsed_s": round(done.elapsed_s, 3),
            "rows_per_s": round(done.rows / done.elapsed_s) if done.elapsed_s else 0,
            "swap_s": round(done.swap_s, 4),
        }
        if not machine(figures, output):
            out.print(
                f"read models rebuilt from {done.rows:,} rows in {done.elapsed_s:.1f} s"
                f" ({figures['rows_per_s']:,} rows/s); live writes waited"
                f" {done.swap_s * 1000:.0f} ms"
            )
        return DONE

    on_database(work)
