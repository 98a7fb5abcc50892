"""Manual steps in a plan document: what a person does, where it stands, how long it may take.

Owns the key `manual_steps`, of `recovery` and of a VM. When one is due, and what its answer
means, is the recovery service's.
"""

from collections.abc import Sequence
from typing import Final

from schemas import plans
from schemas.documents import Fields, Node, Report, path_text, show
from schemas.rules import duration, name, one_of, text, whole

MANUAL_COUNT_MAX: Final = 50
TIMEOUT_MAX_S: Final = 30 * 86_400.0
BOOT_ORDER_MAX: Final = 1_000

_SHAPE: Final = "a mapping with name, text, at, owner, timeout, …"
_TEXT: Final = "what is to be done, in words"
_OWNER: Final = "who does it"


def read_manual_steps(
    fields: Fields, points: Sequence[plans.ManualPoint]
) -> tuple[plans.ManualStep, ...]:
    """The manual steps of one level, in their order; `points` is where they may stand."""
    node = fields.node("manual_steps")
    if node is None:
        return ()
    items = node.items("a list of manual steps")
    if len(items) > MANUAL_COUNT_MAX:
        node.problem(
            found=f"a list of {len(items)}", allowed=f"at most {MANUAL_COUNT_MAX} manual steps"
        )
        return ()
    steps = tuple(_read_step(item, points) for item in items)
    first: dict[str, int] = {}
    for index, step in enumerate(steps):
        if step.name and first.setdefault(step.name, index) != index:
            node.report.add(
                (*node.path, index, "name"),
                found=f"{show(step.name)} a second time, first in "
                + path_text((*node.path, first[step.name])),
                allowed="each name once",
            )
    return steps


def check_boot_orders(
    report: Report, steps: Sequence[plans.ManualStep], vms: Sequence[plans.VmDefinition]
) -> None:
    """Record steps that stand before a boot order which no VM of the plan has."""
    orders = sorted({vm.boot_order for vm in vms})
    for index, step in enumerate(steps):
        if step.boot_order is not None and step.boot_order not in orders:
            report.add(
                ("recovery", "manual_steps", index, "boot_order"),
                found=str(step.boot_order),
                allowed="the boot order of a VM: " + ", ".join(map(str, orders[:20])),
            )


def _read_step(node: Node, points: Sequence[plans.ManualPoint]) -> plans.ManualStep:
    fields = node.fields(_SHAPE)
    at = fields.need("at", one_of(points), fallback=points[0])
    nodes = fields.items("operations", f"a list of {', '.join(plans.RECOVERY_OPERATIONS)}")
    chosen = [each.read(one_of(plans.RECOVERY_OPERATIONS), fallback=None) for each in nodes]
    operations = tuple(each for each in plans.RECOVERY_OPERATIONS if each in chosen)
    step = plans.ManualStep(
        name=fields.need("name", name(), fallback=""),
        text=fields.need("text", text(allowed=_TEXT, chars_max=1_000), fallback=""),
        at=at,
        operations=operations or plans.RECOVERY_OPERATIONS,
        owner=fields.take("owner", text(allowed=_OWNER, chars_max=200), default=""),
        boot_order=_read_boot_order(fields, at),
        timeout_s=fields.take(
            "timeout",
            duration(min_s=1.0, max_s=TIMEOUT_MAX_S),
            default=plans.MANUAL_TIMEOUT_DEFAULT_S,
        ),
        on_timeout=fields.take("on_timeout", one_of(plans.ON_TIMEOUT), default="fail"),
    )
    fields.close()
    return step


def _read_boot_order(fields: Fields, at: plans.ManualPoint) -> int | None:
    if at == "before-boot-order":
        rule = whole(minimum=1, maximum=BOOT_ORDER_MAX)
        return fields.need("boot_order", rule, fallback=None)
    fields.refuse("boot_order", allowed="nothing: only a step before-boot-order names one")
    return None
