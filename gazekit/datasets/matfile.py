"""Walk through a MATLAB v5 to v7 file before SciPy does, and refuse what does not add up.

SciPy trusts the type codes and counts in such a file; a wrong one can make it read past its buffers and
end the process. Every tag is therefore checked here first, against the published description of the
format (MathWorks, "MAT-File Format", level 5): https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib

# Bytes per item of the data types; 14 is a matrix and 15 a compressed element.
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_TEXT_TYPES = {1, 2, 3, 4, 16, 17, 18}
_NUMBER_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_CELL, _STRUCT, _CHAR, _SPARSE = 1, 2, 4, 5
_NUMBER_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_DEEPEST = 32
_MOST_DIMENSIONS = 32
# The largest known eye movement file unpacks to some tens of megabytes.
_LARGEST_BYTES = 512 * 1024**2
_PIECE_BYTES = 16 * 1024**2


def check_mat(content: bytes) -> None:
    """Raise ValueError with the reason unless `content` is a whole and consistent MATLAB v5 to v7 file.

    Matrices may be numbers, text, sparse, cells and structs. Objects and function handles are refused:
    no release that is read through SciPy needs them.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("no MATLAB v5 header")
    at, unpacked = 128, 0
    if at == len(content):
        raise ValueError("truncated: nothing after the header")
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("truncated")
        kind, n_bytes = struct.unpack_from(f"{order}II", content, at)
        end = at + 8 + n_bytes
        if end > len(content):
            raise ValueError(f"truncated: {len(content)} bytes, expected {end}")
        if kind == _COMPRESSED:
            element = _unpack(content[at + 8 : end], _LARGEST_BYTES - unpacked)
            unpacked += len(element)
            inside = _Walker(element, order)
            inside.matrix_element(0, len(element))
        elif kind == _MATRIX:
            _Walker(content, order).matrix_element(at, end)
        else:
            raise ValueError(f"element of type {kind} where a variable is expected")
        at = end


def _unpack(packed: bytes, most: int) -> bytes:
    unpack, pieces, total = zlib.decompressobj(), [], 0
    while packed and not unpack.eof:
        piece = unpack.decompress(packed, _PIECE_BYTES)
        packed = unpack.unconsumed_tail
        pieces.append(piece)
        total += len(piece)
        if total > most:
            raise ValueError(f"unpacks to more than {_LARGEST_BYTES} bytes")
        if not piece and not packed:
            break
    if not unpack.eof:
        raise ValueError("a compressed variable ends early")
    return b"".join(pieces)


