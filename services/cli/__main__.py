"""`seawall`: the command line. Wiring of the commands only."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.commands import (
    alerts,
    archive,
    checkpoints,
    doctor,
    export,
    jobs,
    lab,
    log,
    nodes,
    parked,
    plans,
    reconcile,
    sites,
    status,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Seawall: keeps copies of virtual machines fresh elsewhere, and brings them back.",
    pretty_exceptions_enable=False,
)
app.add_typer(sites.app, name="site")
app.add_typer(nodes.app, name="node")
plans.app.command("export")(export.export)
app.add_typer(plans.app, name="plan")
app.add_typer(plans.vm_app, name="vm")
app.add_typer(checkpoints.app, name="checkpoint")
app.command()(jobs.recover)
app.command()(jobs.cleanup)
app.command()(jobs.commit)
app.command()(jobs.rollback)
app.add_typer(jobs.app, name="job")
app.command()(status.queue)
app.add_typer(alerts.app, name="alert")
app.add_typer(status.app, name="event")
app.command()(doctor.doctor)
for command in (parked.parked, parked.retry, parked.skip):
    log.app.command()(command)
log.app.command()(archive.export)
log.app.command("import")(archive.import_)
log.app.command()(reconcile.reconcile)
app.add_typer(log.app, name="log")
app.add_typer(lab.app, name="lab")


@app.command()
def up(
    services: Annotated[str, typer.Option(help="some of them, as scheduler,replicator")] = "",
) -> None:
    """Run the control plane in this terminal until Ctrl-C."""
    # The services and their libraries take half a second to import: only this command needs them.
    from services.cli.up import up as run_up

    raise typer.Exit(run_up([name for name in services.split(",") if name]))


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
