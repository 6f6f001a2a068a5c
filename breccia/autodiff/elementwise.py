"""Derivatives of elementwise ops: one formula a function. `x` and `y` are operands, `r` the result, `g` its gradient.

Where a function has a kink, the gradient is 0 (`relu`, `abs`) or is shared evenly (`max`, `min` of equal operands).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from xdsl.ir import SSAValue

from breccia.autodiff.backward import Backward, Rule, no_gradient
from breccia.ir.functions import ARITHMETIC, TRUTH, UNARY
from breccia.ir.ops import BinaryOp, ConvertOp, SelectOp, UnaryOp
from breccia.ir.types import TensorType, is_float

FLAT = ("floor", "stop_gradient", *TRUTH)
"""Unary functions whose gradient is 0 wherever there is one."""

Factor = Callable[[Backward, UnaryOp], SSAValue]
"""What the gradient of the result is multiplied by."""


def _x(b: Backward, op: UnaryOp) -> SSAValue:
    return b.save(op.args[0])


def _scaled(b: Backward, number: float, x: SSAValue) -> SSAValue:
    return b.mul(x, b.number(number, x))


def _less_from(b: Backward, number: float, x: SSAValue) -> SSAValue:
    return b.binary("sub", b.number(number, x), x)


def _sqrt(b: Backward, op: UnaryOp) -> SSAValue:
    r = b.save(op.out)
    return b.binary("div", b.number(0.5, r), r)


def _rsqrt(b: Backward, op: UnaryOp) -> SSAValue:
    r = b.save(op.out)
    return b.mul(_scaled(b, -0.5, r), b.unary("square", r))


def _sigmoid(b: Backward, op: UnaryOp) -> SSAValue:
    r = b.save(op.out)
    return b.mul(r, _less_from(b, 1.0, r))


def _silu(b: Backward, op: UnaryOp) -> SSAValue:
    """With s = sigmoid x: s + x s (1 - s)."""
    x = _x(b, op)
    s = b.unary("sigmoid", x)
    return b.binary("add", s, b.mul(x, s, _less_from(b, 1.0, s)))


def _gelu(b: Backward, op: UnaryOp) -> SSAValue:
    """The normal distribution's integral at x, and x times its density."""
    x = _x(b, op)
    erf = b.unary("erf", _scaled(b, math.sqrt(0.5), x))
    below = _scaled(b, 0.5, b.binary("add", erf, b.number(1.0, x)))
    density = _scaled(b, 1 / math.sqrt(2 * math.pi), b.unary("exp", _scaled(b, -0.5, b.unary("square", x))))
    return b.binary("add", below, b.mul(x, density))


