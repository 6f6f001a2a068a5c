"""Between what people hand in as elements and scales and canonical storage: accepted dtypes, views, packing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from breccia.arrays import Array, Primitives
from breccia.errors import DTypeError, FormatError, ShapeError
from breccia.formats import Format
from breccia.numerics.decode import decode
from breccia.numerics.encode import encode
from breccia.numerics.pack import pack, packed_length
from breccia.numerics.scale_rules import scale_shape, stored
from breccia.recipes import Recipe

Shape = tuple[int, ...]
LOGICAL = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16", "float64")}
"""The dtypes of decoded values, by name."""


def native(fmt: Format) -> str | None:
    """The name of NumPy's or ml_dtypes' dtype of a format; None where there is none (MXINT8, codebooks)."""
    return fmt.name if hasattr(np, fmt.name) or hasattr(ml_dtypes, fmt.name) else None


def storage_dtype(fmt: Format) -> str:
    """The dtype of canonical element storage: int8 for signed 8-bit integers, else unsigned bytes, else the wide
    float.
    """
    if fmt.kind == "int" and fmt.signed and fmt.bits == 8:
        return "int8"
    return "uint8" if fmt.bits <= 8 else fmt.name


def level_dtype(fmt: Format) -> str:
    """The dtype in which scales, zero points and offsets of a format are stored: bytes of codes, or the wide float."""
    return "uint8" if fmt.bits <= 8 else fmt.name


def logical_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of a logical dtype, in any library's spelling: float32, bfloat16, float16 or float64.

    Raises DTypeError for any other.

    >>> logical_dtype("bfloat16").itemsize
    2
    """
    found = LOGICAL.get(str(dtype).rpartition(".")[2])
    if found is not None:
        return found
    try:
        found = LOGICAL.get(np.dtype(dtype).name)
    except TypeError:
        found = None
    if found is None:
        raise DTypeError(f"{dtype!r} cannot be the dtype of decoded values; allowed: {', '.join(LOGICAL)}")
    return found


def packed_shape(shape: Shape, fmt: Format) -> Shape:
    """The storage shape of a tensor of `shape`."""
    return (*shape[:-1], packed_length(shape[-1], fmt))


def element_storage(
    xp: Primitives, data: Array, recipe: Recipe, found_scale: Shape, shape: Shape | None
) -> tuple[Array, Shape]:
    """(canonical storage, logical shape) of an element buffer; a view wherever nothing needs packing.

    data: codes in canonical storage; or one code a byte (uint8, or an array of the format's own dtype). Which of the
        two a sub-byte buffer is follows from `shape`; without it from `found_scale`, packed first.
    Raises DTypeError, ShapeError or FormatError saying what is needed.
    """
    fmt, name = recipe.element, xp.dtype_name(data)
    own = name == native(fmt)
    codes = _as_bytes(xp, data, name, fmt)
    given = xp.shape(codes)
    wanted = None if shape is None else tuple(int(n) for n in shape)
    if fmt.bits not in (4, 6):
        if wanted is not None and given != wanted:
            raise ShapeError(f"elements of a {wanted} tensor of {fmt.name} have shape {wanted}; got {given}")
        return xp.bitcast(codes, storage_dtype(fmt)), given
    logical = wanted or (given if own else _guess_shape(given, recipe, found_scale))
    if given == packed_shape(logical, fmt) and not (own and given == logical):
        return codes, logical
    if given != logical:
        raise ShapeError(
            f"elements of a {logical} tensor of {fmt.name} have shape {packed_shape(logical, fmt)} packed, or "
            f"{logical} with one code a byte; got {given}"
        )
    return pack(_in_range(xp, codes, name, fmt), fmt, checked=True), logical


def _as_bytes(xp: Primitives, array: Array, name: str, fmt: Format) -> Array:
    if fmt.bits > 8:
        if name == storage_dtype(fmt):
            return xp.convert(array, name)  # NumPy's big-endian arrays become native
    elif name in ("uint8", native(fmt), f"{fmt.name}_x2") or (name == "int8" and fmt.kind == "int"):
        return xp.bitcast(array, "uint8")
    allowed = [storage_dtype(fmt), "uint8"] if fmt.bits <= 8 else [storage_dtype(fmt)]
    allowed += [fmt.name] if native(fmt) is not None else []
    hint = ""
    if name.startswith("float8") and name != native(fmt):
        hint = "; the same bits mean other values there: dequantize and cast again, or use a recipe of that element"
    raise DTypeError(
        f"elements of {fmt.name} cannot be taken from an array of {name}; "
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


def _in_range(xp: Primitives, codes: Array, name: str, fmt: Format) -> Array:
    mask = (1 << fmt.bits) - 1
    if name == "int8" and fmt.signed:
        half = 1 << (fmt.bits - 1)
        values = xp.convert(xp.bitcast(codes, "int8"), "int32")
        if xp.surely_any((values < -half) | (values >= half)):
            raise FormatError(f"a value is outside {fmt.name}; allowed: {-half} to {half - 1}")
    elif name != native(fmt) and xp.surely_any(codes > mask):
        raise FormatError(
            f"a code has bits above the {fmt.bits} of {fmt.name} (garbage in the high bits?); mask with & {mask}"
        )
    return codes & mask


def level_storage(xp: Primitives, array: Array, fmt: Format, needed: Shape, what: str, recipe: Recipe) -> Array:
    """One level's scales (or zero points, or offsets) in storage dtype after a check of dtype and shape."""
    found = xp.shape(array)
    if found != needed:
        raise ShapeError(f"{what} must have shape {needed} for {recipe!r}, got {found}")
    name, target = xp.dtype_name(array), level_dtype(fmt)
    if name == target:
        return xp.convert(array, target)
    if fmt.bits <= 8 and name == native(fmt):
        return xp.bitcast(array, "uint8") & ((1 << fmt.bits) - 1)
    if fmt.bits > 8 and name in ("float32", "float64"):
        narrow = stored(xp, encode(array, fmt, overflow="nan"), fmt)
        exact = xp.convert(decode(narrow, fmt), name)
        if not xp.surely_any((exact != array) & ((exact == exact) | (array == array))):
            return narrow
        raise DTypeError(f"{what} of {fmt.name} given as {name} cannot be held exactly; round it to {fmt.name} first")
    own = f", {fmt.name}" if native(fmt) is not None and target != fmt.name else ""
    raise DTypeError(f"{what} of {fmt.name} must be an array of {target}{own}, got {name}")


def whole_zero_points(xp: Primitives, given: Array, fmt: Format) -> Array:
    """0.1 stored zero points in the scales' float dtype; whole numbers in range are taken as codes."""
    if not xp.dtype_name(given).startswith(("float", "bfloat")):
        return given
    values = xp.as_float32(given)
    inside = (values >= int(fmt.min)) & (values <= int(fmt.max))
    whole = xp.convert(xp.where(inside, values, 0.0), "int32")
    if xp.any(~inside | (xp.convert(whole, "float32") != values)):
        return given
    return xp.convert(whole & ((1 << fmt.bits) - 1), "uint8")
