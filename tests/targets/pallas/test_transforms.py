"""Compiled functions with Pallas kernels under JAX's transformations: jit, grad, and shard_map over eight devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import GradientError  # noqa: E402

rng = np.random.default_rng(0)
X = jnp.asarray(rng.standard_normal((24, 128)).astype(np.float32))
W = breccia.cast(rng.standard_normal((128, 64)).astype(np.float32), recipes.float8_128x128).to("jax")


def mlp(x, w):
    return breccia.silu(breccia.matmul(breccia.cast(x, recipes.float8_1x128), w))


def trained(x, v):
    """Both operands as they would be stored, with straight-through gradients."""
    q = breccia.cast_ste(x, recipes.mxfp8_e4m3)
    return breccia.matmul(q, breccia.cast_ste(v, recipes.mxfp8_e4m3, axis=0))


def close(a, b, scale=1e-5):
    assert np.allclose(a, b, rtol=scale, atol=scale * float(jnp.abs(jnp.asarray(b)).max()))


def test_under_jit() -> None:
    f = breccia.compile(mlp, target="pallas:v6e")
    wanted = breccia.compile(mlp)(X, W)
    close(f(X, W), wanted)
    close(jax.jit(f)(X, W), wanted)
    text = str(jax.make_jaxpr(f)(X, W))
    assert "pallas_call" in text


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_straight_through_gradients(wrap) -> None:
    """The gradient is that of the array functions, whose forward values these are too."""
    v = jnp.asarray(rng.standard_normal((128, 32)).astype(np.float32))
    kernels, arrays = breccia.compile(trained, target="pallas:v6e"), breccia.compile(trained)

    def loss(f):
        return lambda x, v: (f(x, v) ** 2).sum()

    found = jax.value_and_grad(wrap(loss(kernels)), argnums=(0, 1))(X, v)
    wanted = jax.value_and_grad(loss(arrays), argnums=(0, 1))(X, v)
    close(found[0], wanted[0])
    for a, b in zip(found[1], wanted[1], strict=True):
        close(a, b)
    assert float(jnp.abs(found[1][0]).max()) > 0


def test_gradients_of_codes_are_refused() -> None:
    f = breccia.compile(mlp, target="pallas:v6e")
    with pytest.raises(GradientError, match=r"breccia\.cast has no gradient"):
        jax.grad(lambda x: f(x, W).sum())(X)


def test_gradients_beside_constants() -> None:
    """What a function closes over stands in its own place in each of both programs."""
    f = breccia.compile(lambda x: breccia.matmul(x, W), target="pallas:v6e")
    wanted = jnp.broadcast_to(W.dequantize().sum(1), X.shape)
    close(jax.grad(lambda x: f(x).sum())(X), wanted)


def test_gradients_of_a_stored_program() -> None:
    """A program that is found on disk is traced only where it is differentiated."""

    def make():
        return breccia.compile(trained, target="pallas:v5e")

    v = jnp.ones((128, 32))
    make()(X, v)
    found = jax.grad(lambda x: make()(x, v).sum())(X)
    close(found, jax.grad(lambda x: breccia.compile(trained)(x, v).sum())(X))


def test_sharded_over_eight_devices() -> None:
    """Rows are spread, each device runs the kernel on its own: the same numbers as on one."""
    code = """
        import jax, numpy as np, breccia
        from breccia import recipes
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        assert len(jax.devices()) == 8
        mesh = Mesh(np.array(jax.devices()), ("rows",))
        rng = np.random.default_rng(0)
        x = jax.numpy.asarray(rng.standard_normal((64, 128)).astype(np.float32))
        w = breccia.cast(rng.standard_normal((128, 64)).astype(np.float32), recipes.float8_128x128).to("jax")
        f = breccia.compile(lambda x, w: breccia.matmul(breccia.cast(x, recipes.float8_1x128), w), target="pallas:v6e")
        spread = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P("rows"), P()), out_specs=P("rows"), check_vma=False))
        found = spread(jax.device_put(x, NamedSharding(mesh, P("rows"))), w)
        assert len(found.sharding.device_set) == 8
        assert np.array_equal(found, f(x, w))
    """
    environment = {
        **os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
