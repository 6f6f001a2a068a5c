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


def _single(fn: Callable[..., Any]) -> Callable[..., Array]:
    """An operation on float32, rounded once from float64."""

    def run(*given: Array) -> Array:
        parts = [np.ascontiguousarray(v).view(np.float32).astype(np.float64) for v in given]
        with np.errstate(all="ignore"):
            return np.asarray(fn(*parts)).astype(np.float32).view(np.uint32)

    return run


def _flushed(fn: Callable[..., Any]) -> Callable[..., Array]:
    """The same without subnormal numbers, which become 0."""
    whole = _single(fn)

    def flush(a: Array) -> Array:
        return np.where((a >> 23 & 0xFF) == 0, a & np.uint32(1 << 31), a)

    return lambda *given: flush(whole(*map(flush, given)))


_TABLE: dict[str, Callable[..., Array]] = {
    "mov.b32": lambda a: a,
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "mul.lo.u32": lambda a, b: a * b,
    "and.b32": lambda a, b: a & b,
    "lop3.b32": _lop3,
    **{f"sub.rn.{kind}": _halves(np.subtract, kind) for kind in _HALVES},
    **{f"mul.rn.{kind}": _halves(np.multiply, kind) for kind in _HALVES},
    **{f"fma.rn.{kind}": _halves(lambda a, b, c: a * b + c, kind) for kind in _HALVES},
    "mul.f32": _single(np.multiply),
    "add.f32": _single(np.add),
    "ex2.approx.ftz.f32": _flushed(np.exp2),
    "rcp.approx.ftz.f32": _flushed(lambda a: 1 / a),
    "max.u16x2": lambda a, b: np.maximum(a.view(np.uint16), b.view(np.uint16)).view(np.uint32),
}


def elementwise(text: str, constraints: str, args: Sequence[Array], dtype: np.dtype[Any], pack: int) -> Array:
    """What Triton's inline assembly gives for whole arrays: a number of 32 bits each, or two neighbours in halves."""
    kind = "f" if dtype == np.float32 else "r"
    if constraints != ",".join([f"={kind}", *[kind] * pack * len(args)]) or dtype.itemsize * pack != 4:
        raise NotImplementedError(f"{constraints} for {pack} results of {dtype} at once")
    whole = np.broadcast_arrays(*args)
    # The registers of neighbours follow each other.
    registers = [array[..., i::pack] for array in whole for i in range(pack)]
    found = run(text, {f"${1 + i}": register for i, register in enumerate(registers)})
    return np.ascontiguousarray(found).view(dtype).reshape(whole[0].shape)


def _bits(a: Array) -> Array:
    a = np.ascontiguousarray(a)
    return a.view(np.uint32) if a.dtype == np.float32 else a.astype(np.uint32)


def _number(word: str) -> int:
    """A literal: 0f and eight digits are the bits of a float32."""
    return int(f"0x{word[2:]}" if word.startswith("0f") else word, 0)


def run(text: str, given: Mapping[str, Any]) -> Array:
    """What $0 is after the instructions. given: registers by name, as arrays of one shape, of which 32 bits count."""
    arrays = np.broadcast_arrays(*given.values())
    known = {name: _bits(a) for name, a in zip(given, arrays, strict=True)}
    shape = arrays[0].shape
    for part in text.strip().strip("{}").split(";"):
        name, _, rest = part.strip().partition(" ")
        if not name or name == ".reg":
            continue
        to, *operands = (word.strip() for word in rest.split(","))
        values = [known[w] if w in known else np.full(shape, _number(w), np.uint32) for w in operands]
        if name == "lop3.b32":
            values[-1] = np.uint32(int(operands[-1], 0))  # type: ignore[assignment]
        with np.errstate(over="ignore"):
            known[to] = _TABLE[name](*values)
    return known["$0"]
