"""The GGUF container: a checked header, single tensors as views of the mapped file.

Written anew because `gguf.GGUFReader` makes an array of every token of the vocabulary, which takes seconds, and checks
little. Format, little-endian: "GGUF", a version (2 or 3), the counts of tensors and of metadata; the metadata; of each
tensor its name, sizes (fastest first), type and offset; then, aligned, the tensors' bytes.
Source: ggml's docs/gguf.md; block sizes from gguf 0.19, constants.py.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np

from breccia.errors import FormatError

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""ggml's types by number: name, values of a block, bytes of a block."""
PLAIN: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
"""The types that are plain numbers."""
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MOST_AXES = 8


@dataclass(frozen=True)
class GGUFEntry:
    """One tensor of a file. `shape` counts values, in our order; `kind` is ggml's name of the type."""

    name: str
    kind: str
    shape: Shape
    start: int
    nbytes: int
    block: tuple[int, int]
    """Values and bytes of a block."""


class GGUFFile:
    """A GGUF file, mapped for reading. The header is read and checked at once, tensors when asked for.

    path: a regular file. Raises FormatError for a file that is not whole and well formed; OSError where it cannot be
    opened. Use as a context manager, or `close` it. `metadata` has the numbers and texts, not the arrays.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise FormatError(f"{self.path} is not a file; give the path of a .gguf file")
        with self.path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            if file.read(4) != b"GGUF" or self.size < 24:
                raise FormatError(f"{self.path} is no GGUF file: it does not start with 'GGUF' and a header")
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = _Reader(self.path, self._map)
        self.version = reader.number("<I")
        if self.version not in (2, 3):
            raise FormatError(f"{self.path} has GGUF version {self.version}; readable: 2 and 3, little-endian")
        tensors, pairs = reader.number("<Q"), reader.number("<Q")
        reader.check_count(tensors, 24, "tensors")
        reader.check_count(pairs, 13, "metadata")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = reader.text()
            if key in self.metadata:
                raise FormatError(f"{self.path} has the metadata {key[:100]!r} twice")
            self.metadata[key] = reader.value(reader.number("<I"))
        self.entries = self._entries([reader.tensor() for _ in range(tensors)], reader.at)

    def _entries(self, found: list[GGUFEntry], header: int) -> dict[str, GGUFEntry]:
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment % 8:
            raise FormatError(f"{self.path}: general.alignment must be a multiple of 8, got {alignment!r}")
        base = -(-header // alignment) * alignment
        made: dict[str, GGUFEntry] = {}
        end, before = base, "the header"
        for each in sorted(found, key=lambda e: (e.start, e.nbytes)):
            entry = GGUFEntry(each.name, each.kind, each.shape, base + each.start, each.nbytes, each.block)
            if entry.start % alignment:
                raise FormatError(f"{self.path}: {entry.name!r} starts at byte {entry.start}, not at a multiple of "
                                  f"{alignment}")  # fmt: skip
            if entry.start < end:
                raise FormatError(f"{self.path}: {entry.name!r} overlaps {before}")
            if entry.start + entry.nbytes > self.size:
                raise FormatError(
                    f"{self.path}: {entry.name!r} ends at byte {entry.start + entry.nbytes}, the file has {self.size}: "
                    "it is cut"
                )
            end, before = entry.start + entry.nbytes, repr(entry.name)
            made[entry.name] = entry
        if len(made) != len(found):
            seen: set[str] = set()
            twice = next(e.name for e in found if e.name in seen or seen.add(e.name))
            raise FormatError(f"{self.path} has the tensor {twice!r} twice")
        return {each.name: made[each.name] for each in found}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def close(self) -> None:
        """Let go of the file. Arrays from `view` stay valid until they are gone."""
        self._map = None  # unmapped with the last array that shows it

    def view(self, name: str) -> HostArray:
        """A tensor as a read-only view of the mapped file: plain numbers in their dtype and shape, other types as
        uint8 (..., bytes of a row). Raises FormatError for an unknown name.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise FormatError(f"{self.path} has no tensor {name!r}; it holds {len(self.entries)} others")
        if self._map is None:
            raise FormatError(f"{self.path} is closed")
        octets = np.frombuffer(self._map, np.uint8, entry.nbytes, entry.start)
        if entry.kind in PLAIN:
            return octets.view(PLAIN[entry.kind]).reshape(entry.shape)
        values, nbytes = entry.block
        return octets.reshape(*entry.shape[:-1], entry.shape[-1] // values * nbytes)


class _Reader:
    """The header, from its front; every length is checked against what is left of the file."""

    def __init__(self, path: Path, octets: mmap.mmap) -> None:
        self.path, self._octets, self.at = path, octets, 4

    def number(self, form: str) -> Any:
        at = self._take(struct.calcsize(form))
        return struct.unpack_from(form, self._octets, at)[0]

    def text(self) -> str:
        length = self.number("<Q")
        at = self._take(length)
        try:
            return self._octets[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.path}: a text at byte {at} of its header is no UTF-8") from None

    def value(self, kind: int) -> Any:
        """A number or a text; of an array, which is skipped, None."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise FormatError(f"{self.path}: its metadata has a value of the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _NUMBERS:
            self._take(count * struct.calcsize(_NUMBERS[inner]))
        elif inner == _STRING:
            self.check_count(count, 8, "texts")
            for _ in range(count):
                self._take(self.number("<Q"))
        else:
            raise FormatError(f"{self.path}: its metadata has an array of the type {inner}; allowed: numbers and texts")
        return None

    def tensor(self) -> GGUFEntry:
        name, axes = self.text(), self.number("<I")
        if axes > _MOST_AXES:
            raise FormatError(f"{self.path}: {name[:100]!r} has {axes} axes; allowed: {_MOST_AXES}")
        shape = tuple(self.number("<Q") for _ in range(axes))[::-1]
        number, offset = self.number("<I"), self.number("<Q")
        if number not in _TYPES:
            raise FormatError(f"{self.path}: {name[:100]!r} is of the unknown type {number}")
        kind, values, nbytes = _TYPES[number]
        if (shape[-1] if shape else 1) % values:
            raise FormatError(f"{self.path}: {name[:100]!r} is {kind} of shape {shape}; rows are blocks of {values}")
        return GGUFEntry(name, kind, shape, offset, prod(shape) // values * nbytes, (values, nbytes))

    def check_count(self, count: int, least: int, what: str) -> None:
        """Raise FormatError where so many things of at least `least` bytes cannot be in the file."""
        if count * least > len(self._octets) - self.at:
            raise FormatError(f"{self.path}: its header tells of {count} {what}, which the file is too short for")

    def _take(self, count: int) -> int:
        at = self.at
        if count > len(self._octets) - at:
            raise FormatError(f"{self.path}: its header ends within a value at byte {at}: the file is cut")
        self.at = at + count
        return at
