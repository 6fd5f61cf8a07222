"""A reader of MATLAB v5 to v7 files that cannot be led astray by a damaged or hostile one.

SciPy's compiled reader (1.17), and that of mat-io (1.0), index a table of types with a number from the
file: one flipped bit can end the interpreter. Here every length and type is checked before it is
followed. Written from MathWorks' description of the format, "MAT-File Format", level 5:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Numbers of a data element, by its type.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Letters of a data element, by its type.
_LETTERS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _OPAQUE = 1, 2, 4, 17
_NUMERIC = range(6, 16)
# No file of the release comes near; a damaged length is refused before memory is asked for.
_LARGEST_UNPACKED_BYTES = 2 * 1024**3
_DEEPEST = 32
# How nearly every matrix in a struct begins: array flags, two dimensions, no name. A shortcut past the general way.
_PLAIN = {order: struct.Struct(f"{order}6I2i2I").unpack_from for order in "<>"}
_PLAIN_BYTES = 40


@dataclass(frozen=True)
class Opaque:
    """An object of a MATLAB class: its name, and the matrix that refers to its content; None where it is not read."""

    classname: str
    content: Any


def variables(content: bytes) -> dict[str, Any]:
    """The variables of a MATLAB v5 to v7 file, in the shapes that ``scipy.io.loadmat`` gives them.

    Numbers become 2-D arrays of the type they are stored in, text a 1-D array of its rows, cells an object
    array, structs an array with a field per field, objects an :class:`Opaque`. The nested stream that
    objects refer to is the variable without a name. Sparse matrices, function handles and old-style
    objects are passed over; each is an :class:`Opaque` without content. Nothing is executed, no class is
    looked up, and a damaged length cannot be followed.

    Raises:
        ValueError: It is truncated, inconsistent, not such a file, or unpacks to more than 2 GiB. NumPy and
            the codecs have further ways to refuse; a caller catches Exception.

    """
    found: dict[str, Any] = {}
    for name, value in _variables(content):
        if name in found:
            raise ValueError(f"two variables named {name!r}")
        found[name] = value
    return found


def _variables(content: bytes) -> Iterator[tuple[str, Any]]:
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) <= 128:
        raise ValueError("no MATLAB v5 header")
    if struct.unpack_from(f"{order}H", content, 124)[0] != 0x0100:
        raise ValueError("saved in another version than MATLAB v5 to v7")
    reader, unpacked = _Elements(memoryview(content)[128:], order), 0
    while reader.at < len(reader.data):
        kind, element = reader.next(len(reader.data), padded=False)
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            inner = stream.decompress(element, _LARGEST_UNPACKED_BYTES - unpacked)
            # Only a stream that ends has had its checksum compared.
            if not stream.eof or stream.unused_data:
                raise ValueError(f"truncated, or unpacks to more than {_LARGEST_UNPACKED_BYTES} bytes")
            unpacked += len(inner)
            nested = _Elements(memoryview(inner), order)
            kind, element = nested.next(len(inner), padded=False)
        if kind != _MATRIX:
            raise ValueError(f"a variable of type {kind}")
        yield _matrix(element, order, 0)


def nested(stream: bytes) -> Iterator[Any]:
    """The matrices of the stream that objects refer to: version and byte order, then as in a file."""
    order = {b"IM": "<", b"MI": ">"}.get(stream[2:4])
    if order is None:
        raise ValueError("no byte order in the nested stream")
    reader = _Elements(memoryview(stream)[8:], order)
    while reader.at < len(reader.data):
        yield _matrix(reader.expect({_MATRIX}), order, 0)[1]


class _Elements:
    """Takes the data elements of `data` one after the other; none can reach beyond its end."""

    def __init__(self, data: memoryview, order: str) -> None:
        self.data, self.order, self.at = data, order, 0
        self._tag = struct.Struct(f"{order}II").unpack_from

    def next(self, end: int, padded: bool = True) -> tuple[int, memoryview]:
        """Type and content of the next element."""
        if self.at + 8 > end:
            raise ValueError("truncated")
        kind, size = self._tag(self.data, self.at)
        if kind >> 16:  # up to four bytes are packed into the tag itself
            kind, size, start, step = kind & 0xFFFF, kind >> 16, self.at + 4, 8
            if size > 4:
                raise ValueError(f"{size} bytes in four")
        else:
            start, step = self.at + 8, 8 + size + (-size % 8 if padded else 0)
        if start + size > end:
            raise ValueError(f"truncated: an element of {size} bytes with {end - start} left")
        self.at = min(self.at + step, end)
        return kind, self.data[start : start + size]

    def expect(self, kinds: set[int]) -> memoryview:
        """Content of the next element, which must be of one of these types."""
        kind, element = self.next(len(self.data))
        if kind not in kinds:
            raise ValueError(f"an element of type {kind}, expected one of {sorted(kinds)}")
        return element

    def numbers(self) -> NDArray[Any]:
        """The next element as a vector of numbers."""
        kind, element = self.next(len(self.data))
        if kind not in _STORED:
            raise ValueError(f"an element of type {kind}, expected numbers")
        return np.frombuffer(element, np.dtype(self.order + _STORED[kind]))

    def text(self) -> str:
        """The next element as a name."""
        return bytes(self.expect({1, 2, 16})).decode("ascii")

    def matrices(self, count: int, depth: int) -> list[Any]:
        """The next `count` matrices."""
        if count > (len(self.data) - self.at) // 8:
            raise ValueError(f"{count} matrices in {len(self.data) - self.at} bytes")
        return [_matrix(self.expect({_MATRIX}), self.order, depth + 1)[1] for _ in range(count)]


def _matrix(element: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a matrix element."""
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    if not element:  # the short form of []
        return "", np.empty((0, 0))
    reader = _Elements(element, order)
    if len(element) >= _PLAIN_BYTES:
        six, eight, word, _, five, dims_bytes, n_rows, n_columns, one, name_bytes = _PLAIN[order](element)
        plain = (six, eight, five, dims_bytes, one, name_bytes) == (6, 8, 5, 8, 1, 0)
        if plain and word & 0xFF in _NUMERIC and not word & 0x0800 and n_rows >= 0 and n_columns >= 0:
            reader.at = _PLAIN_BYTES
            values = reader.numbers()
            if values.size != n_rows * n_columns:
                raise ValueError(f"{values.size} numbers, expected {(n_rows, n_columns)}")
            return "", values.reshape((n_rows, n_columns), order="F")
    flags = reader.expect({6})
    if len(flags) != 8:
        raise ValueError(f"array flags of {len(flags)} bytes")
    word = struct.unpack_from(f"{order}I", flags)[0]
    kind, is_complex = word & 0xFF, bool(word & 0x0800)
    if kind == _OPAQUE:
        name, _, classname = reader.text(), reader.text(), reader.text()
        return name, Opaque(classname, reader.matrices(1, depth)[0])
    # Some writers say "unsigned" of the dimensions, and so does MATLAB at times.
    dims = tuple(np.frombuffer(reader.expect({5, 6}), f"{order}i4").tolist())
    if len(dims) < 2 or min(dims) < 0:
        raise ValueError(f"dimensions {dims}")
    n = math.prod(dims)
    name = reader.text()
    if kind in _NUMERIC:
        values = reader.numbers()
        if is_complex:
            values = values + 1j * reader.numbers()
        if values.size != n:
            raise ValueError(f"{values.size} numbers, expected {dims}")
        return name, values.reshape(dims, order="F")
    if kind == _CHAR:
        return name, _rows_of_text(reader, dims)
    if kind == _CELL:
        return name, _as_objects(reader.matrices(n, depth)).reshape(dims, order="F")
    if kind == _STRUCT:
        return name, _struct(reader, dims, depth)
    return name, Opaque(f"array of class {kind}", None)


