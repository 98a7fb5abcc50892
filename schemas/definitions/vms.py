"""The VM part of a plan document: selectors, boot order, readiness, credentials.

Owns the `vms` key and what one VM may say. Credentials are references; a value that is not one is
never repeated in an error, because it may be the secret itself.
"""

from collections.abc import Mapping
from typing import Final

from schemas import plans
from schemas.definitions.manual import read_manual_steps
from schemas.definitions.scripts import VM_RECOVERY, VM_REPLICATION, read_hooks
from schemas.definitions.timing import DAY_S, priority
from schemas.documents import Fields, Mismatch, Node, Rule, did_you_mean, path_text, show
from schemas.rules import duration, flag, name, text, whole

VM_COUNT_MAX: Final = 10_000
BOOT_ORDER_MAX: Final = 1_000
CREDENTIAL_COUNT_MAX: Final = 20

_VMS_SHAPE: Final = 'a list of VMs, all, or {match: "shop-*"}'
_REFERENCE_ALLOWED: Final = "a reference such as file:secrets/db-admin or env:DB_ADMIN"


def read_vms(
    fields: Fields, scripts: Mapping[str, bytes]
) -> tuple[str | None, tuple[plans.VmDefinition, ...]]:
    """The selector, if any, and the VMs written out."""
    node = fields.node("vms")
    if node is None:
        fields.missing("vms", allowed=_VMS_SHAPE)
        return None, ()
    if node.value == "all":
        return "*", ()
    if isinstance(node.value, Mapping):
        chosen = node.fields(_VMS_SHAPE)
        pattern = text(allowed='a pattern for VM names such as "shop-*"', chars_max=200)
        select = chosen.need("match", pattern, fallback="*")
        overrides = chosen.node("overrides")
        chosen.close()
        return select, () if overrides is None else _read_vm_list(overrides, scripts)
    vms = _read_vm_list(node, scripts)
    if isinstance(node.value, list | tuple) and not node.value:
        node.problem(found="an empty list", allowed=_VMS_SHAPE)
    return None, vms


def _read_vm_list(node: Node, scripts: Mapping[str, bytes]) -> tuple[plans.VmDefinition, ...]:
    items = node.items(_VMS_SHAPE)
    if len(items) > VM_COUNT_MAX:
        node.problem(found=f"a list of {len(items)}", allowed=f"at most {VM_COUNT_MAX} VMs")
        return ()
    vms = tuple(_read_vm(item, scripts) for item in items)
    first: dict[str, int] = {}
    for index, vm in enumerate(vms):
        if vm.name and first.setdefault(vm.name, index) != index:
            node.report.add(
                (*node.path, index, "name"),
                found=f"{show(vm.name)} a second time, first in "
                + path_text((*node.path, first[vm.name])),
                allowed="each VM once",
            )
    return vms


_UNSAID: Final = plans.VmDefinition(name="")
"""Fields at their default are left out of what is stored and sent only where they are these very
objects: an equal one is written as `{}`, and a plan of 2,000 VMs becomes twice as long by it."""


def _read_vm(node: Node, scripts: Mapping[str, bytes]) -> plans.VmDefinition:
    if isinstance(node.value, str):
        node = Node(path=node.path, value={"name": node.value}, report=node.report)
    fields = node.fields("a VM's name, or a mapping with name, boot_order, …")
    pre_script, post_script = read_hooks(fields, VM_RECOVERY, scripts=scripts)
    ready = fields.node("ready")
    replication = fields.fields("replication", "a mapping with pre_script and post_script")
    vm = plans.VmDefinition(
        name=fields.need("name", name(), fallback=""),
        boot_order=fields.take("boot_order", whole(minimum=1, maximum=BOOT_ORDER_MAX), default=1),
        boot_delay_s=fields.take(
            "boot_delay", duration(max_s=DAY_S), default=_UNSAID.boot_delay_s
        ),
        priority=fields.take("priority", priority(), default=None),
        quiesce=fields.take("quiesce", flag(), default=None),
        ready=_UNSAID.ready if ready is None else _read_ready(ready),
        credentials=_read_credentials(fields),
        pre_script=pre_script,
        post_script=post_script,
        replication=_UNSAID.replication
        if replication is None
        else _read_vm_replication(replication, scripts),
        windows=_read_windows(fields),
        manual_steps=read_manual_steps(fields, plans.VM_MANUAL_POINTS),
    )
    fields.refuse("after", allowed="nothing: plans come after plans, VMs have their boot_order")
    fields.close()
    return vm


