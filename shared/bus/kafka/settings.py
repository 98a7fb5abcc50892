"""How to reach the brokers, and how topics are to be made. Secrets stay inside this process."""

from __future__ import annotations

import ssl
from typing import Any, Final

import msgspec

from shared.errors import Permanent

SECURITY: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SCRAM: Final = "SCRAM-SHA-512"

REQUEST_TIMEOUT_S: Final = 10.0
"""Of one request to a broker; aiokafka's own default is 40 s."""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`replication` and `min_isr` are those of topics we make; `retention_s` too (−1: for ever).

    `security` is one of SECURITY; `ca`, `cert`, `key` are PEM files; user and password are for
    SCRAM-SHA-512. `prefix` goes before the name of every topic and group: several installations
    may share brokers.
    """

    servers: tuple[str, ...]
    replication: int = 1
    min_isr: int = 1
    retention_s: float = 7 * 86400
    security: str = "PLAINTEXT"
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = ""
    prefix: str = ""

    def client(self, name: str) -> dict[str, Any]:
        """What every aiokafka client of ours is opened with. Raises Permanent for bad files."""
        found: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": f"seawall-{name}",
            "request_timeout_ms": int(REQUEST_TIMEOUT_S * 1000),
            "metadata_max_age_ms": 30_000,
            "security_protocol": self.security,
        }
        if self.security.endswith("SSL"):
            found["ssl_context"] = self._ssl()
        if self.security.startswith("SASL"):
            found |= {
                "sasl_mechanism": SCRAM,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return found

    def _ssl(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None)
        except (OSError, ssl.SSLError) as error:
            raise Permanent(
                f"the TLS files for Kafka cannot be read: {error}",
                remedy="check SEAWALL_KAFKA_CA, SEAWALL_KAFKA_CERT and SEAWALL_KAFKA_KEY",
                code="kafka-tls",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
