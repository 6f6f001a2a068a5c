"""Public functions: eager and traced give the same bits, and both give what they should."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import functions, recipes
from breccia.errors import DTypeError, RecipeError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore:.*used as a number")  # some reshapes are by numbers
bf16 = ml_dtypes.bfloat16
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 64), np.float32)
Y = RNG.standard_normal((6, 64), np.float32)
V = RNG.standard_normal(64, np.float32)


@pytest.fixture(autouse=True)
def no_disk_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE", "0")


def erf(x: Any) -> Any:
    from math import erf

    return np.vectorize(erf)(x)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


CASES: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
    "silu": (breccia.silu, lambda x: x * sigmoid(x), (X,)),
    "gelu": (breccia.gelu, lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))), (X,)),
    "gelu tanh": (
        lambda x: breccia.gelu(x, "tanh"),
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), (X,),
    ),
    "relu": (breccia.relu, lambda x: np.maximum(x, 0), (X,)),
    "sigmoid": (breccia.sigmoid, sigmoid, (X,)),
    "exp": (breccia.exp, np.exp, (X,)),
    "tanh": (breccia.tanh, np.tanh, (X,)),
    "rsqrt": (breccia.rsqrt, lambda x: 1 / np.sqrt(x), (np.abs(X) + 0.1,)),
    "sqrt": (breccia.sqrt, np.sqrt, (np.abs(X),)),
    "softmax": (breccia.softmax, lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True), (X,)),
    "softmax of columns": (
        lambda x: breccia.softmax(x, axis=0), lambda x: np.exp(x) / np.exp(x).sum(0, keepdims=True), (X,),
    ),
    "rms_norm": (
        breccia.rms_norm, lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w, (X, V),
    ),
    "rms_norm alone": (breccia.rms_norm, lambda x: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6), (X,)),
    "layer_norm": (
        breccia.layer_norm,
        lambda x, w, b: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b,
        (X, V, V + 1),
    ),
    "where": (breccia.where, np.where, (X > 0, X, Y)),
    "maximum": (breccia.maximum, np.maximum, (X, Y)),
    "minimum": (breccia.minimum, np.minimum, (X, V)),
    "sum": (breccia.sum, np.sum, (X,)),
    "sum of rows": (lambda x: breccia.sum(x, axis=1, keepdims=True), lambda x: x.sum(1, keepdims=True), (X,)),
    "mean": (lambda x: breccia.mean(x, axis=[0, 1]), np.mean, (X,)),
    "max": (lambda x: breccia.max(x, axis=0), lambda x: x.max(0), (X,)),
    "amax": (lambda x: breccia.amax(x, axis=-1), lambda x: np.abs(x).max(-1), (X,)),
    "concat": (lambda x, y: breccia.concat([x, y], axis=1), lambda x, y: np.concatenate([x, y], 1), (X, Y)),
    "reshape": (lambda x: breccia.reshape(x, (6, 4, -1)), lambda x: x.reshape(6, 4, 16), (X,)),
    "reshape by numbers": (lambda x: breccia.reshape(x, 6, 4, 16), lambda x: x.reshape(6, 4, 16), (X,)),
    "transpose": (breccia.transpose, np.transpose, (X,)),
    "transpose axes": (lambda x: breccia.transpose(x, (1, 0)), np.transpose, (X,)),
    "broadcast_to": (lambda x: breccia.broadcast_to(x, (3, 64)), lambda x: np.broadcast_to(x, (3, 64)), (V,)),
    "astype": (lambda x: breccia.astype(x, np.float16), lambda x: x.astype(np.float16), (X,)),
    "matmul": (lambda x, y: breccia.matmul(x, y), np.matmul, (X, Y.T.copy())),
    "batched matmul": (breccia.matmul, np.matmul, (X.reshape(2, 3, 64), Y.T.copy())),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_eager_traced_and_numpy_agree(name: str) -> None:
    fn, reference, args = CASES[name]
    eager, traced = np.asarray(fn(*args)), np.asarray(breccia.compile(fn)(*args))
    np.testing.assert_array_equal(eager, traced)
    assert eager.dtype == traced.dtype
    expected = reference(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in args))
    assert eager.shape == np.shape(expected)
    np.testing.assert_allclose(eager.astype(np.float64), expected, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("dtype", [bf16, np.float16])
@pytest.mark.parametrize("name", ["silu", "softmax", "rms_norm", "maximum", "sum of rows"])
def test_narrow_floats_are_rounded_once(name: str, dtype: Any) -> None:
    fn, _, args = CASES[name]
    narrow = [a.astype(dtype) for a in args]
    wide = fn(*(a.astype(np.float32) for a in narrow))
    found = fn(*narrow)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), wide.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("name", list(recipes.all_recipes()))
def test_matmul_in_every_recipe_is_close_to_the_decoded_product(name: str) -> None:
    recipe = recipes.find(name)
    a = breccia.cast(RNG.standard_normal((5, 192), np.float32), recipe)
    for axis in (0, -1):
        w = breccia.cast(RNG.standard_normal((192, 96), np.float32), recipe, axis=axis)
        exact = a.numpy().astype(np.float64) @ w.numpy().astype(np.float64)
        error = np.linalg.norm(breccia.matmul(a, w) - exact) / np.linalg.norm(exact)
        assert error < 1e-6, axis


@pytest.mark.parametrize(("k", "n"), [(256, 128), (256, 64), (576, 128), (576, 576)])
def test_the_snippet_of_the_readme_at_several_sizes(k: int, n: int) -> None:
    a, b = RNG.standard_normal((16, k)).astype(np.float32), RNG.standard_normal((k, n)).astype(np.float32)
    A = breccia.cast(a, breccia.Float8CurrentScaling())
    W = breccia.cast(b, breccia.Float8BlockScaling(block_k=128))
    y = breccia.matmul(A, W)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert (y * exact).sum() / np.linalg.norm(y) / np.linalg.norm(exact) >= 0.999
    np.testing.assert_allclose(y, A.numpy() @ W.numpy(), rtol=1e-4, atol=1e-3)
    assert breccia.cast(a, breccia.Float8BlockScaling(block_k=128)).shape == (16, k)


def test_blocks_along_n_are_right_where_k_equals_n() -> None:
    b = RNG.standard_normal((256, 256)).astype(np.float32) * np.logspace(-3, 3, 256, dtype=np.float32)
    w = breccia.cast(b, breccia.Float8BlockScaling(block_k=128))
    exact = X[:, :1].repeat(256, 1).astype(np.float64) @ w.numpy().astype(np.float64)
    y = breccia.matmul(X[:, :1].repeat(256, 1), w)
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, bf16, np.float16, "float16"])
def test_out_dtype_is_honoured(dtype: Any) -> None:
    y = breccia.matmul(X, Y.T, dtype)
    assert y.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(y.view(np.uint8), breccia.matmul(X, Y.T).astype(dtype).view(np.uint8))


def test_matmul_takes_what_0_1_took() -> None:
    w = breccia.cast(np.eye(64, dtype=np.float32), recipes.float8_tensor, axis=0)
    for x in (X.astype(np.float64), X.astype(int), X > 0, X.tolist(), X.T[::-1].T):
        np.testing.assert_allclose(breccia.matmul(x, w), np.asarray(x, np.float32), rtol=1e-6)


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "k": (lambda: breccia.matmul(X, Y), ShapeError, "shape mismatch: a is .*64.* and b is .*6, 64"),
    "scaled k": (
        lambda: breccia.matmul(breccia.cast(X, recipes.mxfp4), breccia.cast(Y, recipes.mxfp4)),
        ShapeError, "shape mismatch",
    ),
    "vector b": (lambda: breccia.matmul(X, V), ShapeError, r"shape mismatch: .* reshape a vector to \(1, K\)"),
    "vector a": (lambda: breccia.matmul(V, X.T), ShapeError, "both need two axes"),
    "batch": (
        lambda: breccia.matmul(np.ones((2, 3, 4), np.float32), np.ones((3, 4, 5), np.float32)),
        ShapeError, "batch axes",
    ),
    "fnuz": (
        lambda: breccia.matmul(
            breccia.cast(X, recipes.float8_tensor), breccia.cast(Y.T.copy(), recipes.float8_e4m3fnuz_tensor, axis=0)
        ), DTypeError, "float8_e4m3fn and float8_e4m3fnuz; fn and fnuz are different families",
    ),
    "out_dtype": (lambda: breccia.matmul(X, Y.T, np.int8), DTypeError, "out_dtype int8 is no float"),
    "no dtype": (lambda: breccia.matmul(X, Y.T, "floaty"), DTypeError, "'floaty' is no dtype"),
    "complex": (lambda: breccia.exp(np.ones(2, complex)), DTypeError, "complex128 cannot be compiled"),
    "scaled": (lambda: breccia.silu(breccia.cast(X, recipes.mxfp4)), DTypeError, r"\.dequantize\(\) first"),
    "dequantize": (lambda: breccia.dequantize(X), DTypeError, "takes a ScaledTensor, not ndarray"),
    "requantize": (lambda: breccia.requantize(X, recipes.mxfp4), DTypeError, "takes a ScaledTensor"),
    "recipe": (lambda: breccia.cast(X, "mxfp8"), DTypeError, "unsupported recipe: str"),
    "recipe class": (lambda: breccia.cast(X, breccia.Float8CurrentScaling), DTypeError, "unsupported recipe"),
    "rank 0": (lambda: breccia.cast(np.float32(1), recipes.mxfp4), ShapeError, "rank 0"),
    "static": (
        lambda: breccia.cast(X, recipes.float8_tensor.with_policy(amax="static")), RecipeError, "pass scale=",
    ),
    "approximate": (lambda: breccia.gelu(X, "fast"), DTypeError, "allowed: 'none', 'tanh'"),
    "clip": (lambda: breccia.cast_ste_clipped(X, recipes.mxfp4, 2, 1), ShapeError, "clip_min 2 is above clip_max 1"),
    "axis": (lambda: breccia.sum(X, axis=5), ShapeError, "axis 5 is out of range"),
    "reshape": (lambda: breccia.reshape(X, (5, 5)), ShapeError, "cannot reshape"),
    "transpose": (lambda: breccia.transpose(X, (0, 0)), ShapeError, "axes"),
    "broadcast": (lambda: breccia.broadcast_to(X, (3, 3)), ShapeError, "broadcast"),
    "concat": (lambda: breccia.concat([X, V]), ShapeError, "concat"),
    "offsets": (
        lambda: breccia.grouped_matmul(X, np.ones((2, 64, 3), np.float32), np.array([0, 6])), ShapeError, "3 offsets",
    ),
    "counts": (
        lambda: breccia.grouped_matmul(X[None], np.ones((2, 64, 3), np.float32), np.array([0, 6])), ShapeError,
        r"x \[E, M, K\], w \[E, K, N\], counts \[E\]",
    ),
    "counts' dtype": (
        lambda: breccia.grouped_matmul(X[None], np.ones((1, 64, 3), np.float32), np.ones(1, np.float32)), DTypeError,
        "counts are .*; allowed: int32, int64",
    ),
    "where": (lambda: breccia.where(X > 0, X, np.ones((2, 64), np.float32)), ShapeError, "shape mismatch"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_says_what_is_wrong(name: str) -> None:
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_arrays_of_other_libraries_say_so() -> None:
    class Tensor:
        dtype, shape, ndim = "float32", (2,), 1

    Tensor.__module__ = "cupy"
    with pytest.raises(DTypeError, match="allowed: arrays of numpy, torch, jax, mlx"):
        breccia.exp(Tensor())


def test_grouped_matmul() -> None:
    w = RNG.standard_normal((3, 64, 8), np.float32)
    offsets = np.array([0, 2, 2, 5])
    expected = np.zeros((6, 8), np.float32)
    expected[:2], expected[2:5] = X[:2] @ w[0], X[2:5] @ w[2]
    np.testing.assert_allclose(breccia.grouped_matmul(X, w, offsets), expected, rtol=1e-5, atol=1e-5)
    traced = breccia.compile(breccia.grouped_matmul)(X, w, offsets.astype(np.int32))
    np.testing.assert_array_equal(traced, breccia.grouped_matmul(X, w, offsets))


def test_grouped_matmul_of_turned_weights() -> None:
    w, offsets = RNG.standard_normal((3, 8, 64), np.float32), np.array([0, 2, 2, 5])
    turned = breccia.cast(w, recipes.float8_row)
    run: Any = functions._run
    found = run(functions._SCALED, "grouped_matmul_transposed", (X, turned, offsets), out_dtype="float32")
    np.testing.assert_array_equal(found, breccia.grouped_matmul(X, turned.transpose(0, 2, 1), offsets))


def test_grouped_matmul_of_counted_rows() -> None:
    x, w, counts = RNG.standard_normal((3, 5, 64), np.float32), RNG.standard_normal((3, 64, 8), np.float32), [5, 0, 2]
    expected = np.zeros((3, 5, 8), np.float32)
    for e, count in enumerate(counts):
        expected[e, :count] = x[e, :count] @ w[e]
    for dtype in (np.int32, np.int64):
        found = breccia.grouped_matmul(x, w, np.array(counts, dtype))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def layer(x: Any, w: Any, counts: Any) -> Any:
        q = breccia.cast(x, recipes.float8_1x128)
        return breccia.silu(breccia.grouped_matmul(q, w, counts, out_dtype=np.float16))

    decoded = breccia.cast(x, recipes.float8_1x128).dequantize(np.float32)
    rows = np.stack([decoded[e] @ w[e] * (np.arange(5) < counts[e])[:, None] for e in range(3)])
    found = breccia.compile(layer)(x, w, np.array(counts))
    np.testing.assert_allclose(found.astype(np.float32), rows / (1 + np.exp(-rows)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", list(recipes.all_recipes()))
def test_cast_requantize_and_round_trips_agree_when_traced(name: str) -> None:
    recipe, other = recipes.find(name), recipes.mxfp8_e4m3
    eager = breccia.cast(X, recipe)

    def fn(x: Any) -> Any:
        q = breccia.cast(x, recipe)
        return breccia.dequantize(q), breccia.requantize(q, other), breccia.cast_ste(x, recipe)

    decoded, again, ste = breccia.compile(fn)(X)
    np.testing.assert_array_equal(decoded, eager.dequantize())
    np.testing.assert_array_equal(decoded, breccia.dequantize(eager))
    assert again == breccia.requantize(eager, other)
    np.testing.assert_array_equal(ste, breccia.cast_ste(X, recipe))
    np.testing.assert_array_equal(ste, decoded)


def test_cast_ste_keeps_the_dtype_and_clipping_changes_no_value() -> None:
    x = X.astype(bf16)
    out = breccia.cast_ste(x, recipes.mxfp8_e4m3)
    assert out.dtype == bf16
    clipped = breccia.cast_ste_clipped(x, recipes.mxfp8_e4m3, -0.5, 0.5)
    np.testing.assert_array_equal(out.view(np.uint16), clipped.view(np.uint16))
    assert breccia.cast_ste(np.arange(64).reshape(1, 64), recipes.mxfp8_e4m3).dtype == np.float32


def test_known_scales_and_seeds() -> None:
    static = recipes.float8_tensor.with_policy(amax="static")
    seeded = recipes.float8_tensor.with_policy(rounding="stochastic")
    scale = np.float32(0.25)
    assert breccia.compile(lambda x, s: breccia.cast(x, static, scale=s))(X, scale) == breccia.cast(
        X, static, scale=scale
    )
    outer = breccia.cast(X, recipes.nvfp4).scales[0] * 2
    for given in (outer, outer.reshape(())):
        assert breccia.compile(lambda x, s: breccia.cast(x, recipes.nvfp4, scale=(s, None)))(X, given) == breccia.cast(
            X, recipes.nvfp4, scale=(outer, None)
        )
    for seed in (1, 2):
        eager = breccia.cast(X, seeded, seed=seed)
        assert breccia.compile(lambda x, s: breccia.cast(x, seeded, seed=s))(X, np.asarray(seed)) == eager
        assert breccia.compile(lambda x, s: breccia.cast(x, seeded, seed=s))(X, seed) == eager
    assert breccia.cast(X, seeded, seed=1) != breccia.cast(X, seeded, seed=2)


def test_views_of_scaled_tensors() -> None:
    st = breccia.cast(X, recipes.mxfp8_e4m3)
    assert breccia.transpose(st) == st.T
    assert breccia.reshape(st, (2, 3, 64)) == st.reshape(2, 3, 64)
    assert breccia.concat([st, st]).shape == (12, 64)
    f = breccia.compile(lambda x: breccia.concat([breccia.cast(x, recipes.mxfp8_e4m3)] * 2))
    assert f(X) == breccia.concat([st, st])


def test_python_numbers_do_not_widen_and_do_not_compile_again() -> None:
    from breccia.functions import _program

    x = X.astype(bf16)
    assert breccia.maximum(x, 0.5).dtype == bf16
    assert breccia.where(X > 0, x, 0.0).dtype == bf16
    program = _program("breccia.frontend.elementwise", "binary", ("max",), ())
    before = len(program._programs)
    for limit in (0.1, 0.2, 0.3):
        breccia.maximum(x, limit)
    assert len(program._programs) == before
