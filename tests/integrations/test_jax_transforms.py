"""Scaled tensors through JAX's transformations: jit, vmap, scan, grad, jvp, export, sharding and the rest."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.arrays import statics
from breccia.errors import FormatError, GradientError, ShapeError
from breccia.tensor import ScaledTensor, cast_array, flatten, requantize

jax = pytest.importorskip("jax")
jnp = jax.numpy
lax = jax.lax

SOME = [
    recipes.float8_tensor, recipes.float8_1x128, recipes.mxfp8_e4m3, recipes.mxfp6_e2m3, recipes.mxfp4, recipes.nvfp4,
    breccia.all_recipes()["int4_g32_f16"], breccia.all_recipes()["uint4_g32_f16"], recipes.nf4,
]  # fmt: skip
BLOCKED = [r for r in SOME if all(level.block is not None for level in r.levels)]


def example(shape=(4, 8, 64), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def both(recipe, shape=(4, 8, 64)) -> tuple[ScaledTensor, ScaledTensor]:
    """The same tensor in NumPy and in JAX."""
    st = cast_array(example(shape), recipe)
    return st, st.to("jax")


# -- a pytree ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", SOME, ids=str)
def test_leaves_are_the_components(recipe):
    _, st = both(recipe)
    leaves, tree = jax.tree.flatten(st)
    assert len(leaves) == len(st.scales) + 1 + (st.zero_point is not None) + (st.offset is not None)
    assert jax.tree.unflatten(tree, leaves) == st
    assert tree == jax.tree.structure(jax.tree.map(lambda a: a + 0, st))


@pytest.mark.parametrize("leaf", [None, object(), 3, "text"], ids=["none", "object", "number", "text"])
def test_leaves_may_be_anything(leaf):
    _, st = both(recipes.nvfp4)
    made = jax.tree.map(lambda _: leaf, st)
    assert made.data is leaf
    assert made.shape == st.shape
    assert "ScaledTensor" in repr(made)


def test_shapes_alone():
    shapes = jax.eval_shape(lambda x: cast_array(x, recipes.nvfp4), jax.ShapeDtypeStruct((4, 8, 64), jnp.bfloat16))
    assert isinstance(shapes, ScaledTensor)
    assert (shapes.shape, shapes.dtype.name) == ((4, 8, 64), "bfloat16")
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [(4, 8, 32), (), (4, 8, 4)]
    assert "(4, 8, 64)" in repr(shapes)


def test_put_on_a_device_and_waited_for():
    st, there = both(recipes.mxfp4)
    assert jax.block_until_ready(jax.device_put(there, jax.devices()[0])) == st


# -- jit ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", SOME, ids=str)
def test_cast_slice_transpose_dequantize_and_requantize_under_jit(recipe):
    x = example()

    def f(x):
        st = cast_array(x, recipe)
        return st, st[1:3].transpose(0, 2, 1), st[1:].dequantize(), requantize(st, recipes.mxfp4)

    expected, found = f(x), jax.jit(f)(jnp.asarray(x))
    for i in (0, 1, 3):
        assert found[i] == expected[i]
    assert np.array_equal(np.asarray(found[2]).view(np.uint32), expected[2].view(np.uint32))


def test_one_program_for_one_recipe_and_shape():
    count = 0

    @jax.jit
    def f(st):
        nonlocal count
        count += 1
        return st.dequantize()

    for seed in range(3):
        f(cast_array(jnp.asarray(example(seed=seed)), recipes.mxfp8_e4m3))
    assert count == 1
    f(cast_array(jnp.asarray(example()), recipes.mxfp8_e5m2))
    assert count == 2


def test_buffers_may_be_donated():
    st, there = both(recipes.mxfp8_e4m3)
    assert jax.jit(lambda s: s, donate_argnums=0)(there) == st


@pytest.mark.parametrize("first", [True, False])
def test_branches_give_scaled_tensors(first):
    a, b = both(recipes.mxfp4)[1], cast_array(jnp.asarray(example(seed=1)), recipes.mxfp4)
    assert jax.jit(lambda p, a, b: lax.cond(p, lambda: a, lambda: b))(first, a, b) == (a if first else b)


# -- vmap and scan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", BLOCKED, ids=str)
def test_vmap_takes_and_gives_scaled_tensors(recipe):
    st, there = both(recipe)
    made = jax.jit(jax.vmap(lambda x: cast_array(x, recipe)))(jnp.asarray(example()))
    assert made == st
    found = jax.jit(jax.vmap(lambda s: s.dequantize()))(there)
    assert np.array_equal(found, st.dequantize())


def test_vmap_gives_every_row_its_tensor_scale():
    x = jnp.asarray(example())
    made = jax.jit(jax.vmap(lambda x: cast_array(x, recipes.nvfp4)))(x)
    assert made.scales[0].shape == (4,)
    rows = [cast_array(np.asarray(row), recipes.nvfp4).dequantize() for row in x]
    assert np.array_equal(jax.jit(jax.vmap(lambda s: s.dequantize()))(made), np.stack(rows))
    with pytest.raises(ShapeError, match=r"scales of shape \(4,\) do not fit"):
        made.dequantize()


def test_vmap_over_blocks_is_refused():
    _, st = both(recipes.mxfp8_e4m3)
    with pytest.raises(ValueError, match="inconsistent sizes"):
        jax.vmap(lambda s: s.dequantize(), in_axes=2)(st)


def test_scan_over_scaled_tensors():
    st, there = both(recipes.mxfp4)
    total, parts = lax.scan(lambda c, s: (c + s.dequantize(), s), jnp.zeros((8, 64)), there)
    assert np.array_equal(total, st[:3].dequantize().sum(0, dtype=np.float32) + st.dequantize()[3])
    assert parts == st


@pytest.mark.parametrize("recipe", SOME, ids=str)
def test_scan_carries_scaled_tensors(recipe):
    def step(st):
        return cast_array(st.dequantize() * 3, recipe)

    st, there = both(recipe)
    found, _ = jax.jit(lambda s: lax.scan(lambda c, _: (step(c), None), s, None, length=3))(there)
    assert found == step(step(step(st)))


# -- derivatives -------------------------------------------------------------------------------------------------------


def test_cast_refuses_to_be_differentiated():
    x = jnp.asarray(example())

    def f(x):
        return cast_array(x, recipes.mxfp8_e4m3).dequantize().sum()

    for transformed in (jax.grad(f), jax.jit(jax.grad(f)), jax.grad(jax.jit(f)), jax.grad(jax.checkpoint(f))):
        with pytest.raises(GradientError, match=r"breccia.cast_ste.*stop_gradient"):
            transformed(x)
    assert jax.grad(lambda x: f(lax.stop_gradient(x)) * 0 + x.sum())(x).tolist() == np.ones(x.shape).tolist()


def test_gradient_of_dequantize_to_the_scales():
    recipe = recipes.float8_1x128
    st, there = both(recipe)

    def f(scale):
        return ScaledTensor(there.data, scale, recipe, shape=(4, 8, 64)).dequantize().sum()

    ones = ScaledTensor(st.data, np.ones_like(st.scale), recipe)
    expected = ones.dequantize().sum(-1, keepdims=True)
    for transformed in (jax.grad(f), jax.jit(jax.grad(f))):
        assert np.allclose(transformed(there.scale), expected, rtol=1e-6)
    whole = jax.grad(lambda s: s.dequantize().sum(), allow_int=True)(there)
    assert isinstance(whole, ScaledTensor)
    assert np.allclose(whole.scale, expected, rtol=1e-6)


def test_straight_through_cast():
    x = jnp.asarray(example())

    def f(x):
        return (breccia.cast_ste(x, recipes.mxfp8_e4m3) * 3).sum()

    expected = float((cast_array(example(), recipes.mxfp8_e4m3).dequantize() * 3).sum())
    for transformed in (jax.value_and_grad(f), jax.jit(jax.value_and_grad(f)), jax.value_and_grad(jax.checkpoint(f))):
        value, gradient = transformed(x)
        assert float(value) == pytest.approx(expected, rel=1e-4)
        assert (np.asarray(gradient) == 3).all()
    assert float(jax.jvp(f, (x,), (jnp.ones_like(x),))[1]) == 3 * x.size
    assert (np.asarray(jax.jit(jax.vmap(jax.grad(f)))(x)) == 3).all()
    assert (np.asarray(jax.jit(jax.grad(lambda x: jax.grad(f)(x).sum()))(x)) == 0).all()


def test_gradient_of_matmul_to_its_plain_operand():
    x = jnp.asarray(example((8, 64)))
    w = cast_array(jnp.asarray(example((16, 64), 1)), recipes.mxfp8_e4m3)
    expected = np.broadcast_to(np.asarray(w.dequantize()).sum(0), (8, 64))
    f = lambda x, w: breccia.matmul(x, w.T).sum()  # noqa: E731
    for transformed in (jax.grad(f), jax.jit(jax.grad(f))):
        assert np.allclose(transformed(x, w), expected, rtol=1e-5, atol=1e-5)
    batched = jax.jit(jax.vmap(lambda x: breccia.matmul(x, w.T)))(jnp.stack([x, 2 * x]))
    assert np.allclose(batched[1], 2 * breccia.matmul(x, w.T), rtol=1e-5)


# -- products of casts -------------------------------------------------------------------------------------------------


def quantized_layer(x, w):
    return breccia.matmul(breccia.cast_ste(x, recipes.mxfp8_e4m3), w)


@pytest.fixture
def layer():
    """Inputs [4, 8, 64] and weights [64, 16] in JAX, and the product that is right, from NumPy."""
    x, w = example(), cast_array(example((64, 16), 1), recipes.nvfp4, axis=0)
    values = cast_array(x, recipes.mxfp8_e4m3).dequantize().astype(np.float64) @ w.dequantize().astype(np.float64)
    return jnp.asarray(x), w.to("jax"), values


def test_products_under_jit_vmap_and_scan(layer):
    x, w, expected = layer
    found = {
        "eager": quantized_layer(x, w),
        "jit": jax.jit(quantized_layer)(x, w),
        "vmap": jax.jit(jax.vmap(quantized_layer, (0, None)))(x, w),
        "scan": lax.scan(lambda c, v: (c, quantized_layer(v, w)), 0, x)[1],
    }
    for name, y in found.items():
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_products_have_gradients_forward_and_back(layer):
    x, w, _ = layer
    dense = w.dequantize()
    direction = jnp.asarray(example(seed=2))
    _, tangent = jax.jit(lambda v, d: jax.jvp(lambda u: quantized_layer(u, w), (v,), (d,)))(x, direction)
    np.testing.assert_allclose(tangent, direction @ dense, rtol=1e-4, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda v: quantized_layer(v, w).sum()))(x)
    np.testing.assert_allclose(gradient, jnp.broadcast_to(dense.sum(1), x.shape), rtol=1e-4, atol=1e-4)


def test_products_are_exported(layer):
    x, w, expected = layer
    written = jax.export.export(jax.jit(quantized_layer))(jax.ShapeDtypeStruct(x.shape, x.dtype), w).serialize()
    np.testing.assert_allclose(jax.export.deserialize(written).call(x, w), expected, rtol=1e-4, atol=1e-4)


# -- exported and sharded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [recipes.nvfp4, recipes.nf4, breccia.MXFP8BlockScaling()], ids=str)
def test_exported_programs_take_and_give_scaled_tensors(recipe):
    x = jnp.asarray(example())
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    st = cast_array(x, recipe)
    writer = jax.export.export(jax.jit(lambda x: cast_array(x, recipe)))(shape)
    assert jax.export.deserialize(writer.serialize()).call(x) == st
    reader = jax.export.export(jax.jit(lambda s: s.dequantize()))(st)
    assert np.array_equal(jax.export.deserialize(reader.serialize()).call(st), st.dequantize())


def test_descriptions_hold_nothing_but_descriptions():
    _, static = flatten(both(recipes.nvfp4)[0])
    assert statics.loads(statics.dumps(static)) == static
    for bad in (
        b"",
        b"garbage",
        statics.dumps(static)[:-20],
        statics.dumps(os.getcwd),
        statics.dumps(subprocess.Popen),
    ):
        with pytest.raises(FormatError):
            statics.loads(bad)


SHARDED = """
import breccia, numpy as np, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from breccia import recipes
from breccia.tensor import cast_array
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("d",))
x = np.random.default_rng(0).standard_normal((4, 8, 64)).astype(np.float32)
for recipe in (recipes.mxfp8_e4m3, recipes.mxfp4):
    expected = cast_array(x, recipe)
    cast = jax.jit(jax.shard_map(lambda x: cast_array(x, recipe), mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    st = cast(jnp.asarray(x))
    assert len(st.data.sharding.device_set) == 2, st.data.sharding
    parts = jax.shard_map(lambda s: s.dequantize(), mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    assert np.array_equal(jax.jit(parts)(st), expected.dequantize())
    assert st.data.shape == expected.data.shape and st.device is None
    assert np.array_equal(st.data, expected.data) and np.array_equal(st.scale, expected.scale)
w = cast_array(x[0].T.copy(), recipes.mxfp4, axis=0)
f = lambda x, w: breccia.matmul(cast_array(x, recipes.mxfp8_e4m3), w)
y = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")))(jnp.asarray(x), w.to("jax"))
assert len(y.sharding.device_set) == 2
right = cast_array(x, recipes.mxfp8_e4m3).dequantize().astype(np.float64) @ w.dequantize()
np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)
print("same bits on", len(jax.devices()), "devices")
"""


def test_shards_on_two_devices():
    given = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=given, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same bits on 2 devices", done.stderr[-2000:]
