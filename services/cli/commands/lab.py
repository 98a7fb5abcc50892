"""`seawall lab …`: act on a lab site by hand, without the control plane."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from schemas.units import parse_size
from services.cli.output import Format, machine, moment, out, table
from services.cli.run import DONE, Output, guarded
from shared.platforms.lab import tools
from shared.platforms.lab.tools import MachineStatus

app = typer.Typer(no_args_is_help=True, help="Act on a lab site by hand.")

SitePath = Annotated[Path, typer.Argument(metavar="PATH", help="a site, VM or instance folder")]


@app.command()
def write(
    disk: Annotated[Path, typer.Argument(help="a disk file of a VM")],
    offset: Annotated[str, typer.Option(help="where, as 4MiB")] = "0B",
    text: Annotated[str | None, typer.Option(help="these bytes; standard input if absent")] = None,
    random: Annotated[int, typer.Option(help="instead: this many random ranges")] = 0,
    size: Annotated[str, typer.Option(help="of each random range")] = "64KiB",
    seed: int = 1,
) -> None:
    """Change a disk through the write protocol, as a guest does."""

    def work() -> int:
        if random:
            ranges = list(tools.write_random(disk, seed=seed, count=random, size=parse_size(size)))
            out.print(f"{len(ranges)} ranges of {size} written to {disk}", markup=False)
            return DONE
        data = sys.stdin.buffer.read() if text is None else text.encode()
        tools.write(disk, parse_size(offset), data)
        out.print(f"{len(data)} bytes written to {disk}", markup=False)
        return DONE

    raise typer.Exit(guarded(work))


@app.command()
def start(path: SitePath, output: Output = Format.TABLE) -> None:
    """Power on."""
    _machines(lambda: tools.start(path), output)


@app.command()
def stop(path: SitePath, output: Output = Format.TABLE) -> None:
    """Shut down."""
    _machines(lambda: tools.stop(path), output)


@app.command()
def status(path: SitePath, output: Output = Format.TABLE) -> None:
    """What stands and runs there."""
    _machines(lambda: tools.status(path), output)


def _machines(act: Callable[[], Sequence[MachineStatus]], form: Format) -> None:
    def work() -> int:
        found = act()
        if not machine({"items": msgspec.to_builtins(found), "next": None}, form):
            rows = [
                (m.kind, m.name, m.power, "yes" if m.heartbeat else "", m.address, m.pid,
                 moment(m.powered_on_at.isoformat() if m.powered_on_at else None))
                for m in found
            ]  # fmt: skip
            columns = ("KIND", "NAME", "POWER", "HEARTBEAT", "ADDRESS", "PID", "SINCE")
            table(columns, rows, empty="no machines")
        return DONE

    raise typer.Exit(guarded(work))
