"""PIT checkpoints: when the next one is due, and which ones no rule keeps any longer.

Reconciler arithmetic only: asked at any time, it answers from the facts it is given. Deleting is
the replicator's job, and one in use is held there.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cronsim import CronSim

from schemas.plans import CheckpointPolicy
from schemas.units import seconds_to_us, time_zone
from services.scheduler.domain.grid import Grid, next_tick, to_us

# Cron lines fire at local times; where clocks go back a line may name a moment that has passed.
_CRON_REPEAT_COUNT_MAX: Final = 200


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What retention needs to know of one available checkpoint of one plan."""

    id: str
    created_at: datetime
    preserved: bool = False
    in_use: bool = False


def next_checkpoint(
    policy: CheckpointPolicy, *, start_at: datetime, after: datetime
) -> datetime | None:
    """When the next checkpoint is due, strictly after a moment, in UTC; None: never again.

    `every` counts from the replication's `start_at`. Cron follows Debian where clocks change: a
    local time that is skipped fires right after the gap, one that comes twice fires once.
    """
    if policy.every_s is not None:
        grid = Grid(start_us=to_us(start_at), interval_us=seconds_to_us(policy.every_s))
        return next_tick(grid, after)
    if policy.cron is None:
        return None
    after = after.astimezone(UTC)
    zone = UTC if policy.time_zone == "UTC" else time_zone(policy.time_zone)
    fires = CronSim(policy.cron, after.astimezone(zone))
    for _ in range(_CRON_REPEAT_COUNT_MAX):
        moment = next(fires, None)
        if moment is None:
            return None
        if moment.astimezone(UTC) > after:
            return moment.astimezone(UTC)
    return None


def expired(
    checkpoints: Iterable[CheckpointFacts],
    *,
    keep_last: int | None,
    keep_for_s: float | None,
    now: datetime,
) -> tuple[str, ...]:
    """Ids that may go, oldest first: no rule keeps them, nobody preserved or uses them.

    The newest `keep_last` that are not preserved stay, and so does what is at most `keep_for_s`
    old. Preserved ones take no place among the newest: the rotation keeps its full length.
    Without any rule nothing expires.
    """
    if keep_last is None and keep_for_s is None:
        return ()
    newest_first = sorted(
        (checkpoint for checkpoint in checkpoints if not checkpoint.preserved),
        key=lambda checkpoint: (checkpoint.created_at, checkpoint.id),
        reverse=True,
    )
    beyond = newest_first[keep_last or 0 :]
    if keep_for_s is not None:
        oldest_kept = now - timedelta(microseconds=seconds_to_us(keep_for_s))
        beyond = [checkpoint for checkpoint in beyond if checkpoint.created_at < oldest_kept]
    return tuple(checkpoint.id for checkpoint in reversed(beyond) if not checkpoint.in_use)
