"""Which published type travels on which topic.

Events are on the topic of the service whose log they stand in, messages on that of the service
they are addressed to. Timers and the payloads and results of effects stay in their service's
database: they are stored under published names, and nobody outside ever sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from schemas.envelope import DEAD_LETTER_TOPIC, commands_topic, events_topic

SERVICES: Final = ("gateway", "scheduler", "replicator", "recovery", "notifier")
"""Services with a log, and so with a topic of events."""

PROGRESS: Final = "seawall.progress"
PARKED: Final = "common.message-parked"
"""Said by any service that cannot decide a message, in the topic of dead letters."""

SETTLED: Final = "common.command-settled"
SKIPPED: Final = "common.message-skipped"
"""Said by every service that is asked: all but the gateway."""

MESSAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "scheduler": (
        "add-site", "apply-plan", "change-checkpoint", "check-site", "checkpoint-ended",
        "create-checkpoint", "delete-plan", "end-plan-quarantine", "find-clean-point",
        "finish-application", "hold-again", "iteration-ended", "originals-found", "parent-ended",
        "prioritise-plan",
        "quarantine-plan", "record-verdict", "recover", "recover-child", "recover-group",
        "recovery-ended", "release-holds", "release-site", "remove-site", "reset-vm",
        "return-vms", "run-plan", "site-inspected", "site-lost", "start-plan", "stop-plan",
        "sync-last", "mark-direction", "cancel-sync", "turn-vms",
    ),
    "replicator": (
        "cancel-iteration", "cancel-job", "delete-checkpoint", "inspect-site", "make-checkpoint",
        "open-gate", "run-member-ended", "start-iteration", "start-run", "store-script",
    ),
    "recovery": (
        "abandon-vm", "answer-question", "begin-cleanup", "begin-rollback", "boot-vm",
        "cancel-child", "cancel-job", "child-cleaned", "child-ended", "child-refused",
        "child-started", "cleanup", "cleanup-group", "cleanup-news", "commit", "commit-ended",
        "direction-marked", "drain-node", "enrol-vm", "free-instances", "holds-answered",
        "instance-late", "instance-ready", "last-sync-ended", "launch-vm", "leave-seat",
        "look-at-lost-site",
        "member-asks", "member-news", "name-sources", "pause-job", "pause-vm", "power-off-ended",
        "power-off-originals", "restore-source", "resume-job", "resume-vm", "retry-job",
        "retry-vm", "rollback", "rollback-cleaned", "rollback-ended", "seat-granted",
        "seat-refused", "secure-source", "site-released", "skip-step", "source-news",
        "start-clean-point-search", "start-group", "start-recovery", "start-reversal",
        "store-script", "take-instances", "take-seat", "unwatch-instance", "watch-instance",
        "watch-lost-site",
    ),
    "notifier": ("change-alert", "deliver", "note-alert"),
}  # fmt: skip
"""Service → what it is told or asked; the stored name begins with the service's."""

INTERNAL: Final[Mapping[str, tuple[str, ...]]] = {
    "scheduler": (
        "checkpoint-due", "claim-due", "group-check-due", "group-tick-due", "inspection-due",
        "names-due",
        "retention-due", "rpo-due", "tick-due",
    ),
    "replicator": (
        "close-snapshot", "copy-switched", "create-vm-checkpoint", "delete-vm-checkpoint",
        "discard-staged", "disk-copied", "finalize-copy", "note-throttling", "open-snapshot",
        "run-script", "script-ran", "snapshot-closed", "snapshot-taken", "transfer-disk",
        "verify-checkpoint-deleted", "vm-checkpoint-created", "work-done",
    ),
    "recovery": (
        "answer-due", "auto-cleanup-due", "boot-delay-over", "clean-again-due", "commit-reminder",
        "copies-verified", "copy-held", "create-instance", "disk-rebuilt", "hold-copy",
        "instance-state", "instances-seen", "list-owned", "list-prep-nodes", "look-at-instances",
        "look-at-originals", "look-at-source", "look-at-sources", "lost-site-look-due",
        "measure-written", "originals-listed", "owned-listed", "poll-due", "poll-site",
        "power-off-source",
        "power-on", "power-on-source", "power-prep-node", "preflight", "preflight-report",
        "prep-nodes", "prepare-windows", "rebuild-disk", "release-copy", "remove-object",
        "run-script", "script-ran", "shut-down-source", "site-polled", "source-state",
        "sources-listed",
        "validate-windows", "verify-copies", "windows-prepared", "windows-validated", "work-done",
        "written-measured",
    ),
    "notifier": ("digest-due", "send-mail", "snooze-due"),
}  # fmt: skip
"""Service → its timers, the payloads and results of its effects, what its copies see."""

_EVENTS: Final[Mapping[str, str]] = {
    "gateway": "gateway",
    "scheduler": "scheduler",
    "replication": "replicator",
    "recovery": "recovery",
    "alert": "notifier",
    "digest": "notifier",
    "news": "notifier",
    "delivery": "notifier",
}
"""First word of an event's stored name → the service that says it."""


def topics_of(name: str) -> tuple[str, ...]:
    """The topics a stored name is found on; none for what stays inside its service.

    Raises KeyError for a name that no rule here covers.
    """
    if name in {SETTLED, SKIPPED}:
        return tuple(events_topic(service) for service in SERVICES if service in MESSAGES)
    if name == PARKED:
        return (DEAD_LETTER_TOPIC,)
    first, _, rest = name.partition(".")
    if rest in MESSAGES.get(first, ()):
        return (commands_topic(first),)
    if rest in INTERNAL.get(first, ()):
        return ()
    return (events_topic(_EVENTS[first]),)
