"""What every recipe is tried on, on every library: ties, subnormals, zeros, NaN, infinity, partial blocks, strides."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

Array = np.ndarray
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SPECIAL = [0.0, -0.0, 1e-42, -1e-45, 3e38, 1.5, 2.5, -3.5, 448.0, 464.0, 480.0, -6e4, 5.0, 0.25, -0.75, 1e-6]


def inputs(dtype: str, brief: bool) -> Iterator[tuple[str, Array]]:
    """(what it is, array) pairs; brief: fewer shapes, for a library that compiles for each."""
    kind = DTYPES[dtype]
    if brief and dtype != "float32":
        yield "every bit pattern", patterns16(kind)
        return
    with np.errstate(all="ignore"):
        yield "rows", rows(True).astype(kind)
        yield "three axes, strided", rows(False).reshape(7, 3, 100).transpose(2, 0, 1)[1::2].astype(kind, order="A")
    yield "zeros", np.zeros((2, 32), kind)
    if dtype == "float32":
        yield "bits", patterns32()
    else:
        yield "every bit pattern", patterns16(kind)


def rows(nonfinite: bool) -> Array:
    """Rows of very different size; the last block of every width is partial."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((7, 300)) * np.exp(3 * rng.standard_normal((7, 1)))).astype(np.float32)
    x[0, : len(SPECIAL)] = SPECIAL
    x[1] = 0
    x[2] *= np.float32(1e-38)
    x[3] = np.ldexp(1.0, rng.integers(-149, 127, 300))
    x[4] = np.round(x[4] * 4) / 4
    x[4, 5:9] = -0.0
    x[5] = np.float32(1e-45) * rng.integers(0, 1000, 300)
    x[6] *= np.float32(1e30)
    if nonfinite:
        x[0, 40], x[0, 90], x[0, 130] = np.nan, np.inf, -np.inf
    return x


def patterns16(kind: type) -> Array:
    """All 65,536 values of a 16-bit dtype, neighbours side by side; 0 for what is not finite."""
    x = np.arange(1 << 16, dtype=np.uint16).view(kind).reshape(256, 256)
    return np.where(np.isfinite(x.astype(np.float32)), x, kind(0))


def patterns32() -> Array:
    """2**16 random bit patterns of float32; 0 for what is not finite."""
    x = np.random.default_rng(1).integers(0, 1 << 32, (256, 256), dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(0))
