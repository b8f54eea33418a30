"""Zips whose entries are stored as they are, as torch.save writes them: checked by their CRC, in one pass."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from metanet.errors import RefusedError

END = struct.Struct("<4s4H2LH")
END64, LOCATOR64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
ENTRY, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
ENCRYPTED, UTF8 = 1, 1 << 11  # flags
WIDE = 0xFFFFFFFF  # of a size or place that stands in the extra field


class _Entry(NamedTuple):
    name: str
    crc: int
    size: int
    place: int


def stored(data: bytes, where: str, most: int) -> dict[str, memoryview]:
    """Name -> content of all entries; `data` is not copied.

    Raises:
        RefusedError: entries that are packed, encrypted, overlapping, of one name, or more than `most`.
        ValueError: damaged.
    """
    try:
        entries = list(_directory(data, where, most))
        if len({entry.name for entry in entries}) < len(entries):
            raise RefusedError(f"{where}: refused: {len(entries):,} entries, or several of one name")
        if sum(entry.size for entry in entries) > len(data):
            raise RefusedError(f"{where}: refused: its entries overlap")
        return {entry.name: _content(data, entry, where) for entry in entries}
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: damaged: {error}") from error


def _directory(data: bytes, where: str, most: int):
    """The entries by the central directory, which has to lie right before the end."""
    end = len(data) - END.size
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        raise ValueError(f"{where}: damaged: no zip ends here")
    told = count, size, start = END.unpack_from(data, end)[4:7]
    locator = end - LOCATOR64.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        end = LOCATOR64.unpack_from(data, locator)[2]
        *_, count, size, start = END64.unpack_from(data, end)
        wide = zip(told, (count, size, start), (0xFFFF, WIDE, WIDE), strict=True)
        if any(short not in (long, largest) for short, long, largest in wide):
            raise ValueError(f"{where}: damaged: the two ends of its directory differ")
    if count > most:
        raise RefusedError(f"{where}: refused: {count:,} entries, or several of one name")
    if start + size != end:
        raise ValueError(f"{where}: damaged: its directory claims {size:,} bytes at {start:,} of {len(data):,}")
    place = start
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, length, *sizes, _, _, offset = ENTRY.unpack_from(data, place)
        name_end = place + ENTRY.size + sizes[0]
        name = data[place + ENTRY.size : name_end].decode("utf-8" if flags & UTF8 else "cp437")
        if mark != b"PK\x01\x02":
            raise ValueError(f"{where}: damaged: an entry without its mark")
        packed, length, offset = _widened(data[name_end : name_end + sizes[1]], packed, length, offset)
        if method or flags & ENCRYPTED or packed != length or length > len(data):
            raise RefusedError(
                f"{where}: refused: {name!r} is packed or encrypted, or claims {length:,} bytes in a file of "
                f"{len(data):,}; torch.save stores its entries as they are"
            )
        yield _Entry(name, crc, length, offset)
        place = name_end + sizes[1] + sizes[2]


def _widened(extra: bytes, packed: int, length: int, offset: int) -> tuple[int, int, int]:
    """Sizes and place, those above 4 GB from the extra field."""
    numbers = [length, packed, offset]
    place = 0
    while WIDE in numbers and place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{size // 8}Q", extra, place + 4))
            numbers = [next(wide, number) if number == WIDE else number for number in numbers]
        place += 4 + size
    length, packed, offset = numbers
    return packed, length, offset


def _content(data: bytes, entry: _Entry, where: str) -> memoryview:
    mark, _, flags, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack_from(data, entry.place)
    name_end = entry.place + LOCAL.size + name_length
    name = data[name_end - name_length : name_end].decode("utf-8" if flags & UTF8 else "cp437")
    start = name_end + extra_length
    content = memoryview(data)[start : start + entry.size]
    if mark != b"PK\x03\x04" or method or flags & ENCRYPTED or name != entry.name or len(content) < entry.size:
        raise ValueError(f"{where}: damaged: {entry.name!r} is not where its directory says")
    if zlib.crc32(content) != entry.crc:
        raise ValueError(f"{where}: damaged: the CRC of {entry.name!r} does not fit")
    return content
