"""Secrets are found by reference, stay where they may, and never show."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import msgspec
import orjson
import pytest

from shared.secrets import SECRET_BYTES_MAX, Secret, SecretError, SecretResolver, split_reference

VALUE = "correct-horse-battery"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "db").write_text(VALUE + "\n")
    (tmp_path / "outside").write_text(VALUE)
    return home


@pytest.fixture
def resolver(home: Path) -> SecretResolver:
    return SecretResolver(home=home, environ={"DB": VALUE, "EMPTY": "", "LONG": "x" * 70_000})


async def test_env_and_files_are_resolved(resolver: SecretResolver, home: Path) -> None:
    absolute = home.parent / "outside"
    for reference in ("env:DB", "file:secrets/db", f"file:{absolute}"):
        assert (await resolver.resolve(reference)).reveal() == VALUE


async def test_only_one_trailing_line_break_is_dropped(
    resolver: SecretResolver, home: Path
) -> None:
    (home / "crlf").write_bytes(b" a\nb\n\r\n")
    assert (await resolver.resolve("file:crlf")).reveal() == " a\nb\n"


async def test_a_changed_file_counts_at_once(resolver: SecretResolver, home: Path) -> None:
    await resolver.resolve("file:secrets/db")
    (home / "secrets" / "db").write_text("another")
    assert (await resolver.resolve("file:secrets/db")).reveal() == "another"


@pytest.mark.parametrize(
    "reference",
    [
        "env:MISSING",
        "env:EMPTY",
        "env:LONG",
        "file:secrets/none",
        "file:secrets",
        "file:../outside",
        "file:secrets/../../outside",
        "file:link",
        "file:.",
        "file:empty",
        "file:binary",
        "file:nul",
        "file:long",
        "file:pipe",
        "vault:kv/db",
        "aws-sm:db",
    ],
)
async def test_an_unusable_reference_is_named_with_a_remedy_and_no_value(
    resolver: SecretResolver, home: Path, reference: str
) -> None:
    (home / "link").symlink_to(home.parent / "outside")
    (home / "empty").write_text("\n")
    (home / "binary").write_bytes(VALUE.encode() + b"\xff")
    (home / "nul").write_bytes(VALUE.encode() + b"\0")
    (home / "long").write_bytes(b"x" * (SECRET_BYTES_MAX + 3))
    os.mkfifo(home / "pipe")
    with pytest.raises(SecretError) as caught:
        await resolver.resolve(reference)
    assert reference in caught.value.message
    assert caught.value.remedy
    chain = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert VALUE not in chain
    assert "xxxx" not in chain


@pytest.mark.parametrize(
    "text", [VALUE, f"pw:{VALUE}", f"env:{VALUE}", f"{VALUE}:x", "", "file:", "ENV:DB", "env:"]
)
def test_what_is_no_reference_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(SecretError) as caught:
        split_reference(text)
    assert VALUE not in f"{caught.value} {caught.value.remedy}"


def test_an_unsupported_store_is_told_as_such() -> None:
    with pytest.raises(SecretError, match="vault: is not supported by this build"):
        split_reference("vault:kv/db")


def test_a_secret_never_shows_its_value() -> None:
    secret = Secret(VALUE)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>30}", f"{[secret]}", f"{secret!r}"]
    assert not [text for text in shown if VALUE in text]
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("encode", [msgspec.json.encode, orjson.dumps, json.dumps, pickle.dumps])
def test_a_secret_cannot_be_encoded(encode) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((TypeError, NotImplementedError)) as caught:
        encode({"password": Secret(VALUE)})
    assert VALUE not in str(caught.value)


def test_secrets_compare_but_do_not_hash() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert copy.deepcopy({"a": Secret("a")}) == {"a": Secret("a")}
    with pytest.raises(TypeError):
        hash(Secret("a"))