def _rows_of_text(reader: _Elements, dims: tuple[int, ...]) -> NDArray[np.str_]:
    kind, element = reader.next(len(reader.data))
    if kind not in _LETTERS or len(dims) != 2:
        raise ValueError(f"text of type {kind} and dimensions {dims}")
    codec = _LETTERS[kind] + (("-le" if reader.order == "<" else "-be") if kind in (4, 17, 18) else "")
    # MATLAB stores no letter at all where all are zero.
    letters = bytes(element).decode(codec) or " " * min(math.prod(dims), 1)
    # The dimensions of a row in UTF-8 may count its bytes.
    if len(letters) != math.prod(dims) and (kind, dims[0]) != (16, 1):
        raise ValueError(f"{len(letters)} letters, expected {dims}")
    # Columns first, as all arrays.
    rows = [letters[row :: dims[0]] for row in range(dims[0])] if letters else []
    return np.array(rows, dtype=np.str_)


def _struct(reader: _Elements, dims: tuple[int, ...], depth: int) -> NDArray[Any]:
    length = reader.expect({5})
    if len(length) != 4:
        raise ValueError(f"a length of {len(length)} bytes")
    room, letters = struct.unpack(f"{reader.order}i", length)[0], bytes(reader.expect({1}))
    if room <= 0 or len(letters) % room:
        raise ValueError(f"names of fields in {len(letters)} bytes, {room} each")
    fields = [letters[at : at + room].split(b"\0")[0].decode("ascii") for at in range(0, len(letters), room)]
    n = math.prod(dims)
    if n > len(reader.data):  # a struct without fields takes no bytes, so that nothing else bounds their number
        raise ValueError(f"{n} structs in {len(reader.data)} bytes")
    # One struct after the other, each with all its fields.
    values = reader.matrices(n * len(fields), depth)
    table = np.empty(n, dtype=[(field, object) for field in fields])
    for i, field in enumerate(fields):
        table[field] = _as_objects(values[i :: len(fields)])
    return table.reshape(dims, order="F")


def _as_objects(values: list[Any]) -> NDArray[np.object_]:
    """(n,) array of the values themselves; NumPy would merge arrays of one shape."""
    objects = np.empty(len(values), object)
    for i, value in enumerate(values):
        objects[i] = value
    return objects
