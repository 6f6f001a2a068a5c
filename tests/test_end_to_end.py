"""Whole programs, from a decorated function to numbers, against plain NumPy on the decoded operands."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import recipes

RECIPES = sorted(breccia.all_recipes())


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def relative_error(found: object, wanted: np.ndarray) -> float:
    difference = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(wanted, np.float64)))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", [(8, 64, 32), (1, 576, 96), (5, 40, 7)])
def test_matmul_equals_the_product_of_decoded_operands(name: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a = breccia.cast(normal(m, k), recipes.find(name))
    w = breccia.cast(normal(k, n, seed=1), recipes.find(name), axis=0)
    wanted = a.dequantize().astype(np.float64) @ w.dequantize().astype(np.float64)
    assert relative_error(breccia.matmul(a, w), wanted) < 1e-6


@pytest.mark.parametrize("name", RECIPES)
def test_blocks_along_n_are_multiplied_by_their_own_scales_even_where_k_equals_n(name: str) -> None:
    """Rows of very different size show a scale taken from the wrong axis; K == N hides it from shape checks."""
    spread = np.exp2(np.arange(256) % 13 - 6).astype(np.float32)
    w = normal(256, 256, seed=2) * spread[:, None]
    a, scaled = normal(16, 256), breccia.cast(w, recipes.find(name))
    wanted = a.astype(np.float64) @ scaled.dequantize().astype(np.float64)
    assert relative_error(breccia.matmul(a, scaled), wanted) < 1e-6


@pytest.mark.parametrize("columns", [128, 64, 256, 576])
def test_the_first_snippet_runs_as_it_stands(columns: int) -> None:
    x = normal(8, 256)
    st = breccia.cast(x, breccia.Float8BlockScaling(block_k=128))
    a = breccia.cast(normal(16, 256), breccia.Float8CurrentScaling())
    w = breccia.cast(normal(256, columns), breccia.Float8BlockScaling(block_k=128))
    y = breccia.matmul(a, w)
    assert st.shape == (8, 256)
    assert y.shape == (16, columns)
    assert relative_error(y, a.dequantize() @ w.dequantize()) < 1e-6


def test_k_of_576() -> None:
    a = breccia.cast(normal(16, 576), breccia.Float8BlockScaling(block_k=128))
    w = breccia.cast(normal(576, 64), breccia.Float8BlockScaling(block_k=128), axis=0)
    assert relative_error(breccia.matmul(a, w), a.dequantize() @ w.dequantize()) < 1e-6


def mlp(x, w1, w2):
    h = breccia.rms_norm(x)
    g = breccia.silu(breccia.cast(h, recipes.mxfp8_e4m3) @ w1).astype(ml_dtypes.bfloat16)
    return breccia.cast(g, recipes.mxfp8_e4m3) @ w2 + x


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_worked_example_agrees_with_eager_steps(rows: int) -> None:
    x = normal(rows, 128).astype(ml_dtypes.bfloat16)
    w1 = breccia.cast(normal(128, 256, seed=1), recipes.mxfp8_e4m3, axis=0)
    w2 = breccia.cast(normal(256, 128, seed=2), recipes.mxfp8_e4m3, axis=0)
    found = breccia.compile(mlp)(x, w1, w2)
    xf = x.astype(np.float32)
    assert np.asarray(found).shape == (rows, 128)
    lowered = breccia.compile(mlp).lower(x, w1, w2)
    for form in ("traced", "partitioned", "laid_out", "tiled"):
        assert "breccia" in lowered.ir(form)
    h = (xf / np.sqrt(np.mean(xf * xf, axis=-1, keepdims=True) + 1e-6)).astype(ml_dtypes.bfloat16)
    g = breccia.cast(h, recipes.mxfp8_e4m3).dequantize() @ w1.dequantize()
    g = (g / (1 + np.exp(-g))).astype(ml_dtypes.bfloat16)
    wanted = breccia.cast(g, recipes.mxfp8_e4m3).dequantize() @ w2.dequantize() + xf
    assert relative_error(found, wanted) < 2e-2


def attention(x, wq, wk, wv, wo):
    rows, heads = x.shape[0], 4
    q, k, v = ((x @ w).reshape(rows, heads, -1).transpose(1, 0, 2) for w in (wq, wk, wv))
    p = breccia.softmax((q @ k.transpose(0, 2, 1)) * 0.25, axis=-1)
    return (p @ v).transpose(1, 0, 2).reshape(rows, -1) @ wo + x


@pytest.mark.parametrize("name", ["float8_row", "float8_128x128", "nvfp4", "uint4_g32_f16", "nf4", "mxfp6_e2m3"])
def test_an_attention_block(name: str) -> None:
    x = normal(9, 64)
    weights = [breccia.cast(normal(64, 64, seed=s) / 8, recipes.find(name), axis=0) for s in range(1, 5)]
    found = breccia.compile(attention)(x, *weights)
    wq, wk, wv, wo = (w.dequantize() for w in weights)
    q, k, v = ((x @ w).reshape(9, 4, 16).transpose(1, 0, 2) for w in (wq, wk, wv))
    s = (q @ k.transpose(0, 2, 1)) * 0.25
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    wanted = (p @ v).transpose(1, 0, 2).reshape(9, 64) @ wo + x
    assert relative_error(found, wanted) < 1e-5


def test_nested_containers_and_several_results() -> None:
    @breccia.compile
    def layer(inputs, params):
        y = inputs["x"] @ params[0]
        q = breccia.cast(y, recipes.float8_1x128)
        return {"values": y, "cast": q}, breccia.amax(y)

    w = breccia.cast(normal(64, 300), recipes.int8_row, axis=0)
    x = normal(3, 64)
    out, top = layer({"x": x}, [w, None])
    wanted = x @ w.dequantize()
    assert relative_error(out["values"], wanted) < 1e-6
    assert isinstance(out["cast"], breccia.ScaledTensor)
    assert out["cast"] == breccia.cast(np.asarray(out["values"]), recipes.float8_1x128)
    np.testing.assert_allclose(top, np.abs(wanted).max(), rtol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_casting_inside_a_function_gives_the_bits_of_eager_cast(name: str) -> None:
    recipe = recipes.find(name)

    @breccia.compile
    def both(x):
        return breccia.cast(x, recipe), breccia.cast(x, recipe, axis=0)

    for shape in ((4, 64), (33, 40), (130, 257)):
        x = normal(*shape) * np.exp2(np.arange(shape[1]) % 9 - 4).astype(np.float32)
        along_last, along_first = both(x)
        assert along_last == breccia.cast(x, recipe)
        assert along_first == breccia.cast(x, recipe, axis=0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", ["float8_128x128", "mxfp8_e4m3", "int4_g32_f16"])
def test_a_grouped_product_takes_offsets_of_either_width(dtype: type, name: str) -> None:
    w = breccia.cast(normal(3, 64, 32), recipes.find(name), axis=1)
    x, offsets = normal(10, 64), np.array([0, 4, 4, 10], dtype)
    found = breccia.compile(lambda a, b, o: breccia.silu(breccia.grouped_matmul(a, b, o)))(x, w, offsets)
    decoded = w.dequantize()
    y = np.concatenate([x[:4] @ decoded[0], x[4:] @ decoded[2]])
    assert relative_error(found, y / (1 + np.exp(-y))) < 1e-6
