"""From a plan document (YAML or JSON, with contents of its scripts) to a `PlanDefinition`.

Owns the document's outer grammar: names, sites, recovery, the wire form. Every problem is reported
at once. Does not know the sites: whether VMs exist is asked later (`selection`).
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import msgspec

from schemas import plans
from schemas.definitions.manual import check_boot_orders, read_manual_steps
from schemas.definitions.scripts import PLAN_RECOVERY, SCRIPT_BYTES_MAX, read_hooks
from schemas.definitions.timing import (
    DAY_S,
    INTERVAL_MIN_S,
    read_checkpoints,
    read_replication,
    read_targets,
)
from schemas.definitions.vms import read_vms
from schemas.documents import Fields, Mismatch, Node, Report, show
from schemas.rules import duration, flag, name, one_of, text

AFTER_MAX: Final = 50
"""Plans that one may come after directly."""

_AFTER_ALLOWED: Final = "a list of other plans' names, each once"
_PLAN_SHAPE: Final = "a mapping with name, protected_site, recovery_site, replication, vms, …"


class ParsedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A valid definition and, by SHA-256, the contents of the scripts it names."""

    definition: plans.PlanDefinition
    blobs: dict[str, bytes]


def parse_plan(
    document: object, *, scripts: Mapping[str, bytes], interval_min_s: float = INTERVAL_MIN_S
) -> plans.PlanDefinition:
    """The definition a document describes; raises `DefinitionErrors` with every problem.

    `scripts` holds file contents by the path written in the document. `interval_min_s` is the
    shortest interval of replication and checkpoints, in seconds.
    """
    report = Report()
    root = Node(path=(), value=document, report=report)
    definition = _read_plan(root.fields(_PLAN_SHAPE), scripts, interval_min_s)
    report.raise_if_any()
    return definition


def parse_request(body: object, *, interval_min_s: float = INTERVAL_MIN_S) -> ParsedPlan:
    """The wire form `{"plan": {…}, "scripts": {path: base64}}`; raises `DefinitionErrors`.

    Paths of problems count from the plan document; those of a script's encoding read
    `scripts.<path>`. Contents that no hook names are dropped.
    """
    report = Report()
    fields = Node(path=(), value=body, report=report).fields("a mapping with plan and scripts")
    plan = fields.node("plan")
    if plan is None:
        fields.missing("plan", allowed=_PLAN_SHAPE)
    contents = fields.fields("scripts", "a mapping from path to content in base64")
    entries = () if contents is None else contents.entries()
    scripts = {path: node.read(read_base64, fallback=b"") for path, node in entries}
    fields.close()
    report.raise_if_any()
    assert plan is not None
    definition = parse_plan(plan.value, scripts=scripts, interval_min_s=interval_min_s)
    named = {script.sha256: scripts[script.run] for script in scripts_of(definition)}
    return ParsedPlan(definition=definition, blobs=named)


def scripts_of(definition: plans.PlanDefinition) -> tuple[plans.ScriptDefinition, ...]:
    """Every script of a plan, plan level first, then VM by VM."""
    levels: list[plans.ReplicationPolicy | plans.RecoveryPolicy | plans.VmDefinition] = [
        definition.replication,
        definition.recovery,
    ]
    found = [script for level in levels for script in (level.pre_script, level.post_script)]
    for vm in definition.vms:
        around = (vm.replication.pre_script, vm.replication.post_script)
        found += [*around, vm.pre_script, vm.post_script]
    return tuple(script for script in found if script is not None)