def _gelu_tanh(b: Backward, op: UnaryOp) -> SSAValue:
    """(1 + t) / 2 + x (1 - t^2) u' / 2, with t = tanh u and u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    x = _x(b, op)
    one, square, c = b.number(1.0, x), b.unary("square", x), math.sqrt(2 / math.pi)
    inner = b.binary("add", _scaled(b, 0.044715, square), one)
    t = b.unary("tanh", _scaled(b, c, b.mul(x, inner)))
    slope = _scaled(b, c, b.binary("add", _scaled(b, 3 * 0.044715, square), one))
    rest = b.mul(x, _less_from(b, 1.0, b.unary("square", t)), slope)
    return _scaled(b, 0.5, b.binary("add", b.binary("add", t, one), rest))


def _erf(b: Backward, op: UnaryOp) -> SSAValue:
    return _scaled(b, 2 / math.sqrt(math.pi), b.unary("exp", b.unary("neg", b.unary("square", _x(b, op)))))


FACTORS: dict[str, Factor] = {
    "abs": lambda b, op: b.sign(_x(b, op)),
    "exp": lambda b, op: b.save(op.out),
    "log": lambda b, op: b.unary("reciprocal", _x(b, op)),
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "reciprocal": lambda b, op: b.unary("neg", b.unary("square", b.save(op.out))),
    "square": lambda b, op: _scaled(b, 2.0, _x(b, op)),
    "tanh": lambda b, op: _less_from(b, 1.0, b.unary("square", b.save(op.out))),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "erf": _erf,
    "sin": lambda b, op: b.unary("cos", _x(b, op)),
    "cos": lambda b, op: b.unary("neg", b.unary("sin", _x(b, op))),
}


def unary(b: Backward, op: UnaryOp, g: SSAValue) -> None:
    """The gradient times the derivative, but for `neg` and `relu`, which need no product."""
    fn = str(op.data("fn"))
    if fn == "neg":
        b.add(op.args[0], lambda: b.unary("neg", g))
    elif fn == "relu":  # a choice, not a product: 0 times a gradient of infinity would be NaN
        zero = b.number(0.0, g)
        b.add(op.args[0], lambda: b.where(b.binary("gt", _x(b, op), zero), g, zero))
    else:
        b.add(op.args[0], lambda: b.mul(g, FACTORS[fn](b, op)))


def _div(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    x, y = op.args
    b.add(x, lambda: b.binary("div", g, b.save(y)))
    b.add(y, lambda: b.unary("neg", b.mul(g, b.binary("div", b.save(op.out), b.save(y)))))


def _extremum(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    """To the operand that is the result; half to each of two equal ones."""
    wins = "gt" if op.data("fn") == "max" else "lt"
    for one, other in (op.args, reversed(op.args)):

        def share(one: SSAValue = one, other: SSAValue = other) -> SSAValue:
            mine, its = b.save(one), b.save(other)
            half = b.where(b.binary("eq", mine, its), _scaled(b, 0.5, g), b.number(0.0, g))
            return b.where(b.binary(wins, mine, its), g, half)

        b.add(one, share)


def _pow(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    """Of the base y x^(y - 1), 0 for y = 0; of the exponent x^y log x, 0 for x = 0 and y > 0."""
    x, y = op.args
    zero = b.number(0.0, g)

    def of_base() -> SSAValue:
        p = b.save(y)
        slope = b.mul(p, b.binary("pow", b.save(x), b.binary("sub", p, b.number(1.0, p))))
        return b.mul(g, b.where(b.binary("eq", p, zero), zero, slope))

    def of_exponent() -> SSAValue:
        base, p = b.save(x), b.save(y)
        gone = b.binary("and", b.binary("eq", base, zero), b.binary("gt", p, zero))
        return b.mul(g, b.where(gone, zero, b.mul(b.save(op.out), b.unary("log", base))))

    b.add(x, of_base)
    b.add(y, of_exponent)


def _add(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    for operand in op.args:
        b.add(operand, lambda: g)


def _sub(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    b.add(op.args[0], lambda: g)
    b.add(op.args[1], lambda: b.unary("neg", g))


def _mul(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    x, y = op.args
    b.add(x, lambda: b.mul(g, b.save(y)))
    b.add(y, lambda: b.mul(g, b.save(x)))


def _straight_through(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    b.add(op.args[0], lambda: g)


BINARY_RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "max": _extremum,
    "min": _extremum,
    "pow": _pow,
    "straight_through": _straight_through,
}
"""One rule for each function of `ARITHMETIC`; comparisons and logic give truth values, which have no gradient."""


def binary(b: Backward, op: BinaryOp, g: SSAValue) -> None:
    """By the function's own rule."""
    BINARY_RULES[str(op.data("fn"))](b, op, g)


def select(b: Backward, op: SelectOp, g: SSAValue) -> None:
    """To the operand that was chosen; exact zeros to the other, whatever the gradient holds."""
    condition, x, y = op.args
    zero = b.number(0.0, g)
    b.add(x, lambda: b.where(b.save(condition), g, zero))
    b.add(y, lambda: b.where(b.save(condition), zero, g))


def convert(b: Backward, op: ConvertOp, g: SSAValue) -> None:
    """Between floats, as if nothing were rounded."""
    source = op.args[0].type
    assert isinstance(source, TensorType), "convert takes a plain tensor"
    for dtype in (source.dtype, op.properties["dtype"]):
        if not is_float(dtype):
            raise no_gradient(
                op, f"{dtype} holds stored elements, not values; use cast_ste, whose gradient goes straight through"
            )
    b.add(op.args[0], lambda: g)


assert {*FACTORS, *FLAT, "neg", "relu"} == set(UNARY), "every unary function has a rule"
assert set(BINARY_RULES) == set(ARITHMETIC), "every binary function has a rule"
