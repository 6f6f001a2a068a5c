"""Scaled tensors on an NVIDIA or AMD GPU through PyTorch: the host's bits, without waiting for the device."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that PyTorch can use"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
RECIPES = (
    "float8_tensor",
    "float8_128x128",
    "mxfp8_e4m3",
    "mxfp6_e2m3",
    "mxfp4",
    "nvfp4",
    "int8_row",
    "uint4_g128_f16",
)


@pytest.fixture
def host():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32))


@contextmanager
def never_waiting():
    """Anything that waits for the device raises; run it once before, for what is loaded on first use."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_waits_for_the_device(name, host):
    recipe = breccia.all_recipes()[name]
    x = host.cuda()

    def work():
        st = breccia.cast(x, recipe)
        again = breccia.requantize(st, recipes.mxfp8_e4m3, axis=0)
        return st, st.dequantize(), st.T, again, breccia.cast_ste_clipped(x, recipe, -1, 1)

    work()
    with never_waiting():
        found = work()
    expected = breccia.cast(host, recipe)
    assert found[0].device == x.device
    assert found[0] == expected
    assert found[3] == breccia.requantize(expected, recipes.mxfp8_e4m3, axis=0)


def test_a_compiled_function_stays_on_the_device(host):
    w = torch.from_numpy(np.random.default_rng(1).standard_normal((256, 32)).astype(np.float32))
    weight = breccia.cast(w, recipes.nvfp4, axis=0)

    @breccia.compile
    def layer(v, w):
        return breccia.silu(breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), w))

    x, there = host.cuda(), weight.to("torch", device="cuda")
    layer(x, there)
    with never_waiting():
        y = layer(x, there)
    assert y.device == x.device
    torch.testing.assert_close(y.cpu(), layer(host, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["float8_tensor", "mxfp8_e4m3", "nvfp4"])
def test_inductor_gives_the_eager_bits(name, host):
    recipe = breccia.all_recipes()[name]
    torch._dynamo.reset()
    found = torch.compile(lambda v: breccia.cast(v, recipe), fullgraph=True)(host.cuda())
    assert found == breccia.cast(host, recipe)


def test_gradients_pass_straight_through(host):
    x = host.cuda().requires_grad_()
    (breccia.cast_ste(x, recipes.mxfp4) * 3).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 3))


def test_casts_are_captured_in_a_cuda_graph(host):
    x = host.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            breccia.cast(x, recipes.nvfp4)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        st = breccia.cast(x, recipes.nvfp4)
    x.copy_(host.flip(0))
    graph.replay()
    assert st == breccia.cast(host.flip(0), recipes.nvfp4)


def test_memory_is_shared_with_jax(host):
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU here that JAX can use")
    st = breccia.cast(host.cuda(), recipes.mxfp8_e4m3)
    there = st.to("jax")
    assert there.data.unsafe_buffer_pointer() == st.data.data_ptr()
    assert there == st
    assert there.to("torch").device == st.device
