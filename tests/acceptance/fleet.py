"""Two copies of every service on real brokers and a Postgres, any of which may be killed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.embedded import EmbeddedPostgres
from shared.testing.kafka import KafkaCluster
from tests.acceptance.crew import QUICK, SERVICES, Crew, free_port, wait_answers

COPIES = 2
READY_S_MAX = 60.0


class Fleet(Crew):
    """Members are `service-1`, `service-2`, …; use as a context.

    `members` are those that should run. `build` is the module that runs a service, and its
    arguments before the service's name; without it each runs as it is installed. Changed, it
    counts for those that are started from then on.
    """

    def __init__(
        self,
        root: Path,
        *,
        brokers: int,
        copies: int = COPIES,
        build: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(root)
        self.postgres = EmbeddedPostgres(root / "postgres")
        self.kafka = KafkaCluster(root / "kafka", nodes=brokers)
        self.members = [f"{s}-{n}" for s in SERVICES for n in range(1, copies + 1)]
        self.build = tuple(build)
        self._ports: dict[str, int] = {}
        self._environment = {**os.environ, **QUICK, **(environment or {})}
        self._asked = 0

    @property
    def url(self) -> str:
        """A gateway, another one each time: whoever gets no answer asks the next."""
        self._asked += 1
        ports = sorted(self._ports[each] for each in self._ports if "gateway" in each)
        return f"http://127.0.0.1:{ports[self._asked % len(ports)]}"

    @property
    def dsn(self) -> str:
        """The database of all services."""
        return self.postgres.dsn()

    def __enter__(self) -> Fleet:
        self.home.mkdir(parents=True)
        self.kafka.start()
        self._environment |= {
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_DATABASE_URL": self.postgres.start(),
            "SEAWALL_BUS": "kafka",
            "SEAWALL_KAFKA": self.kafka.servers,
            "SEAWALL_KAFKA_REPLICATION": str(min(3, self.kafka.count)),
            "SEAWALL_KAFKA_MIN_ISR": str(max(1, min(3, self.kafka.count) - 1)),
        }
        self.start_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self.end_all()
        self.postgres.stop()
        self.kafka.stop()

    def start(self, member: str) -> None:
        """Start a member that does not run; a gateway's port is also where it tells its health."""
        if self.runs(member):
            return
        service = member.rpartition("-")[0]
        port = str(self._ports.setdefault(member, free_port()))
        own = "SEAWALL_PORT" if service == "gateway" else "SEAWALL_HEALTH_PORT"
        command = (*self.build, service) if self.build else (f"services.{service}",)
        self.launch(member, *command, environment={**self._environment, own: port})

    def start_all(self) -> None:
        """Start whatever does not run: brokers, database, services."""
        for number in range(self.kafka.count):
            self.kafka.start_node(number)
        if not self.postgres.alive:
            self.postgres.start()
        for member in self.members:
            self.start(member)

    def replace(self, member: str, *, by: str, first: str) -> tuple[int, float]:
        """End a member and start another copy of its service: `first` is "start" or "end".

        As a roll-out does: the old one ends only once the new one is ready, or the new one is
        started once the old one has ended. Gives the old one's exit code and how long it took.
        """
        if first == "start":
            self.begin(by)
        ended = self.dismiss(member)
        if first == "end":
            self.begin(by)
        return ended

    def begin(self, member: str) -> None:
        """Add a member and return once it is ready."""
        self.members.append(member)
        self.start(member)
        self.wait_member(member)

    def dismiss(self, member: str) -> tuple[int, float]:
        """Ask a member to end and take it from the list; its exit code, and how long it took."""
        ended = self.end(member)
        self.members.remove(member)
        self._ports.pop(member)
        return ended

    def wait_member(self, member: str) -> None:
        """Return once a member says that it is ready."""
        url = f"http://127.0.0.1:{self._ports[member]}/readyz"
        wait_answers(url, within_s=READY_S_MAX)

    def wait_ready(self) -> None:
        """Return once every gateway says it is ready."""
        for member in self.members:
            if "gateway" in member:
                self.wait_member(member)
