"""Known secrets do not show in what a script printed, in whatever usual form."""

from __future__ import annotations

import base64
import json
import shlex
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shared.scripts.masking import SECRET_CHARS_MIN, Masker

SECRET_LETTERS = "abcdefXYZ0123456789+/='\"\\ü"
NOISE_LETTERS = ".:-_ \n\t#"
secrets = st.text(SECRET_LETTERS, min_size=SECRET_CHARS_MIN, max_size=120)
noise = st.text(NOISE_LETTERS, max_size=80).map(str.encode)
gap = st.text(NOISE_LETTERS, min_size=1, max_size=80).map(str.encode)


@given(secret=secrets, before=noise, after=gap, times=st.integers(1, 4))
def test_a_secret_is_replaced_and_what_surrounds_it_stays(
    secret: str, before: bytes, after: bytes, times: int
) -> None:
    raw = before + (secret.encode() + after) * times
    assert Masker([secret]).mask(raw) == before + (b"***" + after) * times


@given(secret=secrets, before=noise, after=noise, keep=st.integers(1, 250))
@example(secret="hunter2", before=b"", after=b"....", keep=6)
def test_no_letter_of_a_secret_survives_a_cut_anywhere(
    secret: str, before: bytes, after: bytes, keep: int
) -> None:
    masker = Masker([secret])
    everything = before + secret.encode() + after
    window = everything[-(keep + masker.span_bytes_max) :]
    kept = masker.mask_tail(window, keep_bytes=keep)
    assert not set(kept) & set(secret.encode())
    assert kept.endswith(after[-keep:])


@given(secret=secrets, before=noise, printed=st.integers(SECRET_CHARS_MIN, 119))
def test_a_secret_cut_short_by_the_end_of_the_script_is_masked(
    secret: str, before: bytes, printed: int
) -> None:
    begun = secret.encode()[:printed]
    kept = Masker([secret]).mask_tail(before + begun, keep_bytes=4096, cut_short=True)
    assert kept == before + b"***"


@given(
    secret=secrets,
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    width=st.integers(16, 90),
    url_safe=st.booleans(),
)
def test_base64_is_masked_at_any_alignment_and_line_width(
    secret: str, before: bytes, after: bytes, width: int, url_safe: bool
) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    coded = encode(before + secret.encode() + after).decode()
    raw = "\r\n".join(textwrap.wrap(coded, width)).encode()
    masker = Masker([secret])
    masked = masker.mask_tail(raw, keep_bytes=len(raw))
    core = encode(bytes(len(before) % 3) + secret.encode()).rstrip(b"=")[4:-1]
    assume(len(core) >= 4)
    assert b"***" in masked
    assert core not in masked.replace(b"\r\n", b"")


@given(lines=st.lists(secrets, min_size=2, max_size=6))
def test_every_line_of_a_secret_is_masked_alone(lines: list[str]) -> None:
    masker = Masker(["\n".join(lines)])
    for line in lines:
        if len(line) >= SECRET_CHARS_MIN:
            assert masker.mask(b"> " + line.encode() + b" <") == b"> *** <"


@pytest.mark.parametrize(
    "printed",
    [
        json.dumps,
        lambda secret: json.dumps(secret, ensure_ascii=False),
        shlex.quote,
        lambda secret: quote(secret, safe=""),
        lambda secret: secret.encode().hex(),
        lambda secret: secret.encode().hex().upper(),
    ],
    ids=["json", "json-utf8", "shell", "percent", "hex", "HEX"],
)
@pytest.mark.parametrize("secret", ["pä'ss\"wö\\rd/9", "plain-word", "tab\tin it's"])
def test_a_secret_as_tools_print_it_is_masked(printed, secret: str) -> None:  # type: ignore[no-untyped-def]
    masked = Masker([secret]).mask(printed(secret).encode())
    assert masked.strip(b"'\"") == b"***"


def test_values_too_short_to_be_told_from_text_are_left() -> None:
    assert Masker(["a1", "", "   ", "xyz"]).mask(b"a1 xyz fine") == b"a1 xyz fine"


def test_overlapping_secrets_leave_no_rest() -> None:
    assert Masker(["abcdef", "defghi"]).mask(b"<abcdefghi>") == b"<***>"
    assert Masker(["aaaa"]).mask(b"<aaaaaa>") == b"<***>"
    assert Masker(["pass", "password1"]).mask(b"<password1>") == b"<***>"


def test_documents_are_masked_in_keys_strings_and_numbers() -> None:
    masker = Masker(["4711471", "topsecret"])
    masked = masker.mask_value({"topsecret": ["is topsecret!", 4711471, 1.5, True, None]})
    assert masked == {"***": ["is ***!", "***", 1.5, True, None]}


def test_no_secrets_change_nothing() -> None:
    masker = Masker([])
    assert masker.mask(b"\xff\x00 anything") == b"\xff\x00 anything"
    assert masker.span_bytes_max <= 2


@given(secret=secrets)
def test_a_secret_in_a_document_inside_a_document_is_masked(secret: str) -> None:
    body = json.dumps({"body": json.dumps({"password": secret})}).encode()
    printed = json.dumps(json.dumps(secret)[1:-1])[1:-1].encode()
    assume(printed not in body.replace(printed, b"", 1))
    masked = Masker([secret]).mask(body)
    assert b"***" in masked and printed not in masked
