"""Before its snapshot a source is looked up: by one listing, of what it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from schemas.replicator_work import OpenSnapshot
from schemas.scheduler import SiteRef
from services.replicator.platform_work import _look_up
from services.replicator.settings import ReplicatorSettings
from shared.platforms.ports import VmFacts
from shared.testing.virtual import run_virtual

EAST = SiteRef(site="east", platform="memory", settings={})


class Inventory:
    """Knows one VM, and an instance that it runs as; `asked` are the listings that were begun."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def list_vms(self, names: Any) -> Any:
        self.asked.append("list_vms")
        return self._found()

    def list_made(self, instance_ids: Any) -> Any:
        self.asked.append("list_made")
        return self._found()

    async def _found(self) -> tuple[VmFacts, ...]:
        return (
            VmFacts(
                name="db", os="linux", cpus=1, memory=1, disks=(), networks=(), power="on",
                configuration={},
            ),
        )  # fmt: skip


@pytest.mark.parametrize(("instance", "listing"), [("", "list_vms"), ("i-1", "list_made")])
def test_a_source_is_looked_up_by_one_listing(instance: str, listing: str) -> None:
    inventory = Inventory()
    site: Any = SimpleNamespace(inventory=inventory)
    tools: Any = SimpleNamespace(settings=ReplicatorSettings())
    payload = OpenSnapshot(site=EAST, plan="shop", vm="db", instance=instance)
    assert run_virtual(_look_up(tools, site, payload)).name == "db"
    assert inventory.asked == [listing]
