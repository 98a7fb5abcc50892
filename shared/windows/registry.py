"""Reads the registry hive SYSTEM: the current control set, and drivers with their start types.

With `volumes.py` the only module that knows the dissect packages. It reads hives through them and
adds what they do not tell: where in the file a value lies, and whether the hive is whole.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dissect.regf import regf
from dissect.regf.exceptions import RegistryKeyNotFoundError, RegistryValueNotFoundError

from shared.windows.volumes import NtfsFile, damage

HIVE_BYTES_MAX: Final = 512 << 20
_BASE_BYTES: Final = 4096
_PIECE_BYTES: Final = 1 << 20
_CELL_BYTES_MAX: Final = 16 << 20
_VALUES_MAX: Final = 4096

_CODE: Final = "damaged-registry"
_REG_DWORD: Final = 4
_INLINE: Final = 0x80000000
# In a value cell: size (4), signature (2), length of the name (2), length of the data (4), data.
_DATA_IN_CELL: Final = 12


class FoundValue:
    """A REG_DWORD: its content, and the offset of its four bytes in the hive where they lie in
    the value's own cell, else None."""

    def __init__(self, name: str, value: int, offset: int | None) -> None:
        self.name = name
        self.value = value
        self.offset = offset


class FoundService:
    """A driver's key: the image path, empty where there is none, and its start types."""

    def __init__(self, image: str, starts: tuple[FoundValue, ...]) -> None:
        self.image = image
        self.starts = starts


class SystemHive:
    """The hive SYSTEM of an installed Windows, opened. All methods raise `Damaged`, and what the
    disk raises."""

    def __init__(self, file: NtfsFile) -> None:
        self._file = file
        with damage("the registry", _CODE):
            base = file.read(0, _BASE_BYTES)
            self._length = _check_base_block(base, file.size)
            self.clean = is_clean(base)
            self._hive = regf.RegistryHive(_Cells(file))
            self.control_set = f"ControlSet{self._current():03d}"
            self._services = self._hive.open(f"{self.control_set}\\Services")

    def service(self, name: str) -> FoundService | None:
        """A driver by the name of its service; None where it is not registered."""
        with damage(f"the registry's service {name}", _CODE):
            key = self._key(self._services, name)
            if key is None:
                return None
            starts = [v for v in self._numbers(key) if v.name.lower() == "start"]
            override = self._key(key, "StartOverride")
            if override is not None:
                starts += [
                    FoundValue(f"StartOverride\\{v.name}", v.value, v.offset)
                    for v in self._numbers(override)
                ]
            return FoundService(self._text(key, "ImagePath"), tuple(starts))

    def digest(self, masked: Sequence[int]) -> str:
        """SHA-256 of the file, with the four bytes at these offsets taken as zero."""
        digest = hashlib.sha256()
        for start in range(0, self._file.size, _PIECE_BYTES):
            piece = bytearray(self._file.read(start, _PIECE_BYTES))
            for at in masked:
                # Cells are aligned to 8 bytes: none of the four can lie in another piece.
                if start <= at < start + len(piece):
                    piece[at - start : at - start + 4] = bytes(4)
            digest.update(piece)
        return digest.hexdigest()

    def _current(self) -> int:
        select = self._hive.open("Select")
        current = next(v.value for v in self._numbers(select) if v.name.lower() == "current")
        if not 1 <= current <= 999:
            raise ValueError(f"control set {current}")
        return current

    def _key(self, parent: Any, name: str) -> Any:
        try:
            return parent.subkey(name)
        except RegistryKeyNotFoundError:
            return None

    def _text(self, key: Any, name: str) -> str:
        try:
            value = key.value(name).value
        except RegistryValueNotFoundError:
            return ""
        return value if isinstance(value, str) else ""

    def _numbers(self, key: Any) -> Iterator[FoundValue]:
        """The REG_DWORD values of a key; as the package does it, but with their places."""
        count = min(key.cell.ValueList.Count, _VALUES_MAX)
        if not count:
            return
        cells = self._hive.cell_data(key.cell.ValueList.List)
        for (at,) in struct.iter_unpack("<I", cells[: count * 4]):
            if at % 8 or not 32 <= at < self._length:
                raise ValueError(f"a value at {at}")
            # A cell in use has a negative size.
            if self._file.read(_BASE_BYTES + at, 4)[3:] < b"\x80":
                raise ValueError(f"a value in a free cell at {at}")
            value = regf.KeyValue(self._hive, self._hive.cell_data(at))
            if value.cell.Type == _REG_DWORD and len(value.data) == 4:
                inline = value.cell.DataLength == _INLINE | 4
                place = _BASE_BYTES + at + _DATA_IN_CELL if inline else None
                yield FoundValue(value.name, int.from_bytes(value.data, "little"), place)


class _Cells(io.RawIOBase):
    """The hive as a file for the dissect package. A cell of negative or huge length is an error
    here instead of a read of everything that follows."""

    def __init__(self, file: NtfsFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"seek to {offset}")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if size is None or not 0 <= size <= _CELL_BYTES_MAX:
            raise ValueError(f"a cell of {size} bytes")
        data = self._file.read(self._at, size)
        if len(data) < size:
            raise EOFError(f"{size} bytes at {self._at}")
        self._at += len(data)
        return data


def _check_base_block(base: bytes, size: int) -> int:
    """Length of the cells behind the base block; ValueError where it cannot head a hive."""
    if len(base) < _BASE_BYTES or base[:4] != b"regf":
        raise ValueError("no registry hive")
    major, _, kind, form, _, length = struct.unpack_from("<6I", base, 20)
    if major != 1 or kind != 0 or form != 1:
        raise ValueError(f"a hive of version {major}, type {kind}, format {form}")
    if not 0 < length <= size - _BASE_BYTES or length % _BASE_BYTES or size > HIVE_BYTES_MAX:
        raise ValueError(f"{length} bytes of cells in a file of {size}")
    return int(length)


def is_clean(base: bytes) -> bool:
    """Whether a base block says that the hive was written whole: both sequence numbers agree and
    the checksum holds. Otherwise Windows replays the hive's logs before it uses it."""
    first, second = struct.unpack_from("<II", base, 4)
    (checksum,) = struct.unpack_from("<I", base, 508)
    return bool(first == second and checksum == base_checksum(base))


def base_checksum(base: bytes) -> int:
    """XOR of the first 127 words, with the two values that Windows avoids replaced."""
    checksum = 0
    for (word,) in struct.iter_unpack("<I", base[:508]):
        checksum ^= word
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(checksum, checksum)
