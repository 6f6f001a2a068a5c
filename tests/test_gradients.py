"""Straight-through casts: values, dtypes and gradients on every library, eager and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.arrays import primitives_of
from breccia.errors import GradientError, ShapeError

LIBRARIES = ("torch", "jax", "mlx")
RECIPES = (
    "float8_tensor", "float8_1x128", "mxfp8_e4m3", "mxfp4", "nvfp4", "int8_row", "int4_g128_f32", "uint4_g128_f16",
)  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")
X = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
X[0, :5] = [0.0, -0.0, 30.0, -30.0, 1e-40]


def gradient_of(name: str):
    """grad(f)(x) of a scalar function, and the library's sum, as NumPy in and out."""
    if name == "torch":
        pytest.importorskip("torch")

        def by_torch(f, x):
            leaf = x.clone().requires_grad_(True)
            f(leaf).sum().backward()
            return leaf.grad

        return by_torch
    if name == "jax":
        jax = pytest.importorskip("jax")
        return lambda f, x: jax.grad(lambda v: f(v).astype("float32").sum())(x)
    mx = pytest.importorskip("mlx.core")
    return lambda f, x: mx.grad(lambda v: f(v).astype(mx.float32).sum())(x)


def array(name: str, dtype: str = "float32"):
    xp = primitives_of(name)
    return xp.convert(xp.from_numpy(X), dtype)


def numpy_of(x):
    return breccia.arrays.namespace(x).to_numpy(x)


def recipe_of(name: str):
    return breccia.all_recipes()[name]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_gradient_is_the_identity(name, recipe, compiled):
    grad, recipe = gradient_of(name), recipe_of(recipe)

    def square(v):
        y = breccia.cast_ste(v, recipe)
        return y * y

    f = breccia.compile(square) if compiled else square
    x = array(name)
    expected = 2 * breccia.cast_ste(X, recipe)
    np.testing.assert_array_equal(numpy_of(grad(f, x)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_values_and_gradients_keep_the_dtype(name, dtype):
    grad, x = gradient_of(name), array(name, dtype)
    y = breccia.cast_ste(x, recipes.nvfp4)
    assert primitives_of(name).dtype_name(y) == dtype
    reference = breccia.cast_ste(numpy_of(x), recipes.nvfp4)
    np.testing.assert_array_equal(numpy_of(y).astype(np.float32), reference.astype(np.float32))
    g = grad(lambda v: breccia.cast_ste(v, recipes.nvfp4), x)
    assert primitives_of(name).dtype_name(g) == dtype
    assert (numpy_of(g).astype(np.float32) == 1).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", ["mxfp4", "nvfp4", "mxfp8_e4m3", "int4_g128_f32", "uint4_g128_f16", "float8_row"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_clipped_gradient_is_zero_where_the_element_saturated(name, recipe, compiled):
    grad, recipe = gradient_of(name), recipe_of(recipe)

    def f(v):
        return breccia.cast_ste_clipped(v, recipe, -2.0, 2.5)

    g = numpy_of(grad(breccia.compile(f) if compiled else f, array(name)))
    st = breccia.cast(X, recipe)
    codes = st.components().elements
    top = breccia.gradients.limit_codes(recipe)
    low, high = (breccia.gradients.limit(st, code) for code in top)
    saturated = (high < X) | (low > X) | (X < -2.0) | (X > 2.5)
    assert codes.shape == X.shape
    np.testing.assert_array_equal(g, np.where(saturated, 0, 1))
    assert saturated.any()
    assert not saturated.all()
    np.testing.assert_array_equal(numpy_of(f(array(name))), breccia.cast_ste(X, recipe))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_plain_cast_refuses_to_be_differentiated(name):
    grad = gradient_of(name)
    with pytest.raises(GradientError, match=r"breccia\.cast_ste"):
        grad(lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize(), array(name))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_compiled_plain_cast_refuses_too(name):
    grad = gradient_of(name)
    f = breccia.compile(lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize())
    with pytest.raises(GradientError, match=r"breccia\.cast_ste"):
        grad(f, array(name))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_compiled_layer_has_the_eager_gradients(name):
    grad, xp = gradient_of(name), primitives_of(name)
    w = np.random.default_rng(1).standard_normal((256, 32)).astype(np.float32)

    def layer(v, weight):
        q = breccia.cast_ste(v, recipes.mxfp8_e4m3)
        return breccia.silu(breccia.matmul(q, breccia.cast_ste(weight, recipes.nvfp4, axis=0)))

    x, there = array(name), xp.from_numpy(w)
    eager = grad(lambda v: layer(v, there), x)
    compiled = grad(lambda v: breccia.compile(layer)(v, there), x)
    np.testing.assert_allclose(numpy_of(compiled), numpy_of(eager), rtol=1e-4, atol=1e-4)
    weights = grad(lambda v: breccia.compile(layer)(x, v), there)
    np.testing.assert_allclose(numpy_of(weights), numpy_of(grad(lambda v: layer(x, v), there)), rtol=1e-4, atol=1e-3)
    assert np.abs(numpy_of(weights)).max() > 0


def test_numpy_traces_nothing_for_gradients():
    f = breccia.compile(lambda v: breccia.cast_ste(v, recipes.mxfp8_e4m3))
    assert "straight_through" not in f.lower(X).ir()


def test_torch_composes_with_func_transforms():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    value = breccia.cast_ste(x, recipes.nvfp4)

    def loss(v):
        return (breccia.cast_ste(v, recipes.nvfp4) ** 2).sum()

    torch.testing.assert_close(torch.func.grad(loss)(x), 2 * value, rtol=0, atol=0)
    if torch.__version__ >= "2.13":  # 2.11 has no batching rule for view.dtype; 2.12 was not tried
        each = torch.func.vmap(torch.func.grad(loss))(torch.stack([x, x]))
        torch.testing.assert_close(each[1], 2 * value, rtol=0, atol=0)
    hessian_sum = torch.func.grad(lambda v: torch.func.grad(loss)(v).sum())(x)
    torch.testing.assert_close(hessian_sum, torch.full_like(x, 2.0))
    _, tangent = torch.func.jvp(lambda v: breccia.cast_ste(v, recipes.nvfp4), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.ones_like(x))


def test_mlx_composes_with_compile():
    mx = pytest.importorskip("mlx.core")
    x = mx.array(X)
    f = mx.compile(mx.grad(lambda v: (breccia.cast_ste(v, recipes.nvfp4) ** 2).sum()))
    np.testing.assert_array_equal(np.asarray(f(x)), 2 * breccia.cast_ste(X, recipes.nvfp4))


def test_clip_bounds_are_checked():
    with pytest.raises(ShapeError, match="clip_min 2 is above clip_max 1"):
        breccia.cast_ste_clipped(X, recipes.mxfp4, 2, 1)
