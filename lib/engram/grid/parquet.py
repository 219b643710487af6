"""Write a small table as Parquet with the standard library alone.

pyarrow would start threads in a process that forks, and take longer to import than a short grid to
run. One row group, one page a column, plain encoding, no compression: what every reader reads.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BOOLEAN", "DOUBLE", "INTEGER", "TEXT", "Column", "kind_of", "write"]

# Types of the format (parquet.thrift), by the number that a file holds.
BOOLEAN, INTEGER, DOUBLE, TEXT = 0, 2, 5, 6
MAGIC = b"PAR1"
OPTIONAL, DATA_PAGE, UTF8 = 1, 0, 0
PLAIN, RLE = 0, 3
# Types of Thrift's compact protocol.
I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12


class Column(NamedTuple):
    """One column.

    Attributes:
        name: its header.
        kind: BOOLEAN, INTEGER (64 bits), DOUBLE or TEXT.
        values: of that kind, or None.
    """

    name: str
    kind: int
    values: Sequence[Any]


def write(columns: Sequence[Column]) -> bytes:
    """The bytes of a Parquet file.

    Args:
        columns: at least one, all of the same length.

    Raises:
        OverflowError: an integer has more than 64 bits.
    """
    rows = len(columns[0].values)
    data = bytearray(MAGIC)
    chunks = []
    for column in columns if rows else ():
        offset = len(data)
        data += _page(column)
        chunks.append(_chunk(column, offset, len(data) - offset))
    size = len(data) - len(MAGIC)
    group = _struct((1, LIST, _list(STRUCT, chunks)), (2, I64, _int(size)), (3, I64, _int(rows)))
    root = _struct((4, BINARY, _text("table")), (5, I32, _int(len(columns))))
    footer = _struct(
        (1, I32, _int(1)),
        (2, LIST, _list(STRUCT, [root, *map(_schema, columns)])),
        (3, I64, _int(rows)),
        (4, LIST, _list(STRUCT, [group] if rows else [])),
        (6, BINARY, _text("engram")),
    )
    return bytes(data + footer + struct.pack("<I", len(footer)) + MAGIC)


def _schema(column: Column) -> bytes:
    """SchemaElement: what a column holds."""
    fields = [
        (1, I32, _int(column.kind)),
        (3, I32, _int(OPTIONAL)),
        (4, BINARY, _text(column.name)),
    ]
    if column.kind == TEXT:
        logical = _struct((1, STRUCT, _struct()))
        fields += [(6, I32, _int(UTF8)), (10, STRUCT, logical)]
    return _struct(*fields)


def _chunk(column: Column, offset: int, size: int) -> bytes:
    """ColumnChunk: where a column lies."""
    meta = _struct(
        (1, I32, _int(column.kind)),
        (2, LIST, _list(I32, [_int(PLAIN), _int(RLE)])),
        (3, LIST, _list(BINARY, [_text(column.name)])),
        (4, I32, _int(0)),  # not compressed
        (5, I64, _int(len(column.values))),
        (6, I64, _int(size)),
        (7, I64, _int(size)),
        (9, I64, _int(offset)),
    )
    return _struct((2, I64, _int(offset)), (3, STRUCT, meta))


def _page(column: Column) -> bytes:
    """A page header and the page: which values are there, then those values."""
    there = [value is not None for value in column.values]
    levels = _levels(there)
    body = struct.pack("<I", len(levels)) + levels
    body += _plain(column.kind, [value for value in column.values if value is not None])
    data = _struct(
        (1, I32, _int(len(there))), (2, I32, _int(PLAIN)), (3, I32, _int(RLE)), (4, I32, _int(RLE))
    )
    header = _struct(
        (1, I32, _int(DATA_PAGE)),
        (2, I32, _int(len(body))),
        (3, I32, _int(len(body))),
        (5, STRUCT, data),
    )
    return header + body


def _levels(there: Sequence[bool]) -> bytes:
    """Definition levels: one bit a value, or one run where all bits are equal."""
    if all(there) or not any(there):
        return _varint(len(there) << 1) + bytes([there[0]])
    packed = _bits(there)
    return _varint(len(packed) << 1 | 1) + packed


def _plain(kind: int, values: Sequence[Any]) -> bytes:
    """Values one after the other."""
    if kind == BOOLEAN:
        return _bits(values)
    if kind == TEXT:
        encoded = [value.encode("utf-8", "backslashreplace") for value in values]
        return b"".join(part for item in encoded for part in (struct.pack("<I", len(item)), item))
    try:
        return struct.pack(f"<{len(values)}{'q' if kind == INTEGER else 'd'}", *values)
    except struct.error as error:
        raise OverflowError(str(error)) from error


def _bits(flags: Sequence[bool]) -> bytes:
    """Eight flags a byte, the first in the lowest bit."""
    packed = bytearray((len(flags) + 7) // 8)
    for place, flag in enumerate(flags):
        packed[place >> 3] |= flag << (place & 7)
    return bytes(packed)


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    """A Thrift struct of (id, type, encoded value), by rising id."""
    data, last = bytearray(), 0
    for number, kind, value in fields:
        data.append((number - last) << 4 | kind)
        data += value
        last = number
    return bytes(data) + b"\0"


def _list(kind: int, items: Sequence[bytes]) -> bytes:
    """A Thrift list of encoded values."""
    size = len(items)
    head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + _varint(size)
    return head + b"".join(items)


def _text(text: str) -> bytes:
    """A Thrift string."""
    data = text.encode("utf-8", "backslashreplace")
    return _varint(len(data)) + data


def _int(value: int) -> bytes:
    """A Thrift integer that is not negative."""
    return _varint(value << 1)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def kind_of(values: Iterable[Any], *, default: int) -> int:
    """The kind that holds all values as they are; TEXT where there is none but text.

    Args:
        values: of any type; None does not count.
        default: for no value at all.
    """
    found = {type(value) for value in values if value is not None}
    if not found:
        return default
    if found == {bool}:
        return BOOLEAN
    if found == {int}:
        return INTEGER
    return DOUBLE if found <= {int, float} else TEXT
