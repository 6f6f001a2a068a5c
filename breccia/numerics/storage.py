"""Between what people hand in as elements and scales and canonical storage: accepted dtypes, views, packing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from breccia.arrays import numpy as xp
from breccia.errors import DTypeError, FormatError, ShapeError
from breccia.formats import Format
from breccia.numerics.decode import decode
from breccia.numerics.encode import encode
from breccia.numerics.pack import pack, packed_length
from breccia.numerics.scale_rules import scale_shape, stored
from breccia.recipes import Recipe

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


def native(fmt: Format) -> np.dtype[Any] | None:
    """NumPy's or ml_dtypes' dtype of a format; None where there is none (MXINT8, codebooks)."""
    found = getattr(np, fmt.name, None) or getattr(ml_dtypes, fmt.name, None)
    return None if found is None else np.dtype(found)


def storage_dtype(fmt: Format) -> np.dtype[Any]:
    """The dtype of canonical element storage: int8 for signed 8-bit integers, else unsigned bytes, else the wide
    float.
    """
    if fmt.kind == "int" and fmt.signed and fmt.bits == 8:
        return np.dtype(np.int8)
    return np.dtype(np.uint8) if fmt.bits <= 8 else np.dtype(fmt.name)


def packed_shape(shape: Shape, fmt: Format) -> Shape:
    """The storage shape of a tensor of `shape`."""
    return (*shape[:-1], packed_length(shape[-1], fmt))


def element_storage(data: Any, recipe: Recipe, scale: Any, shape: Shape | None) -> tuple[Array, Shape]:
    """(canonical storage, logical shape) of an element buffer; a view wherever nothing needs packing.

    data: codes in canonical storage; or one code a byte (uint8, or an array of the format's own dtype). Which of the
    two a
        sub-byte buffer is follows from `shape`; without it from the shape of `scale`, packed first.
    Raises DTypeError, ShapeError or FormatError saying what is needed.
    """
    fmt = recipe.element
    array = np.asarray(data)
    own = array.dtype == native(fmt)
    codes = _as_bytes(array, fmt)
    wanted = None if shape is None else tuple(int(n) for n in shape)
    if fmt.bits not in (4, 6):
        return _whole_codes(codes, fmt, wanted)
    logical = wanted or (codes.shape if own else _guess_shape(codes.shape, recipe, np.shape(scale)))
    if codes.shape == packed_shape(logical, fmt) and not (own and codes.shape == logical):
        return codes, logical
    if codes.shape != logical:
        raise ShapeError(
            f"elements of a {logical} tensor of {fmt.name} have shape {packed_shape(logical, fmt)} packed, or "
            f"{logical} with one code a byte; got {codes.shape}"
        )
    return pack(_in_range(codes, array, fmt), fmt), logical


def _whole_codes(codes: Array, fmt: Format, shape: Shape | None) -> tuple[Array, Shape]:
    if shape is not None and codes.shape != shape:
        raise ShapeError(f"elements of a {shape} tensor of {fmt.name} have shape {shape}; got {codes.shape}")
    return codes.view(storage_dtype(fmt)), codes.shape


def _as_bytes(array: Array, fmt: Format) -> Array:
    dtype = array.dtype.newbyteorder("=")
    if fmt.bits > 8:
        if dtype == storage_dtype(fmt):
            return array.astype(dtype, copy=False)
    elif dtype == np.uint8 or dtype == native(fmt) or (dtype == np.int8 and fmt.kind == "int"):
        return array.view(np.uint8)
    allowed = [str(storage_dtype(fmt)), "uint8"] if fmt.bits <= 8 else [str(storage_dtype(fmt))]
    allowed += [fmt.name] if native(fmt) is not None else []
    hint = ""
    if dtype.name.startswith("float8") and dtype != native(fmt):
        hint = "; the same bits mean other values there: dequantize and cast again, or use a recipe of that element"
    raise DTypeError(
        f"elements of {fmt.name} cannot be taken from an array of {array.dtype}; "
        f"allowed: {', '.join(dict.fromkeys(allowed))}{hint}"
    )


def _guess_shape(stored_shape: Shape, recipe: Recipe, found: Shape) -> Shape:
    """Without a logical shape, the scale decides; 0.1 stored one code a byte."""
    per_word = 2 if recipe.element.bits == 4 else 4
    bytes_per_word = 1 if recipe.element.bits == 4 else 3
    packed = (*stored_shape[:-1], stored_shape[-1] // bytes_per_word * per_word)
    if scale_shape(recipe.innermost, packed) == found or scale_shape(recipe.innermost, stored_shape) != found:
        return packed
    return stored_shape


def _in_range(codes: Array, given: Array, fmt: Format) -> Array:
    if given.dtype == np.int8 and fmt.signed:
        half = 1 << (fmt.bits - 1)
        if bool(np.any((given < -half) | (given >= half))):
            raise FormatError(f"a value is outside {fmt.name}; allowed: {-half} to {half - 1}")
        return codes & np.uint8((1 << fmt.bits) - 1)
    if bool(np.any(codes >> fmt.bits)) and native(fmt) != given.dtype:
        raise FormatError(
            f"a code has bits above the {fmt.bits} of {fmt.name} (garbage in the high bits?); "
            f"mask with & {(1 << fmt.bits) - 1}"
        )
    return codes & np.uint8((1 << fmt.bits) - 1)


def level_storage(array: Any, fmt: Format, needed: Shape, what: str, recipe: Recipe) -> Array:
    """One level's scales (or zero points, or offsets) in storage dtype after a check of dtype and shape."""
    found = np.asarray(array)
    if found.shape != needed:
        raise ShapeError(f"{what} must have shape {needed} for {recipe!r}, got {found.shape}")
    return _level_dtype(found, fmt, what)


def _level_dtype(found: Array, fmt: Format, what: str) -> Array:
    dtype = found.dtype.newbyteorder("=")
    target = np.dtype(np.uint8) if fmt.bits <= 8 else np.dtype(fmt.name)
    if dtype == target:
        return found.astype(target, copy=False)
    if fmt.bits <= 8 and dtype == native(fmt):
        return found.view(np.uint8) & np.uint8((1 << fmt.bits) - 1)
    if fmt.bits > 8 and dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        narrow: Array = stored(xp, encode(found.astype(np.float32), fmt, overflow="nan"), fmt)
        if np.array_equal(decode(narrow, fmt), found.astype(np.float64), equal_nan=True):
            return narrow
        raise DTypeError(
            f"{what} of {fmt.name} given as {found.dtype} cannot be held exactly; round it to {fmt.name} first"
        )
    own = f", {fmt.name}" if native(fmt) is not None and str(target) != fmt.name else ""
    raise DTypeError(f"{what} of {fmt.name} must be an array of {target}{own}, got {found.dtype}")
