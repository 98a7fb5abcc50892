"""`seawall log export|import`: the logs and what belongs to them as files, and back.

An export holds what the services would need to go on elsewhere, and no secret: secrets are
references, and the home folder (token, secret files) is not part of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.units import parse_duration_s
from services.cli.commands.log import PLACES, place, report, show, verified
from services.cli.database import reached
from services.cli.direct import directly, on_database
from services.cli.output import Format, err, machine, out
from services.cli.progress import ProgressLine
from services.cli.run import DONE, FAILED, Output, duration
from shared.databases import Databases
from shared.errors import Transient
from shared.settings import read_settings

if TYPE_CHECKING:
    from shared.archive.export import Exported
    from shared.archive.port import Archive

Place = Annotated[
    str,
    typer.Argument(
        metavar="PLACE",
        help=f"the export's place: {PLACES}, by the AWS SDK's settings",
        callback=place,
    ),
]


def export(
    at: Place,
    follow: Annotated[
        bool, typer.Option("--follow", help="go on adding what is new until Ctrl-C")
    ] = False,
    every: Annotated[
        str, typer.Option(help="how often with --follow, as 30s", callback=duration)
    ] = "30s",
    output: Output = Format.TABLE,
) -> None:
    """Copy the logs, and the state that belongs to them, to a place; later ones only add."""

    async def work(databases: Databases) -> int:
        from shared.archive.places import opened

        async with opened(at) as archive, archive.alone():
            if follow:
                await _follow(databases, archive, parse_duration_s(every), output)
            _show_export(await _export(databases, archive), output)
        return DONE

    on_database(work)


async def _follow(databases: Databases, archive: Archive, every_s: float, form: Format) -> None:
    """Export again and again. What is away, a database or an object store, is waited for: the
    last export stays whole."""
    while True:
        try:
            done = await _export(databases, archive)
        except Transient as away:
            err.print(f"not exported: {away.message}; trying again", markup=False, soft_wrap=True)
        else:
            if done.rows or done.blobs:
                _show_export(done, form)
        await asyncio.sleep(every_s)


async def _export(databases: Databases, archive: Archive) -> Exported:
    from shared.archive.export import export
    from shared.clock import SystemClock
    from shared.process import LOGGED_SERVICES

    with ProgressLine() as line:
        return await export(
            databases,
            LOGGED_SERVICES,
            archive,
            clock=SystemClock(),
            told=lambda rows: line.say(f"{rows:,} rows exported"),
        )


def _show_export(done: Exported, form: Format) -> None:
    figures: dict[str, Any] = {
        "rows": done.rows,
        "segments": done.segments,
        "blobs": done.blobs,
        "rows_kept": done.rows_kept,
        "elapsed_s": round(done.elapsed_s, 3),
    }
    if not machine(figures, form):
        out.print(
            f"{done.rows:,} rows added in {done.segments:,} segments, {done.blobs:,} blobs,"
            f" in {done.elapsed_s:.1f} s; the export holds {done.rows_kept:,} rows"
        )


def import_(at: Place, output: Output = Format.TABLE) -> None:
    """Restore an export into an empty database, then verify it; start the services after it."""

    async def main() -> int:
        from shared.archive.files import MANIFEST, read_manifest
        from shared.archive.places import opened

        async with opened(at) as archive:
            # Where there is no export, no database is reached or made.
            read_manifest(await archive.get(MANIFEST))
            async with reached(read_settings(), create=True) as databases:
                return await _import(databases, archive, output)

    directly(main)


async def _import(databases: Databases, archive: Archive, form: Format) -> int:
    from shared.archive.restore import restore
    from shared.process import LOGGED_SERVICES

    with ProgressLine() as line:
        restored = await restore(
            databases,
            LOGGED_SERVICES,
            archive,
            told=lambda service, rows: line.say(f"{service}: {rows:,} rows imported"),
        )
    checked = await verified(databases, decode=False)
    figures = {
        "rows": restored.rows,
        "taken_at": restored.taken_at.isoformat() if restored.taken_at else None,
        "epochs": restored.epochs,
        "elapsed_s": round(restored.elapsed_s, 3),
        "verified": report(checked),
    }
    if not machine(figures, form):
        out.print(
            f"{restored.rows:,} rows of {figures['taken_at']} imported"
            f" in {restored.elapsed_s:.1f} s; the services may be started"
        )
        show(checked)
    return FAILED if any(each.flaw_count for each in checked) else DONE
