"""The safetensors container: a checked header, single tensors read lazily, files written whole or not at all.

Written anew because the bindings of safetensors 0.8 cannot load FP8, FP4 and E8M0 into every library, and accept
headers with a key twice. Format: 8 bytes, little-endian, the length of the header; the header, JSON of {name: {dtype,
shape, data_offsets}} and `__metadata__`; the tensors' bytes, row-major and little-endian, without gaps or overlaps.
Source: safetensors 24b0b28, README.md and safetensors/src/tensor.rs.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import ml_dtypes
import numpy as np

from breccia.bridges._atomic import replacing
from breccia.errors import DTypeError, FormatError, ShapeError

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

LONGEST_HEADER = 100_000_000
"""Bytes, as in safetensors itself."""
_WORDS = 1 << 20
"""Bytes moved at a time."""

_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
    "C64": np.complex64, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in _DTYPES.items()}
"""The NumPy dtype of each name of whole bytes."""
SUB_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits of the names that pack their elements. Shapes in headers count elements; what is read are bytes."""
_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file. `shape` counts elements; `start` is the offset of its first byte in the file."""

    name: str
    dtype: str
    shape: Shape
    start: int
    nbytes: int

    @property
    def stored_shape(self) -> Shape:
        """The shape of the array that is read: bytes along the last axis where elements are packed."""
        bits = SUB_BYTE.get(self.dtype)
        return self.shape if bits is None else (*self.shape[:-1], self.shape[-1] * bits // 8)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8) if self.dtype in SUB_BYTE else NUMPY_DTYPES[self.dtype]


class SafetensorsFile:
    """A safetensors file, open for reading. The header is read and checked at once, tensors when asked for.

    path: a regular file. Raises FormatError for a file that is not whole and well formed, saying what is wrong where;
    FileNotFoundError or another OSError where it cannot be opened. Use as a context manager, or `close` it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "a.safetensors", {"w": np.arange(3, dtype=np.float32)})
    ...     with SafetensorsFile(Path(folder) / "a.safetensors") as file:
    ...         file.read("w").tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise FormatError(f"{self.path} is not a file; give the path of a .safetensors file")
        self._file = self.path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            header, self.metadata, data_start = _header(self.path, self._file, self.size)
            self.entries: dict[str, Entry] = _checked_entries(self.path, header, data_start, self.size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def close(self) -> None:
        """Close the file. Arrays from `view` stay valid until they are gone."""
        self._map = None  # the mapping is released with the last array that shows it
        self._file.close()

    def entry(self, name: str) -> Entry:
        """What the header says of a tensor; raises FormatError where there is none of this name."""
        found = self.entries.get(name)
        if found is None:
            raise FormatError(f"{self.path} has no tensor {name!r}; it holds {len(self.entries)} others")
        return found

    def read(self, name: str) -> HostArray:
        """A tensor's bits, in memory of its own: an ml_dtypes array for FP8 and E8M0, bytes for F4 and F6.

        Raises FormatError for an unknown name, OSError where the file has become shorter.
        """
        entry = self.entry(name)
        made = np.empty(entry.nbytes, np.uint8)
        into, done = made.data, 0
        with self._lock:
            self._file.seek(entry.start)
            while done < entry.nbytes:
                count = self._file.readinto(into[done:])
                if not count:
                    raise OSError(f"{self.path} ends within {name!r}: it was cut after it was opened")
                done += count
        return made.view(entry.numpy_dtype).reshape(entry.stored_shape)

    def view(self, name: str) -> HostArray:
        """A tensor's bits as a read-only view of the mapped file: pages are read when they are looked at.

        Whoever cuts the file short while a view is in use makes looking at it fatal (SIGBUS); `read` is safe. Raises
        FormatError for an unknown name, OSError where the file is shorter by now.
        """
        entry = self.entry(name)
        if os.fstat(self._file.fileno()).st_size < self.size:
            raise OSError(f"{self.path} was cut after it was opened; {name!r} cannot be mapped")
        if entry.nbytes == 0:
            return np.empty(entry.stored_shape, entry.numpy_dtype)
        if entry.start % entry.numpy_dtype.itemsize:
            return self.read(name)  # the writer did not align its data, and libraries refuse such views
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        octets = np.frombuffer(self._map, np.uint8, entry.nbytes, entry.start)
        return octets.view(entry.numpy_dtype).reshape(entry.stored_shape)


# -- reading and checking ----------------------------------------------------------------------------------------------


def _header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, str], int]:
    if size < 8:
        raise FormatError(f"{path} is no safetensors file: it has {size} bytes, and the header's length takes 8")
    length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_HEADER or length > size - 8:
        raise FormatError(
            f"{path} is no safetensors file: its header would take {length} bytes; the file has {size}, and at most "
            f"{LONGEST_HEADER} are allowed"
        )
    text = file.read(length)
    if len(text) < length:
        raise OSError(f"{path} was cut while it was read")
    if not text.startswith(b"{"):
        raise FormatError(f"{path} is no safetensors file: its header does not start with '{{' (a pickle?)")
    header = load_json(text, f"{path}: its header")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{path}: __metadata__ must be an object of strings")
    return header, cast(dict[str, str], metadata), 8 + length


