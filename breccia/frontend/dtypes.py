"""Dtypes: NumPy's and the IR's, and which one an operation computes in and gives.

Promotion follows PyTorch: a category (bool, int, float) wins over a lower one; within a category Python numbers and
arrays without axes do not promote arrays that have axes; float16 with bfloat16 is float32. Narrow floats are computed
in float32 and rounded back once per operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.dialects import builtin
from xdsl.ir import Attribute

from breccia import formats
from breccia.errors import DTypeError
from breccia.ir.types import dtype_of, format_of

Dtype = np.dtype[Any]

bool_, int32, int64 = np.dtype(np.bool_), np.dtype(np.int32), np.dtype(np.int64)
float16, float32, float64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
bfloat16 = np.dtype(ml_dtypes.bfloat16)

_INDEX: dict[Dtype, Attribute] = {bool_: builtin.i1, int32: builtin.i32, int64: builtin.i64}
_ALLOWED = (
    "float32, bfloat16, float16, float64, int32, int64, bool, int8, uint8, and ml_dtypes' float8, float6, float4, int4"
)


@cache
def ir_dtype(dtype: Dtype) -> Attribute:
    """The IR's dtype; raises DTypeError for one that it has no word for."""
    found = _INDEX.get(dtype)
    if found is not None:
        return found
    try:
        return dtype_of(formats.find(dtype.name))
    except ValueError:
        raise DTypeError(f"arrays of {dtype} cannot be compiled; allowed: {_ALLOWED}. Convert with .astype") from None


@cache
def numpy_dtype(dtype: Attribute) -> Dtype:
    """The NumPy dtype of an IR dtype; formats that NumPy and ml_dtypes lack stand as uint8 codes."""
    for known, attribute in _INDEX.items():
        if attribute == dtype:
            return known
    fmt = format_of(dtype)
    name = fmt.name if fmt is not None else ""
    found = getattr(np, name, None) or getattr(ml_dtypes, name, None)
    return np.dtype(np.uint8) if found is None else np.dtype(found)


def is_float(dtype: Dtype) -> bool:
    """True for float16, bfloat16, float32 and float64."""
    return dtype in (float32, bfloat16, float16, float64)


def is_narrow(dtype: Dtype) -> bool:
    """True for a dtype whose elements are codes of 8 bits or fewer: no arithmetic, only conversions."""
    return dtype.itemsize == 1 and dtype != bool_


def compute_dtype(dtype: Dtype) -> Dtype:
    """What an elementwise operation on `dtype` computes in."""
    return float32 if dtype in (bfloat16, float16) else dtype


def _category(dtype: Dtype) -> int:
    return 2 if is_float(dtype) else int(dtype != bool_)


_SCALAR: dict[type, Dtype] = {bool: bool_, int: int64, float: float32}


def scalar_dtype(value: object) -> Dtype:
    """The dtype that a Python number stands for where nothing else decides."""
    for kind, dtype in _SCALAR.items():
        if isinstance(value, kind):
            return dtype
    raise DTypeError(f"{value!r} is no number that can be compiled; allowed: bool, int, float")


def _join(a: Dtype | None, b: Dtype) -> Dtype:
    """The dtype of a and b together, both of one rank class."""
    if a is None or a == b:
        return b
    if _category(a) != _category(b):
        return a if _category(a) > _category(b) else b
    if {a, b} == {float16, bfloat16}:
        return float32
    return a if a.itemsize > b.itemsize else b


def promote(arrays: Sequence[tuple[Dtype, int]], numbers: Sequence[object] = ()) -> Dtype:
    """The dtype of arrays, given as (dtype, rank), with Python numbers.

    >>> promote([(bfloat16, 2)], [2.0]), promote([(bfloat16, 2), (float32, 1)]), promote([(int32, 1)], [0.5])
    (dtype(bfloat16), dtype('float32'), dtype('float32'))
    """
    classes: list[Dtype | None] = [None, None, None]
    for dtype, rank in arrays:
        classes[0 if rank else 1] = _join(classes[0 if rank else 1], dtype)
    for number in numbers:
        classes[2] = _join(classes[2], scalar_dtype(number))
    out: Dtype | None = None
    for dtype in reversed(classes):  # a higher class decides unless it is of a lower category
        if dtype is not None and (out is None or _category(dtype) >= _category(out)):
            out = dtype
    if out is None:
        raise DTypeError("no operand has a dtype")
    return out
