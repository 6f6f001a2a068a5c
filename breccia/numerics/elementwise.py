"""What the enum-coded elementwise functions mean: one definition each, over any array namespace.

Every function takes a namespace `xp` (numpy, or one that spells these functions alike) first, computes in the dtype of
its arguments and rounds after every step, so that a target that prints the same steps gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Unary = Callable[[Any, Any], Any]
Binary = Callable[[Any, Any, Any], Any]

_ERF_SMALL = (
    1.1283791065216064, -0.3761262595653534, 0.11283597350120544, -0.02685432881116867, 0.005189312156289816,
    -0.0008018855005502701, 7.882497448008507e-05,
)  # fmt: skip
"""erf(x) / x in powers of x**2, for |x| < 1: least squares at 400 Chebyshev nodes, coefficients as float32."""
_ERF_LARGE = (
    0.21080654859542847, -0.1115214005112648, 0.05610154569149017, -0.026997791603207588, 0.01255935151129961,
    -0.005611762870103121, 0.0022150003351271152, -0.0009155637817457318, 0.0006088799564167857,
    -0.00024550259695387363,
)  # fmt: skip
"""erfc(x) * exp(x**2) in powers of (x - 2.5) / 1.5, for 1 <= x <= 4, found likewise; past 4, erf is 1 in float32."""


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def erf(xp: Any, x: Any) -> Any:
    """The error function, within 2.4 ulp in float32; on float64 NumPy arrays to the last place, by `math.erf`."""
    if isinstance(x, np.ndarray) and x.dtype == np.float64:
        return np.vectorize(math.erf, otypes=[np.float64])(x) if x.size else x
    a = xp.minimum(xp.abs(x), xp.zeros_like(x) + 4)
    small = a * _polynomial(_ERF_SMALL, a * a)
    large = 1 - xp.exp(-(a * a)) * _polynomial(_ERF_LARGE, (a - 2.5) * (1 / 1.5))
    y = xp.where(a < 1, small, large)
    return xp.where(x < 0, -y, xp.where(x > 0, y, x))


def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + xp.exp(-x))


def silu(xp: Any, x: Any) -> Any:
    """X * sigmoid(x)."""
    return x * sigmoid(xp, x)


def gelu(xp: Any, x: Any) -> Any:
    """(x / 2) * (1 + erf(x * sqrt(1/2)))."""
    return (0.5 * x) * (1 + erf(xp, x * math.sqrt(0.5)))


def gelu_tanh(xp: Any, x: Any) -> Any:
    """(x / 2) * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3)))."""
    return (0.5 * x) * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def relu(xp: Any, x: Any) -> Any:
    """The larger of x and 0; NaN stays."""
    return xp.maximum(x, xp.zeros_like(x))


UNARY: dict[str, Unary] = {
    "neg": lambda xp, x: -x,
    "abs": lambda xp, x: xp.abs(x),
    "exp": lambda xp, x: xp.exp(x),
    "log": lambda xp, x: xp.log(x),
    "sqrt": lambda xp, x: xp.sqrt(x),
    "rsqrt": lambda xp, x: 1 / xp.sqrt(x),
    "reciprocal": lambda xp, x: 1 / x,
    "square": lambda xp, x: x * x,
    "tanh": lambda xp, x: xp.tanh(x),
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "erf": erf,
    "sin": lambda xp, x: xp.sin(x),
    "cos": lambda xp, x: xp.cos(x),
    "floor": lambda xp, x: xp.floor(x),
    "not": lambda xp, x: xp.logical_not(x),
    "isnan": lambda xp, x: x != x,
    "stop_gradient": lambda xp, x: x,
}
"""For each of `breccia.ir.functions.UNARY`. Only NaN differs from itself, so `isnan` needs no function of xp."""


def divide(xp: Any, a: Any, b: Any) -> Any:
    """A / b; of integers rounded down, and 0 where b is 0."""
    if str(a.dtype).rpartition(".")[2].startswith("int"):
        return xp.where(b == 0, xp.zeros_like(a), xp.floor_divide(a, xp.where(b == 0, xp.ones_like(b), b)))
    return a / b


BINARY: dict[str, Binary] = {
    "add": lambda xp, a, b: a + b,
    "sub": lambda xp, a, b: a - b,
    "mul": lambda xp, a, b: a * b,
    "div": divide,
    "max": lambda xp, a, b: xp.maximum(a, b),
    "min": lambda xp, a, b: xp.minimum(a, b),
    "pow": lambda xp, a, b: a**b,
    "straight_through": lambda xp, a, b: xp.broadcast_arrays(a, b)[1],
    "lt": lambda xp, a, b: a < b,
    "le": lambda xp, a, b: a <= b,
    "gt": lambda xp, a, b: a > b,
    "ge": lambda xp, a, b: a >= b,
    "eq": lambda xp, a, b: a == b,
    "ne": lambda xp, a, b: a != b,
    "and": lambda xp, a, b: xp.logical_and(a, b),
    "or": lambda xp, a, b: xp.logical_or(a, b),
}
"""For each of `breccia.ir.functions.BINARY`. `max` and `min` give NaN where either side is NaN.
`straight_through` is its second operand, whose gradient goes to the first."""
