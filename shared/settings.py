"""Settings that every process of Seawall reads from its environment, checked once at start.

Names are those of surface.md §1. Durations are seconds. Nothing else reads the environment,
but for OpenTelemetry's SDK where it is on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.bus.kafka.settings import SECURITY, KafkaSettings
from shared.databases import SERVICES, VARIABLE, Databases, variable_of
from shared.errors import Permanent

BUSES = ("postgres", "kafka")
PORT_MAX = 65535
KAFKA_RETENTION_S = 7 * 86400


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. A service without a database: Postgres is embedded in `home`."""

    home: Path
    databases: Databases = Databases()
    bus: str = "postgres"
    kafka: KafkaSettings | None = None
    host: str = "127.0.0.1"
    port: int = 8640
    health_port: int | None = None
    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    interval_min_s: float = 60.0
    call_timeout_s: float = 60.0
    smtp: str = ""
    smtp_user: str = ""
    smtp_password: str = ""
    smtp_tls: str = "none"
    mail_from: str = "seawall@localhost"
    mail_to: tuple[str, ...] = ()
    log_level: str = "info"
    traces: bool = False


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. Raises Permanent naming the variable that is wrong."""
    env = os.environ if environ is None else environ
    bus = env.get("SEAWALL_BUS", "postgres")
    if bus not in BUSES:
        raise Permanent(
            f"SEAWALL_BUS is {bus!r}",
            remedy=f"set it to one of {', '.join(BUSES)}, or unset it",
        )
    health = env.get("SEAWALL_HEALTH_PORT", "")
    return Settings(
        home=Path(env.get("SEAWALL_HOME", "~/.seawall")).expanduser().absolute(),
        databases=_databases(env, bus),
        bus=bus,
        kafka=_kafka(env) if bus == "kafka" else None,
        host=env.get("SEAWALL_HOST", "127.0.0.1"),
        port=_port(env, "SEAWALL_PORT", 8640),
        health_port=_port(env, "SEAWALL_HEALTH_PORT", 0) if health else None,
        lease_s=_positive(env, "SEAWALL_LEASE", 15.0),
        heartbeat_s=_positive(env, "SEAWALL_HEARTBEAT", 5.0),
        interval_min_s=_number(env, "SEAWALL_INTERVAL_MIN", 60.0),
        call_timeout_s=_number(env, "SEAWALL_CALL_TIMEOUT", 60.0),
        smtp=env.get("SEAWALL_SMTP", ""),
        smtp_user=env.get("SEAWALL_SMTP_USER", ""),
        smtp_password=env.get("SEAWALL_SMTP_PASSWORD", ""),
        smtp_tls=env.get("SEAWALL_SMTP_TLS", "none"),
        mail_from=env.get("SEAWALL_MAIL_FROM", "seawall@localhost"),
        mail_to=tuple(filter(None, env.get("SEAWALL_MAIL_TO", "").split(","))),
        log_level=env.get("SEAWALL_LOG_LEVEL", "info"),
        traces=_traces(env),
    )


def _traces(env: Mapping[str, str]) -> bool:
    """Whether a collector is named and nothing says to leave it alone. All else of `OTEL_…` is
    read by OpenTelemetry's SDK itself."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if env.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(env.get(name, "").strip() for name in named)


def _databases(env: Mapping[str, str], bus: str) -> Databases:
    own = {name: url for name in SERVICES if (url := env.get(variable_of(name), ""))}
    found = Databases(env.get(VARIABLE, ""), own)
    found.check(bus=bus)
    return found


def _kafka(env: Mapping[str, str]) -> KafkaSettings:
    servers = tuple(filter(None, env.get("SEAWALL_KAFKA", "").split(",")))
    if not servers or not all(_is_address(each) for each in servers):
        raise Permanent(
            f"SEAWALL_KAFKA is {env.get('SEAWALL_KAFKA', '')!r}",
            remedy="set it to the brokers, host:port,host:port, or unset SEAWALL_BUS",
        )
    security = env.get("SEAWALL_KAFKA_SECURITY", "PLAINTEXT")
    if security not in SECURITY:
        raise Permanent(
            f"SEAWALL_KAFKA_SECURITY is {security!r}",
            remedy=f"set it to one of {', '.join(SECURITY)}, or unset it",
        )
    return KafkaSettings(
        servers=servers,
        replication=int(_number(env, "SEAWALL_KAFKA_REPLICATION", 1)),
        min_isr=int(_number(env, "SEAWALL_KAFKA_MIN_ISR", 1)),
        retention_s=_number(env, "SEAWALL_KAFKA_RETENTION", KAFKA_RETENTION_S),
        security=security,
        ca=env.get("SEAWALL_KAFKA_CA", ""),
        cert=env.get("SEAWALL_KAFKA_CERT", ""),
        key=env.get("SEAWALL_KAFKA_KEY", ""),
        user=env.get("SEAWALL_KAFKA_USER", ""),
        password=_secret(env, "SEAWALL_KAFKA_PASSWORD"),
        prefix=env.get("SEAWALL_KAFKA_PREFIX", ""),
    )


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit()


def _secret(env: Mapping[str, str], name: str) -> str:
    """A secret itself, or `file:PATH` of a file that holds it."""
    text = env.get(name, "")
    if not text.startswith("file:"):
        return text
    path = Path(text.removeprefix("file:"))
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Permanent(
            f"the file that {name} names cannot be read: {error.strerror}",
            remedy=f"check {path} and who may read it",
        ) from error


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise Permanent(
            f"{name} is {text!r}", remedy=f"set it to a number from 0, or unset {name}"
        )
    return value


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    value = _number(env, name, default)
    if value <= 0:
        raise Permanent(
            f"{name} is {env[name]!r}", remedy=f"set it to a number above 0, or unset {name}"
        )
    return value


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    """A port; 0 takes any free one."""
    value = _number(env, name, default)
    if value != int(value) or value > PORT_MAX:
        raise Permanent(
            f"{name} is {env[name]!r}",
            remedy=f"set it to 1 to {PORT_MAX}, to 0 for any free port, or unset {name}",
        )
    return int(value)
