"""Each op's meaning against plain NumPy."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import formats, numerics, recipes
from breccia.ir import functions
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Sym
from breccia.ir.interpreter import InterpreterError, ScaledValue, interpret
from breccia.ir.types import decode_half
from breccia.recipes import Recipe

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 12)).astype(np.float32)


def run(arguments: list[tuple[str, Any]], body: str, results: str, **options: Any) -> list[Any]:
    """Interpret a function of these (type, value) arguments, called %0, %1 ...; `body` gives %r (and %s)."""
    count = results.count("!breccia.tensor") + results.count("!breccia.scaled")
    args = ", ".join(f"%a{i} : {type_}" for i, (type_, _) in enumerate(arguments))
    names = ", ".join(f"%r{i}" for i in range(count))
    kinds = f"({results})" if count > 1 else results
    text = f"func.func @f({args}) -> {kinds} {{\n{body}\nfunc.return {names} : {results}\n}}"
    return interpret(parse_module(text), [v for _, v in arguments], **options)


def f32(*shape: object) -> str:
    return f"!breccia.tensor<[{', '.join(map(str, shape))}], f32>"


def typed(dtype: str, *shape: object) -> str:
    return f"!breccia.tensor<[{', '.join(map(str, shape))}], {dtype}>"


# -- elementwise -------------------------------------------------------------------------------------------------------

ERF = np.vectorize(math.erf)
EXPECTED: dict[str, Any] = {
    "neg": np.negative, "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh, "sin": np.sin,
    "cos": np.cos, "floor": np.floor, "square": np.square, "reciprocal": lambda x: 1 / x, "erf": ERF,
    "stop_gradient": lambda x: x, "rsqrt": lambda x: 1 / np.sqrt(x), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0), "gelu": lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}  # fmt: skip


@pytest.mark.parametrize("fn", [f for f in functions.UNARY if f not in functions.TRUTH])
@pytest.mark.parametrize("wide", [False, True])
def test_unary(fn: str, wide: bool) -> None:
    x = np.abs(X) + np.float32(0.1) if fn in ("log", "sqrt", "rsqrt", "reciprocal") else X
    (y,) = run([(f32("M", 12), x)], f"%r0 = breccia.unary {fn} %a0", f32("M", 12), wide=wide)
    assert y.dtype == (np.float64 if wide else np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(y, EXPECTED[fn](x.astype(np.float64)), rtol=1e-13 if wide else 2e-6, atol=1e-7)


def test_erf_is_within_three_ulp() -> None:
    x = np.linspace(-5, 5, 20011).astype(np.float32)
    (y,) = run([(f32("M"), x)], "%r0 = breccia.unary erf %a0", f32("M"))
    exact = ERF(x.astype(np.float64))
    assert np.max(np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32))) < 3
    special = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0])
    (y,) = run([(f32("M"), special)], "%r0 = breccia.unary erf %a0", f32("M"))
    assert np.isnan(y[0])
    assert y[1:].tolist() == [1.0, -1.0, 0.0, -0.0]
    assert np.signbit(y[4])


@pytest.mark.parametrize("fn", functions.BINARY)
def test_binary_broadcasts(fn: str) -> None:
    logic = fn in functions.LOGIC
    a, b = (X > 0, X[:1] > 0.5) if logic else (np.abs(X), X[:1])
    kind = "i1" if logic else "f32"
    out = "i1" if logic or fn in functions.COMPARE else "f32"
    (y,) = run([(typed(kind, "M", 12), a), (typed(kind, 1, 12), b)], f"%r0 = breccia.binary {fn} %a0, %a1",
               typed(out, "M", 12))  # fmt: skip
    ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
             "min": np.minimum, "pow": np.power, "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and,
             "or": np.logical_or, "straight_through": lambda x, y: np.broadcast_to(y, x.shape)}[fn]  # fmt: skip
    np.testing.assert_array_equal(y, ufunc(a, b))


def test_maximum_and_minimum_keep_nan() -> None:
    nan = np.float32([np.nan, 1.0])
    for fn in ("max", "min"):
        (y,) = run([(f32(2), nan), (f32(2), nan[::-1])], f"%r0 = breccia.binary {fn} %a0, %a1", f32(2))
        assert np.isnan(y).all()


def test_integer_division_rounds_down_and_survives_zero() -> None:
    a, b = np.int32([7, -7, 5]), np.int32([2, 2, 0])
    (y,) = run([(typed("i32", 3), a), (typed("i32", 3), b)], "%r0 = breccia.binary div %a0, %a1", typed("i32", 3))
    assert y.tolist() == [3, -4, 0]


def test_select_and_truth() -> None:
    body = "%n = breccia.unary isnan %a0\n%c = breccia.full 0.0 [1] : f32\n%r0 = breccia.select %n, %c, %a0"
    (y,) = run([(f32(3), np.float32([1, np.nan, -2]))], body, f32(3))
    assert y.tolist() == [1, 0, -2]


# -- constants, reductions, views --------------------------------------------------------------------------------------


def test_full_and_iota() -> None:
    body = "%r0 = breccia.full -inf [2, 3] : f32\n%r1 = breccia.iota axis 1 start 5 [2, 3] : i32"
    full, iota = run([], body, f"{f32(2, 3)}, {typed('i32', 2, 3)}")
    assert (full == -np.inf).all()
    assert iota.tolist() == [[5, 6, 7], [5, 6, 7]]


@pytest.mark.parametrize(("fn", "function"), [("sum", np.sum), ("max", np.max), ("min", np.min)])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (2,), (0, 2)])
def test_reduce(fn: str, function: Any, axes: tuple[int, ...]) -> None:
    x = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    (y,) = run([(f32(3, 4, 5), x)], f"%r0 = breccia.reduce {fn} %a0 axis {list(axes)}", f32(*shape))
    np.testing.assert_allclose(y, function(x, axis=axes, keepdims=True), rtol=1e-5)


def test_sums_run_in_order_and_do_not_see_appended_zeros() -> None:
    """The order that numpy.sum takes depends on memory layout; the interpreter's does not."""
    x = RNG.standard_normal((7, 300)).astype(np.float32)
    expected = np.zeros((7, 1), np.float32)
    for i in range(300):
        expected += x[:, i : i + 1]
    for array in (x, np.asfortranarray(x), np.pad(x, ((0, 0), (0, 212)))):
        (y,) = run([(f32(7, "K"), array)], "%r0 = breccia.reduce sum %a0 axis [1]", f32(7, 1))
        np.testing.assert_array_equal(y, expected)


