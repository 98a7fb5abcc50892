"""An operator's client for trials: asks until it is answered, remembers what was answered 202.

Blocking and simple on purpose. Commands carry an idempotency key, so asking again after a lost
answer asks for the same thing.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.acceptance.plane import Plane

ENDED = frozenset({"completed", "partially-completed", "failed", "cancelled"})
ANSWER_S_MAX = 60.0


class Unfinished(AssertionError):
    """A command or job did not end in its time."""


class Client:
    """Asks one plane; `accepted` are the commands that were answered 202 or 200."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._number = 0
        self.accepted: list[str] = []

    def request(self, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
        """One answered request, asked again while nobody answers. 4xx raises HTTPError."""
        deadline = time.monotonic() + ANSWER_S_MAX
        data = None if body is None else json.dumps(body).encode()
        while True:
            request = urllib.request.Request(self._plane.url + path, data=data, method=method)
            try:
                request.add_header("Authorization", f"Bearer {self._plane.token}")
                if key:
                    request.add_header("Idempotency-Key", key)
                with urllib.request.urlopen(request, timeout=15) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as refused:
                if refused.code < 500:
                    raise
            except (OSError, ValueError):
                pass
            if time.monotonic() > deadline:
                raise Unfinished(f"{method} {path} was not answered in {ANSWER_S_MAX} s")
            time.sleep(0.05)

    def command(self, path: str, body: Any = None) -> Any:
        """Ask until it is decided; gives the job or resource."""
        self._number += 1
        key = f"trial-{self._number}"
        deadline = time.monotonic() + ANSWER_S_MAX
        while True:
            answer = self.request("POST", f"{path}?wait=5s", body or {}, key=key)
            if answer.get("state") != "accepted":
                self.accepted.append(path)
                return answer
            if time.monotonic() > deadline:
                raise Unfinished(f"{path} was accepted and not decided in {ANSWER_S_MAX} s")

    def job(self, job: str) -> dict[str, Any]:
        """A job as the read model shows it."""
        found: dict[str, Any] = self.request("GET", f"/v1/jobs/{urllib.parse.quote(job, safe='')}")
        return found

    def wait_job(self, job: str, *, timeout_s: float = ANSWER_S_MAX) -> dict[str, Any]:
        """The job once it has ended; raises Unfinished."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.job(job)
            if found["state"] in ENDED:
                return found
            if time.monotonic() > deadline:
                raise Unfinished(f"{job} is {found['state']} after {timeout_s} s: {found}")
            time.sleep(0.05)


def encoded_scripts(scripts: dict[str, str]) -> dict[str, str]:
    """Scripts as the API takes them."""
    return {path: base64.b64encode(text.encode()).decode() for path, text in scripts.items()}
