"""An operator's client for trials: asks until it is answered, remembers what was answered 202.

Blocking and simple on purpose. Commands carry an idempotency key, so asking again after a lost
answer asks for the same thing.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Protocol

import msgspec

from tests.waiting import wait_until

ENDED = frozenset({"completed", "partially-completed", "failed", "cancelled"})
ANSWER_S_MAX = 60.0
JOB_POLL_S = 0.05
"""Each look costs the watched processes a few milliseconds."""


class Accepted(msgspec.Struct):
    """A command that was answered 202 or 200; `job` is the one it was given, if it has one."""

    path: str
    body: dict[str, Any]
    job: str = ""
    settled: bool = False


class Gateways(Protocol):
    """Where to ask, and with what."""

    @property
    def url(self) -> str: ...

    @property
    def token(self) -> str: ...


class Client:
    """Asks one plane; `accepted` are the commands it took on, by idempotency key.

    Clients that ask side by side need prefixes of their own for their idempotency keys.
    `unanswered` are the requests that a server took and answered with 5xx or not at all: they
    were asked again, as those are that nobody took.
    """

    def __init__(self, plane: Gateways, *, prefix: str = "trial") -> None:
        self._plane = plane
        self._prefix = prefix
        self._number = 0
        self.accepted: dict[str, Accepted] = {}
        self.traceparent = ""
        """Sent with every command, where it is set."""
        self.unanswered: list[str] = []

    def request(self, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
        """One answered request, asked again while nobody answers. 4xx raises HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        answers: list[Any] = []

        def ask() -> bool:
            request = urllib.request.Request(self._plane.url + path, data=data, method=method)
            try:
                request.add_header("Authorization", f"Bearer {self._plane.token}")
                if key:
                    request.add_header("Idempotency-Key", key)
                if key and self.traceparent:
                    request.add_header("traceparent", self.traceparent)
                with urllib.request.urlopen(request, timeout=15) as answer:
                    answers.append(json.load(answer))
            except urllib.error.HTTPError as refused:
                if refused.code < 500:
                    refused.add_note(f"{method} {path}: {refused.read().decode(errors='replace')}")
                    raise
                self.unanswered.append(f"{method} {path}: {refused.code}")
            except (OSError, ValueError) as lost:
                if not isinstance(getattr(lost, "reason", None), ConnectionRefusedError):
                    self.unanswered.append(f"{method} {path}: {lost!r}")
                return False
            return bool(answers)

        wait_until(ask, f"{method} {path} is answered", within_s=ANSWER_S_MAX)
        return answers[0]

    def command(self, path: str, body: Any = None) -> Any:
        """Ask until it is decided; gives the job or resource."""
        self._number += 1
        key = f"{self._prefix}-{self._number}"
        answer: dict[str, Any] = {}

        def decided() -> bool:
            nonlocal answer
            answer = self.request("POST", f"{path}?wait=5s", body or {}, key=key)
            job = answer.get("job") or answer.get("id") or ""
            settled = answer.get("state") != "accepted"
            self.accepted[key] = Accepted(path=path, body=body or {}, job=job, settled=settled)
            return settled

        wait_until(decided, f"{path} is decided", within_s=ANSWER_S_MAX)
        return answer

    def job(self, job: str) -> dict[str, Any]:
        """A job as the read model shows it."""
        found: dict[str, Any] = self.request("GET", f"/v1/jobs/{urllib.parse.quote(job, safe='')}")
        return found

    def wait_job(self, job: str, *, timeout_s: float = ANSWER_S_MAX) -> dict[str, Any]:
        """The job once it has ended; raises AssertionError."""
        found: dict[str, Any] = {}

        def ended() -> bool:
            nonlocal found
            found = self.job(job)
            return found["state"] in ENDED

        wait_until(ended, f"{job} ends", within_s=timeout_s, poll_s=JOB_POLL_S)
        return found

    def script_steps(self, recovery: dict[str, Any]) -> dict[tuple[str, str], str]:
        """(script, job) → state, of the scripts of a recovery and its VMs, as jobs show them."""
        shown: dict[tuple[str, str], str] = {}
        for job in (recovery, *map(self.job, recovery["children"])):
            for step in job["steps"]:
                hook, _, what = step["name"].partition("-")
                if what == "script":
                    shown[f"{job['vm'] or 'plan'}-{hook}", recovery["id"]] = step["state"]
        return shown


def encoded_scripts(scripts: dict[str, str]) -> dict[str, str]:
    """Scripts as the API takes them."""
    return {path: base64.b64encode(text.encode()).decode() for path, text in scripts.items()}
