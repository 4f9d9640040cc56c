"""The wire format of protocol buffers, as far as it takes to walk over a message without reading what is long.

The format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ._checkpoint import File

FIELDS = 1 << 22  # of all messages of a file
VARINT, FIXED64, SPAN, FIXED32 = 0, 1, 2, 5


class Span(NamedTuple):
    """Where a string, a message or a packed list lies."""

    start: int
    stop: int


class Wire:
    """Reads the messages of a file."""

    def __init__(self, file: File) -> None:
        self.file, self.left = file, FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int | float | Span]]:
        """The fields of a message in turn: number and value; a fixed one is taken as a float."""
        at, stop = span
        while at < stop:
            self.left -= 1
            if self.left < 0:
                raise self.file.fails(f"it has more than {FIELDS} fields")
            key, at = self.varint(at, stop)
            kind = key & 7
            value: int | float | Span
            if kind == VARINT:
                value, at = self.varint(at, stop)
            elif kind == SPAN:
                length, at = self.varint(at, stop)
                value, at = Span(at, at + length), at + length
            elif kind in (FIXED32, FIXED64):
                width, code = (4, "<f") if kind == FIXED32 else (8, "<d")
                value, at = struct.unpack(code, self.file.bytes(at, width, "a number"))[0], at + width
            else:
                raise self.file.fails(f"byte {at} has a field of type {kind}, expected 0, 1, 2 or 5")
            if at > stop:
                raise self.file.fails(f"a field ends at byte {at}, but its message at {stop}")
            yield key >> 3, value

    def varint(self, at: int, stop: int) -> tuple[int, int]:
        memory, value = self.file.memory, 0
        for shift in range(0, 70, 7):
            if at >= stop:
                raise self.file.fails(f"it is cut off at byte {at}")
            byte = memory[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, at
        raise self.file.fails(f"byte {at} has a number of more than ten bytes")

    def varints(self, span: Span) -> Iterator[int]:
        """The numbers of a packed list, with their signs."""
        at, stop = span
        while at < stop:
            value, at = self.varint(at, stop)
            yield signed(value)

    def text(self, span: int | float | Span, most: int = 1 << 16) -> str:
        """A string; that of a name is not long."""
        if not isinstance(span, Span):
            raise self.file.fails("a number stands in the place of a string")
        if span.stop - span.start > most:
            raise self.file.fails(
                f"a name at byte {span.start} has {span.stop - span.start} bytes, expected {most} at most"
            )
        return self.file.bytes(span.start, span.stop - span.start, "a string").decode("utf-8", "replace")

    def message(self, value: int | float | Span) -> Span:
        if not isinstance(value, Span):
            raise self.file.fails("a number stands in the place of a message")
        return value


def signed(value: int | float) -> int:
    """An int64 of a varint."""
    value = int(value)
    return value - (1 << 64) if value >> 63 else value
