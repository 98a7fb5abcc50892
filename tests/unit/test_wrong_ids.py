"""Whatever a person names, a command is refused with words: none is set aside.

Real handlers and the real fold. Whatever is raised here but a refusal would park the command, and
all later ones of its plan would wait behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import pytest

from schemas import operations as said_ops
from schemas import prep, recovery, registry
from schemas import recovery_steering as steer
from schemas import scheduler as asked
from schemas.children import CleanupGroup
from schemas.clean_points import FindCleanPoint, VerdictScript
from schemas.common import Command, CommandSettled
from schemas.envelope import Meta, Received, Recorded
from schemas.folds.jobs import SERVICES
from schemas.ids import family_of
from schemas.job_ids import JOBS, RECOVERY_JOBS, REPLICATION_JOBS, is_job_id
from schemas.language import import_all
from schemas.lost_sites import PowerOffOriginals
from schemas.notifier import ChangeAlert
from schemas.recovery_groups import RecoverGroup
from schemas.replicator import CancelJob
from services.notifier.handlers import definition as notifier
from services.recovery.domain.naming import NOWHERE
from services.recovery.handlers import DEFINITION as RECOVERY
from services.replicator.handlers import DEFINITION as REPLICATOR
from shared.eventlog.port import Loaded, Step
from shared.fold import Folder, Input, NeedStreams, ServiceDefinition, StateCache
from shared.testing.spec import T0, stored
from tests.unit.recovery.world import JOB, World, enrol, start, vm
from tests.unit.scheduler.desk import desk_with

LONG: Final = "x" * 60_000
"""As long as a command has room for; quoted with its backslashes it takes four times as much."""

WRONG_NAMES: Final = {
    "empty": "",
    "none": "-",
    "colon": "shop:db",
    "slash": "shop/db",
    "blank": "shop ",
    "not ASCII": "läden",
    "NUL": "\x00",
    "long": LONG,
    "backslashes": "\\" * 30_000,
}
"""What can be the name of nothing."""

WRONG_JOBS: Final = {
    "empty": "",
    "a word": "shop",
    "colons": ":::",
    "family alone": "recovery",
    "VM family alone": "vm-recovery:",
    "key left off": "recovery:shop",
    "one too many": f"{JOB}:db",
    "VM left off": "vm-recovery:shop:r1",
    "VM's one too many": "vm-recovery:shop:r1:db:x",
    "VM it has not": "vm-recovery:shop:r1:nobody",
    "empty plan": "recovery::r1",
    "empty key": "recovery:shop:",
    "empty VM": "vm-recovery:shop:r1:",
    "empty key of a VM": "vm-recovery:shop::db",
    "cleanup cut short": "cleanup:shop",
    "never was": "recovery:shop:r9",
    "cleanup that never was": "cleanup:shop:r9",
    "commit": "commit:shop:r1",
    "rollback": "rollback:shop:r1",
    "search": "find-clean-point:shop:r1",
    "group": "recovery-group:shop:r1",
    "group's cleanup": "group-cleanup:shop:r1",
    "reversal": "reversal:shop:r1",
    "power-off": "site-power-off:east:r1",
    "iteration": "iteration:shop:db:r1",
    "iteration cut short": "iteration:shop:db",
    "run": "replication-run:shop:r1",
    "checkpoint": "checkpoint:shop:r1",
    "no job of the recovery service": "vm-source:shop:r1:db",
    "script": "script:shop:0000",
    "inspection": "inspection:shop:r1:x",
    "alert": "alert:shop:job-failed:test",
    "alert cut short": "alert:shop:job-failed",
    "family of nobody": "weather:shop:r1",
    "slash": "recovery:shop:r1/x",
    "slash in a plan": "recovery:a/b:r1",
    "not ASCII": "recovery:läden:r1",
    "NUL": "recovery:shop:\x00",
    "long": f"recovery:shop:{LONG}",
    "backslashes": "recovery:shop:" + "\\" * 30_000,
}

JOB_COMMANDS: Final[Mapping[type[Command], Callable[[str], Command]]] = {
    steer.PauseJob: lambda job: steer.PauseJob(command_id="c", job=job),
    steer.ResumeJob: lambda job: steer.ResumeJob(command_id="c", job=job),
    steer.RetryJob: lambda job: steer.RetryJob(command_id="c", job=job),
    steer.SkipStep: lambda job: steer.SkipStep(command_id="c", job=job, step="wait-ready"),
    steer.AnswerQuestion: lambda job: steer.AnswerQuestion(
        command_id="c", job=job, step="pre-script", choice="skip"
    ),
    recovery.CancelRecoveryJob: lambda job: recovery.CancelRecoveryJob(command_id="c", job=job),
    recovery.StartCleanup: lambda job: recovery.StartCleanup(
        command_id="c", job="cleanup:shop:c1", recovery=job
    ),
    said_ops.StartCommit: lambda job: said_ops.StartCommit(
        command_id="c", job="commit:shop:k1", recovery=job
    ),
    said_ops.StartRollback: lambda job: said_ops.StartRollback(
        command_id="c", job="rollback:shop:b1", recovery=job
    ),
    CleanupGroup: lambda job: CleanupGroup(command_id="c", job="group-cleanup:shop:g1", group=job),
}
"""Commands to the recovery service that name a job, with any id."""

SITE_COMMANDS: Final[Mapping[type[Command], Callable[[str], Command]]] = {
    PowerOffOriginals: lambda site: PowerOffOriginals(
        command_id="c", job=f"site-power-off:{site}:p1", site=site, confirm=site
    ),
    prep.DrainNode: lambda site: prep.DrainNode(command_id="c", site=site, node="prep1"),
}
"""Commands to the recovery service that name a site."""

VERDICT: Final = VerdictScript(run="clean.sh", runtime="sh", sha256="0" * 64, size=1)

PLAN_COMMANDS: Final[Mapping[type[Command], Mapping[str, Any]]] = {
    asked.DeletePlan: {},
    asked.StartPlan: {},
    asked.StopPlan: {},
    asked.RunPlan: {"job": "replication-run:shop:r1"},
    asked.PrioritisePlan: {"priority": 1},
    asked.ResetVm: {"vm": "db"},
    asked.CreateCheckpoint: {"job": "checkpoint:shop:c1"},
    asked.ChangeCheckpoint: {"checkpoint": "checkpoint:shop:c1", "action": "preserve"},
    asked.Recover: {"job": JOB, "mode": "test"},
    FindCleanPoint: {"job": "find-clean-point:shop:s1", "verdict": VERDICT},
    RecoverGroup: {
        "job": "recovery-group:shop:g1",
        "recover": asked.Recover(command_id="c", plan="shop", job=JOB, mode="test"),
    },
}
"""Commands to the scheduler that name a plan, with all else that they need."""

NAMED_SITES: Final = (asked.AddSite, asked.CheckSite, asked.RemoveSite, asked.ReleaseSite)

ELSEWHERE: Final = {
    CancelJob,
    ChangeAlert,
    # A plan's document is checked whole, where it is parsed; its application is the scheduler's.
    asked.ApplyPlan,
    asked.FinishApplication,
}


class Owner:
    """A service that decides one command at a time over streams that are as they were given.

    `read` are those that the last one was decided over.
    """

    def __init__(self, definition: ServiceDefinition) -> None:
        self._definition = definition
        self._cache = StateCache(definition)
        self._handlers = {handler.message: handler for handler in definition.handlers}
        self._streams: dict[str, list[Recorded]] = defaultdict(list)
        self.read: tuple[str, ...] = ()

    def hold(self, stream: str, event: Any) -> None:
        """One more event of a stream."""
        name, version, data = registry.encode(event)
        events = self._streams[stream]
        events.append(
            Recorded(
                source=self._definition.name, epoch=1, topic="events", partition=0,
                seq=len(events) + 1, stream=stream, version=len(events) + 1, type=name,
                schema_version=version, data=data, meta=Meta(occurred_at=T0),
            )
        )  # fmt: skip

    def answer(self, command: Command) -> CommandSettled:
        """What the command is answered, where that is all that comes of it."""
        body = stored(command)
        each = Input(
            received=Received(body=body, meta=Meta(occurred_at=T0), at=T0, stream="command:shop:c")
        )
        folder = Folder(self._definition, self._cache, self._handlers)
        self._load(folder.streams_of([each]))
        step = self._fold(folder, each)
        self.read = tuple(stream for stream, _ in step.read)
        (row,) = step.rows
        answer = registry.decode(row.type, row.schema_version, row.data)
        assert isinstance(answer, CommandSettled)
        return answer

    def _fold(self, folder: Folder, each: Input) -> Step:
        while True:
            try:
                return folder.fold([each])
            except NeedStreams as need:
                self._load(need.streams)
                folder.reset()

    def _load(self, streams: Collection[str]) -> None:
        self._cache.absorb(
            {
                each: Loaded(snapshot=None, events=tuple(self._streams.get(each, ())))
                for each in streams
            }
        )


def of_recovery(*, ended: bool) -> Owner:
    """The recovery service with one recovery, under way or ended, and its VM."""
    world = World()
    world.deliver(enrol(vm("db")))
    world.deliver(start(vm("db")))
    if ended:
        world.run()
    else:
        world.deliver_all()
    owner = Owner(RECOVERY)
    for stream, event, _ in world.log:
        owner.hold(stream, event)
    return owner


OWNERS: Final = {"running": of_recovery(ended=False), "ended": of_recovery(ended=True)}


def is_refused(answer: CommandSettled | None, *, codes: tuple[str, ...]) -> None:
    """Refused with one of the codes, with what is wrong and how to mend it."""
    assert answer is not None
    assert answer.outcome == "refused" and answer.code in codes, answer.code
    assert answer.message and answer.remedy, answer


@pytest.mark.parametrize("state", OWNERS)
@pytest.mark.parametrize("wrong", WRONG_JOBS)
@pytest.mark.parametrize("command", JOB_COMMANDS, ids=lambda kind: kind.__name__)
def test_a_command_to_no_job_is_refused(command: type[Command], wrong: str, state: str) -> None:
    owner = OWNERS[state]
    answer = owner.answer(JOB_COMMANDS[command](WRONG_JOBS[wrong]))
    assert owner.read
    assert all(each == NOWHERE or is_job_id(each, RECOVERY_JOBS) for each in owner.read)
    others = ("not-available", "not-cancellable", "no-question", "still-running")
    is_refused(answer, codes=("unknown-job", *others))


@pytest.mark.parametrize("wrong", WRONG_NAMES)
@pytest.mark.parametrize("command", SITE_COMMANDS, ids=lambda kind: kind.__name__)
def test_a_command_to_no_site_is_refused(command: type[Command], wrong: str) -> None:
    answer = OWNERS["ended"].answer(SITE_COMMANDS[command](WRONG_NAMES[wrong]))
    is_refused(answer, codes=("unknown-site",))


def test_a_power_off_of_one_site_under_the_id_of_another_is_refused() -> None:
    job = "site-power-off:west:p1"
    asked_for = PowerOffOriginals(command_id="c", job=job, site="east", confirm="east")
    is_refused(OWNERS["ended"].answer(asked_for), codes=("unknown-job",))


@pytest.mark.parametrize("wrong", WRONG_JOBS)
def test_no_job_of_the_replicator_is_cancelled(wrong: str) -> None:
    answer = Owner(REPLICATOR).answer(CancelJob(command_id="c", job=WRONG_JOBS[wrong]))
    is_refused(answer, codes=("unknown-job",))


@pytest.mark.parametrize("wrong", WRONG_JOBS)
def test_no_alert_is_changed(wrong: str) -> None:
    owner = Owner(notifier(("oncall@example.org",)))
    answer = owner.answer(ChangeAlert(command_id="c", alert=WRONG_JOBS[wrong], action="ack"))
    is_refused(answer, codes=("unknown-alert",))


@pytest.mark.parametrize("wrong", WRONG_NAMES)
@pytest.mark.parametrize("command", PLAN_COMMANDS, ids=lambda kind: kind.__name__)
def test_a_command_to_no_plan_is_refused(command: type[Command], wrong: str) -> None:
    fields = PLAN_COMMANDS[command]
    answer = desk_with("db").command(command, plan=WRONG_NAMES[wrong], **fields)
    is_refused(answer, codes=("unknown-plan", "unknown-checkpoint"))


@pytest.mark.parametrize("wrong", WRONG_NAMES)
@pytest.mark.parametrize(
    "command",
    [kind for kind in PLAN_COMMANDS if {"vm", "vms"} & set(kind.__struct_fields__)],
    ids=lambda kind: kind.__name__,
)
def test_a_vm_that_a_plan_has_not_is_refused(command: type[Command], wrong: str) -> None:
    name = WRONG_NAMES[wrong]
    named = {"vm": name} if command is asked.ResetVm else {"vms": (name,)}
    fields = {**PLAN_COMMANDS[command], **named}
    is_refused(desk_with("db").command(command, plan="shop", **fields), codes=("unknown-vm",))


@pytest.mark.parametrize("wrong", [*WRONG_NAMES, *WRONG_JOBS])
@pytest.mark.parametrize("command", [asked.Recover, asked.ChangeCheckpoint])
def test_a_checkpoint_that_a_plan_has_not_is_refused(command: type[Command], wrong: str) -> None:
    desk = desk_with("db")
    desk.copied("db")
    fields = {**PLAN_COMMANDS[command], "checkpoint": {**WRONG_NAMES, **WRONG_JOBS}[wrong]}
    is_refused(desk.command(command, plan="shop", **fields), codes=("unknown-checkpoint",))


@pytest.mark.parametrize("wrong", WRONG_NAMES)
@pytest.mark.parametrize("command", [asked.Recover, FindCleanPoint])
def test_a_script_that_is_none_is_not_skipped(command: type[Command], wrong: str) -> None:
    fields = {**PLAN_COMMANDS[command], "skip_scripts": (WRONG_NAMES[wrong],)}
    is_refused(desk_with("db").command(command, plan="shop", **fields), codes=("invalid",))


@pytest.mark.parametrize("wrong", WRONG_NAMES)
@pytest.mark.parametrize("command", NAMED_SITES)
def test_a_site_that_is_none_is_refused(command: type[Command], wrong: str) -> None:
    fields: dict[str, Any] = {}
    if command is asked.AddSite:
        fields = {"platform": "lab", "settings": {}}
    answer = desk_with("db").command(command, site=WRONG_NAMES[wrong], **fields)
    is_refused(answer, codes=("unknown-site", "invalid"))


def test_every_command_is_tried() -> None:
    import_all()
    kinds = {registry.struct_of(name) for name in registry.names()}
    commands = {
        kind
        for kind in kinds
        if issubclass(kind, Command) and kind.__module__.startswith("schemas.")
    }
    assert commands == {*JOB_COMMANDS, *SITE_COMMANDS, *PLAN_COMMANDS, *NAMED_SITES, *ELSEWHERE}


def test_every_family_of_jobs_has_a_shape() -> None:
    owners = {**dict.fromkeys(RECOVERY_JOBS, "recovery")}
    owners |= dict.fromkeys(REPLICATION_JOBS, "replicator")
    assert owners == dict(SERVICES)
    assert all(is_job_id(":".join((family, *parts))) for family, parts in JOBS.items())
    wrong = [each for each in WRONG_JOBS.values() if family_of(each) in JOBS]
    assert not any(is_job_id(each) for each in wrong if "/" in each or "::" in each)
