"""Gradients through encoding, decoding and products of scaled tensors: straight through, and exact in exact sums."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import formats, recipes
from breccia.autodiff import differentiate
from breccia.autodiff.scaled import may_saturate, reach
from breccia.errors import GradientError
from breccia.ir.interpreter import interpret
from breccia.ir.ops import QuantizeOp, SelectOp
from breccia.ir.rewriting import location
from tests.autodiff.differences import gradients
from tests.passes.examples import parsed


def encode_and_decode(recipe: str, policy: str, shape: str = "[M, 32]") -> str:
    return f"""
func.func @f(%x: !breccia.tensor<{shape}, f32>) -> !breccia.tensor<{shape}, f32> {{
  %q = breccia.quantize %x policy {policy} to {recipe}
  %y = breccia.dequantize %q
  func.return %y : !breccia.tensor<{shape}, f32>
}}"""


def through(text: str, x: Any) -> list[Any]:
    made = differentiate(parsed(text, None), [0])
    (found,) = gradients(made, [np.float32(x)], [np.full(np.shape(x), 3, np.float32)], wide=False)
    return found.tolist()


@pytest.mark.parametrize("recipe", ["#mx", "#tensor", "#row", "#nv"])
def test_nothing_is_clipped_where_scales_make_room(recipe: str) -> None:
    """An amax is often a little above the largest element times its rounded scale: that is no saturation."""
    policy = "#pmx" if recipe == "#mx" else "#exact"
    x = np.random.default_rng(0).standard_normal((64, 32)) * 1000
    assert np.unique(through(encode_and_decode(recipe, policy), x)).tolist() == [3.0]


def test_no_mask_where_nothing_can_saturate() -> None:
    made = differentiate(parsed(encode_and_decode("#mx", "#pmx"), None), [0])
    assert not any(isinstance(op, SelectOp) for op in made.backward.walk())


def quantize_op(recipe: str, policy: str) -> QuantizeOp:
    (op,) = [op for op in parsed(encode_and_decode(recipe, policy), None).walk() if isinstance(op, QuantizeOp)]
    return op


def test_what_may_saturate() -> None:
    assert not may_saturate(quantize_op("#tensor", "#exact"))
    assert not may_saturate(quantize_op("#mx", "#pmx"))
    assert may_saturate(quantize_op("#mx", "#breccia.policy<scale = floor>"))
    assert may_saturate(quantize_op("#tensor", "#breccia.policy<max = 500.0>"))
    assert may_saturate(quantize_op("#nv", "#exact"))  # its inner scales are f8E4M3FN, which round far


def test_floor_scales_clip_what_saturated() -> None:
    """`floor` gives scale 1 for an amax of 500, and FP8 ends at 448; 464 is the last number that rounds to it."""
    x = [[1.0, 448.0, 463.0, 465.0, -500.0] + [0.0] * 27]
    found = through(encode_and_decode("#mx", "#breccia.policy<scale = floor>"), x)
    assert found[0][:6] == [3.0, 3.0, 3.0, 0.0, 0.0, 3.0]


def test_given_scales_clip_what_saturated() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 4], bf16>, %s: !breccia.tensor<[1, 1], f32>) -> !breccia.tensor<[M, 4], f32> {
  %q = breccia.quantize %x, %s given [0] policy #breccia.policy<amax = static> to #tensor
  %y = breccia.dequantize %q
  func.return %y : !breccia.tensor<[M, 4], f32>
}"""
    x = np.array([[-1000.0, 928.0, 936.0, 2.0]], ml_dtypes.bfloat16)
    made = differentiate(parsed(text, None), [0])
    (found,) = gradients(made, [x, np.float32([[2.0]])], [np.full((1, 4), 3, np.float32)], wide=False)
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [[0, 3, 0, 3]]


def test_zero_points_are_seen_in_the_range() -> None:
    """Of 4 bits with a zero point: as many elements are clipped as come back further off than half a step."""
    text = """
func.func @f(%x: !breccia.tensor<[M, 32], f32>) -> !breccia.tensor<[M, 32], f32> {
  %q = breccia.quantize %x policy #breccia.policy<max = 10.0> to #breccia.recipe<ui4, f32 per [1, 32], zero ui4>
  %y = breccia.dequantize %q
  func.return %y : !breccia.tensor<[M, 32], f32>
}"""
    x = np.float32(np.random.default_rng(1).uniform(-5, 9, (4, 32)))
    (y,) = interpret(parsed(text, None), [x])
    span = np.maximum(x.max(axis=1), 0) - np.minimum(x.min(axis=1), 0)
    step = (span / 10)[:, None]
    clipped = abs(x - y) > step * 0.5001
    np.testing.assert_array_equal(np.float32(through(text, x)), np.where(clipped, 0, 3))


def test_blocks_with_nan_have_no_gradient_where_a_mask_is_made() -> None:
    x = [[np.nan, 1.0] + [0.0] * 30, [2.0] * 32]
    found = through(encode_and_decode("#mx", "#breccia.policy<scale = floor>"), x)
    assert set(found[0]) == {0.0}
    assert set(found[1]) == {3.0}


