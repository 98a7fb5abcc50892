"""Who may ask: one admin token per home, of which only the hash is held in memory.

Roles, users and scopes come later; everything but health asks for the token from the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from aiohttp import web

from services.gateway.problems import Handler
from shared.errors import Permanent, Refused

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
TOKEN_BYTES = 32

ACTOR = web.RequestKey("actor", str)
"""Who asks, once the token was found valid."""


class Unauthorized(Refused):
    """The request carries no valid token."""

    code = "unauthorized"


def ensure_token(home: Path) -> str:
    """The admin token of a home; made at the first start, mode 0600.

    The file appears with its content: of gateways that start together one makes it and the
    others read it, and one that dies meanwhile leaves no empty token for the next.
    """
    path = home / "token"
    if not path.exists():
        fresh = path.with_name(f"token.{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                file.write("sw_" + secrets.token_urlsafe(TOKEN_BYTES) + "\n")
                file.flush()
                os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    token = path.read_text(encoding="ascii").strip()
    if not token:
        raise Permanent(
            f"{path} is empty",
            code="no-token",
            remedy="remove it, and the next start of the gateway makes a new one",
        )
    return token


class TokenAuth:
    """Checks `Authorization: Bearer …` in constant time."""

    def __init__(self, token: str) -> None:
        self._sha256 = _hash(token)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request with the token through; name the actor."""
        if request.path not in OPEN_PATHS:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_hash(token), self._sha256):
                raise Unauthorized(
                    "the request carries no valid token",
                    remedy="send `Authorization: Bearer <token>`; the admin token is in the "
                    "file `token` of the home folder (SEAWALL_TOKEN for the command line)",
                )
            request[ACTOR] = "admin"
        return await handler(request)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
