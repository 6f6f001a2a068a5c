"""Turned axes, roundings and scale rules on JAX give NumPy's bits; tests/matrix holds every recipe to them."""

from __future__ import annotations

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.tensor import cast_array

jax = pytest.importorskip("jax")
jnp = jax.numpy

RECIPES = breccia.all_recipes()
SPECIAL = [0.0, -0.0, 1e-42, -1e-42, 1e-38, -1.5, 2.5, -3.5, 448.0, 464.0, 465.0, 6e4]


def example(dtype, shape=(3, 5, 130), nonfinite=True) -> np.ndarray:
    """Rows of very different size; ties; rows of subnormals and of zeros; a row with NaN, one with infinity."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-20, 12, (*shape[:-1], 1)))
    x[0, 0, :12] = SPECIAL
    x[0, 1] = rng.integers(-24, 25, shape[-1]) / 4
    x[0, 2] *= 2.0**-130
    x[0, 3] = 0
    if nonfinite:
        x[1, 1, 40], x[1, 2, 70] = np.nan, -np.inf
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def assert_equal(x, recipe, axis=-1) -> None:
    scale = np.float32(0.25) if recipe.policy.amax == "static" else None
    expected = cast_array(x, recipe, axis, seed=5, scale=scale)
    found = cast_array(jnp.asarray(x), recipe, axis, seed=5, scale=scale)
    assert found.library == "jax"
    assert np.array_equal(found.codes(), expected.codes())
    assert found == expected
    values, right = np.asarray(found.dequantize()), expected.dequantize()
    word = f"u{right.dtype.itemsize}"
    nan = np.isnan(right.astype(np.float32))
    assert np.array_equal(np.isnan(values.astype(np.float32)), nan)
    assert np.array_equal(values.view(word)[~nan], right.view(word)[~nan])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("recipe", [recipes.mxfp8_e4m3, recipes.nvfp4], ids=str)
def test_turned_axes(recipe, axis):
    assert_equal(np.ascontiguousarray(example(np.float32).transpose(2, 0, 1)), recipe, axis)


@pytest.mark.parametrize("rounding", ["stochastic", "ties_away"])
def test_other_roundings(rounding):
    for recipe in (recipes.mxfp8_e4m3, recipes.nvfp4):
        assert_equal(example(np.float32), recipe.with_policy(rounding=rounding))


@pytest.mark.parametrize("scale", ["floor", "even"])
def test_other_scale_rules(scale):
    assert_equal(example(np.float32), recipes.mxfp4.with_policy(scale=scale, nonfinite="saturate"))


def test_no_values_are_waited_for():
    """Nothing on the way asks for values: the whole cast can be traced."""
    shape = jax.ShapeDtypeStruct((4, 64), jnp.float32)
    for recipe in RECIPES.values():
        if recipe.policy.nonfinite != "error" and recipe.policy.amax != "static":
            text = str(jax.make_jaxpr(lambda x, r=recipe: cast_array(x, r, seed=1).dequantize())(shape))
            assert "callback" not in text
            assert "64[" not in text
