"""Which message concerns which stream of the replicator, and who decides.

Owns the routing and nothing else: rules live in `domain`.
"""

from __future__ import annotations

from typing import Any, Final

from schemas import replicator as said
from schemas.envelope import Received, commands_topic
from schemas.job_ids import REPLICATION_JOBS, is_job_id
from services.replicator.domain import (
    checkpoint,
    inspection,
    iteration,
    run,
    scripts,
    throttling,
)
from services.replicator.domain.checkpoint import Checkpoint
from services.replicator.domain.iteration_state import Iteration
from services.replicator.domain.run import Run
from shared.decider import Decision, Family, Handler, on
from shared.errors import Refused
from shared.fold import ServiceDefinition
from shared.scripts import stored

NAME: Final = "replicator"

FAMILIES: Final[tuple[Family, ...]] = (
    stored.CONTENT,
    inspection.FAMILY,
    iteration.FAMILY,
    run.FAMILY,
    checkpoint.FAMILY,
    throttling.FAMILY,
)
_NOWHERE: Final = "iteration:unknown:unknown:unknown"


def _its_own(received: Received) -> str:
    return received.stream


def _to_iteration(received: Received) -> str:
    return str(received.body.iteration)


def _to_run(received: Received) -> str:
    return str(received.body.run)


def _to_checkpoint(received: Received) -> str:
    return str(received.body.checkpoint)


def _to_job(received: Received) -> str:
    """The job's stream; an id that is none of ours goes where it is found unknown."""
    job = str(received.body.job)
    return job if is_job_id(job, REPLICATION_JOBS) else _NOWHERE


def cancel_job(state: Any, received: Received) -> Decision:
    """Cancel an iteration, a run or a checkpoint. Raises Refused."""
    match state:
        case Iteration():
            return iteration.cancel_job(state, received)
        case Run():
            return run.cancel_job(state, received)
        case Checkpoint():
            return checkpoint.cancel_job(state, received)
    raise Refused(
        f"{received.body.job} cannot be cancelled", code="not-cancellable", remedy="let it end"
    )


HANDLERS: Final[tuple[Handler, ...]] = (
    # From the scheduler and the gateway.
    on(
        said.InspectSite,
        route=lambda r: inspection.inspection_stream(r.body),
        decide=inspection.inspect,
    ),
    on(
        said.StoreScript,
        route=lambda r: stored.script_stream(r.body.plan, r.body.sha256),
        decide=scripts.store_part,
    ),
    on(said.StartRun, route=_to_run, decide=run.start),
    on(said.StartIteration, route=_to_iteration, decide=iteration.start),
    on(said.CancelIteration, route=_to_iteration, decide=iteration.cancel),
    on(said.MakeCheckpoint, route=_to_checkpoint, decide=checkpoint.make),
    on(said.DeleteCheckpoint, route=_to_checkpoint, decide=checkpoint.delete),
    on(said.CancelJob, route=_to_job, decide=cancel_job),
    # What a copy sees of the budgets that all share.
    on(
        said.NoteThrottling,
        route=lambda r: throttling.throttling_stream(r.body),
        decide=throttling.note,
    ),
    # Between a run and its iterations.
    on(said.OpenGate, route=_to_iteration, decide=iteration.open_gate),
    on(said.RunMemberEnded, route=_to_run, decide=run.member_ended),
    # Facts that a running effect commits under its claim.
    on(said.ScriptStarted, route=_its_own, decide=iteration.script_started),
    on(said.RunScriptStarted, route=_its_own, decide=run.script_started),
    on(said.TransferMarked, route=_its_own, decide=iteration.transfer_marked),
    on(said.SnapshotOpened, route=_its_own, decide=iteration.trouble_noted),
    on(said.DiskTransferred, route=_its_own, decide=iteration.trouble_noted),
    on(said.CopyFinalized, route=_its_own, decide=iteration.trouble_noted),
)

DEFINITION: Final = ServiceDefinition(
    name=NAME,
    families=FAMILIES,
    handlers=HANDLERS,
    subscriptions=tuple(
        (source, commands_topic(NAME)) for source in ("scheduler", "gateway", NAME)
    ),
)
