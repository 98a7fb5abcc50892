"""`python -m tests.acceptance.builds BUILD NAME`: one service as another build would run it.

*released* is this build. *reads* is the next one: it knows version 2 of an event that stands in
streams with snapshots (and in the snapshots themselves) and of a message between services, and
still writes version 1 of both. *writes* is the one after that: it writes version 2. A field is
renamed and another one must be there, so that neither build can make anything of the other's
documents without the casts. Snapshots are written every few events, so that streams of a small
trial have some.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import msgspec

from schemas import recovery as said
from schemas import registry
from shared import fold
from shared.process import launch

BUILDS: Final = ("released", "reads", "writes")
EVENT, MESSAGE = "recovery.vm-enrolled", "recovery.enrol-vm"
SNAPSHOT_EVERY: Final = 3


def become(build: str) -> None:
    """Make this process the build; before any service is imported."""
    fold.SNAPSHOT_EVERY = SNAPSHOT_EVERY
    if build == "released":
        return
    written = 2 if build == "writes" else 1
    for name in (EVENT, MESSAGE):
        old = registry.struct_of(name)
        setattr(said, old.__name__, _second_version(old, written=written))
    domain: Any = importlib.import_module("services.recovery.domain.vm_recovery")
    # The state holds the event: its shape changes with it.
    domain.FAMILY = msgspec.structs.replace(domain.FAMILY, schema=domain.FAMILY.schema + 1)


def _second_version(old: type[msgspec.Struct], *, written: int) -> type[msgspec.Struct]:
    """Version 2: `checkpoint` is stored as `copy_of`, and `told_by` says who wrote it."""
    name = registry.name_of(old)
    fresh = msgspec.defstruct(
        old.__name__,
        [
            ("checkpoint", str, msgspec.field(name="copy_of")),
            ("told_by", str, msgspec.field(default_factory=lambda: "version 2")),
        ],
        bases=(old,), module=old.__module__, frozen=True, kw_only=True,
    )  # fmt: skip
    del registry._by_name[name]
    registry.published(name, 2, written=written)(fresh)

    @registry.upcast(name, from_version=1)
    def _up(document: dict[str, Any]) -> dict[str, Any]:
        return {**_without(document, "checkpoint"), "copy_of": document["checkpoint"],
                "told_by": "version 1"}  # fmt: skip

    @registry.downcast(name, to_version=1)
    def _down(document: dict[str, Any]) -> dict[str, Any]:
        return {**_without(document, "copy_of", "told_by"), "checkpoint": document["copy_of"]}

    return fresh


def _without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def main() -> None:
    """Run the service named on the command line."""
    build, name = sys.argv[1:]
    become(build)
    launch(name, importlib.import_module(f"services.{name}.main").build)


if __name__ == "__main__":
    main()
