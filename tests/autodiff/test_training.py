"""Products by a training recipe: which operands are encoded along which axis, and that exact sums stay exact."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import TrainingRecipe, recipes, training
from breccia.autodiff import Differentiated, Saved, differentiate
from breccia.errors import RecipeError
from breccia.ir.interpreter import interpret
from breccia.ir.ops import QuantizeOp
from breccia.ir.rewriting import functions
from breccia.ir.types import ScaledType
from breccia.passes import LAID_OUT, TRACED
from tests.autodiff.differences import gradients
from tests.passes.examples import ATTENTION, kernel_ops, lost_locations, number_locations, parsed, passes

NAMED = {"current": training.float8_current, "block": training.float8_block, "mxfp8": training.mxfp8}
FP4 = TrainingRecipe(x=recipes.mxfp4, w=recipes.mxfp4, dy=recipes.mxfp4, wgrad=(recipes.mxfp8_e4m3, recipes.mxfp8_e5m2))
WEIGHT_ONLY = TrainingRecipe(w=recipes.mxfp8_e4m3)
ALL = {**NAMED, "fp4": FP4, "weight_only": WEIGHT_ONLY, "nothing": TrainingRecipe()}
SHAPES = [(48, 64, 40), (136, 130, 144)]


def linear(m: str = "M", k: int = 64, n: int = 32, dtype: str = "f32") -> str:
    return f"""
func.func @linear(%x: !breccia.tensor<[{m}, {k}], {dtype}>, %w: !breccia.tensor<[{k}, {n}], {dtype}>)
    -> !breccia.tensor<[{m}, {n}], f32> {{
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[{m}, {n}], f32>
}}"""


def made_by(recipe: TrainingRecipe | None, text: str, wanted: tuple[int, ...] = (0, 1)) -> Differentiated:
    return differentiate(parsed(text, None), wanted, recipe)


def rounded(x: Any, recipe: Any, axis: int) -> Any:
    """`x` encoded along an axis and decoded, in float64."""
    x = np.asarray(x, np.float32)
    return np.float64(x if recipe is None else breccia.cast(x, recipe, axis=axis).dequantize())


def expected(recipe: TrainingRecipe, x: Any, w: Any, dy: Any) -> tuple[Any, Any, Any]:
    of_x, of_dy = recipe.weight_gradient
    y = rounded(x, recipe.x, 1) @ rounded(w, recipe.w, 0)
    dx = rounded(dy, recipe.dy, 1) @ rounded(w, recipe.w, 1).T
    return y, dx, rounded(x, of_x, 0).T @ rounded(dy, of_dy, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_every_operand_is_encoded_along_the_axis_that_is_summed(name: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) * 3 for s in ((m, k), (k, n), (m, n)))
    made = made_by(ALL[name], linear(k=k, n=n))
    y, dx, dw = expected(ALL[name], x, w, dy)
    np.testing.assert_allclose(interpret(made.forward, [x, w], wide=True)[0], y, rtol=1e-6, atol=1e-5)
    found = gradients(made, [x, w], [dy])
    np.testing.assert_allclose(found[0], dx, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found[1], dw, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", NAMED)
def test_exact_sums_are_exact(name: str, dtype: str) -> None:
    """Small integers with an amax of 7, whose scales are powers of two in every recipe: 448 / 7 and 57344 / 7 are."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.integers(-7, 8, s).astype(np.float32) for s in ((48, 64), (64, 32), (48, 32)))
    for values in (x, w, dy):
        values[0, 0] = 7
    given = [v.astype(ml_dtypes.bfloat16) if dtype == "bf16" else v for v in (x, w)]
    dx, dw = gradients(made_by(NAMED[name], linear(dtype=dtype)), given, [dy], wide=False)
    assert dx.dtype == dw.dtype == given[0].dtype
    np.testing.assert_array_equal(dx, (dy @ w.T).astype(dx.dtype))
    np.testing.assert_array_equal(dw, (x.T @ dy).astype(dx.dtype))


