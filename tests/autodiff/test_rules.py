"""Every rule against finite differences in float64, and what a rule says where there is a kink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia.autodiff import differentiate
from breccia.autodiff.elementwise import FLAT
from breccia.autodiff.transform import RULES, STATE
from breccia.ir.functions import ARITHMETIC, REDUCE, UNARY
from breccia.ir.ops import WHOLE_TENSOR_OPS
from tests.autodiff.differences import check, function, gradients
from tests.passes.examples import parsed

POSITIVE = ("log", "sqrt", "rsqrt", "reciprocal")


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def test_every_op_has_a_rule_or_none_on_purpose() -> None:
    without = {op.name.removeprefix("breccia.") for op in WHOLE_TENSOR_OPS if op not in RULES and op not in STATE}
    assert without == {"full", "iota", "scales", "parts", "assemble", "convert_layout", "yield"}


@pytest.mark.parametrize("fn", [fn for fn in UNARY if fn not in FLAT])
def test_unary(fn: str) -> None:
    x = normal(3, 4)
    check(function({"x": "[M, 4]"}, f"  %y = breccia.unary {fn} %x", "[M, 4]"), [abs(x) + 0.3 if fn in POSITIVE else x])


@pytest.mark.parametrize("shapes", [("[M, 4]", "[M, 4]"), ("[M, 4]", "[4]"), ("[M, 1]", "[1, 4]"), ("[]", "[M, 4]")])
@pytest.mark.parametrize("fn", [fn for fn in ARITHMETIC if fn != "straight_through"])
def test_binary(fn: str, shapes: tuple[str, str]) -> None:
    values = [
        normal(*(int(d) for d in s.strip("[]").replace("M", "3").split(", ") if d), seed=i)
        for i, s in enumerate(shapes)
    ]
    if fn in ("pow", "div"):
        values = [abs(v) + 0.5 for v in values]
    check(function(dict(zip("ab", shapes, strict=True)), f"  %y = breccia.binary {fn} %a, %b", "[M, 4]"), values)


def test_an_operand_used_twice() -> None:
    check(
        function({"x": "[M, 4]"}, "  %s = breccia.unary sin %x\n  %y = breccia.binary mul %s, %x", "[M, 4]"),
        [normal(2, 4)],
    )


@pytest.mark.parametrize("axes", ["[0]", "[1]", "[0, 2]"])
@pytest.mark.parametrize("fn", REDUCE)
def test_reduce(fn: str, axes: str) -> None:
    shape = [1 if str(i) in axes else d for i, d in enumerate((2, 3, 4))]
    check(function({"x": "[2, 3, 4]"}, f"  %y = breccia.reduce {fn} %x axis {axes}", str(shape)), [normal(2, 3, 4)])


@pytest.mark.parametrize(
    ("shape", "op", "result"),
    [
        ("[M, 1]", "broadcast %x to [2, M, 4]", "[2, M, 4]"),
        ("[M, 2, 3]", "transpose %x [2, 0, 1]", "[3, M, 2]"),
        ("[M, 6]", "reshape %x to [M, 2, 3]", "[M, 2, 3]"),
        ("[M, 6]", "slice %x axis 1 from 2 to 5", "[M, 3]"),
        ("[M, 6]", "slice %x axis 0 from 1 to M", "[M - 1, 6]"),
        ("[M, 6]", "slice %x axis 0 from 0 to M - 2", "[M - 2, 6]"),
        ("[M, 6]", "slice %x axis 1 from 0 to 6", "[M, 6]"),
        ("[M, 2]", "concat %x, %x axis 0", "[M + M, 2]"),
    ],
)
def test_views(shape: str, op: str, result: str) -> None:
    sizes = [int(d) for d in shape.strip("[]").replace("M", "3").split(", ")]
    check(function({"x": shape}, f"  %z = breccia.{op}\n  %y = breccia.unary square %z", result), [normal(*sizes)])


def test_concat_of_several() -> None:
    text = function({"a": "[M, 2]", "b": "[M, 3]"}, "  %y = breccia.concat %a, %b axis 1", "[M, 5]")
    check(text, [normal(2, 2), normal(2, 3)])


def test_select() -> None:
    body = "  %c = breccia.binary lt %a, %b\n  %y = breccia.select %c, %a, %b"
    check(function({"a": "[M, 4]", "b": "[4]"}, body, "[M, 4]"), [normal(3, 4), normal(4, seed=1)])


def test_select_keeps_what_was_not_chosen_at_zero() -> None:
    """The gradient of `where(x > 0, log x, 0)` at 0 is NaN for a rule that multiplies by a mask."""
    body = "  %z = breccia.full 0.0 [] : f32\n  %c = breccia.binary gt %x, %z\n  %y = breccia.select %c, %x, %z"
    made = differentiate(parsed(function({"x": "[3]"}, body, "[3]"), None), [0])
    (found,) = gradients(made, [np.array([-1.0, 0.0, 2.0])], [np.array([np.inf, np.nan, 3.0])])
    assert found.tolist() == [0.0, 0.0, 3.0]


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ((3, 4), (4, 5), "[3, 5]"),
        ((2, 3, 4), (4, 5), "[2, 3, 5]"),
        ((2, 1, 3, 4), (6, 4, 5), "[2, 6, 3, 5]"),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], result: str) -> None:
    text = function({"a": str(list(a)), "b": str(list(b))}, "  %y = breccia.matmul %a, %b", result)
    check(text, [normal(*a), normal(*b, seed=1)])


def test_grouped_matmul_of_rows() -> None:
    arguments = {"x": "[T, 4]", "w": "[2, 4, 3]", "o": "!breccia.tensor<[3], i32>"}
    text = function(arguments, "  %y = breccia.grouped_matmul %x, %w, %o", "[T, 3]")
    check(text, [normal(6, 4), normal(2, 4, 3), np.int32([0, 2, 5])], wanted=[0])


def gradient_of(body: str, x: list[float], upstream: list[float], result: str = "[M]") -> list[float]:
    made = differentiate(parsed(function({"x": "[M]"}, body, result), None), [0])
    return gradients(made, [np.float32(x)], [np.float32(upstream)], wide=False)[0].tolist()


def test_kinks() -> None:
    ones = [1.0, 1.0, 1.0]
    assert gradient_of("  %y = breccia.unary relu %x", [-1, 0, 2], ones) == [0, 0, 1]
    assert gradient_of("  %y = breccia.unary abs %x", [-1, 0, 2], ones) == [-1, 0, 1]
    zero = "  %z = breccia.full 0.0 [] : f32\n"
    assert gradient_of(zero + "  %y = breccia.binary max %x, %z", [-1, 0, 2], ones) == [0, 0.5, 1]
    assert gradient_of(zero + "  %y = breccia.binary min %x, %z", [-1, 0, 2], ones) == [1, 0.5, 0]
    assert gradient_of("  %y = breccia.reduce max %x axis [0]", [2, 1, 2], [1.0], "[1]") == [0.5, 0, 0.5]
    assert gradient_of("  %y = breccia.reduce amax %x axis [0]", [2, 1, -2], [1.0], "[1]") == [0.5, 0, -0.5]


def test_powers_of_zero() -> None:
    two = "  %e = breccia.full {} [] : f32\n"
    assert gradient_of(two.format(2.0) + "  %y = breccia.binary pow %x, %e", [0, 3], [1.0, 1.0]) == [0, 6]
    assert gradient_of(two.format(0.0) + "  %y = breccia.binary pow %x, %e", [0, 3], [1.0, 1.0]) == [0, 0]
    assert gradient_of(two.format(0.0) + "  %y = breccia.binary pow %e, %x", [1, 3], [1.0, 1.0]) == [0, 0]


@pytest.mark.parametrize("fn", ["floor", "stop_gradient"])
def test_flat_functions_stop_the_gradient(fn: str) -> None:
    body = f"  %z = breccia.unary {fn} %x\n  %y = breccia.binary mul %z, %x"
    assert gradient_of(body, [1.5, -2.5], [1.0, 1.0]) == ([1, -3] if fn == "floor" else [1.5, -2.5])


def test_straight_through_is_the_first_operands() -> None:
    body = "  %z = breccia.unary square %x\n  %y = breccia.binary straight_through %x, %z"
    assert gradient_of(body, [3, 5], [1.0, 2.0]) == [1, 2]
