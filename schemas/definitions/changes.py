"""Comparing definitions: a canonical form for hashing and the list of what changed.

Owns what counts as *unchanged*: two documents that mean the same, however they were written.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TypeAlias

import msgspec

from schemas import plans, units
from schemas.documents import path_text, show

Plain: TypeAlias = object


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. VMs are named, not numbered: `("vms", "db", "boot_order")`.

    `before` or `after` is None where the field or VM is not there.
    """

    path: tuple[str | int, ...]
    before: object = None
    after: object = None


def canonical(definition: plans.PlanDefinition) -> bytes:
    """Stable JSON: sorted keys, fields at their default left out, VMs in order of their names."""
    by_name = sorted(definition.vms, key=lambda vm: vm.name)
    ordered = msgspec.structs.replace(definition, vms=tuple(by_name))
    return msgspec.json.encode(_plain(ordered, with_defaults=False), order="sorted")


def diff(old: plans.PlanDefinition | None, new: plans.PlanDefinition) -> list[Change]:
    """What `new` changes about `old`, in the order of the definition; None: everything is new."""
    before: dict[str, object] = {} if old is None else _comparable(old)
    after = _comparable(new)
    changes: list[Change] = []
    _compare((), before, after, changes)
    return changes


def describe_change(change: Change) -> str:
    """One line for people: `~ replication.interval: 15m → 5m`, `+ vms.db`, `- vms.web`."""
    path = path_text(change.path)
    if len(change.path) == 2 and change.path[0] == "vms":
        return f"{'+' if change.before is None else '-'} {path}"
    key = str(change.path[-1])
    shown = path.removesuffix("_s") if key.endswith("_s") else path
    before, after = (_shown(key, value) for value in (change.before, change.after))
    if change.before is None:
        return f"+ {shown}: {after}"
    if change.after is None:
        return f"- {shown}: {before}"
    return f"~ {shown}: {before} → {after}"


def _comparable(definition: plans.PlanDefinition) -> dict[str, object]:
    fields = _plain(definition, with_defaults=True)
    assert isinstance(fields, dict)
    fields["vms"] = {vm.name: _plain(vm, with_defaults=True) for vm in definition.vms}
    return fields


def _compare(
    path: tuple[str | int, ...],
    before: Mapping[str, object],
    after: Mapping[str, object],
    changes: list[Change],
) -> None:
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        here = (*path, key)
        whole_vm = path == ("vms",) and (old is None or new is None)
        if not whole_vm and _is_level(old) and _is_level(new):
            _compare(here, _level(old), _level(new), changes)
        else:
            changes.append(Change(path=here, before=old, after=new))


def _is_level(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _level(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: object, *, with_defaults: bool) -> Plain:
    """Builtins of a definition. msgspec's own omission compares identity, not equality."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields: dict[str, object] = {} if tag is None else {"type": tag}
        for name, default in _defaults(type(value)):
            item = getattr(value, name)
            if with_defaults or item != default:
                fields[name] = _plain(item, with_defaults=with_defaults)
        return fields
    if isinstance(value, datetime):
        return units.format_moment(value)
    if isinstance(value, Mapping):
        return {key: _plain(item, with_defaults=with_defaults) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item, with_defaults=with_defaults) for item in value]
    return value


@cache
def _defaults(kind: type[msgspec.Struct]) -> tuple[tuple[str, object], ...]:
    """Name and default of every field. Asking msgspec resolves type hints: once per type."""
    return tuple(
        (
            field.name,
            field.default
            if field.default_factory is msgspec.NODEFAULT
            else field.default_factory(),
        )
        for field in msgspec.structs.fields(kind)
    )


def _shown(key: str, value: object) -> str:
    if key.endswith("_s") and isinstance(value, int | float):
        return units.format_duration(value)
    if key == "sha256" and isinstance(value, str):
        return value[:12]
    if isinstance(value, list):
        return msgspec.json.encode(value).decode()[:200]
    return show(value)
