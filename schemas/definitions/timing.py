"""The schedule parts of a plan document: replication, blackouts, checkpoints, targets.

Owns ranges and the rules between these fields. The arithmetic of ticks is the scheduler's.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from cronsim import CronSim, CronSimError

from schemas import plans, units
from schemas.definitions.scripts import PLAN_REPLICATION, read_hooks
from schemas.documents import Fields, Mismatch, Node, Rule, show
from schemas.rules import duration, flag, moment, one_of, text, time_of_day, whole, zone

DAY_S: Final = 86_400.0
# product.md §2.
INTERVAL_MIN_S: Final = 60.0
INTERVAL_MAX_S: Final = 30 * DAY_S
CHECKPOINT_EVERY_MAX_S: Final = 366 * DAY_S
KEEP_FOR_MAX_S: Final = 3_660 * DAY_S
KEEP_LAST_MAX: Final = 10_000
TARGET_MAX_S: Final = 366 * DAY_S
BLACKOUT_COUNT_MAX: Final = 100

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CRON_ALLOWED: Final = 'a cron line of five fields such as "0 */4 * * *"'
# Any fixed moment does: it only asks whether the line ever fires.
_CRON_PROBE: Final = datetime(2000, 1, 1, tzinfo=UTC)


def read_replication(
    fields: Fields, *, scripts: Mapping[str, bytes], interval_min_s: float
) -> plans.ReplicationPolicy:
    """The `replication` mapping; problems go to the report."""
    interval_s = fields.need(
        "interval",
        duration(min_s=interval_min_s, max_s=INTERVAL_MAX_S),
        fallback=INTERVAL_MAX_S,
    )
    synchronize = fields.take("synchronize", flag(), default=False)
    if synchronize:
        pre_script, post_script = read_hooks(fields, PLAN_REPLICATION, scripts=scripts)
    else:
        pre_script = post_script = None
        for key in ("pre_script", "post_script"):
            fields.refuse(
                key,
                allowed="nothing here while synchronize is false",
                message="set synchronize: true, or give each VM its own replication script",
            )
    policy = plans.ReplicationPolicy(
        interval_s=interval_s,
        start_at=fields.take("start_at", moment(), default=plans.START_AT_DEFAULT),
        synchronize=synchronize,
        priority=fields.take("priority", priority(), default=plans.PRIORITY_DEFAULT),
        compression=fields.take("compression", flag(), default=False),
        quiesce=fields.take("quiesce", flag(), default=False),
        spread_s=_read_spread(fields, interval_s, synchronize),
        blackouts=_read_blackouts(fields),
        over_capacity=fields.take("over_capacity", flag(), default=False),
        pre_script=pre_script,
        post_script=post_script,
    )
    fields.close()
    return policy


def read_checkpoints(fields: Fields, *, interval_min_s: float) -> plans.CheckpointPolicy:
    """The `checkpoints` mapping; problems go to the report."""
    every = duration(min_s=interval_min_s, max_s=CHECKPOINT_EVERY_MAX_S)
    has_every, has_cron = fields.node("every"), fields.node("cron")
    if has_every is None and has_cron is None:
        fields.missing("every", allowed="every (a duration) or cron")
    if has_every is not None and has_cron is not None:
        has_cron.problem(found=show(has_cron.value), allowed="either every or cron, not both")
    if has_cron is None:
        fields.refuse("time_zone", allowed="nothing here: a time zone belongs to cron")
    keeps = (fields.node("keep_last"), fields.node("keep_for"))
    if keeps == (None, None):
        fields.missing("keep_last", allowed="keep_last (how many), keep_for (how long), or both")
    policy = plans.CheckpointPolicy(
        every_s=fields.take("every", every, default=None),
        cron=fields.take("cron", _cron(), default=None),
        time_zone=fields.take("time_zone", zone(), default="UTC"),
        keep_last=fields.take("keep_last", whole(minimum=1, maximum=KEEP_LAST_MAX), default=None),
        keep_for_s=fields.take(
            "keep_for", duration(min_s=1.0, max_s=KEEP_FOR_MAX_S), default=None
        ),
    )
    fields.close()
    return policy


def read_targets(fields: Fields) -> plans.Targets:
    """The `targets` mapping; problems go to the report."""
    target = duration(min_s=1.0, max_s=TARGET_MAX_S)
    targets = plans.Targets(
        rpo_s=fields.take("rpo", target, default=None),
        rto_s=fields.take("rto", target, default=None),
    )
    fields.close()
    return targets


def priority() -> Rule[int]:
    """1 (highest) to 5."""
    return whole(minimum=1, maximum=5)


def _read_spread(fields: Fields, interval_s: float, synchronize: bool) -> float:
    spread_s = fields.take("spread", duration(max_s=interval_s / 2), default=0.0)
    node = fields.node("spread")
    if node is not None and spread_s > 0 and synchronize:
        node.problem(
            found=show(node.value),
            allowed="nothing here: with synchronize all VMs share their tick",
        )
    return spread_s


def _read_blackouts(fields: Fields) -> tuple[plans.Blackout, ...]:
    nodes = fields.items("blackouts", "a list of windows, each a mapping with from and to")
    if len(nodes) > BLACKOUT_COUNT_MAX:
        nodes[BLACKOUT_COUNT_MAX].problem(
            found=f"{len(nodes)} windows", allowed=f"at most {BLACKOUT_COUNT_MAX} windows"
        )
    read = (_read_blackout(node) for node in nodes[:BLACKOUT_COUNT_MAX])
    return tuple(window for window in read if window is not None)


def _read_blackout(node: Node) -> plans.Blackout | None:
    fields = node.fields("a mapping with from, to, days and time_zone")
    start = fields.need("from", _blackout_edge, fallback=0)
    end = fields.need("to", _blackout_edge, fallback=1)
    window: plans.Blackout | None = None
    if isinstance(start, int) and isinstance(end, int):
        window = _read_daily(fields, start, end)
        valid = start != end
    else:
        for key in ("days", "time_zone"):
            fields.refuse(key, allowed="nothing here: they belong to times of day")
        valid = isinstance(start, datetime) and isinstance(end, datetime) and start < end
        if isinstance(start, datetime) and isinstance(end, datetime):
            window = plans.OnceBlackout(starts_at=start, ends_at=end)
    if not valid and (edge := fields.node("to")) is not None:
        edge.problem(
            found=show(edge.value),
            allowed="two different times of day, or two moments with from before to",
        )
    fields.close()
    return window


def _read_daily(fields: Fields, start: int, end: int) -> plans.DailyBlackout:
    nodes = fields.items("days", f"a list of {', '.join(_DAYS)}")
    chosen = [node.read(one_of(_DAYS), fallback=None) for node in nodes]
    days = tuple(number for number, day in enumerate(_DAYS) if day in chosen)
    return plans.DailyBlackout(
        from_minute=start,
        to_minute=end,
        days=days or tuple(range(len(_DAYS))),
        time_zone=fields.take("time_zone", zone(), default="UTC"),
    )


def _blackout_edge(value: object) -> int | datetime:
    for rule in (time_of_day(), moment()):
        try:
            edge: int | datetime = rule(value)
        except Mismatch:
            continue
        return edge
    raise Mismatch(f"{units.TIME_OF_DAY_ALLOWED}, or {units.MOMENT_ALLOWED}")


def _cron() -> Rule[str]:
    """A five-field cron line that fires at least once."""
    plain = text(allowed=_CRON_ALLOWED, chars_max=100)

    def rule(value: object) -> str:
        line = " ".join(plain(value).split())
        if len(line.split(" ")) != 5:
            raise Mismatch(_CRON_ALLOWED)
        try:
            next(CronSim(line, _CRON_PROBE))
        except StopIteration as error:
            raise Mismatch(_CRON_ALLOWED, message="this line never fires") from error
        # cronsim checks a step or range by assertion and conversion in a few corners.
        except (CronSimError, ValueError, AssertionError, TypeError) as error:
            raise Mismatch(_CRON_ALLOWED, message=str(error)[:100].lower()) from error
        return line

    return rule