@pytest.mark.parametrize("name", sorted(recipes.all_recipes()))
def test_reach_is_beyond_the_largest_element(name: str) -> None:
    element = recipes.find(name).element
    low, high = reach(element)
    values = [v for code in range(1 << element.bits) if np.isfinite(v := element.decode_code(code))]
    assert low < min(values)
    assert high > max(values)
    if element.name == "float4_e2m1fn":
        assert (low, high) == (-7.0, 7.0)


def test_reach_of_formats_with_infinities() -> None:
    assert reach(formats.float8_e5m2) == (-61440.0, 61440.0)


MATMUL = """
func.func @f(%x: !breccia.tensor<[M, 64], bf16>, %w: !breccia.scaled<[64, 8], bf16, #mxt>)
    -> !breccia.tensor<[M, 8], f32> {
  %q = breccia.quantize %x policy #pmx to #mx
  %y = breccia.matmul %q, %w
  func.return %y : !breccia.tensor<[M, 8], f32>
}"""


def scaled(type_: Any, values: Any) -> Any:
    """`values` encoded as an argument type says."""
    text = f"""
func.func @f(%x: !breccia.tensor<[{", ".join(map(str, values.shape))}], bf16>) -> {type_} {{
  %q = breccia.quantize %x policy #breccia.policy<scale = ceil> to {type_.encoding}
  func.return %q : {type_}
}}"""
    return interpret(parsed(text, None), [values.astype(ml_dtypes.bfloat16)])[0]


def test_products_with_scaled_weights_are_exact_in_exact_sums() -> None:
    rng = np.random.default_rng(0)
    module = parsed(MATMUL, None)
    made = differentiate(module, [0])
    weight_type = next(iter(module.ops)).body.block.args[1].type
    w = rng.integers(-4, 5, (64, 8)).astype(np.float64)
    x = rng.integers(-4, 5, (5, 64)).astype(ml_dtypes.bfloat16)
    dy = rng.integers(-4, 5, (5, 8)).astype(np.float32)
    (found,) = gradients(made, [x, scaled(weight_type, w)], [dy], wide=False)
    np.testing.assert_array_equal(found.astype(np.float64), (dy @ w.T).astype(ml_dtypes.bfloat16).astype(np.float64))


def test_gradients_are_rounded_once() -> None:
    """x is used twice, in bf16: the two gradients are added in f32."""
    text = """
func.func @f(%x: !breccia.tensor<[M], bf16>) -> !breccia.tensor<[M], f32> {
  %a = breccia.convert %x : f32
  %b = breccia.convert %x : f32
  %c = breccia.full 1.00390625 [] : f32
  %d = breccia.full 0.00390625 [] : f32
  %e = breccia.binary mul %a, %c
  %f = breccia.binary mul %b, %d
  %y = breccia.binary add %e, %f
  func.return %y : !breccia.tensor<[M], f32>
}"""
    made = differentiate(parsed(text, None), [0])
    (found,) = gradients(made, [np.ones(1, ml_dtypes.bfloat16)], [np.ones(1, np.float32)], wide=False)
    assert found.astype(np.float32).tolist() == [1.0078125]  # 1.00390625 alone would round to 1


def located(text: str) -> Any:
    module = parsed(text, None)
    for number, op in enumerate(module.walk()):
        op.location = location("model.py", number)
    return module


def test_stored_components_have_no_gradient() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M, 32], f32>) -> !breccia.tensor<[M, 1], f32> {
  %q = breccia.quantize %x policy #exact to #row
  %e, %y = breccia.parts %q
  func.return %y : !breccia.tensor<[M, 1], f32>
}"""
    with pytest.raises(GradientError, match=r"^model\.py:3: parts has no gradient: it deals with stored components"):
        differentiate(located(text), [0])


def test_conversion_to_elements_names_cast_ste() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M], f32>) -> !breccia.tensor<[M], f32> {
  %e = breccia.convert %x : f8E4M3FN
  %y = breccia.convert %e : f32
  func.return %y : !breccia.tensor<[M], f32>
}"""
    with pytest.raises(GradientError, match=r"^model\.py:3: convert has no gradient: f8E4M3FN .* use cast_ste"):
        differentiate(located(text), [0])


def test_groups_of_weights() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[T, 4], f32>, %w: !breccia.tensor<[2, 4, 3], f32>, %o: !breccia.tensor<[3], i32>)
    -> !breccia.tensor<[T, 3], f32> {
  %y = breccia.grouped_matmul %x, %w, %o
  func.return %y : !breccia.tensor<[T, 3], f32>
}"""
    with pytest.raises(GradientError, match=r"^model\.py:2: grouped_matmul has no gradient.*alone"):
        differentiate(located(text), [0, 1])


@pytest.mark.parametrize(
    ("index", "message"), [(1, "stored elements are constants.*cast_ste"), (2, "arguments 0 to 1; a gradient of 2")]
)
def test_arguments_without_gradients(index: int, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        differentiate(parsed(MATMUL, None), [index])
