"""Which database each service's schemas lie in: one for all, or some with one of their own.

Two URLs are one database where their texts are equal. On the postgres bus services read each
other's logs, and services that call platforms share budgets in the schema `work`: what may not be
apart is refused here, before anything is opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import msgspec

from shared.errors import Permanent

SERVICES: Final = ("gateway", "scheduler", "replicator", "recovery", "notifier", "projector")
"""Services that may have a database of their own."""

TOGETHER: Final = ("replicator", "recovery")
"""Services that call platforms: their effects and budgets are one queue (architecture.md §3)."""

VARIABLE: Final = "SEAWALL_DATABASE_URL"

T = TypeVar("T")


def variable_of(service: str) -> str:
    """The setting that gives a service a database of its own."""
    return f"{VARIABLE}_{service.upper()}"


class Databases(msgspec.Struct, frozen=True):
    """URLs by service; `default` is that of every service that is not in `own`, "" if unknown."""

    default: str = ""
    own: Mapping[str, str] = {}

    def knows(self, service: str) -> bool:
        """Whether the service's database is known."""
        return bool(self.own.get(service, self.default))

    def of(self, service: str) -> str:
        """The URL of the service's database. Raises Permanent where none was set."""
        if url := self.own.get(service, self.default):
            return url
        raise Permanent(
            f"the database of the {service} is not known",
            remedy=f"set {variable_of(service)}, or {VARIABLE} for all services",
            code="no-database-url",
        )

    def urls(self, services: Iterable[str] = SERVICES) -> tuple[str, ...]:
        """The databases of the services that are known, each once, in the order of services."""
        return tuple(dict.fromkeys(self.of(each) for each in services if self.knows(each)))

    @property
    def complete(self) -> bool:
        """Whether every service's database is known."""
        return all(map(self.knows, SERVICES))

    def with_default(self, url: str) -> Databases:
        """The same, with this database for whoever has none of its own."""
        return Databases(url, self.own)

    def _is_apart(self, service: str) -> bool:
        common = self.default or self.urls()[0]
        return self.own.get(service, common) != common

    def check(self, *, bus: str) -> None:
        """Raises Permanent where services are apart that must not be."""
        if bus != "kafka" and len(self.urls()) > 1:
            apart = next(name for name in SERVICES if self._is_apart(name))
            raise Permanent(
                f"{variable_of(apart)} is another database than the others', and SEAWALL_BUS is "
                f"{bus}, on which services read each other's logs",
                remedy="set SEAWALL_BUS=kafka, or leave only SEAWALL_DATABASE_URL",
                code="databases-apart",
            )
        if len(self.urls(TOGETHER)) > 1:
            names = " and ".join(map(variable_of, TOGETHER))
            raise Permanent(
                f"{names} are different databases: services that call platforms share budgets",
                remedy="set both to the same database, or neither",
                code="databases-apart",
            )


@asynccontextmanager
async def one_each(
    databases: Databases,
    services: Iterable[str],
    connect: Callable[[str], AbstractAsyncContextManager[T]],
) -> AsyncIterator[Mapping[str, T]]:
    """What `connect` gives of each service's database, opened once per database."""
    names = tuple(services)
    async with AsyncExitStack() as stack:
        opened = {
            url: await stack.enter_async_context(connect(url)) for url in databases.urls(names)
        }
        yield {name: opened[databases.of(name)] for name in names}