def test_amax_and_nan() -> None:
    x = np.float32([[1, -3, 2], [np.nan, 5, 1]])
    (y,) = run([(f32(2, 3), x)], "%r0 = breccia.reduce amax %a0 axis [1]", f32(2, 1))
    assert y[0, 0] == 3
    assert np.isnan(y[1, 0])


def test_reductions_of_nothing() -> None:
    x = np.zeros((2, 0), np.float32)
    for fn, value in (("sum", 0), ("amax", 0), ("max", -np.inf), ("min", np.inf)):
        (y,) = run([(f32(2, "K"), x)], f"%r0 = breccia.reduce {fn} %a0 axis [1]", f32(2, 1))
        assert (y == value).all()


def test_views() -> None:
    body = """%t = breccia.transpose %a0 [1, 0]
%s = breccia.slice %t axis 0 from 2 to 8
%c = breccia.concat %s, %s axis 1
%r0 = breccia.reshape %c to [2, 3, 10]
%r1 = breccia.broadcast %a1 to [4, 12]"""
    y, z = run([(f32(5, 12), X), (f32(1, 12), X[:1])], body, f"{f32(2, 3, 10)}, {f32(4, 12)}")
    np.testing.assert_array_equal(y, np.concatenate([X.T[2:8], X.T[2:8]], 1).reshape(2, 3, 10))
    np.testing.assert_array_equal(z, np.broadcast_to(X[:1], (4, 12)))


# -- convert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [f for f in formats.ALL if f.bits <= 8])
def test_convert_to_and_from_codes(fmt: formats.Format) -> None:
    dtype = f'!breccia.code<"{fmt.name}">' if fmt.mlir in ("nf4", "mxint8") else fmt.mlir
    x = np.float32([0.0, 0.3, -1.7, 1e9, -1e9, 2.5])
    body = f"%r0 = breccia.convert %a0 : {dtype}\n%r1 = breccia.convert %r0 : f32"
    codes, back = run([(f32(6), x)], body, f"{typed(dtype, 6)}, {f32(6)}")
    np.testing.assert_array_equal(codes, numerics.encode(x, fmt))
    np.testing.assert_array_equal(back, [np.float32(fmt.decode_code(int(c))) for c in codes])