def load_json(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object in UTF-8; raises FormatError for anything else, and for a key that is there twice."""

    def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise FormatError(f"{what} has the key {twice[:100]!r} twice")
        return made

    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        made = json.loads(decoded, object_pairs_hook=no_key_twice)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no JSON: {str(error)[:200]}") from None
    if not isinstance(made, dict):
        raise FormatError(f"{what} must be a JSON object, not {str(made)[:50]!r}")
    return cast(dict[str, Any], made)


def _checked_entries(path: Path, header: dict[str, Any], data_start: int, size: int) -> dict[str, Entry]:
    """The entries in the order of the header; raises FormatError for gaps, overlaps and bytes that no tensor has."""
    entries = {name: _entry(path, name, said, data_start) for name, said in header.items()}
    end, before = data_start, "the header"
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.nbytes)):
        if entry.start != end:
            kind = "overlaps" if entry.start < end else "leaves a gap after"
            raise FormatError(f"{path}: {entry.name!r} {kind} {before}: it starts at byte {entry.start}, not at {end}")
        end, before = entry.start + entry.nbytes, repr(entry.name)
    if end != size:
        raise FormatError(
            f"{path} has {size} bytes, its header calls for {end}: "
            + ("the file is cut" if size < end else "bytes at its end belong to no tensor")
        )
    return entries


def _entry(path: Path, name: str, said: Any, data_start: int) -> Entry:
    where = f"{path}: {name[:200]!r}"
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in NUMPY_DTYPES and dtype not in SUB_BYTE):
        raise FormatError(
            f"{where} has the unknown dtype {str(dtype)[:50]!r}; known: {', '.join([*_DTYPES, *SUB_BYTE])}"
        )
    if not _naturals(shape):
        raise FormatError(f"{where} has the shape {str(shape)[:100]}; it must be a list of integers of at least 0")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{where} has the data_offsets {str(offsets)[:100]}; they must be two ascending integers")
    bits = SUB_BYTE.get(dtype) or 8 * NUMPY_DTYPES[dtype].itemsize
    count = 1
    for n in shape:
        count *= n
        if count >= 1 << 63:
            raise FormatError(f"{where} has the shape {str(shape)[:100]}, whose size is beyond 2**63")
    nbytes = offsets[1] - offsets[0]
    if dtype in SUB_BYTE and (not shape or shape[-1] * bits % 8):
        raise FormatError(f"{where} is {dtype} of shape {tuple(shape)}, whose rows do not fill whole bytes")
    if count * bits != 8 * nbytes:
        raise FormatError(
            f"{where} is {dtype} of shape {tuple(shape)}, which takes {count * bits // 8} bytes, but has {nbytes}"
        )
    return Entry(name, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _naturals(found: Any) -> bool:
    return isinstance(found, list) and all(type(n) is int and n >= 0 for n in cast(list[Any], found))


# -- writing -----------------------------------------------------------------------------------------------------------


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write NumPy arrays to a safetensors file: whole, or not at all.

    The file is written under another name beside its place, forced to the disk, and then renamed, so that neither a
    crash nor a full disk leaves half a file. tensors: arrays of NumPy or ml_dtypes dtypes, by name; written one after
    the other, so they may be views of mapped files. metadata: text for `__metadata__`.

    Raises DTypeError for an array that the format cannot hold, FormatError for a place that is no regular file (a
    folder, device, pipe or link), OSError where the disk is full.
    """
    arrays = {name: _little(name, np.asarray(x)) for name, x in tensors.items()}
    header, order = _made_header(arrays, dict(metadata or {}))
    with replacing(Path(path)) as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            _write_array(stream, arrays[name])


def _little(name: str, x: HostArray) -> HostArray:
    dtype = x.dtype.newbyteorder("<")
    if not isinstance(name, str) or name == "__metadata__":
        raise FormatError(f"a tensor cannot be called {name!r}")
    if dtype not in _NAMES:
        raise DTypeError(f"{name}: safetensors has no dtype for {x.dtype}; allowed: {', '.join(map(str, _NAMES))}")
    return x if x.dtype.byteorder in "=|<" else x.astype(dtype)


def _made_header(arrays: Mapping[str, HostArray], metadata: dict[str, str]) -> tuple[bytes, list[str]]:
    """The header, padded so that data starts at a multiple of 8, and the names in the order of their data.

    Wide dtypes come first, as in safetensors, so that every tensor is aligned.
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise FormatError(f"metadata is text: {key!r} is {value!r}")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in order:
        x = arrays[name]
        header[name] = {
            "dtype": _NAMES[x.dtype.newbyteorder("<")], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes],
        }  # fmt: skip
        end += x.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ShapeError(f"{len(arrays)} tensors need a header of {len(text)} bytes; allowed: {LONGEST_HEADER}")
    return text, order


def _write_array(stream: BinaryIO, x: HostArray) -> None:
    if x.flags.c_contiguous:
        octets = x.reshape(-1).view(np.uint8)
        stream.writelines(octets[start : start + _WORDS].data for start in range(0, octets.size, _WORDS))
    else:
        for row in x:
            _write_array(stream, np.asarray(row)) if row.ndim > 1 else stream.write(np.ascontiguousarray(row).tobytes())
