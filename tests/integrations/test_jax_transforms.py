"""JAX's transformations of functions that cast, decode and multiply."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import GradientError, UnsupportedError  # noqa: E402

RECIPES = ["float8_tensor", "float8_128x128", "mxfp8_e4m3", "nvfp4", "int4_g128_f32", "uint4_g128_f16", "mxfp6_e2m3"]


def find(name):
    return breccia.all_recipes()[name]


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((8, 256)), jnp.float32)


@pytest.mark.parametrize("name", RECIPES)
def test_jit_takes_and_gives_scaled_tensors(name, x):
    recipe = find(name)
    st = jax.jit(lambda v: breccia.cast(v, recipe))(x)
    assert st == breccia.cast(np.asarray(x), recipe)
    back = jax.jit(lambda s: s.dequantize())(st)
    assert np.array_equal(back, breccia.cast(np.asarray(x), recipe).dequantize())


def test_jit_slices_transposes_and_requantizes(x):
    @jax.jit
    def f(v):
        st = breccia.cast(v, recipes.mxfp8_e4m3)
        return st[:, 64:128], st.T, breccia.requantize(st, recipes.nvfp4), st.reshape(2, 4, 256)

    reference = breccia.cast(np.asarray(x), recipes.mxfp8_e4m3)
    expected = (
        reference[:, 64:128],
        reference.T,
        breccia.requantize(reference, recipes.nvfp4),
        reference.reshape(2, 4, 256),
    )
    for got, want in zip(f(x), expected, strict=True):
        assert got == want


def test_jit_multiplies_what_it_was_given(x):
    w = breccia.cast(jnp.ones((256, 16)), recipes.mxfp8_e4m3, axis=0)
    f = jax.jit(lambda v, s: breccia.matmul(v, s))
    np.testing.assert_allclose(f(x, w), np.asarray(x).sum(1, keepdims=True) * np.ones((1, 16)), rtol=1e-4, atol=1e-4)


def test_a_compiled_function_runs_inside_jit(x):
    @breccia.compile
    def layer(v, w):
        return breccia.silu(breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), w))

    w = breccia.cast(jnp.asarray(np.random.default_rng(1).standard_normal((256, 16)), jnp.float32), recipes.nvfp4, axis=0)
    np.testing.assert_allclose(jax.jit(layer)(x, w), layer(x, w), rtol=1e-5, atol=1e-5)


def test_vmap_casts_each_alone(x):
    stack = jnp.stack([x, 4 * x])
    each = jax.vmap(lambda v: breccia.cast(v, recipes.float8_tensor).dequantize())(stack)
    for i in range(2):
        assert np.array_equal(each[i], breccia.cast(np.asarray(stack[i]), recipes.float8_tensor).dequantize())


def test_vmap_gives_and_takes_components(x):
    stack = jnp.stack([x, 4 * x])
    many = jax.vmap(lambda v: breccia.cast(v, recipes.mxfp4))(stack)
    assert many.data.shape == (2, 8, 128)
    again = jax.vmap(lambda st: st.dequantize())(many)
    assert np.array_equal(again[1], breccia.cast(np.asarray(stack[1]), recipes.mxfp4).dequantize())


def test_grad_is_the_identity_through_cast_ste(x):
    def loss(v):
        return (breccia.cast_ste(v, recipes.nvfp4) ** 2).sum()

    value = breccia.cast_ste(x, recipes.nvfp4)
    np.testing.assert_array_equal(jax.grad(loss)(x), 2 * value)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), 2 * value)
    primal, tangent = jax.jvp(lambda v: breccia.cast_ste(v, recipes.nvfp4), (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(primal, value)
    np.testing.assert_array_equal(tangent, jnp.ones_like(x))
    np.testing.assert_array_equal(jax.grad(lambda v: jax.grad(loss)(v).sum())(x), 2 * jnp.ones_like(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_grad_keeps_the_dtype(x, dtype):
    gradient = jax.grad(lambda v: breccia.cast_ste(v, recipes.mxfp8_e4m3).astype(jnp.float32).sum())(x.astype(dtype))
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient.astype(jnp.float32), jnp.ones_like(x))


def test_grad_of_a_plain_cast_says_what_to_use(x):
    with pytest.raises(GradientError, match=r"breccia\.cast_ste"):
        jax.grad(lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize().sum())(x)


def test_grad_reaches_scales_and_plain_operands(x):
    st = breccia.cast(x, recipes.float8_1x128)

    def total(scale):
        return breccia.ScaledTensor(st.data, scale, recipes.float8_1x128).dequantize().sum()

    unit = breccia.ScaledTensor(st.data, jnp.ones_like(st.scale), recipes.float8_1x128).dequantize()
    np.testing.assert_allclose(jax.grad(total)(st.scale), unit.reshape(8, 2, 128).sum(-1), rtol=1e-5)
    w = breccia.cast(jnp.ones((256, 4)), recipes.mxfp8_e4m3, axis=0)
    np.testing.assert_allclose(jax.grad(lambda v: breccia.matmul(v, w).sum())(x), 4 * jnp.ones_like(x))


def test_scan_carries_scaled_tensors(x):
    start = breccia.cast(x, recipes.mxfp8_e4m3)

    def step(st, factor):
        st = breccia.cast(st.dequantize() * factor, recipes.mxfp8_e4m3)
        return st, st.scale

    last, scales = jax.lax.scan(step, start, jnp.asarray([2.0, 2.0, 0.5]))
    assert scales.shape == (3, 8, 8)
    assert last == breccia.cast(np.asarray(start.dequantize()) * 2, recipes.mxfp8_e4m3)


def test_remat_eval_shape_and_device_put(x):
    loss = jax.checkpoint(lambda v: breccia.cast_ste(v, recipes.mxfp4).sum())
    np.testing.assert_array_equal(jax.grad(loss)(x), jnp.ones_like(x))
    shaped = jax.eval_shape(lambda v: breccia.cast(v, recipes.mxfp4), x)
    assert shaped.data.shape == (8, 128)
    moved = jax.device_put(breccia.cast(x, recipes.mxfp4), jax.devices()[0])
    assert moved == breccia.cast(x, recipes.mxfp4)


def test_a_policy_that_looks_at_values_cannot_be_traced(x):
    recipe = recipes.mxfp8_e4m3.with_policy(nonfinite="error")
    assert breccia.cast(x, recipe) == breccia.cast(x, recipes.mxfp8_e4m3)
    with pytest.raises(UnsupportedError, match="JAX is tracing"):
        jax.jit(lambda v: breccia.cast(v, recipe))(x)


def test_no_callback_and_no_transfer_is_traced(x):
    text = str(jax.make_jaxpr(lambda v: breccia.requantize(breccia.cast(v, recipes.nvfp4), recipes.mxfp6_e3m2))(x))
    assert "callback" not in text
    assert "device_put" not in text


def test_export_round_trip(x, tmp_path):
    pytest.importorskip("flatbuffers")
    from jax import export

    w = breccia.cast(jnp.ones((256, 4)), recipes.nvfp4, axis=0)
    f = jax.jit(lambda v: breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), w))
    made = export.export(f)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    again = export.deserialize(made.serialize())
    np.testing.assert_array_equal(again.call(x), f(x))


def test_export_of_scaled_arguments(x):
    pytest.importorskip("flatbuffers")
    from jax import export

    st = breccia.cast(x, recipes.nvfp4)
    made = export.export(jax.jit(lambda s: s.dequantize()))(st)
    again = export.deserialize(made.serialize())
    np.testing.assert_array_equal(again.call(st), st.dequantize())


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, breccia
from breccia import recipes
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 256)), jnp.float32)
f = jax.shard_map(lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize(), mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
want = breccia.cast(np.asarray(x), recipes.mxfp8_e4m3)
assert np.array_equal(jax.jit(f)(x), want.dequantize())
spread = jax.device_put(x, NamedSharding(mesh, P("rows")))
st = jax.jit(lambda v: breccia.cast(v, recipes.mxfp8_e4m3))(spread)
assert st == want
assert len(st.data.devices()) == 2
print("sharded")
"""


def test_shard_map_over_two_devices():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SHARDED)], env=env, capture_output=True, text=True)
    assert done.stdout == "sharded\n", done.stderr[-2000:]
