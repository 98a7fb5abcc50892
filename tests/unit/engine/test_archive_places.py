"""Addresses of exports, and the names of what lies there."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.archive import files
from shared.archive.addresses import S3Address, s3_address
from shared.archive.files import Header, Segment
from shared.errors import Refused


@pytest.mark.parametrize(
    ("place", "bucket", "prefix"),
    [
        ("s3://b1", "b1", ""),
        ("s3://my.bucket/", "my.bucket", ""),
        ("s3://my-bucket/a/b c/", "my-bucket", "a/b c"),
        ("s3://Old_Bucket/é", "Old_Bucket", "é"),
    ],
)
def test_an_address_is_a_bucket_and_a_prefix(place: str, bucket: str, prefix: str) -> None:
    address = s3_address(place)
    assert address == S3Address(bucket, prefix)
    assert str(address) == place.rstrip("/")
    assert address.key("blobs/x") == (f"{prefix}/blobs/x" if prefix else "blobs/x")


@pytest.mark.parametrize("place", ["/backup", "backup/x", "~/x", "s3", "s3/x", "a b:c", ""])
def test_anything_without_a_scheme_is_a_folder(place: str) -> None:
    assert s3_address(place) is None


@pytest.mark.parametrize(
    "place",
    ["s3://", "s3:///x", "s3:/b1", "s3:b1", "s3://b", "s3://-b1", "s3://b1//x", "s3://b1/x//", "s3://b1/../x",
     "s3://b1/./x", "s3://b1/a\nb", "s3://user:key@b1/x", "S3://b1", "gs://b1/x", "file:///x"],
)  # fmt: skip
def test_what_is_no_address_is_told_with_what_is_allowed(place: str) -> None:
    with pytest.raises(Refused, match="BUCKET") as refused:
        s3_address(place)
    assert refused.value.code == "bad-place"
    assert repr(place) in refused.value.message


def header(previous: str) -> Header:
    return Header(
        format=1, service="s", topic="t", partition=3, epoch=1, first=1, last=1, previous=previous
    )


def test_one_name_never_has_two_contents() -> None:
    line = b'[1,"s",1,"t",1,{},{},"2026-11-22"]'
    one, content = files.pack_segment(header(""), [line])
    same, again = files.pack_segment(header(""), [line])
    other, _ = files.pack_segment(header("another chain"), [line])
    assert (one, content) == (same, again)
    assert one.name != other.name


def test_a_state_that_comes_back_has_another_name() -> None:
    at = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    names = {files.state_name("s", at + dt.timedelta(microseconds=n), "ab" * 32) for n in range(3)}
    assert len(names) == 3


def segments_of(lengths: list[int]) -> list[Segment]:
    made: list[Segment] = []
    for length in lengths:
        first = made[-1].last + 1 if made else 1
        name = str(first)
        last = first + length - 1
        made.append(Segment(name=name, first=first, last=last, sha256="", end_sha256=""))
    return made


@given(st.lists(st.integers(1, files.ROWS_MAX), max_size=8), st.integers(1, 3 * files.ROWS_MAX))
def test_a_segment_is_replaced_only_by_one_twice_as_long_that_fits(
    lengths: list[int], new: int
) -> None:
    segments = segments_of(lengths)
    short = list(files.short_tail(segments, new))
    kept = segments[: len(segments) - len(short)]
    assert kept + short == segments
    rows = new + sum(segment.rows for segment in short)
    if short:
        assert rows <= files.ROWS_MAX
        assert max(segment.rows for segment in short) * 2 <= rows
    if kept and new <= files.ROWS_MAX:
        assert kept[-1].rows > rows or kept[-1].rows + rows > files.ROWS_MAX
