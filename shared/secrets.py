"""Secrets by reference: where a value is kept, and a type that does not show it.

A reference is text in a plan or a setting, `env:NAME` or `file:PATH`; only a reference is ever
stored. The value is fetched at the moment of use and given on by `Secret.reveal()`.

SecretError            (Permanent) a reference cannot be resolved; names it, never its value
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from shared.errors import Permanent

SECRET_BYTES_MAX = 64 * 1024
READ_S_MAX = 5.0
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLANNED_SCHEMES = ("vault", "aws-sm")
_FORMS = "write env:NAME or file:PATH"


class SecretError(Permanent):
    """A secret reference is malformed, or nothing usable is where it points."""

    code = "secret-unavailable"


class Secret:
    """A secret value. Printing, formatting, encoding and pickling never show it."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a hash can be compared with guesses

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the one call that needs it, never for keeping."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or encoded; store its reference")


class SecretResolver:
    """Fetches secrets: `env:` from this process's environment, `file:` from its files.

    A relative path is meant inside `home` and may not leave it, links included. An absolute path
    may name any file the service can read.
    """

    def __init__(self, *, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._environ = os.environ if environ is None else environ

    async def resolve(self, reference: str) -> Secret:
        """The secret `reference` names, without one trailing line break (editors add it).

        Raises SecretError, after at most READ_S_MAX. Not cached: a changed secret counts at once.
        """
        scheme, rest = split_reference(reference)
        if scheme == "env":
            return self._from_environment(reference, rest)
        try:
            async with asyncio.timeout(READ_S_MAX):
                return await asyncio.to_thread(self._from_file, reference, rest)
        except TimeoutError:
            raise SecretError(
                f"secret {reference} was not readable within {READ_S_MAX:g} s",
                remedy="check the disk or network mount the file lies on",
            ) from None

    def _from_environment(self, reference: str, name: str) -> Secret:
        value = self._environ.get(name)
        if not value:
            raise SecretError(
                f"secret {reference} is not there: the variable is unset or empty",
                remedy=f"set {name} in the service's environment and start it again",
            )
        if len(value.encode("utf-8", "surrogateescape")) > SECRET_BYTES_MAX:
            raise _too_long(reference)
        return Secret(value)

    def _from_file(self, reference: str, path: str) -> Secret:
        try:
            raw = _read_regular(self._locate(reference, path), reference)
        except OSError as error:
            raise SecretError(
                f"secret {reference} cannot be read: {error.strerror}",
                remedy="make the file readable for the user the service runs as",
            ) from error
        if len(raw) > SECRET_BYTES_MAX:
            raise _too_long(reference)
        try:
            value = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            # Without the cause: its text would carry bytes of the value.
            value = ""
        if not value or "\0" in value:
            raise SecretError(
                f"secret {reference} is empty or not text",
                remedy="put the value into the file as UTF-8 text",
            )
        return Secret(value)

    def _locate(self, reference: str, path: str) -> Path:
        if os.path.isabs(path):
            return Path(path)
        home = self._home.resolve()
        found = (home / path).resolve()
        if not found.is_relative_to(home) or found == home:
            raise SecretError(
                f"secret {reference} leads out of the service's home",
                remedy="keep the file inside the home, or give its absolute path",
            )
        return found


def split_reference(reference: str) -> tuple[str, str]:
    """(`env` or `file`, what follows), or SecretError: for checking a plan before it is stored.

    The text of something that is not a reference is not repeated: it may be a password written
    in the wrong place.
    """
    scheme, colon, rest = reference.partition(":")
    if colon and scheme in _PLANNED_SCHEMES:
        raise SecretError(
            f"secret {reference} cannot be resolved: {scheme}: is not supported by this build",
            remedy=_FORMS,
        )
    if not colon or scheme not in ("env", "file"):
        raise SecretError(
            "a secret must be given by reference; what was found is none and is not shown here, "
            "it may be the secret itself",
            remedy=_FORMS,
        )
    if scheme == "env" and not _ENV_NAME.match(rest):
        raise SecretError(
            "the name after env: is not the name of a variable (not shown, it may be the secret)",
            remedy="write env:NAME with letters, digits and _",
        )
    if scheme == "file" and (not rest or "\0" in rest):
        raise SecretError("there is no path after file:", remedy="write file:PATH")
    return scheme, rest


def _read_regular(path: Path, reference: str) -> bytes:
    # Non-blocking: opening a named pipe must not hang the thread.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SecretError(
                f"secret {reference} is not a regular file",
                remedy="name a file that holds the value",
            )
        return file.read(SECRET_BYTES_MAX + 2)


def _too_long(reference: str) -> SecretError:
    return SecretError(
        f"secret {reference} is longer than {SECRET_BYTES_MAX} bytes",
        remedy="store a shorter value",
    )
