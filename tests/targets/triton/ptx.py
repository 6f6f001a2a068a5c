"""What the inline assembly of emitted kernels means: one PTX instruction after the other, on NumPy arrays of 32 bits.

run("mad.lo.u32 t, $1, 4096, $1; and.b32 $0, t, 0x000f000f;", {"$1": np.array([0x21])})     # [0x00020001]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_HALVES = {"bf16x2": ml_dtypes.bfloat16, "f16x2": np.float16}


def _lop3(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Bit by bit: the table's bit whose number the bits of a, b and c make."""
    found = np.zeros_like(a)
    for number in range(8):
        if int(table) >> number & 1:
            bits = [v if number >> place & 1 else ~v for v, place in ((a, 2), (b, 1), (c, 0))]
            found |= bits[0] & bits[1] & bits[2]
    return found


def _halves(fn: Callable[..., Any], kind: str) -> Callable[..., Array]:
    """An operation on both halves of registers, computed in float64 and rounded once to nearest even."""
    dtype = _HALVES[kind]

    def run(*given: Array) -> Array:
        parts = [np.ascontiguousarray(v).view(np.uint16).view(dtype).astype(np.float64) for v in given]
        with np.errstate(all="ignore"):  # a GPU does not warn
            return fn(*parts).astype(dtype).view(np.uint16).view(np.uint32)

    return run


_TABLE: dict[str, Callable[..., Array]] = {
    "mov.b32": lambda a: a,
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "mul.lo.u32": lambda a, b: a * b,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": _lop3,
    **{f"sub.rn.{kind}": _halves(np.subtract, kind) for kind in _HALVES},
    **{f"mul.rn.{kind}": _halves(np.multiply, kind) for kind in _HALVES},
    **{f"fma.rn.{kind}": _halves(lambda a, b, c: a * b + c, kind) for kind in _HALVES},
    "max.u16x2": lambda a, b: np.maximum(a.view(np.uint16), b.view(np.uint16)).view(np.uint32),
}


def elementwise(text: str, constraints: str, args: Sequence[Array], dtype: np.dtype[Any], pack: int) -> Array:
    """What Triton's inline assembly gives for whole arrays: a number of 32 bits each, or two neighbours in halves."""
    if constraints != ",".join(["=r", *["r"] * pack * len(args)]) or dtype.itemsize * pack != 4:
        raise NotImplementedError(f"{constraints} for {pack} results of {dtype} at once")
    whole = np.broadcast_arrays(*args)
    # The registers of neighbours follow each other.
    registers = [array[..., i::pack] for array in whole for i in range(pack)]
    found = run(text, {f"${1 + i}": register for i, register in enumerate(registers)})
    return np.ascontiguousarray(found).view(dtype).reshape(whole[0].shape)


def run(text: str, given: Mapping[str, Any]) -> Array:
    """What $0 is after the instructions. given: registers by name, as arrays of one shape, of which 32 bits count."""
    arrays = np.broadcast_arrays(*given.values())
    known = {name: np.ascontiguousarray(a).astype(np.uint32) for name, a in zip(given, arrays, strict=True)}
    shape = arrays[0].shape
    for part in text.strip().strip("{}").split(";"):
        name, _, rest = part.strip().partition(" ")
        if not name or name == ".reg":
            continue
        to, *operands = (word.strip() for word in rest.split(","))
        values = [known[w] if w in known else np.full(shape, int(w, 0), np.uint32) for w in operands]
        if name == "lop3.b32":
            values[-1] = np.uint32(int(operands[-1], 0))  # type: ignore[assignment]
        with np.errstate(over="ignore"):
            known[to] = _TABLE[name](*values)
    return known["$0"]