def _read_vm_replication(fields: Fields, scripts: Mapping[str, bytes]) -> plans.ReplicationScripts:
    pre_script, post_script = read_hooks(fields, VM_REPLICATION, scripts=scripts)
    fields.close()
    return plans.ReplicationScripts(pre_script=pre_script, post_script=post_script)


def _read_windows(fields: Fields) -> plans.WindowsPolicy:
    found = fields.fields("windows", "a mapping with validate")
    if found is None:
        return _UNSAID.windows
    policy = plans.WindowsPolicy(validate=found.take("validate", flag(), default=True))
    found.close()
    return policy


def _read_ready(node: Node) -> plans.ReadyProbe:
    shape = "heartbeat, or a mapping with one of tcp, http and heartbeat, and within"
    if node.value == "heartbeat":
        return plans.ReadyProbe()
    fields = node.fields(shape)
    port = whole(minimum=1, maximum=65_535)
    tcp = fields.take("tcp", port, default=None)
    http = fields.take("http", _http, default=None)
    heartbeat = fields.take("heartbeat", flag(), default=None)
    given = [key for key in ("heartbeat", "tcp", "http") if fields.node(key) is not None]
    if len(given) > 1 or heartbeat is False:
        node.problem(found=", ".join(given), allowed="one of tcp, http and heartbeat: true")
    within_s = fields.take(
        "within", duration(min_s=1.0, max_s=DAY_S), default=plans.READY_WITHIN_DEFAULT_S
    )
    fields.close()
    if http is not None:
        http_port, path = http
        return plans.ReadyProbe(kind="http", port=http_port, path=path, within_s=within_s)
    if tcp is not None:
        return plans.ReadyProbe(kind="tcp", port=tcp, within_s=within_s)
    return plans.ReadyProbe(within_s=within_s)


def _http(value: object) -> tuple[int | None, str]:
    """`[PORT]/PATH` as port and path."""
    allowed = "[PORT]/PATH such as /health or 8080/health"
    plain = text(allowed=allowed, chars_max=500)(value)
    port_text, slash, rest = plain.partition("/")
    if not slash or " " in plain or not plain.isascii() or len(port_text) > 5:
        raise Mismatch(allowed)
    if port_text and not (port_text.isdigit() and 1 <= int(port_text) <= 65_535):
        raise Mismatch(allowed)
    return (int(port_text) if port_text else None), "/" + rest


def _read_credentials(fields: Fields) -> dict[str, str]:
    place = fields.node("credentials")
    if place is None:
        return {}
    if not isinstance(place.value, Mapping):
        # As below: it may be the secret itself.
        place.problem(found="something else", allowed="a mapping from a name to a reference")
        return {}
    entries = place.fields("a mapping").entries("a name for the credential")
    if len(entries) > CREDENTIAL_COUNT_MAX:
        place.problem(
            found=f"{len(entries)} credentials", allowed=f"at most {CREDENTIAL_COUNT_MAX}"
        )
    for key, node in entries:
        Node(path=node.path, value=key, report=node.report).read(name(), fallback="")
    return {key: node.read(_reference(), fallback="") for key, node in entries}


def _reference() -> Rule[str]:
    plain = text(allowed=_REFERENCE_ALLOWED)

    def rule(value: object) -> str:
        # A wrong value may be the secret itself: it is never repeated in the error.
        try:
            reference = plain(value)
        except Mismatch as mismatch:
            raise Mismatch(mismatch.allowed, found="something else") from mismatch
        scheme, _, rest = reference.partition(":")
        if scheme in ("vault", "aws-sm") and rest:
            raise Mismatch(
                _REFERENCE_ALLOWED,
                found=f"a reference to {scheme}",
                message=f"{scheme} is not available in this version",
            )
        if scheme not in ("file", "env") or not rest.strip():
            near = did_you_mean(scheme, ("file", "env")) if rest else ""
            raise Mismatch(_REFERENCE_ALLOWED, found="text that is no reference", message=near)
        return reference

    return rule
