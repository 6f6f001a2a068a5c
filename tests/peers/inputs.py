"""What is given to peers: every kind of value on which encoders are known to disagree, in every dtype they take.

normal     normally distributed, rows of different magnitude
wide       blocks of 16 of very different magnitude
ties       multiples of 1/8 at powers of two: midpoints between the values of short formats
subnormal  below the smallest normal number of the dtype, which some are rounded to
zeros      normal, with zeros of both signs, whole blocks, a row and 128 x 128 values of zeros
nothing    zeros alone
huge       up to the largest finite value of the dtype
nan, inf   normal, with a few NaN, or infinities of both signs
patterns   every value of a 16-bit dtype, or as many bit patterns of float32 at random; for casts without scales
"""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np

KINDS = ("normal", "wide", "ties", "subnormal", "zeros", "nothing", "huge", "nan", "inf")
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
SHAPE = (256, 256)


@cache
def given(kind: str, dtype: str) -> np.ndarray:
    """A read-only array of SHAPE: the same values in every run."""
    if kind == "patterns":
        made = _patterns(DTYPES[dtype])
    else:
        made = _values(kind, ml_dtypes.finfo(DTYPES[dtype])).astype(DTYPES[dtype])
        finite = np.isfinite(made.astype(np.float32)).all()
        assert finite or kind in ("nan", "inf"), f"{kind} values overflow {dtype}"
    made.setflags(write=False)
    return made


def _values(kind: str, limits: ml_dtypes.finfo) -> np.ndarray:
    rng = np.random.default_rng(KINDS.index(kind))
    normal = rng.standard_normal(SHAPE) * 10.0 ** rng.uniform(-1.5, 1.5, (SHAPE[0], 1))
    low, high = int(limits.minexp), int(limits.maxexp)
    if kind == "wide":
        powers = rng.integers(low + 8, high - 8, (SHAPE[0], SHAPE[1] // 16))
        return rng.uniform(-1, 1, SHAPE) * 2.0 ** np.repeat(powers, 16, 1)
    if kind == "ties":
        powers = rng.integers(-3, 4, (SHAPE[0], SHAPE[1] // 32))
        return rng.integers(-48, 49, SHAPE) / 8 * 2.0 ** np.repeat(powers, 32, 1)
    if kind == "subnormal":
        smallest = float(limits.smallest_normal)
        return rng.uniform(-1, 1, SHAPE) * smallest * 2.0 ** -np.repeat(rng.integers(0, 9, (SHAPE[0], 8)), 32, 1)
    if kind == "huge":
        values = rng.uniform(0.5, 1, SHAPE) * 2.0 ** rng.integers(high - 12, high, SHAPE) * rng.choice([-1, 1], SHAPE)
        return np.where(rng.random(SHAPE) < 0.01, np.sign(values) * float(limits.max), values)
    if kind == "zeros":
        return _with_zeros(normal, rng)
    if kind in ("nan", "inf"):
        few = rng.random(SHAPE) < 0.002
        few[128:] = False
        return np.where(few, np.nan if kind == "nan" else np.copysign(np.inf, normal), normal)
    return np.zeros(SHAPE) if kind == "nothing" else normal


def _patterns(dtype: np.dtype) -> np.ndarray:
    count = SHAPE[0] * SHAPE[1]
    if dtype.itemsize == 2:
        return np.arange(count, dtype=np.uint16).view(dtype).reshape(SHAPE)
    return np.random.default_rng(9).integers(0, 1 << 32, count, np.uint32).view(dtype).reshape(SHAPE)


def _with_zeros(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    values = np.where(rng.random(SHAPE) < 0.05, 0.0, values)
    values = np.where(np.repeat(rng.random((SHAPE[0], SHAPE[1] // 16)) < 0.1, 16, 1), 0.0, values)
    values = np.where(np.repeat(rng.random((SHAPE[0], SHAPE[1] // 128)) < 0.1, 128, 1), 0.0, values)
    values[:128, :128] = values[200] = 0.0
    return np.where((rng.random(SHAPE) < 0.3) & (values == 0), -0.0, values)
