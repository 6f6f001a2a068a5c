"""The enum-coded elementwise functions and reductions: names only; the interpreter gives them their meaning."""

from __future__ import annotations

UNARY = (
    "neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "square", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh",
    "relu", "erf", "sin", "cos", "floor", "not", "isnan", "stop_gradient",
)  # fmt: skip
COMPARE = ("lt", "le", "gt", "ge", "eq", "ne")
LOGIC = ("and", "or")
ARITHMETIC = ("add", "sub", "mul", "div", "max", "min", "pow", "straight_through")
BINARY = (*ARITHMETIC, *COMPARE, *LOGIC)
REDUCE = ("sum", "max", "min", "amax")
TRUTH = ("not", "isnan")
"""Unary functions whose result is i1."""