def test_convert_between_floats_and_integers() -> None:
    x = np.float32([0.5, 1.5, 2.5, -3.7, np.nan, 3e9, -3e9])
    body = "%r0 = breccia.convert %a0 : i32\n%r1 = breccia.convert %a0 : bf16\n%r2 = breccia.convert %a0 : i1"
    i, b, t = run([(f32(7), x)], body, f"{typed('i32', 7)}, {typed('bf16', 7)}, {typed('i1', 7)}")
    assert i.tolist() == [0, 2, 2, -4, 0, 2**31 - 1, -(2**31)]
    np.testing.assert_array_equal(b.view(np.uint16), x.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert t.all()


# -- scaled tensors ----------------------------------------------------------------------------------------------------

NAMED = recipes.all_recipes()


def scaled_type(recipe: Recipe, *shape: object) -> str:
    from breccia.ir.types import scaled

    return str(scaled([s if isinstance(s, int) else Sym(str(s)) for s in shape], formats.float32, recipe))


def encoded(x: np.ndarray, recipe: Recipe) -> ScaledValue:
    parts = numerics.quantize(x, decode_half(recipe, x.ndim).with_policy(**vars(recipe.policy)))
    return ScaledValue(parts.elements, parts.scales, parts.zero_point, parts.offset)


def policy_text(recipe: Recipe) -> str:
    from breccia.ir.attributes import PolicyAttr

    return str(PolicyAttr(recipe.policy))


@pytest.mark.parametrize("recipe", NAMED.values(), ids=NAMED)
def test_quantize_is_the_oracle(recipe: Recipe) -> None:
    x = RNG.standard_normal((6, 200)).astype(np.float32)
    type_ = scaled_type(recipe, "M", 200)
    attr = type_[type_.index("#breccia.recipe") : -1]
    (q,) = run([(f32("M", 200), x)], f"%r0 = breccia.quantize %a0 policy {policy_text(recipe)} to {attr}", type_)
    expected = numerics.quantize(x, recipe)
    np.testing.assert_array_equal(q.codes, expected.elements)
    for a, b in zip(q.scales, expected.scales, strict=True):
        np.testing.assert_array_equal(a, np.reshape(b, a.shape))


@pytest.mark.parametrize("recipe", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("wide", [False, True])
def test_dequantize_is_the_oracle(recipe: Recipe, wide: bool) -> None:
    value = encoded(RNG.standard_normal((6, 200)).astype(np.float32), recipe)
    (y,) = run([(scaled_type(recipe, "M", 200), value)], "%r0 = breccia.dequantize %a0", f32("M", 200), wide=wide)
    parts = numerics.Components(value.codes, value.scales, value.zero_point, value.offset)
    expected = numerics.dequantize(parts, decode_half(recipe, 2))
    if wide:
        np.testing.assert_allclose(y, expected, rtol=3e-7)
    else:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("recipe", NAMED.values(), ids=NAMED)
def test_parts_and_assemble_are_inverse(recipe: Recipe) -> None:
    """Also through packed storage, at an odd length."""
    from breccia.ir.storage import canonical_layout, storage_types
    from breccia.ir.types import scaled

    plain = scaled([Sym("M"), 99], formats.float32, recipe)
    stored = plain.with_layout(canonical_layout(plain))
    names = ", ".join(f"%p{i}" for i in range(len(storage_types(stored))))
    body = f"""%l = breccia.convert_layout %a0 to {stored.layout}
{names} = breccia.parts %l
%q = breccia.assemble {names} as {stored}
%r0 = breccia.dequantize %q"""
    value = encoded(RNG.standard_normal((6, 99)).astype(np.float32), recipe)
    (y,) = run([(str(plain), value)], body, f32("M", 99))
    (z,) = run([(str(plain), value)], "%r0 = breccia.dequantize %a0", f32("M", 99))
    np.testing.assert_array_equal(y, z)


def test_views_of_scaled_tensors() -> None:
    recipe = recipes.mxfp8_e4m3
    x = RNG.standard_normal((6, 96)).astype(np.float32)
    body = """%t = breccia.transpose %a0 [1, 0]
%s = breccia.slice %t axis 0 from 32 to 96
%c = breccia.concat %s, %s axis 0
%u = breccia.transpose %c [1, 0]
%v = breccia.reshape %u to [2, 3, 128]
%r0 = breccia.dequantize %v"""
    value = encoded(x, recipe)
    (y,) = run([(scaled_type(recipe, 6, 96), value)], body, f32(2, 3, 128))
    d = numerics.dequantize(numerics.quantize(x, recipe), recipe)
    np.testing.assert_array_equal(y, np.concatenate([d[:, 32:], d[:, 32:]], 1).reshape(2, 3, 128))


@pytest.mark.parametrize("order", ["swizzle_128x4", "mn_major"])
def test_swizzled_scales_lie_as_layouts_say(order: str) -> None:
    from breccia import layouts
    from breccia.ir.interpreter.scaled import from_storage, to_storage

    scale = RNG.integers(0, 255, (200, 7)).astype(np.uint8)
    stored = to_storage(scale, order, None)
    np.testing.assert_array_equal(from_storage(stored, order, None, scale.shape), scale)
    if order == "swizzle_128x4":
        packed = np.asarray(layouts.swizzle_128x4.pack(scale))
        np.testing.assert_array_equal(stored.reshape(-1), packed.reshape(-1))
    else:
        np.testing.assert_array_equal(stored, scale.T)


def test_scale_from_amax_of_each_level() -> None:
    amax = np.float32([[2688.0]])
    recipe = "#breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>"
    body = f"""%r0 = breccia.scale_from_amax %a0 policy #breccia.policy<> to {recipe} level 0
%r1 = breccia.scale_from_amax %a0 policy #breccia.policy<> to {recipe} level 1"""
    outer, inner = run([(f32(1, 1), amax)], body, f"{f32(1, 1)}, {typed('f8E4M3FN', 1, 1)}")
    assert outer.item() == 1.0
    assert inner.item() == formats.float8_e4m3fn.max_code


def test_given_scales() -> None:
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    recipe = recipes.nvfp4
    outer = np.float32([[0.25]])
    type_ = scaled_type(recipe, 4, 64)
    attr = type_[type_.index("#breccia.recipe") : -1]
    body = f"%r0 = breccia.quantize %a0, %a1 given [0] policy #breccia.policy<> to {attr}"
    (q,) = run([(f32(4, 64), x), (f32(1, 1), outer)], body, type_)
    expected = numerics.quantize(x, decode_half(recipe, 2), scales=(outer,))
    np.testing.assert_array_equal(q.codes, expected.elements)
    np.testing.assert_array_equal(q.scales[1], expected.scales[1])


def test_stochastic_rounding_takes_a_seed() -> None:
    x = np.linspace(-6, 6, 128).astype(np.float32).reshape(2, 64)
    recipe = "#breccia.recipe<f4E2M1FN, f32 per [all, all]>"
    body = f"%r0 = breccia.quantize %a0, %a1 policy #breccia.policy<rounding = stochastic> to {recipe}"
    type_ = f"!breccia.scaled<[2, 64], f32, {recipe}>"
    runs = [run([(f32(2, 64), x), (typed("i64"), np.int64(s))], body, type_)[0].codes for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_history() -> None:
    body = """%r0 = breccia.history_update %a0, %a1
%r1 = breccia.amax_from_history max %r0
%r2 = breccia.amax_from_history most_recent %r0"""
    history, amax = np.float32([5, 2, 3]), np.float32([4])
    h, top, last = run([(f32(3), history), (f32(1), amax)], body, f"{f32(3)}, {f32(1)}, {f32(1)}")
    assert (h.tolist(), top.tolist(), last.tolist()) == ([2, 3, 4], [4], [4])


# -- products ----------------------------------------------------------------------------------------------------------


def test_matmul_broadcasts_and_decodes() -> None:
    a = RNG.standard_normal((2, 1, 3, 64)).astype(ml_dtypes.bfloat16)
    b = RNG.standard_normal((4, 64, 5)).astype(np.float32)
    recipe = recipes.float8_1x128.along(1, 3)
    value = encoded(b, recipe)
    types = [(typed("bf16", 2, 1, 3, 64), a), (scaled_type(recipe, 4, 64, 5), value)]
    d = numerics.dequantize(numerics.quantize(b, recipe), recipe).astype(np.float64)
    for wide in (False, True):
        (y,) = run(types, "%r0 = breccia.matmul %a0, %a1", f32(2, 4, 3, 5), wide=wide)
        np.testing.assert_allclose(y, a.astype(np.float64) @ d, rtol=1e-4, atol=1e-13 if wide else 1e-5)


def test_matmul_rounds_operands_to_the_compute_dtype() -> None:
    a = np.float32([[1 + 2**-10]])
    (y,) = run([(f32(1, 1), a)], "%r0 = breccia.matmul %a0, %a0 compute bf16", f32(1, 1))
    assert y.item() == 1.0


def test_grouped_matmul() -> None:
    x, w = RNG.standard_normal((7, 4)).astype(np.float32), RNG.standard_normal((3, 4, 2)).astype(np.float32)
    off = np.int32([1, 3, 3, 6])
    types = [(f32("T", 4), x), (f32("E", 4, 2), w), (typed("i32", "E + 1"), off)]
    (y,) = run(types, "%r0 = breccia.grouped_matmul %a0, %a1, %a2", f32("T", 2), wide=True)
    expected = np.zeros((7, 2))
    expected[1:3], expected[3:6] = x[1:3].astype(float) @ w[0], x[3:6].astype(float) @ w[2]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    with pytest.raises(InterpreterError, match="must rise"):
        run(
            [*types[:2], (types[2][0], np.int32([0, 5, 3, 7]))],
            "%r0 = breccia.grouped_matmul %a0, %a1, %a2",
            f32("T", 2),
        )


def test_grouped_matmul_of_counted_rows() -> None:
    x, w = RNG.standard_normal((6, 4)).astype(np.float32), RNG.standard_normal((3, 4, 2)).astype(np.float32)
    types = [(f32(6, 4), x), (f32(3, 4, 2), w), (typed("i32", 3), np.int32([2, 0, 1]))]
    op = "%r0 = breccia.grouped_matmul %a0, %a1, %a2 each 2"
    (y,) = run(types, op, f32(6, 2), wide=True)
    expected = np.zeros((6, 2))
    expected[:2], expected[4] = x[:2].astype(float) @ w[0], x[4].astype(float) @ w[2]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    for wrong in ([2, 0, 3], [2, -1, 0]):
        with pytest.raises(InterpreterError, match="must be 0 to 2"):
            run([*types[:2], (types[2][0], np.int32(wrong))], op, f32(6, 2))


# -- calling -----------------------------------------------------------------------------------------------------------

NEG = "%r0 = breccia.unary neg %a0"


def test_symbols_are_solved_from_sizes() -> None:
    args = [(f32("2 * G", 4), np.zeros((6, 4), np.float32)), (f32("G + 1", 1), np.zeros((4, 1), np.float32))]
    (y, z) = run(args, NEG + "\n%r1 = breccia.unary neg %a1", f"{f32('2 * G', 4)}, {f32('G + 1', 1)}")
    assert (y.shape, z.shape) == ((6, 4), (4, 1))


@pytest.mark.parametrize(
    ("type_", "value", "match"),
    [
        (f32("M", "M"), np.zeros((2, 3), np.float32), "axis 1 of .* has size 3, but M is 2"),
        (f32("2 * G"), np.zeros(3, np.float32), "size G is unknown"),
        (f32(4), np.zeros(5, np.float32), "has size 5, but 4 is 4"),
        (f32(4), np.zeros((4, 1), np.float32), r"has shape \(4, 1\)"),
        (f32(4), np.zeros(4), "is an array of float64; .* needs float32"),
        (f32(4), ScaledValue(np.zeros(4, np.uint8), ()), "is a ScaledValue"),
    ],
)
def test_arguments_that_do_not_fit(type_: str, value: Any, match: str) -> None:
    with pytest.raises(InterpreterError, match=match):
        run([(type_, value)], NEG, type_)


def test_functions_by_name() -> None:
    text = "func.func @a() { func.return }\nfunc.func @b() { func.return }"
    module = parse_module(text)
    with pytest.raises(InterpreterError, match="a, b; say which"):
        interpret(module, [])
    with pytest.raises(InterpreterError, match="no function 'c'"):
        interpret(module, [], function="c")
    assert interpret(module, [], function="b") == []
    with pytest.raises(InterpreterError, match="takes 0 arguments; 1 are given"):
        interpret(module, [1], function="b")


def test_prepare_runs_first_on_constants() -> None:
    text = f"""func.func @main(%x : {f32("M")}, %w : {f32(1)}) -> {f32("M")} attributes {{breccia.constants = #breccia.ints[1]}} {{
  %y = breccia.binary mul %x, %w
  func.return %y : {f32("M")}
}}
func.func @prepare(%w : {f32(1)}) -> {f32(1)} {{
  %v = breccia.unary square %w
  func.return %v : {f32(1)}
}}"""  # noqa: E501
    (y,) = interpret(parse_module(text), [np.float32([1, 2]), np.float32([3])])
    assert y.tolist() == [9, 18]


def test_a_reshape_of_unequal_sizes_in_a_call() -> None:
    with pytest.raises(InterpreterError, match="slice: 0 to 8 is out of range"):
        run([(f32("M"), np.zeros(4, np.float32))], "%r0 = breccia.slice %a0 axis 0 from 0 to 8", f32(8))