def test_leading_axes_are_rows_of_the_weights_gradient() -> None:
    text = linear().replace("[M, ", "[M, 3, ")
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((16, 3, 64), (64, 32), (16, 3, 32)))
    for recipe in ALL.values():
        made = made_by(recipe, text)
        _, dx, dw = expected(recipe, x.reshape(48, 64), w, dy.reshape(48, 32))
        found = gradients(made, [x, w], [dy])
        np.testing.assert_allclose(found[0].reshape(48, 64), dx, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(found[1], dw, rtol=1e-6, atol=1e-5)


def saved_types(made: Differentiated) -> list[Any]:
    (function,) = functions(made.backward)
    return [a.type for a in function.body.block.args][len(made.results) :]


def encodings(module: Any) -> list[Any]:
    return [op.recipe.data.innermost.block for op in module.walk() if isinstance(op, QuantizeOp)]


def test_mxfp8_saves_rows_of_elements_and_no_activations() -> None:
    made = made_by(training.mxfp8, linear())
    assert encodings(made.forward) == [(1, 32), (32, 1), (32, 1)]
    assert encodings(made.backward) == [(1, 32), (1, 32), (32, 1)]
    assert made.saved == (Saved("argument", 1), Saved("result", 1))
    assert isinstance(saved_types(made)[1], ScaledType)


def test_one_encoding_serves_both_where_blocks_are_the_same() -> None:
    made = made_by(training.float8_current, linear())
    assert len(encodings(made.forward)) == 2
    assert all(isinstance(t, ScaledType) for t in saved_types(made))
    made = made_by(training.float8_block, linear())
    assert encodings(made.forward) == [(1, 128), (128, 128), (128, 1)]
    assert all(isinstance(t, ScaledType) for t in saved_types(made))


def test_frozen_weights_need_no_second_encoding_of_activations() -> None:
    made = made_by(training.mxfp8, linear(), (0,))
    assert encodings(made.forward) == [(1, 32), (32, 1)]
    assert encodings(made.backward) == [(1, 32), (1, 32)]


def test_both_encodings_of_activations_are_of_one_kernel() -> None:
    from breccia.testing.validate import validate_pipeline

    made = differentiate(parsed(linear(), "triton:sm_90"), [0, 1], training.mxfp8)
    for module in (made.forward, made.backward):
        out = validate_pipeline(module, passes([*TRACED, *LAID_OUT]), sizes=[{"M": 5}, {"M": 40}])
        assert any(ops.count("quantize") == 2 for ops in kernel_ops(out).values()), kernel_ops(out)


def test_attention_keeps_its_precision() -> None:
    made = differentiate(parsed(ATTENTION, None), [0, 1, 2], training.mxfp8)
    assert encodings(made.forward) == encodings(made.backward) == []


def test_lines_stay() -> None:
    module = parsed(linear(), None)
    number_locations(module)
    made = differentiate(module, [0, 1], training.mxfp8)
    assert lost_locations(made.forward) == lost_locations(made.backward) == []


def test_named_recipes_hold_the_elements_of_their_names() -> None:
    elements = {n: tuple(r.element.name for r in (t.x, t.w, t.dy, *t.weight_gradient)) for n, t in NAMED.items()}
    e4m3, e5m2 = "float8_e4m3fn", "float8_e5m2"
    assert elements == {"current": (e4m3, e4m3, e5m2, e4m3, e5m2), "block": (e4m3,) * 5, "mxfp8": (e4m3,) * 5}


def test_scales_of_block_recipes_are_powers_of_two() -> None:
    """As TransformerEngine's are by default: 448 / amax loses its mantissa, so that its inverse is rounded up."""
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    (scales,) = breccia.cast(x, training.float8_block.x).scales
    amax = abs(x.reshape(4, 2, 128)).max(axis=2)
    np.testing.assert_array_equal(scales, 2.0 ** np.ceil(np.log2(amax / 448)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x": "mxfp8"}, r"TrainingRecipe\.x is 'mxfp8'; give a recipe"),
        ({"wgrad": recipes.mxfp8_e4m3}, "give a pair, of x and of dy"),
        (
            {"dy": recipes.float8_tensor.with_policy(amax="delayed")},
            r"dy is .* with amax 'delayed'.*only 'current'",
        ),
        ({"wgrad": (None, recipes.nvfp4.with_policy(rounding="stochastic"))}, r"wgrad\[1\].*needs a seed"),
        ({"x": recipes.float8_tensor, "w": recipes.float8_e4m3fnuz_tensor}, "x and w are multiplied.*fnuz"),
        ({"dy": recipes.float8_e5m2fnuz_tensor, "w": recipes.float8_tensor}, "dy and w are multiplied.*fnuz"),
    ],
)
def test_what_a_training_recipe_cannot_be(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TrainingRecipe(**parts)
