"""Apache Kafka on this machine without a container engine: one node or three, KRaft, loopback.

For tests, the demo and trying things. The jars come from the pinned pom under `deploy/kafka`, by
Maven, once. Everything blocks, at most for the stated time-outs.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from shared.errors import Permanent

log = structlog.get_logger()

POM_FOLDER: Final = Path(__file__).parents[2] / "deploy" / "kafka"
LIBS: Final = POM_FOLDER / "libs"
READY_S: Final = 40.0
STOP_S: Final = 15.0
_DOWNLOAD_S: Final = 300
_JVM: Final = (
    "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    f"-Dlog4j2.configurationFile={POM_FOLDER / 'log4j2.properties'}",
)  # fmt: skip

_PROPERTIES: Final = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor={replication}
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={min_isr}
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
file.delete.delay.ms=500
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=250
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
"""


_SECURE: Final = """
listeners=CLIENT://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENT://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{inner}
listener.security.protocol.map=CLIENT:SASL_SSL,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.client.scram-sha-512.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.client.ssl.keystore.type=PEM
listener.name.client.ssl.keystore.location={keystore}
"""
"""Later lines of a properties file count."""


class KafkaMissing(Permanent):
    """Java or Maven is not there, or the jars cannot be had."""

    code = "kafka-missing"