class _Walker:
    """Checks the elements in one run of bytes."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content = content
        self._two_words = struct.Struct(f"{order}II")
        self._word = struct.Struct(f"{order}i")
        self._order = order

    def _tag(self, at: int, end: int) -> tuple[int, int, int, int]:
        """(type, bytes, where its data start, where the next element starts)."""
        if at + 8 > end:
            raise ValueError("an element ends early")
        first, second = self._two_words.unpack_from(self.content, at)
        if small := first >> 16:
            if small > 4:
                raise ValueError(f"a small element of {small} bytes")
            return first & 0xFFFF, small, at + 4, at + 8
        after = at + 8 + second
        if after > end:
            raise ValueError(f"an element of {second} bytes where {end - at - 8} are left")
        # The last element of a run may lack its padding.
        return first, second, at + 8, min(end, after + -second % 8)

    def matrix_element(self, at: int, end: int, depth: int = 0) -> int:
        """Check one matrix with its tag; returns where the next element starts."""
        kind, n_bytes, start, after = self._tag(at, end)
        if kind != _MATRIX:
            raise ValueError(f"element of type {kind} where a matrix is expected")
        if n_bytes:  # an empty matrix may have nothing inside
            self._matrix(start, start + n_bytes, depth)
        return after

    def _data(self, at: int, end: int, types: set[int], n_items: int | None = None) -> tuple[int, int, int]:
        """Check one element of numbers or text; returns (bytes, where the data start, where the next one starts)."""
        kind, n_bytes, start, after = self._tag(at, end)
        if kind not in types or n_bytes % _ITEM_BYTES[kind]:
            raise ValueError(f"element of type {kind} and {n_bytes} bytes, expected one of types {sorted(types)}")
        if n_items is not None and n_bytes != n_items * _ITEM_BYTES[kind]:
            raise ValueError(f"{n_bytes // _ITEM_BYTES[kind]} items, expected {n_items}")
        return n_bytes, start, after

    def _matrix(self, at: int, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
        _, start, at = self._data(at, end, {_UINT32}, 2)
        flags, _ = self._two_words.unpack_from(self.content, start)
        kind = flags & 0xFF
        n_bytes, start, at = self._data(at, end, {_INT32})
        if not 8 <= n_bytes <= 4 * _MOST_DIMENSIONS:
            raise ValueError(f"{n_bytes // 4} dimensions")
        sizes = struct.unpack_from(f"{self._order}{n_bytes // 4}i", self.content, start)
        if min(sizes) < 0:
            raise ValueError(f"dimensions {sizes}")
        n_items = math.prod(sizes)
        _, _, at = self._data(at, end, {_INT8})  # the name
        if kind == _CELL:
            self._matrices(at, end, n_items, depth)
        elif kind == _STRUCT:
            self._struct(at, end, n_items, depth)
        elif kind == _CHAR:
            # UTF-8 text has more bytes than characters, so that only numbers can be counted.
            self._data(at, end, _TEXT_TYPES)
        elif kind == _SPARSE:
            self._sparse(at, end, sizes, bool(flags & _COMPLEX))
        elif kind in _NUMBER_CLASSES:
            for _ in range(2 if flags & _COMPLEX else 1):
                _, _, at = self._data(at, end, _NUMBER_TYPES, n_items)
        else:
            raise ValueError(f"a matrix of class {kind}, which is an object, a function or nothing")

    def _matrices(self, at: int, end: int, n: int, depth: int) -> None:
        if n * 8 > end - at:
            raise ValueError(f"{n} cells in {end - at} bytes")
        for _ in range(n):
            at = self.matrix_element(at, end, depth + 1)

    def _struct(self, at: int, end: int, n_items: int, depth: int) -> None:
        _, start, at = self._data(at, end, {_INT32}, 1)
        (length,) = self._word.unpack_from(self.content, start)
        n_bytes, _, at = self._data(at, end, {_INT8})
        if length <= 0 or n_bytes % length:
            raise ValueError(f"field names of {length} bytes in {n_bytes}")
        self._matrices(at, end, n_items * (n_bytes // length), depth)

    def _sparse(self, at: int, end: int, sizes: tuple[int, ...], is_complex: bool) -> None:
        if len(sizes) != 2:
            raise ValueError(f"a sparse matrix of {len(sizes)} dimensions")
        row_bytes, row_start, at = self._data(at, end, {_INT32})
        _, column_start, at = self._data(at, end, {_INT32}, sizes[1] + 1)
        rows = struct.unpack_from(f"{self._order}{row_bytes // 4}i", self.content, row_start)
        bounds = struct.unpack_from(f"{self._order}{sizes[1] + 1}i", self.content, column_start)
        rising = all(a <= b for a, b in itertools.pairwise(bounds))
        if bounds[0] != 0 or not rising or bounds[-1] > len(rows):
            raise ValueError("the column bounds of a sparse matrix do not rise")
        used = rows[: bounds[-1]]
        if used and not (min(used) >= 0 and max(used) < sizes[0]):
            raise ValueError("a sparse matrix has entries outside its rows")
        for _ in range(2 if is_complex else 1):
            n_bytes, _, at = self._data(at, end, _NUMBER_TYPES)
            if n_bytes == 0 and used:
                raise ValueError("a sparse matrix without values")
