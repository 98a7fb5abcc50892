"""One tier of the shop: reads a record from its own disk, asks the tier behind it, serves both.

Standard library only: it runs as a lab guest, on the protected site and recovered alike. A disk
is opened read-only. The record is a JSON document at RECORD_AT, its length before it.
"""

import http.server
import json
import os
import sys
import urllib.request
from typing import Any

RECORD_AT = 1 << 20
RECORD_MAX = 1 << 16
BEHIND = {"web": "app", "app": "db"}
TIMEOUT_S = 2


def record() -> Any:
    """The document on this tier's first disk, as it is now."""
    disk = os.environ["SEAWALL_LAB_DISKS"].split(":")[0]
    with open(disk, "rb") as file:
        file.seek(RECORD_AT)
        size = int.from_bytes(file.read(4), "big")
        if not 0 < size <= RECORD_MAX:
            raise ValueError(f"no record on {disk}")
        return json.loads(file.read(size))


def behind(tier: str) -> Any:
    """What the tier behind this one answers; None for the database."""
    name = BEHIND.get(tier)
    if name is None:
        return None
    with open(os.environ["SEAWALL_LAB_HOSTS"], encoding="utf-8") as hosts:
        known = dict(line.split() for line in hosts if line.strip())
    with urllib.request.urlopen(f"http://{known[name]}/", timeout=TIMEOUT_S) as answer:
        return json.load(answer)


class Tier(http.server.BaseHTTPRequestHandler):
    """Answers `/` with the tier's record and the tiers behind it; anything wrong is a 503."""

    def do_GET(self) -> None:
        """Serve."""
        try:
            body = {"tier": sys.argv[1], **record(), "behind": behind(sys.argv[1])}
            status = 200
        except (OSError, ValueError, KeyError) as error:
            body, status = {"tier": sys.argv[1], "error": str(error)}, 503
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing: the probes would fill the log."""


if __name__ == "__main__":
    host, _, port = os.environ["SEAWALL_LAB_ADDRESS"].partition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Tier).serve_forever()