def ensure_jars() -> Path:
    """The folder with Kafka's jars, filled by Maven the first time. Raises KafkaMissing."""
    if not shutil.which("java"):
        raise KafkaMissing("no `java` on PATH", remedy="install Java 17 or newer")
    if any(LIBS.glob("kafka_*.jar")):
        return LIBS
    if not shutil.which("mvn"):
        raise KafkaMissing("no `mvn` on PATH", remedy="install Maven, or set SEAWALL_TEST_KAFKA")
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
    staged = LIBS.with_name(f"libs.{os.getpid()}")
    done = subprocess.run(
        [*command, f"-DoutputDirectory={staged}"],
        cwd=POM_FOLDER, timeout=_DOWNLOAD_S, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(staged, ignore_errors=True)
        raise KafkaMissing(
            f"Maven could not bring Kafka: {done.stdout[-500:]}", remedy="see above"
        )
    try:
        staged.rename(LIBS)
    except OSError:  # another process was first
        shutil.rmtree(staged, ignore_errors=True)
    return LIBS


class _Node:
    """One broker, a child process in a session of its own."""

    def __init__(self, number: int, folder: Path, port: int) -> None:
        self.number = number
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class KafkaCluster:
    """`nodes` brokers in `folder`; a context, or `start` and `stop`. Nodes count from 0.

    With `scram` (user, password) clients must speak TLS and log in; `ca` is what they trust.
    """

    def __init__(
        self, folder: Path, *, nodes: int = 1, scram: tuple[str, str] | None = None
    ) -> None:
        self._libs = ensure_jars()
        self._folder = folder
        self._scram = scram
        ports = _free_ports(3 * nodes)
        self._controllers, self._inner = ports[nodes : 2 * nodes], ports[2 * nodes :]
        self._nodes = [_Node(n, folder / f"node{n}", ports[n]) for n in range(nodes)]
        self._formatted = False

    @property
    def servers(self) -> str:
        """What SEAWALL_KAFKA is to be set to."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

    @property
    def ca(self) -> Path:
        """The certificate that signed the brokers', where they speak TLS."""
        return self._folder / "ca.pem"

    @property
    def pids(self) -> list[int]:
        """The processes of the brokers that run."""
        return [node.process.pid for node in self._nodes if node.process and node.alive]

    @property
    def count(self) -> int:
        return len(self._nodes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node and wait until each port answers. Raises Permanent."""
        if not self._formatted:
            self._format()
        for node in self._nodes:
            self.start_node(node.number)
        deadline = time.monotonic() + READY_S
        for node in self._nodes:
            self._wait_ready(node, deadline)

    def start_node(self, number: int) -> None:
        """Start one node, if it does not run; does not wait."""
        node = self._nodes[number]
        if node.alive:
            return
        # Anew each time: the line that says that it serves must not be an earlier one.
        with (node.folder / "kafka.log").open("wb") as output:
            node.process = subprocess.Popen(
                ["java", *_JVM, "-cp", f"{self._libs}/*", "kafka.Kafka",
                 str(node.folder / "server.properties")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def wait_node(self, number: int) -> None:
        """Return when a node that was started again serves. Raises Permanent."""
        self._wait_ready(self._nodes[number], time.monotonic() + READY_S)

    def kill(self, number: int) -> None:
        """kill −9 of one node."""
        node = self._nodes[number]
        if node.process is not None and node.alive:
            node.process.kill()
            node.process.wait(STOP_S)

    def pause(self, number: int) -> None:
        """SIGSTOP of one node: it answers nothing and keeps its connections."""
        node = self._nodes[number]
        if node.process is not None and node.alive:
            node.process.send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT of one node."""
        node = self._nodes[number]
        if node.process is not None and node.alive:
            node.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop every node: SIGTERM, and −9 for one that takes too long."""
        running = [node for node in self._nodes if node.process is not None and node.alive]
        for node in running:
            self.resume(node.number)
            if node.process is not None:
                node.process.terminate()
        deadline = time.monotonic() + (STOP_S if len(running) == 1 else STOP_S / 3)
        for node in running:
            try:
                if node.process is not None:
                    node.process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                self.kill(node.number)

    def _format(self) -> None:
        """Write each node's settings and format its folder, all nodes at once."""
        replication = min(3, len(self._nodes))
        voters = ",".join(f"{n + 1}@127.0.0.1:{port}" for n, port in enumerate(self._controllers))
        cluster = _cluster_id()
        formatting = []
        login = []
        if self._scram is not None:
            user, password = self._scram
            login = ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
            self._folder.mkdir(parents=True, exist_ok=True)
            _make_certificates(self._folder)
        for node, controller, inner in zip(
            self._nodes, self._controllers, self._inner, strict=True
        ):
            node.folder.mkdir(parents=True, exist_ok=True)
            text = _PROPERTIES.format(
                node=node.number + 1,
                voters=voters,
                port=node.port,
                controller=controller,
                data=node.folder / "data",
                replication=replication,
                min_isr=max(replication - 1, 1),
            )
            if self._scram is not None:
                text += _SECURE.format(
                    port=node.port, inner=inner, controller=controller,
                    keystore=self._folder / "broker.pem",
                )  # fmt: skip
            path = node.folder / "server.properties"
            path.write_text(text, encoding="ascii")
            formatting.append(self._tool("format", "-t", cluster, "-c", str(path), *login))
        for process in formatting:
            output, _ = process.communicate(timeout=READY_S)
            if process.returncode:
                text = output.decode(errors="replace")[-500:]
                raise Permanent(f"Kafka's folder cannot be formatted: {text}", remedy="see above")
        self._formatted = True

    def _tool(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["java", *_JVM, "-cp", f"{self._libs}/*", "kafka.tools.StorageTool", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _wait_ready(self, node: _Node, deadline: float) -> None:
        """Until the broker says in its log that it serves; the port opens earlier."""
        output = node.folder / "kafka.log"
        while not _says_started(output):
            if not node.alive or time.monotonic() > deadline:
                text = output.read_text(errors="replace")[-800:]
                raise Permanent(f"Kafka did not start: {text}", remedy=f"see {output}")
            time.sleep(0.05)


def _cluster_id() -> str:
    """A random one that Kafka's tool does not take for an option: one in 64 begins with a dash."""
    found = "-"
    while found.startswith("-"):
        found = base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()
    return found


def _make_certificates(folder: Path) -> None:
    """A certificate authority and a broker's key and certificate of it, for loopback."""
    day = ["-days", "2", "-nodes", "-newkey", "rsa:2048"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    authority = ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=seawall-test-ca"]
    broker = [
        "-x509",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    for arguments in (authority, [*broker, "-subj", "/CN=127.0.0.1", *names]):
        subprocess.run(
            ["openssl", "req", *arguments, *day], cwd=folder, check=True, capture_output=True
        )
    pem = (folder / "key.pem").read_text() + (folder / "cert.pem").read_text()
    (folder / "broker.pem").write_text(pem, encoding="ascii")


def _says_started(output: Path) -> bool:
    return "Kafka Server started" in output.read_text(errors="replace")


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main() -> None:
    """`make kafka`: run a broker in this terminal until Ctrl-C, in a folder that is removed."""
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with (
        tempfile.TemporaryDirectory(prefix="seawall-kafka-") as folder,
        KafkaCluster(Path(folder), nodes=nodes) as cluster,
    ):
        sys.stdout.write(f"kafka ready  SEAWALL_KAFKA={cluster.servers}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
