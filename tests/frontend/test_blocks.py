"""The blocks of a transformer, written as plain functions, compiled and compared with the same functions on NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import recipes

pytestmark = pytest.mark.filterwarnings("ignore:.*used as a number")  # these blocks split axes by numbers
RNG = np.random.default_rng(1)
HEADS, WIDTH = 4, 64


def draw(*shape: int) -> Any:
    return RNG.standard_normal(shape, np.float32) / 8


MASK = np.where(np.tril(np.ones((7, 7), bool)), 0.0, -np.inf).astype(np.float32)
WEIGHTS = {name: draw(WIDTH, WIDTH) for name in ("q", "k", "v", "o")}


def attention(x: Any, w: Any) -> Any:
    b, t, d = x.shape

    def heads(y: Any) -> Any:
        return y.reshape(b, t, HEADS, d // HEADS).transpose(0, 2, 1, 3)

    q, k, v = (heads(x @ w[n].T) for n in "qkv")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(d // HEADS) + MASK
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    return x + y.transpose(0, 2, 1, 3).reshape(b, t, d) @ w["o"].T


def gated(x: Any, up: Any, gate: Any, down: Any, bias: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    g = n @ gate
    h = (n @ up) * g / (1 + np.exp(-g))
    return np.concatenate([x, np.where(h @ down > 0, h @ down, 0.1 * x)], axis=-1) + bias


def test_attention() -> None:
    f = breccia.compile(attention)
    for batch in (2, 1, 3):
        x = draw(batch, 7, WIDTH)
        np.testing.assert_allclose(f(x, WEIGHTS), attention(x, WEIGHTS), rtol=2e-5, atol=2e-5)
    assert sum(map(len, f._programs.values())) == 1


def test_gated_mlp() -> None:
    args = (draw(5, WIDTH), draw(WIDTH, 96), draw(WIDTH, 96), draw(96, WIDTH), draw(2 * WIDTH))
    np.testing.assert_allclose(breccia.compile(gated)(*args), gated(*args), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["float8_tensor", "float8_128x128", "mxfp8_e4m3", "nvfp4", "uint4_g32_f16", "mxfp6_e2m3"]
)
def test_attention_on_scaled_weights(name: str) -> None:
    scaled = {n: breccia.cast(w, recipes.find(name)) for n, w in WEIGHTS.items()}
    decoded = {n: w.dequantize() for n, w in scaled.items()}
    x = draw(2, 7, WIDTH)
    np.testing.assert_allclose(breccia.compile(attention)(x, scaled), attention(x, decoded), rtol=2e-5, atol=2e-5)


def test_bfloat16_block_is_close() -> None:
    x = draw(2, 7, WIDTH)
    found = breccia.compile(attention)(x.astype(ml_dtypes.bfloat16), WEIGHTS)
    assert found.dtype == np.float32  # float32 weights widen
    np.testing.assert_allclose(found, attention(x, WEIGHTS), rtol=0.05, atol=0.02)


def test_layers_in_a_loop_with_captured_weights() -> None:
    layers = [draw(WIDTH, WIDTH) for _ in range(4)]
    scaled = [breccia.cast(w, recipes.mxfp8_e4m3) for w in layers]

    def model(x: Any) -> Any:
        for w in scaled:
            x = x + breccia.gelu(breccia.rms_norm(x) @ w.T)
        return x

    x = draw(3, WIDTH)
    expected = x
    for w in scaled:
        expected = expected + breccia.gelu(breccia.rms_norm(expected) @ w.dequantize().T)
    np.testing.assert_allclose(breccia.compile(model)(x), expected, rtol=2e-5, atol=2e-5)
