"""Writes registry hives from scratch, as far as the tests need them.

Layout after the published descriptions of the format (regf 1.5): a base block, one hbin, cells.
That a hive is one is judged by dissect.regf, which reads it in `test_images.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

SZ: Final = 1
BINARY: Final = 3
DWORD: Final = 4
NOWHERE: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Value:
    name: str
    kind: int
    data: bytes
    inline: bool = True  # as Windows keeps at most four bytes


@dataclass(frozen=True)
class Key:
    name: str
    values: Sequence[Value] = ()
    keys: Sequence[Key] = ()
    index: bytes = b"lh"  # or lf


@dataclass
class _Cells:
    """The only hbin, growing."""

    data: bytearray = field(default_factory=lambda: bytearray(32))

    def add(self, payload: bytes) -> int:
        at = len(self.data)
        size = -(-(4 + len(payload)) // 8) * 8
        self.data += struct.pack("<i", -size) + payload.ljust(size - 4, b"\0")
        return at

    def closed(self) -> bytes:
        """Padded by one free cell to whole pages, with its header."""
        rest = -len(self.data) % 4096
        if rest:
            self.data += struct.pack("<i", rest) + bytes(rest - 4)
        struct.pack_into("<4sIIQQI", self.data, 0, b"hbin", 0, len(self.data), 0, 0, 0)
        return bytes(self.data)


def dword(name: str, value: int) -> Value:
    return Value(name, DWORD, value.to_bytes(4, "little"))


def text(name: str, value: str) -> Value:
    return Value(name, SZ, (value + "\0").encode("utf-16-le"), inline=False)


def hive(root: Key, *, sequence: tuple[int, int] = (7, 7)) -> bytes:
    """The bytes of a hive file."""
    cells = _Cells()
    security = cells.add(struct.pack("<2sHIIII", b"sk", 0, 32, 32, 1, 0))
    at = _key(cells, root, NOWHERE, security, flags=0x2C)
    bins = cells.closed()
    base = bytearray(4096)
    name = "SYSTEM".encode("utf-16-le").ljust(64, b"\0")
    struct.pack_into("<4sIIQ", base, 0, b"regf", *sequence, 132_000_000_000_000_000)
    struct.pack_into("<7I64s", base, 20, 1, 5, 0, 1, at, len(bins), 1, name)
    sign(base)
    return bytes(base) + bins


def sign(base: bytearray) -> None:
    """Set the checksum of a base block: XOR of its first 127 words."""
    checksum = 0
    for (word,) in struct.iter_unpack("<I", base[:508]):
        checksum ^= word
    struct.pack_into("<I", base, 508, checksum)


def _key(cells: _Cells, key: Key, parent: int, security: int, *, flags: int = 0x20) -> int:
    name = key.name.encode("ascii")
    at = cells.add(bytes(76) + name)
    children = sorted(key.keys, key=lambda child: child.name.upper())
    places = [_key(cells, child, at, security) for child in children]
    index = _index(cells, key.index, children, places) if places else NOWHERE
    values = [_value(cells, value) for value in key.values]
    listed = cells.add(struct.pack(f"<{len(values)}I", *values)) if values else NOWHERE
    node = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        b"nk", flags, 132_000_000_000_000_000, 0, parent, len(places), 0, index, NOWHERE,
        len(values), listed, security, NOWHERE, 64, 0, 64, 64, 0, len(name), 0,
    )  # fmt: skip
    cells.data[at + 4 : at + 4 + len(node)] = node
    return at


def _index(cells: _Cells, kind: bytes, keys: Sequence[Key], places: Sequence[int]) -> int:
    entries = b"".join(
        struct.pack("<I4s", place, _hint(kind, key.name))
        for key, place in zip(keys, places, strict=True)
    )
    return cells.add(struct.pack("<2sH", kind, len(places)) + entries)


def _hint(kind: bytes, name: str) -> bytes:
    """The first letters of the name (lf), or its hash (lh)."""
    if kind == b"lf":
        return name[:4].encode("ascii").ljust(4, b"\0")
    code = 0
    for letter in name.upper():
        code = (code * 37 + ord(letter)) & 0xFFFFFFFF
    return struct.pack("<I", code)


def _value(cells: _Cells, value: Value) -> int:
    name = value.name.encode("ascii")
    if value.inline and len(value.data) <= 4:
        length, data = len(value.data) | 0x80000000, int.from_bytes(value.data, "little")
    else:
        length, data = len(value.data), cells.add(value.data)
    return cells.add(
        struct.pack("<2sHIIIHH", b"vk", len(name), length, data, value.kind, 1, 0) + name
    )


@dataclass(frozen=True)
class Driver:
    """A service of the hive. `override` is StartOverride\\0; `inline=False` as no Windows does."""

    start: int
    image: str = ""
    override: int | None = None
    inline: bool = True


def system_hive(
    drivers: dict[str, Driver],
    *,
    current: int = 1,
    sequence: tuple[int, int] = (7, 7),
    padding: int = 40,
) -> bytes:
    """A SYSTEM hive with two control sets, of which `current` holds the drivers as given and the
    other holds them disabled; `padding` pages lie before them."""
    other = 3 - current
    disabled = {name: Driver(start=4, image=d.image) for name, d in drivers.items()}
    filler = [
        Value(f"page{n}", BINARY, bytes([n % 251 + 1]) * 4000, inline=False)
        for n in range(padding)
    ]
    return hive(
        Key(
            "ROOT",
            keys=[
                Key("Select", values=[dword("Current", current), dword("LastKnownGood", other)]),
                Key(f"ControlSet{current:03d}", keys=[_services(drivers)], index=b"lf"),
                Key(f"ControlSet{other:03d}", keys=[_services(disabled)], index=b"lf"),
                Key("Ahead", values=filler),
            ],
        ),
        sequence=sequence,
    )


def _services(drivers: dict[str, Driver]) -> Key:
    keys = [_service(name, driver) for name, driver in drivers.items()]
    usual = [Key(n, values=[dword("Start", 0), dword("Type", 1)]) for n in ("disk", "partmgr")]
    return Key("Services", keys=[*usual, *keys])


def _service(name: str, driver: Driver) -> Key:
    start = Value("Start", DWORD, driver.start.to_bytes(4, "little"), inline=driver.inline)
    values = [dword("Type", 1), start, dword("ErrorControl", 3)]
    if driver.image:
        values.insert(1, text("ImagePath", driver.image))
    keys = []
    if driver.override is not None:
        keys = [Key("StartOverride", values=[dword("0", driver.override)])]
    return Key(name, values=values, keys=keys)
