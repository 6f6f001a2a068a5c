"""Functions written with jax.numpy, jax.nn and jax.lax: traced, compiled, and against JAX itself."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.errors import BrecciaError, TraceError
from breccia.frontend.build import trace
from breccia.ir.printer import print_module

pytestmark = pytest.mark.filterwarnings("ignore::breccia.frontend.compile.FallbackWarning")  # sizes as numbers

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
lax, nn = jax.lax, jax.nn

RNG = np.random.default_rng(0)


def array(*shape: int) -> Any:
    return jnp.asarray(RNG.standard_normal(shape, dtype=np.float32))


X, Y, W, B = array(6, 8), array(6, 8), array(5, 8), array(5)
Z = RNG.standard_normal((6, 8), dtype=np.float32)


def text(fn: Any, *args: Any) -> str:
    return print_module(trace(fn, args, {}).module)


ELEMENTWISE = {
    "arithmetic": lambda x, y: jnp.add(x, y) * 2 - jnp.multiply(x, y) / (jnp.abs(y) + 1) + jnp.subtract(1.5, x),
    "operators": lambda x, y: (
        (jnp.asarray(x) + y) * 2 - 1 / (1 + abs(jnp.asarray(y))) + x * jnp.asarray(y) - -jnp.tanh(x)
    ),
    "powers": lambda x, y: jnp.power(x, 2) + jnp.asarray(x) ** 3 + jnp.square(y) + jnp.abs(x) ** 0.5 + 2 ** jnp.abs(y),
    "negative powers": lambda x, y: (jnp.abs(x) + 1) ** -2 + jnp.reciprocal(jnp.abs(y) + 1) + lax.integer_pow(x, 5),
    "exp": lambda x, y: jnp.exp(x) + jnp.log(jnp.abs(y) + 1) + jnp.exp2(y) + lax.exp(x),
    "roots": lambda x, y: jnp.sqrt(jnp.abs(x)) + lax.rsqrt(jnp.abs(y) + 1),
    "trigonometry": lambda x, y: jnp.sin(x) + jnp.cos(y) + jnp.tanh(x) + lax.erf(y) + lax.erfc(x),
    "signs": lambda x, y: jnp.negative(x) + jnp.sign(y) + jnp.positive(x) + lax.neg(y),
    "rounding": lambda x, y: jnp.floor(x) + jnp.ceil(y),
    "limits": lambda x, y: jnp.clip(x, -1, 1) + jnp.maximum(y, 0) + jnp.minimum(x, y) + lax.clamp(-1.0, y, 0.5),
    "comparisons": lambda x, y: (
        jnp.where((x > y) & (jnp.less_equal(x, 1)) | jnp.equal(x, y), x, y) + jnp.where(~(x < 0), 1.0, y)
    ),
    "logic": lambda x, y: (
        jnp.logical_and(x > 0, y > 0).astype(jnp.float32) + jnp.logical_or(x > 0, ~(y > 0)).astype("float32")
    ),
    "numbers": lambda x, y: jnp.where(x > 0, 1.0, -1.0) + jnp.where(jnp.isnan(x), 0, 2) + jnp.where(True, x, y),
    "finite": lambda x, y: jnp.where(jnp.isfinite(x / (y > 0)), x, 0.0) + jnp.isinf(x / 0),
    "activations": lambda x, y: nn.silu(x) + nn.relu(y) + nn.gelu(x) + nn.gelu(y, approximate=False) + nn.sigmoid(x),
    "more activations": lambda x, y: (
        nn.swish(x) + nn.leaky_relu(y, 0.2) + nn.relu6(3 * x) + nn.hard_tanh(y) + nn.tanh(x)
    ),
    "glu": lambda x, y: nn.glu(x) + y[:, :4],
    "stopped": lambda x, y: lax.stop_gradient(x) + jnp.copy(y),
    "constants": lambda x, y: x + jnp.arange(8) + jnp.ones((6, 1)) * jnp.linspace(0, 1, 8) + jnp.asarray(np.float32(2)),
    "likes": lambda x, y: jnp.zeros_like(x) + jnp.ones_like(y) * jnp.full_like(x, 3) + jnp.full((8,), 2.0),
    "bias": lambda x, y: jnp.asarray(x) + B[0] + Y[0] + y[:, :1],
}
REDUCTIONS = {
    "sums": lambda x, y: jnp.sum(x, axis=1) + y.sum(-1) + jnp.mean(x, 1) + jnp.asarray(y).mean(axis=(1,)),
    "whole": lambda x, y: jnp.sum(x) + jnp.mean(y) + jnp.max(x) + jnp.min(y),
    "keepdims": lambda x, y: (
        x - jnp.mean(x, -1, keepdims=True) + jnp.sum(y, 0, keepdims=True) + jnp.max(x, 1, keepdims=True)
    ),
    "variance": lambda x, y: jnp.var(x, axis=1) + jnp.std(y, axis=1) + jnp.var(x, axis=-1, ddof=1),
    "softmax": lambda x, y: nn.softmax(x, axis=-1) + nn.softmax(y, axis=0) + nn.log_softmax(x),
    "logsumexp": lambda x, y: nn.logsumexp(x, axis=-1, keepdims=True) + nn.standardize(y),
    "norm": lambda x, y: (
        x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) + y / jnp.linalg.norm(y, axis=-1, keepdims=True)
    ),
}
SHAPES = {
    "reshape": lambda x, y: jnp.reshape(x, (2, 3, 8)) + jnp.asarray(y).reshape(2, -1, 8) + lax.reshape(x, (2, 3, 8)),
    "transposes": lambda x, y: jnp.transpose(x) + jnp.swapaxes(y, 0, 1) + jnp.asarray(x).T + jnp.matrix_transpose(y),
    "moves": lambda x, y: jnp.moveaxis(x.reshape(6, 2, 4), 0, -1) + jnp.permute_dims(y.reshape(6, 2, 4), (1, 2, 0)),
    "ones": lambda x, y: jnp.squeeze(jnp.expand_dims(x, (0, 2))) + jnp.asarray(y)[:, None].squeeze(1) + x[None][0],
    "flatten": lambda x, y: jnp.ravel(x) + jnp.asarray(y).flatten(),
    "broadcast": lambda x, y: jnp.broadcast_to(x[:, None], (6, 3, 8)) * 2 + jnp.broadcast_to(y[0], (6, 3, 8)),
    "repeat": lambda x, y: (
        jnp.repeat(x, 2, axis=1) + jnp.tile(y, (1, 2)) + jnp.repeat(y[:, None], 2, axis=1).reshape(6, 16)
    ),
    "joining": lambda x, y: jnp.concatenate([x, y, X], axis=1) + jnp.hstack((y, y, x)),
    "stacking": lambda x, y: jnp.stack([x, y], axis=1) + jnp.stack((y, X), 1),
    "splitting": lambda x, y: jnp.split(x, 2, axis=1)[1] + jnp.split(y, [4], axis=-1)[0] + jnp.array_split(x, 2, 1)[0],
    "slices": lambda x, y: jnp.asarray(x)[1:4, 2:5] + jnp.asarray(y)[..., -3:][:3] + jnp.asarray(x)[2, :3] + y[:3, 1:2],
    "dynamic": lambda x, y: lax.dynamic_slice_in_dim(x, 2, 3, axis=1) + lax.slice_in_dim(y, 5, 8, axis=1),
    "roll": lambda x, y: jnp.roll(x, 3, 1) + jnp.roll(y, -2, 0),
    "pad": lambda x, y: jnp.pad(x, ((1, 0), (1, 2))) + lax.pad(y, 3.0, ((0, 1, 0), (2, 1, 0))),
    "triangles": lambda x, y: jnp.tril(x) + jnp.triu(y, 1) + jnp.tril(x @ y.T, -1) @ y,
    "sizes": lambda x, y: x * x.shape[1] + jnp.asarray(y) / jnp.asarray(x).shape[-1] + jnp.ndim(x) + jnp.size(y),
    "one_hot": lambda x, y: nn.one_hot(jnp.floor(x[:, 0]).astype(jnp.int32), 8) + y,
}
PRODUCTS = {
    "matmul": lambda x, y: (
        jnp.matmul(x, y.T) + jnp.asarray(x) @ jnp.swapaxes(y, 0, 1) + jnp.dot(X, jnp.transpose(y)) + x @ Y.T
    ),
    "batched": lambda x, y: (
        jnp.asarray(x).reshape(2, 3, 8) @ y.reshape(2, 8, 3) + jnp.matmul(x.reshape(2, 3, 8), y.reshape(2, 8, 3))
    ),
    "vectors": lambda x, y: jnp.matmul(x, y[0]) + jnp.dot(x, jnp.asarray(y)[1]) + jnp.vdot(x[0], y[1]),
    "einsum": lambda x, y: jnp.einsum("ij,kj->ik", x, y) + jnp.einsum("ij,kj", x, y),
    "heads": lambda x, y: jnp.einsum("bhd,hde->bhe", x.reshape(3, 2, 8), y[:4].reshape(2, 8, 2)),
    "dots": lambda x, y: jnp.einsum("...d,ed->...e", x.reshape(2, 3, 8), W) + B,
    "general": lambda x, y: (
        lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,)))) + jnp.inner(x[0], y[0]) + jnp.tensordot(x, y, 2)
    ),
    "outer": lambda x, y: jnp.outer(x[0], y[1]) + jnp.einsum("i,j->ij", x[0], y[1]),
    "wide": lambda x, y: jnp.matmul(
        x.astype(jnp.bfloat16), y.T.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    ),
}
TRANSFORMS = {
    "jit": lambda x, y: jax.jit(lambda a, b: nn.silu(a) * b + Y)(x, y),
    "vmap": lambda x, y: jax.vmap(lambda a, b: a * b + jnp.sum(a))(x, y),
    "grad": lambda x, y: jax.grad(lambda a: jnp.sum(jnp.tanh(a) * y))(x),
    "closure": lambda x, y: jax.jit(lambda a: a + x)(y),
    "tree": lambda x, y: sum(jax.tree.map(lambda a: a * 2, {"a": x, "b": [y]})["b"]),
    "attention": lambda x, y: nn.dot_product_attention(
        *(a.reshape(1, 6, n, -1) for a, n in ((x, 4), (y[:, :4], 2), (y[:, 4:], 2))), is_causal=True
    ),
    "checkpoint": lambda x, y: jax.checkpoint(lambda a: jnp.sin(a) * y)(x),
}
CASES = {**ELEMENTWISE, **REDUCTIONS, **SHAPES, **PRODUCTS, **TRANSFORMS}


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_function_gives_what_jax_gives(name: str) -> None:
    fn = CASES[name]
    found, expected = breccia.compile(fn)(X, Y), fn(X, Y)
    assert isinstance(found, jax.Array)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["arithmetic", "activations", "softmax", "variance", "comparisons", "numbers", "whole"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_are_those_of_jax(name: str, dtype: str) -> None:
    fn = CASES[name]
    x, y = X.astype(dtype), Y.astype(dtype)
    found, expected = breccia.compile(fn)(x, y), fn(x, y)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), rtol=2e-2, atol=4e-2)


@pytest.mark.parametrize("name", ["arithmetic", "comparisons", "softmax", "splitting", "einsum", "triangles"])
def test_jax_functions_work_on_numpy_arguments(name: str) -> None:
    found = breccia.compile(CASES[name])(np.asarray(X), np.asarray(Y))
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, CASES[name](X, Y), rtol=1e-5, atol=1e-5)


def test_results_of_jax_meet_those_of_numpy_and_breccia() -> None:
    def fn(x: Any, y: Any) -> Any:
        h = breccia.silu(jnp.exp(x)) + np.tanh(y) * jnp.asarray(y) + np.multiply(Z, np.abs(jnp.sin(y))) - Z * jnp.sin(x)
        g = jnp.concatenate([h, breccia.softmax(nn.relu(x))], axis=1)
        return {"a": jnp.asarray(y), "b": (np.maximum(h, 0), [breccia.concat([jnp.sin(g), g])])}

    found = breccia.compile(fn)(X, Y)
    h = nn.silu(jnp.exp(X)) + jnp.tanh(Y) * Y + Z * jnp.abs(jnp.sin(Y)) - Z * jnp.sin(X)
    g = jnp.concatenate([h, nn.softmax(nn.relu(X))], axis=1)
    np.testing.assert_array_equal(found["a"], Y)
    np.testing.assert_allclose(found["b"][0], jnp.maximum(h, 0), rtol=1e-5)
    np.testing.assert_allclose(found["b"][1][0], jnp.concatenate([jnp.sin(g), g]), rtol=1e-5, atol=1e-6)


def test_casts_and_compiled_functions_take_what_jax_gives() -> None:
    inner = breccia.compile(lambda x: breccia.cast(x, recipes.mxfp8_e4m3).dequantize() + 1)

    def fn(x: Any) -> Any:
        h = jnp.tile(nn.relu(x), (1, 8))
        return breccia.cast(h, recipes.mxfp4), inner(h), breccia.cast_ste(h, recipes.mxfp4)

    scaled, decoded, through = breccia.compile(fn)(X)
    h = jnp.tile(nn.relu(X), (1, 8))
    np.testing.assert_array_equal(scaled.data, breccia.cast(h, recipes.mxfp4).data)
    np.testing.assert_array_equal(decoded, breccia.cast(h, recipes.mxfp8_e4m3).dequantize() + 1)
    np.testing.assert_array_equal(through, breccia.cast_ste(h, recipes.mxfp4))


def test_scaled_weights_meet_what_jax_gives() -> None:
    weight = breccia.cast(array(64, 32), recipes.mxfp8_e4m3, axis=0)
    x, decoded = array(3, 64), weight.dequantize()
    expected = nn.silu(x) @ decoded
    captured = breccia.compile(lambda x: nn.silu(x) @ weight)(x)
    given = breccia.compile(lambda x, w: nn.silu(x) @ w + breccia.matmul(nn.silu(x), w))(x, weight)
    turned = breccia.compile(lambda x, w: (w.T @ jnp.transpose(nn.silu(x))).T)(x, weight)
    for found, wanted in ((captured, expected), (given, 2 * expected), (turned, expected)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_sizes_are_numbers_only_where_jax_is_used() -> None:
    assert "<[6, 8], f32>" in text(lambda x: jnp.exp(x), X)
    assert "<[M, 8], f32>" in text(lambda x: np.exp(x), X)
    fn = breccia.compile(lambda x: nn.softmax(x @ W.T))
    for rows in (6, 3, 1):
        np.testing.assert_allclose(fn(X[:rows]), nn.softmax(X[:rows] @ W.T), rtol=1e-5, atol=1e-6)


def test_a_function_is_differentiated_and_jitted_from_outside() -> None:
    def fn(x: Any) -> Any:
        return jnp.sum(nn.silu(x @ W.T) * B)

    compiled = breccia.compile(fn)
    np.testing.assert_allclose(jax.grad(compiled)(X), jax.grad(fn)(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(compiled)(X), fn(X), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(compiled))(X), jax.grad(fn)(X), rtol=1e-4, atol=1e-5)


def test_tracing_leaves_no_trace_in_jax() -> None:
    with pytest.raises(TraceError):
        breccia.compile(lambda x: jnp.sort(x))(X)
    breccia.compile(lambda x: jnp.exp(x))(X)
    assert jax.jit(lambda x: x + 1)(X).shape == (6, 8)
    assert type(jnp.ones(2) + 1) is type(X)


# -- quality of the IR -------------------------------------------------------------------------------------------------


def ops(fn: Any, *args: Any) -> list[str]:
    """What is computed, without reshapes that lead nowhere and without what is for derivatives alone."""
    lines = [line.strip().partition(" = ") for line in text(fn, *args).splitlines() if " = breccia." in line]
    dead = [name for name, _, rest in lines if rest.startswith("breccia.reshape")]
    named = [(n, r) for n, _, r in lines if n not in dead and "stop_gradient" not in r]
    return [r.split(" %")[0] for _, r in named]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: breccia.silu(x), lambda x: nn.silu(x)),
        (lambda x: breccia.relu(x), lambda x: nn.relu(x)),
        (lambda x: breccia.sigmoid(x), lambda x: nn.sigmoid(x)),
        (lambda x: breccia.softmax(x), lambda x: nn.softmax(x)),
        (lambda x: x @ W.T, lambda x: jnp.matmul(x, W.T)),
        (lambda x: np.mean(x, -1, keepdims=True) * 2, lambda x: jnp.mean(x, -1, keepdims=True) * 2),
        (lambda x: x * np.exp(x) + Y[0], lambda x: jnp.asarray(x) * jnp.exp(x) + Y[0]),
    ],
)
def test_the_ir_is_that_of_breccias_functions(ours: Any, theirs: Any) -> None:
    assert ops(theirs, X) == ops(ours, X)


def test_einsum_over_a_last_axis_is_one_product() -> None:
    found = text(lambda x: jnp.einsum("btd,df->btf", x, W.T), X.reshape(2, 3, 8))
    assert found.count("breccia.matmul") == 1
    assert "reshape" not in found
    assert "transpose" not in found


def test_a_triangle_is_made_of_counters_not_of_a_constant() -> None:
    found = text(lambda x: jnp.where(jnp.tril(jnp.asarray(x) > -9), x, -jnp.inf), X)
    assert found.count("breccia.iota") == 2
    assert "constant" not in found


def test_attention_and_layers_make_the_kernels_that_numpy_makes() -> None:
    def numpys(x: Any, w: Any, g: Any, q: Any) -> Any:
        h = breccia.silu(breccia.rms_norm(x, g, 2**-20) @ w)
        return h, breccia.matmul(breccia.softmax(breccia.matmul(q, np.swapaxes(q, -1, -2)) * 0.25), q)

    def jaxs(x: Any, w: Any, g: Any, q: Any) -> Any:
        h = nn.silu((x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 2**-20) * g) @ w)
        weights = nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", q, q) * 0.25)
        return h, jnp.einsum("bhqk,bhkd->bhqd", weights, q)

    args = array(4, 64), breccia.cast(array(64, 32), recipes.mxfp8_e4m3, axis=0), array(64), array(2, 4, 6, 16)
    forms = [breccia.compile(fn, name="block", dynamic=False).lower(*args).ir("partitioned") for fn in (numpys, jaxs)]
    steps = [
        [line.split("=", 1)[-1].split("%")[0].strip() for line in form.splitlines() if " = " in line] for form in forms
    ]
    assert steps[0] == [step for step in steps[1] if step != "unary stop_gradient"]


# -- whole blocks ------------------------------------------------------------------------------------------------------


def rms_norm(x: Any, weight: Any) -> Any:
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * weight


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate((-second, first), axis=-1) * sin


def block(x: Any, p: dict[str, Any], cos: Any, sin: Any, heads: int = 4, groups: int = 2) -> Any:
    """Pre-norm, rotary, grouped queries, SwiGLU; written as for JAX, weights [in, out]."""
    batch, length, width = x.shape
    h = rms_norm(x, p["norm1"])
    q = (h @ p["q"]).reshape(batch, length, heads, -1).swapaxes(1, 2)
    k = (h @ p["k"]).reshape(batch, length, groups, -1).swapaxes(1, 2)
    v = (h @ p["v"]).reshape(batch, length, groups, -1).swapaxes(1, 2)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k, v = (jnp.repeat(t, heads // groups, axis=1) for t in (k, v))
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    a = jnp.einsum("bhqk,bhkd->bhqd", nn.softmax(scores, axis=-1), v)
    x = x + a.swapaxes(1, 2).reshape(batch, length, width) @ p["o"]
    h = rms_norm(x, p["norm2"])
    return x + (nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]


WIDTH, LENGTH, HEAD = 128, 10, 32
SIZES = {"q": 128, "k": 64, "v": 64, "o": 128, "gate": 256, "up": 256}


def parameters() -> tuple[dict[str, Any], Any, Any]:
    weights = {name: array(WIDTH, size) / WIDTH**0.5 for name, size in SIZES.items()}
    weights["down"] = array(256, WIDTH) / 16
    norms = {name: jnp.abs(array(WIDTH)) + 0.5 for name in ("norm1", "norm2")}
    angle = np.arange(LENGTH)[:, None] * 100.0 ** (-np.arange(HEAD // 2) / (HEAD // 2))[None]
    cos, sin = (jnp.asarray(np.tile(f(angle), (1, 2)), jnp.float32) for f in (np.cos, np.sin))
    return {**weights, **norms}, cos, sin


def test_a_transformer_block() -> None:
    p, cos, sin = parameters()
    x = array(2, LENGTH, WIDTH)
    np.testing.assert_allclose(breccia.compile(block)(x, p, cos, sin), block(x, p, cos, sin), rtol=2e-5, atol=5e-5)


def test_a_transformer_block_with_scaled_weights() -> None:
    p, cos, sin = parameters()
    names = (*SIZES, "down")
    scaled = {name: breccia.cast(p[name], recipes.mxfp8_e4m3, axis=0) if name in names else p[name] for name in p}
    decoded = {name: w.dequantize() if name in names else w for name, w in scaled.items()}
    x = array(2, LENGTH, WIDTH)
    compiled = breccia.compile(block)
    np.testing.assert_allclose(compiled(x, scaled, cos, sin), block(x, decoded, cos, sin), rtol=2e-5, atol=5e-5)
    ir = compiled.lower(x, scaled, cos, sin).ir("traced")
    assert ir.count("breccia.matmul") == 9
    assert ir.count("breccia.unary silu") == 1


# -- what cannot be traced ---------------------------------------------------------------------------------------------


@jax.custom_jvp
def own_rule(x: Any) -> Any:
    return jnp.sin(x)


own_rule.defjvp(lambda primals, tangents: (own_rule(*primals), tangents[0]))

UNTRACEABLE: dict[str, tuple[Any, type[BrecciaError], str]] = {
    "unknown": (lambda x: jnp.tan(x), TraceError, "jax's tan cannot be traced; call the function outside"),
    "sort": (lambda x: jnp.sort(x), TraceError, "sort cannot be traced; sort before or after"),
    "gather": (lambda x: jnp.asarray(x)[jnp.array([0, 2])], TraceError, "gather cannot be traced; index with slices"),
    "scan": (lambda x: jnp.cumsum(x), TraceError, "cumsum cannot be traced; multiply by a triangle"),
    "loop": (
        lambda x: lax.fori_loop(0, 3, lambda i, a: a * 2, x),
        TraceError,
        "cannot be traced; write the loop in Python",
    ),
    "cond": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), TraceError, "use jnp.where"),
    "step": (lambda x: jnp.asarray(x)[:, ::2], TraceError, r"a slice of steps \(1, 2\)"),
    "scaled": (
        lambda x: nn.silu(breccia.cast(x, recipes.mxfp4)),
        TraceError,
        "take plain arrays, not .* breccia.matmul",
    ),
    "integers": (
        lambda x: jnp.matmul(x.astype(jnp.int32), jnp.asarray(x).astype(jnp.int32).T),
        TraceError,
        "only floats",
    ),
    "bitwise": (lambda x: jnp.bitwise_and(x.astype(np.int32), 3), TraceError, "bitwise and of int32"),
    "integer division": (lambda x: lax.div(x.astype(np.int32), 2), TraceError, "drops the rest"),
    "derivative": (lambda x: own_rule(x), TraceError, "own rule for derivatives .*own_rule.* would lose the rule"),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_says_where_and_what_instead(name: str) -> None:
    fn, error, message = UNTRACEABLE[name]
    with pytest.raises(error, match=f"(?s){message}") as caught:
        trace(fn, (X,), {})
    assert f"{__file__}:" in str(caught.value)


VALUES: dict[str, tuple[Any, str]] = {
    "branch": (lambda x: x if jnp.sum(x) > 0 else -x, r"a branch .* breccia\.where"),
    "float": (lambda x: float(jnp.sum(x)), r"float\(\) needs the values"),
    "int": (lambda x: int(jnp.sum(x)), r"int\(\) needs the values"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_not_known_while_tracing(name: str) -> None:
    fn, message = VALUES[name]
    with pytest.raises(TraceError, match=f"(?s){message}") as caught:
        trace(fn, (X,), {})
    assert f"{__file__}:" in str(caught.value)
    for use in (np.asarray, lambda x: [1, 2][x]):
        with pytest.raises(TypeError):
            trace(lambda x, use=use: use(jnp.sum(x)), (X,), {})


def test_arrays_that_jax_traces_are_passed_as_arguments() -> None:
    def outer(y: Any) -> Any:
        return breccia.compile(lambda x: jnp.exp(x) + jnp.sin(y))(X)

    with pytest.raises(TraceError, match="pass it as an argument"):
        jax.jit(outer)(Y)
