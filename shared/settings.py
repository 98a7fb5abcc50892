"""Settings that every process of Seawall reads from its environment, checked once at start.

Names are those of surface.md §1. Durations are seconds. Nothing else reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.errors import Permanent


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. `database_url` empty: Postgres is embedded in `home`."""

    home: Path
    database_url: str = ""
    bus: str = "postgres"
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


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. Raises Permanent naming the variable that is wrong."""
    env = os.environ if environ is None else environ
    bus = env.get("SEAWALL_BUS", "postgres")
    if bus != "postgres":
        raise Permanent(
            f"SEAWALL_BUS is {bus!r}",
            remedy="this build has the bus postgres; unset SEAWALL_BUS",
        )
    health = env.get("SEAWALL_HEALTH_PORT", "")
    return Settings(
        home=Path(env.get("SEAWALL_HOME", "~/.seawall")).expanduser().absolute(),
        database_url=env.get("SEAWALL_DATABASE_URL", ""),
        bus=bus,
        host=env.get("SEAWALL_HOST", "127.0.0.1"),
        port=int(_number(env, "SEAWALL_PORT", 8640)),
        health_port=int(_number(env, "SEAWALL_HEALTH_PORT", 0)) if health else None,
        lease_s=_number(env, "SEAWALL_LEASE", 15.0),
        heartbeat_s=_number(env, "SEAWALL_HEARTBEAT", 5.0),
        interval_min_s=_number(env, "SEAWALL_INTERVAL_MIN", 60.0),
        call_timeout_s=_number(env, "SEAWALL_CALL_TIMEOUT", 60.0),
        smtp=env.get("SEAWALL_SMTP", ""),
        smtp_user=env.get("SEAWALL_SMTP_USER", ""),
        smtp_password=env.get("SEAWALL_SMTP_PASSWORD", ""),
        smtp_tls=env.get("SEAWALL_SMTP_TLS", "none"),
        mail_from=env.get("SEAWALL_MAIL_FROM", "seawall@localhost"),
        mail_to=tuple(filter(None, env.get("SEAWALL_MAIL_TO", "").split(","))),
        log_level=env.get("SEAWALL_LOG_LEVEL", "info"),
    )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise Permanent(
            f"{name} is {text!r}", remedy=f"set it to a number from 0, or unset {name}"
        )
    return value
