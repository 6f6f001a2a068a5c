"""What a function should give: its own array functions, on the same arrays. No schedule has to do with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from breccia.arrays import foreign, transfer
from breccia.frontend.choice import DEFAULT, found_target
from breccia.frontend.lower import Lowered
from breccia.tensor import ScaledTensor

Array = np.ndarray[Any, np.dtype[Any]]
PLAIN_ERROR = 5e-3
"""Relative error (Frobenius) of results in 16 bits, both of which were rounded, with a margin."""
SCALED_ERROR = 3e-2
"""The same of results that were encoded anew, of which some elements round to a neighbour."""


def difference(lowered: Lowered, result: Any) -> str:
    """How a result of a lowered function differs from what its array functions give, beyond rounding; else empty.

    Raises UnsupportedError where there are no array functions for it.
    """
    wanted = lowered.retargeted(found_target(DEFAULT)).program().run(lowered.leaves)
    for number, (one, right) in enumerate(zip(_parts(result), _parts(wanted), strict=True)):
        bar = SCALED_ERROR if isinstance(right, ScaledTensor) else PLAIN_ERROR
        found, reference = _values(one), _values(right)
        if found.shape != reference.shape:
            return f"result {number} has the shape {found.shape}, not {reference.shape}"
        if not np.array_equal(np.isnan(found), np.isnan(reference)):
            return f"result {number}: NaN stands elsewhere"
        with np.errstate(all="ignore"):
            usual = np.isfinite(reference)
            off = np.linalg.norm((found - reference)[usual].ravel())
            error = float(off / max(float(np.linalg.norm(reference[usual].ravel())), 1e-300))
        if not error <= bar:
            return f"result {number} has a relative error of {error:.2e}; at most {bar:.0e}"
    return ""


def _parts(result: Any) -> Iterator[Any]:
    """Every array of a result."""
    if isinstance(result, ScaledTensor | np.ndarray) or foreign(result):
        yield result
    elif isinstance(result, dict):
        for value in result.values():
            yield from _parts(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _parts(value)


def _values(part: Any) -> Array:
    """An array or ScaledTensor as float32 numbers of NumPy's."""
    plain = part.dequantize("float32") if isinstance(part, ScaledTensor) else part
    return np.asarray(transfer(plain, "numpy")).astype(np.float32)