def _read_plan(
    fields: Fields, scripts: Mapping[str, bytes], interval_min_s: float
) -> plans.PlanDefinition:
    plan_name = fields.need("name", name(), fallback="")
    protected_site = fields.need("protected_site", name(), fallback="")
    recovery_site = fields.need("recovery_site", name(), fallback="")
    place = fields.node("recovery_site")
    if place is not None and recovery_site and recovery_site == protected_site:
        place.problem(found=show(recovery_site), allowed="another site than protected_site")
    replication = fields.fields("replication", "a mapping with interval, start_at, …")
    if replication is None:
        fields.missing("replication", allowed="a mapping with interval, start_at, …")
    checkpoints = fields.fields("checkpoints", "a mapping with every or cron, and keep_last, …")
    targets = fields.fields("targets", "a mapping with rpo and rto")
    recovery = fields.fields("recovery", "a mapping with on_error, networks, scripts, …")
    select, vms = read_vms(fields, scripts)
    definition = plans.PlanDefinition(
        name=plan_name,
        protected_site=protected_site,
        recovery_site=recovery_site,
        replication=plans.ReplicationPolicy(interval_s=0.0)
        if replication is None
        else read_replication(replication, scripts=scripts, interval_min_s=interval_min_s),
        checkpoints=None
        if checkpoints is None
        else read_checkpoints(checkpoints, interval_min_s=interval_min_s),
        targets=plans.Targets() if targets is None else read_targets(targets),
        recovery=plans.RecoveryPolicy() if recovery is None else _read_recovery(recovery, scripts),
        select=select,
        vms=vms,
        after=_read_after(fields, plan_name),
    )
    if select is None:
        check_boot_orders(fields.report, definition.recovery.manual_steps, vms)
    fields.refuse("manual_steps", allowed="nothing here: under recovery, or of a VM")
    fields.close()
    return definition


def _read_after(fields: Fields, plan_name: str) -> tuple[str, ...]:
    """The plans this one comes after, in the order written. Whether they exist is asked later."""
    nodes = fields.items("after", _AFTER_ALLOWED)
    if len(nodes) > AFTER_MAX:
        nodes[AFTER_MAX].problem(found=f"{len(nodes)} plans", allowed=f"at most {AFTER_MAX}")
        return ()
    found: list[str] = []
    for node in nodes:
        other = node.read(name(), fallback="")
        if other and other == plan_name:
            node.problem(found=show(other), allowed="another plan than this one")
        elif other in found:
            node.problem(found=f"{show(other)} a second time", allowed=_AFTER_ALLOWED)
        elif other:
            found.append(other)
    return tuple(found)


def _read_recovery(fields: Fields, scripts: Mapping[str, bytes]) -> plans.RecoveryPolicy:
    pre_script, post_script = read_hooks(fields, PLAN_RECOVERY, scripts=scripts)
    networks = fields.fields("networks", "a mapping with test and production")
    policy = plans.RecoveryPolicy(
        on_error=fields.take("on_error", one_of(plans.ON_ERROR), default="continue"),
        networks=plans.RecoveryNetworks() if networks is None else _read_networks(networks),
        pre_script=pre_script,
        post_script=post_script,
        build_ahead=fields.take("build_ahead", flag(), default=True),
        auto_cleanup_after_s=fields.take(
            "auto_cleanup_after", duration(min_s=1.0, max_s=366 * DAY_S), default=None
        ),
        auto_rollback=fields.take("auto_rollback", flag(), default=False),
        manual_steps=read_manual_steps(fields, plans.PLAN_MANUAL_POINTS),
    )
    fields.refuse("after", allowed="nothing here: it stands at the top of the plan")
    fields.close()
    return policy


def _read_networks(fields: Fields) -> plans.RecoveryNetworks:
    network = text(allowed="the name of a network", chars_max=100)
    networks = plans.RecoveryNetworks(
        test=fields.take("test", network, default=plans.TEST_NETWORK_DEFAULT),
        production=fields.take("production", network, default=None),
    )
    place = fields.node("production")
    if place is not None and networks.test == networks.production:
        place.problem(
            found=show(place.value), allowed="another network than test: a test is isolated"
        )
    fields.close()
    return networks


def read_base64(value: object) -> bytes:
    """A rule: the content of a script, in base64."""
    allowed = f"base64 of 1 to {SCRIPT_BYTES_MAX} bytes"
    # Four characters carry three bytes; the bound comes before the work.
    if not isinstance(value, str) or len(value) > SCRIPT_BYTES_MAX * 4 // 3 + 4:
        raise Mismatch(allowed)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Mismatch(allowed) from error
