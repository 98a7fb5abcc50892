"""Scripts in a plan document: where they may stand, what each hook allows, their contents.

Owns the script keys; which operations a hook runs in is `schemas.plans.HOOKS`. Contents come in as
bytes and leave as a hash; running them is the services' work.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from schemas import plans
from schemas.documents import Fields, Node, Path, show
from schemas.rules import duration, flag, one_of, text, whole

SCRIPT_BYTES_MAX: Final = 1024 * 1024
TIMEOUT_MAX_S: Final = 86_400.0
RETRIES_MAX: Final = 10

_BY_SUFFIX: Final[Mapping[str, plans.Runtime]] = {
    ".sh": "sh",
    ".bash": "bash",
    ".py": "python",
    ".go": "go",
}
_SHAPE: Final = "a mapping with run, runtime, timeout, …, or the script's path"
FILE_ALLOWED: Final = "the path of a file, relative to the plan file"


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """What one place for a script allows."""

    key: str
    operations: tuple[plans.Operation, ...]
    on_failure: tuple[plans.OnFailure, ...]
    always: bool = False


_PLAN_FAILURE: Final[tuple[plans.OnFailure, ...]] = ("continue", "stop")
_VM_FAILURE: Final[tuple[plans.OnFailure, ...]] = ("continue", "fail_vm", "stop")


def _hooks(
    kind: plans.HookKind, on_failure: tuple[plans.OnFailure, ...], *, always: bool = False
) -> tuple[Hook, Hook]:
    """The pre- and the post-script of a kind; `always`: the latter may ask to run after cancel."""
    pre = Hook(key="pre_script", operations=plans.operations_of(kind), on_failure=on_failure)
    return pre, msgspec.structs.replace(pre, key="post_script", always=always)


PLAN_REPLICATION: Final = _hooks("plan-replication", _PLAN_FAILURE)
VM_REPLICATION: Final = _hooks("vm-replication", _VM_FAILURE)
PLAN_RECOVERY: Final = _hooks("plan-recovery", _PLAN_FAILURE, always=True)
VM_RECOVERY: Final = _hooks("vm-recovery", _VM_FAILURE)


def read_hooks(
    fields: Fields, hooks: Sequence[Hook], *, scripts: Mapping[str, bytes]
) -> tuple[plans.ScriptDefinition | None, plans.ScriptDefinition | None]:
    """The pre- and post-script of one level, None where there is none."""
    pre, post = (
        None if node is None else _read_script(node, hook, scripts=scripts)
        for hook, node in ((hook, fields.node(hook.key)) for hook in hooks)
    )
    return pre, post


def script_paths(document: object) -> tuple[tuple[Path, str], ...]:
    """Where a plan document names a script file, and the file's path as written.

    Reads leniently: a document that is not valid gives what can be found.
    """
    return tuple(_found_scripts(document))


def _read_script(
    node: Node, hook: Hook, *, scripts: Mapping[str, bytes]
) -> plans.ScriptDefinition:
    if isinstance(node.value, str):
        node = Node(path=node.path, value={"run": node.value}, report=node.report)
    fields = node.fields(_SHAPE)
    run = fields.need("run", text(allowed=FILE_ALLOWED, chars_max=500), fallback="")
    runtime = read_runtime(fields, run)
    content = _read_content(node, run, scripts)
    script = plans.ScriptDefinition(
        run=run,
        runtime=runtime,
        timeout_s=fields.take(
            "timeout",
            duration(min_s=1.0, max_s=TIMEOUT_MAX_S),
            default=plans.SCRIPT_TIMEOUT_DEFAULT_S,
        ),
        on_failure=fields.take("on_failure", one_of(hook.on_failure), default=None),
        on_unknown=fields.take("on_unknown", one_of(plans.ON_UNKNOWN), default="fail"),
        retries=fields.take("retries", whole(minimum=0, maximum=RETRIES_MAX), default=0),
        operations=_read_operations(fields, hook),
        always=_read_always(fields, hook),
        network=fields.take("network", flag(), default=False),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )
    fields.close()
    return script


def read_runtime(fields: Fields, run: str) -> plans.Runtime:
    """The runtime that is given, else the one that the suffix of `run` says."""
    suffix = run[run.rfind(".") :] if "." in run else ""
    known = _BY_SUFFIX.get(suffix)
    rule = one_of(plans.RUNTIMES)
    if known is None and run:
        return fields.need("runtime", rule, fallback="sh")
    return fields.take("runtime", rule, default=known or "sh")


def _read_operations(fields: Fields, hook: Hook) -> tuple[plans.Operation, ...]:
    nodes = fields.items("operations", f"a list of {', '.join(hook.operations)}")
    chosen = [node.read(one_of(hook.operations), fallback=None) for node in nodes]
    # In the table's order and once each, so that the order written does not make a new version.
    return tuple(name for name in hook.operations if name in chosen) or hook.operations


def _read_always(fields: Fields, hook: Hook) -> bool:
    if hook.always:
        return fields.take("always", flag(), default=False)
    fields.refuse("always", allowed="nothing: only the plan's recovery post_script takes it")
    return False


def _read_content(node: Node, run: str, scripts: Mapping[str, bytes]) -> bytes:
    if not run:
        return b""
    place = Node(path=(*node.path, "run"), value=run, report=node.report)
    content = scripts.get(run)
    if content is None:
        place.problem(found=f"{show(run)}, whose content was not sent", allowed=FILE_ALLOWED)
        return b""
    if not 0 < len(content) <= SCRIPT_BYTES_MAX:
        place.problem(
            found=f"{show(run)} of {len(content)} bytes",
            allowed=f"a script of 1 to {SCRIPT_BYTES_MAX} bytes",
        )
    return content


def _found_scripts(document: object) -> Iterator[tuple[Path, str]]:
    for level in ("replication", "recovery"):
        yield from _found_hooks(_get(document, level), (level,))
    vms = _get(document, "vms")
    overrides = _get(vms, "overrides")
    prefix: Path = ("vms",) if overrides is None else ("vms", "overrides")
    listed = vms if overrides is None else overrides
    for index, vm in enumerate(listed if isinstance(listed, list | tuple) else ()):
        yield from _found_hooks(vm, (*prefix, index))
        yield from _found_hooks(_get(vm, "replication"), (*prefix, index, "replication"))


def _found_hooks(level: object, path: Path) -> Iterator[tuple[Path, str]]:
    for key in ("pre_script", "post_script"):
        script = _get(level, key)
        if isinstance(script, str):
            yield (*path, key), script
        elif isinstance(run := _get(script, "run"), str):
            yield (*path, key, "run"), run


def _get(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None
