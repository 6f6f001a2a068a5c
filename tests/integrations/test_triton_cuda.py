"""Generated kernels on a GPU: what calls run by themselves, streams, graphs, devices, gradients."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.errors import GradientError, UnsupportedError
from breccia.frontend.choice import default_target

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here that PyTorch can use"),
    # Not imported here: that fixes whether Triton interprets, which other modules say when they are collected.
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


@pytest.fixture
def x() -> Any:
    torch.manual_seed(0)
    return torch.randn(130, 320, device="cuda").bfloat16()


@pytest.fixture
def weight() -> Any:
    torch.manual_seed(1)
    return breccia.cast(torch.randn(320, 96, device="cuda"), recipes.mxfp8_e4m3, axis=0)


def layer(x: Any, w: Any) -> Any:
    return breccia.cast(breccia.silu(breccia.matmul(x, w)), recipes.float8_1x128)


def on_host(st: Any) -> Any:
    return st.to("torch", device="cpu")


def test_calls_choose_kernels_by_themselves(x: Any, weight: Any) -> None:
    assert default_target([x, weight]).name == "triton"
    assert "import triton" in breccia.compile(layer).lower(x, weight).source()
    assert default_target([x, weight.to("torch", device="cpu")]).name == "numpy"


@pytest.mark.parametrize("name", ["float8_1x128", "nvfp4", "mxfp6_e2m3", "uint4_g32_f16", "float8_row"])
def test_eager_casts_have_the_bits_of_numpy(name: str, x: Any) -> None:
    recipe = recipes.find(name)
    for axis in (0, 1):
        found, wanted = on_host(breccia.cast(x, recipe, axis=axis)), breccia.cast(x.cpu(), recipe, axis=axis)
        assert torch.equal(found.data, wanted.data)
        assert all(torch.equal(a, b) for a, b in zip(found.scales, wanted.scales, strict=True))
        assert torch.equal(breccia.dequantize(breccia.cast(x, recipe, axis=axis)).cpu(), wanted.dequantize())


@pytest.mark.parametrize("shape", [(576, 300), (128, 2048)])
@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "int4_g32_f16"])
def test_casts_down_the_columns_have_the_bits_of_numpy(name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, recipe = torch.randn(*shape, device="cuda").bfloat16(), recipes.find(name)
    found, wanted = on_host(breccia.cast(x, recipe, axis=0)), breccia.cast(x.cpu(), recipe, axis=0)
    assert all(torch.equal(a, b) for a, b in zip(found.scales, wanted.scales, strict=True))
    assert torch.equal(found.data, wanted.data)


def test_seeds_and_given_scales(x: Any) -> None:
    stochastic = recipes.mxfp4.with_policy(rounding="stochastic")
    for seed in (5, -7, torch.tensor(123456789123, device="cuda")):
        found = breccia.cast(x, stochastic, seed=seed)
        wanted = breccia.cast(x.cpu(), stochastic, seed=seed if isinstance(seed, int) else seed.cpu())
        assert torch.equal(found.data.cpu(), wanted.data)
    scale = torch.tensor(0.01)
    found = breccia.cast(x, recipes.float8_tensor, scale=scale.cuda())
    assert torch.equal(found.data.cpu(), breccia.cast(x.cpu(), recipes.float8_tensor, scale=scale).data)
    found = breccia.cast(x, recipes.nvfp4, scale=(scale.cuda(), None))
    wanted = breccia.cast(x.cpu(), recipes.nvfp4, scale=(scale, None))
    assert torch.equal(found.data.cpu(), wanted.data)
    assert torch.equal(on_host(found).scale, wanted.scale)


def test_strided_arguments(x: Any) -> None:
    recipe = recipes.float8_1x128
    for view in (
        x.T,
        x[::2],
        x[:, 64:256],
        x.reshape(2, 65, 320)[:, 1:],
        torch.randn(8, 1, device="cuda").expand(8, 96),
    ):
        assert torch.equal(breccia.cast(view, recipe).data.cpu(), breccia.cast(view.cpu(), recipe).data)


@pytest.mark.parametrize("rows", [1, 7, 64, 130, 600])
def test_products_of_every_class_of_sizes(rows: int, weight: Any) -> None:
    x = torch.randn(rows, 320, device="cuda").bfloat16()
    wide = breccia.cast(torch.randn(320, 544, device="cuda"), recipes.mxfp8_e4m3, axis=0)
    for w in (weight, wide):
        reference = x.double() @ w.dequantize("float32").double()
        error = (breccia.matmul(x, w).double() - reference).norm() / reference.norm()
        assert error < 1e-5


PAIRS = [
    ("float8_1x128", "float8_128x128"), ("float8_row", "float8_row"), ("float8_1x128", "float8_1x128"),
    ("float8_tensor", "float8_tensor"), ("mxfp8_e4m3", "mxfp8_e4m3"), ("nvfp4", "nvfp4"),
]  # fmt: skip


@pytest.mark.parametrize("rows", [40, 130, 700])
@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_products_of_every_orientation(left: str, right: str, rows: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(rows, 1100, device="cuda").bfloat16(), torch.randn(520, 1100, device="cuda").bfloat16()
    a, rows_of_k = breccia.cast(x, recipes.find(left)), breccia.cast(w, recipes.find(right))
    columns_of_k = breccia.cast(w.T.contiguous(), recipes.find(right), axis=0)
    turned = breccia.compile(lambda a, w: breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16"))
    for found, weight in (
        (turned(a, rows_of_k), rows_of_k.T),
        (breccia.matmul(a, rows_of_k.T, out_dtype="bfloat16"), rows_of_k.T),
        (breccia.matmul(a, columns_of_k, out_dtype="bfloat16"), columns_of_k),
    ):
        wanted = a.dequantize("float32").double() @ weight.dequantize("float32").double()
        assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
    assert torch.equal(turned(a, rows_of_k), turned(a, rows_of_k))


FOUR_BITS = ("int4_g128_f16", "int4_g128_bf16", "uint4_g128_f16", "uint4_g32_f16", "int4_g64_f16", "mxfp4", "nvfp4")
few_rows = breccia.compile(lambda x, w: breccia.matmul(x, breccia.transpose(w), out_dtype="bfloat16"))


@pytest.mark.parametrize("size", [(300, 576), (520, 1100), (9000, 1024), (17088, 1280)])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_few_rows_and_weights_of_4_bits(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    w = breccia.cast(torch.randn(*size, device="cuda").bfloat16(), recipes.find(name))
    for rows in (1, 7, 16, 33, 64):
        x = torch.randn(rows, size[1], device="cuda").bfloat16()
        found, wanted = few_rows(x, w), x.double() @ w.dequantize("float32").double().T
        assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
        assert torch.equal(few_rows(x, w), found)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_few_rows_with_a_single_one_give_each_decoded_weight(name: str, rows: int) -> None:
    torch.manual_seed(0)
    N, K = 200, 640
    magnitudes = torch.randint(-3, 4, (N, K // 16), device="cuda").float().exp2().repeat_interleave(16, 1)
    w = breccia.cast((torch.randn(N, K, device="cuda") * magnitudes).bfloat16(), recipes.find(name))
    wanted = w.dequantize("float32").bfloat16()
    for first in range(0, K, rows):
        x = torch.zeros(rows, K, device="cuda", dtype=torch.bfloat16)
        x[range(rows), range(first, first + rows)] = 1.0
        assert torch.equal(few_rows(x, w), wanted[:, first : first + rows].T)


@pytest.mark.parametrize("name", ["int4_g128_f16", "uint4_g64_f16"])
def test_few_rows_of_float16_and_weights_of_4_bits(name: str) -> None:
    torch.manual_seed(0)
    w = breccia.cast(torch.randn(300, 1024, device="cuda").half(), recipes.find(name))
    for rows in (1, 40):
        x = torch.randn(rows, 1024, device="cuda").half()
        wanted = x.double() @ w.dequantize("float32").double().T
        assert (few_rows(x, w).double() - wanted).norm() <= 2e-3 * wanted.norm()


def test_few_rows_are_warp_specialized_on_hopper() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU is not a Hopper one")
    w = breccia.cast(torch.randn(256, 512, device="cuda").bfloat16(), recipes.mxfp4)
    source = few_rows.lower(torch.ones(16, 512, device="cuda").bfloat16(), w).source()
    assert "gl.warp_specialize" in source
    assert "_pairs_of_float4_e2m1fn_scaled_bf16" in source


GROUPED_PAIRS = [PAIRS[0], PAIRS[1], PAIRS[2], PAIRS[3]]
OFFSETS = {
    "of all sizes": [0, 70, 70, 1200, 1201, 2000],
    "with rows before and after": [5, 5, 130, 258, 259, 1990],
    "all in the last": [0, 0, 0, 0, 0, 2000],
    "none": [7] * 6,
}


def grouped(x: Any, w: Any, table: Any) -> Any:
    return breccia.grouped_matmul(x, breccia.transpose(w, (0, 2, 1)), table, out_dtype="bfloat16")


def by_group(x: Any, w: Any, spans: list[tuple[int, int]]) -> Any:
    """In float64, and 0 in rows of no group."""
    left, right = x.dequantize("float32").double().flatten(0, -2), w.dequantize("float32").double()
    out = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64, device="cuda")
    for e, (start, stop) in enumerate(spans):
        out[start:stop] = left[start:stop] @ right[e].T
    return out


@pytest.mark.parametrize("n", [520, 4096])
@pytest.mark.parametrize(("left", "right"), GROUPED_PAIRS)
def test_groups_of_rows(left: str, right: str, n: int) -> None:
    torch.manual_seed(0)
    x = breccia.cast(torch.randn(2000, 1100, device="cuda").bfloat16(), recipes.find(left))
    w = breccia.cast(torch.randn(5, n, 1100, device="cuda").bfloat16(), recipes.find(right))
    function = breccia.compile(grouped)
    for offsets in OFFSETS.values():
        for dtype in (torch.int32, torch.int64):
            table = torch.tensor(offsets, dtype=dtype, device="cuda")
            found, wanted = function(x, w, table), by_group(x, w, list(pairwise(offsets)))
            assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
            assert not found[wanted == 0].any()
            assert torch.equal(function(x, w, table), found)
            eager = breccia.grouped_matmul(x, w.transpose(0, 2, 1), table, out_dtype="bfloat16")
            assert torch.equal(eager, found)


@pytest.mark.parametrize("room", [48, 256])
@pytest.mark.parametrize(("left", "right"), GROUPED_PAIRS[:2])
def test_counted_rows_of_groups(left: str, right: str, room: int) -> None:
    torch.manual_seed(0)
    x = breccia.cast(torch.randn(6, room, 1024, device="cuda").bfloat16(), recipes.find(left))
    w = breccia.cast(torch.randn(6, 1536, 1024, device="cuda").bfloat16(), recipes.find(right))
    function = breccia.compile(grouped)
    for counts in ([room] * 6, [0] * 6, [room, 0, 1, 33, room - 1, 0]):
        table = torch.tensor(counts, dtype=torch.int32, device="cuda")
        spans = [(e * room, e * room + count) for e, count in enumerate(counts)]
        found, wanted = function(x, w, table), by_group(x, w, spans).reshape(6, room, 1536)
        assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
        assert not found[wanted == 0].any()
        assert torch.equal(function(x, w, table), found)


def test_groups_do_not_wait_for_the_device_and_replay_on_other_offsets() -> None:
    torch.manual_seed(0)
    x = breccia.cast(torch.randn(2000, 1024, device="cuda").bfloat16(), recipes.float8_1x128)
    w = breccia.cast(torch.randn(5, 1024, 1024, device="cuda").bfloat16(), recipes.float8_128x128)
    table, function = torch.tensor(OFFSETS["none"], dtype=torch.int32, device="cuda"), breccia.compile(grouped)
    assert "gl.warp_specialize" in function.lower(x, w, table).source() or torch.cuda.get_device_capability() != (9, 0)
    function(x, w, table)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(x, w, table)
    for offsets in OFFSETS.values():
        table.copy_(torch.tensor(offsets))
        graph.replay()
        wanted = by_group(x, w, list(pairwise(offsets)))
        assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
        assert not found[wanted == 0].any()


@pytest.mark.parametrize("batch", [(3, 130), (2, 5, 70), (1, 1)])
@pytest.mark.parametrize(("left", "right"), [PAIRS[0], PAIRS[1], PAIRS[4], PAIRS[5]])
def test_leading_axes_are_rows(left: str, right: str, batch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(*batch, 1024, device="cuda").bfloat16(), torch.randn(512, 1024, device="cuda").bfloat16()
    b = breccia.cast(w, recipes.find(right))

    def layer(x: Any, b: Any) -> Any:
        q = breccia.cast(x, recipes.find(left))
        return breccia.silu(breccia.matmul(q, breccia.transpose(b))).astype("bfloat16")

    function = breccia.compile(layer)
    flat = function(x.flatten(0, -2), b)
    for given in (x, torch.cat([x, x], -1)[..., :1024]):
        found = function(given, b).flatten(0, -2)
        # A class of sizes has a schedule of its own, which may add up in another order.
        assert (found.double() - flat.double()).norm() <= 2e-3 * flat.double().norm()
        assert torch.equal(function(given, b).flatten(0, -2), found)


def test_operands_that_no_descriptor_takes() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(300, 1031, device="cuda"), torch.randn(264, 1031, device="cuda")
    a, b = breccia.cast(x, recipes.float8_row), breccia.cast(w, recipes.float8_row)
    wanted = a.dequantize("float32").double() @ b.dequantize("float32").double().T
    assert a.data.stride(0) % 16
    found = breccia.matmul(a, b.T, out_dtype="bfloat16").double()
    assert (found - wanted).norm() <= 2e-3 * wanted.norm()


def test_nothing_waits_for_the_device(x: Any, weight: Any) -> None:
    f = breccia.compile(layer)
    f(x, weight)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        f(x, weight)
        breccia.cast(x, recipes.nvfp4)
        breccia.matmul(x, weight)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_of_kernels_replays_on_new_values(x: Any, weight: Any) -> None:
    f = breccia.compile(layer)
    f(x, weight)
    graph, static = torch.cuda.CUDAGraph(), x.clone()
    with torch.cuda.graph(graph):
        out = f(static, weight)
    static.copy_(x * 2)
    graph.replay()
    wanted = f(x * 2, weight)
    assert torch.equal(out.data, wanted.data)
    assert torch.equal(out.scale, wanted.scale)


def test_kernels_run_on_the_current_stream(x: Any, weight: Any) -> None:
    f, stream = breccia.compile(layer), torch.cuda.Stream()
    wanted = f(x, weight)
    with torch.cuda.stream(stream):
        slow = torch.randn(4096, 4096, device="cuda")
        late = x * 0
        for _ in range(8):
            slow = slow @ slow * 1e-3
        late += x
        out = f(late, weight)
    stream.synchronize()
    assert torch.equal(out.data, wanted.data)


def test_gradients_run_as_array_functions(x: Any, weight: Any) -> None:
    def loss(x: Any) -> Any:
        return breccia.matmul(x, weight)

    f = breccia.compile(loss)
    leaf = x.float().requires_grad_()
    f(leaf).sum().backward()
    wanted = weight.dequantize("float32").sum(1)
    assert torch.allclose(leaf.grad, wanted.expand_as(leaf), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not f(leaf).requires_grad
    with pytest.raises(GradientError, match="give no gradients"):
        breccia.compile(loss, target=default_target([x]).full_name)(leaf)


def test_delayed_scaling_on_the_device() -> None:
    recipe = breccia.DelayedScaling(amax_history_len=16)
    x = torch.randn(64, 128, device="cuda")
    state, expected = breccia.delayed_init(recipe, x), breccia.delayed_init(recipe, x.cpu())
    for step in range(3):
        state = breccia.delayed_update(*state, breccia.amax(x * (step + 1)), recipe)
        expected = breccia.delayed_update(*expected, breccia.amax(x.cpu() * (step + 1)), recipe)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(state, expected, strict=True))


def test_large_strides() -> None:
    base = torch.randn(1 << 22, 260, device="cuda", dtype=torch.bfloat16)
    view = base.as_strided((70, 96), (1 << 23, 7))
    wanted = breccia.cast(view.cpu(), recipes.float8_1x128)
    assert torch.equal(breccia.cast(view, recipes.float8_1x128).data.cpu(), wanted.data)


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_several_devices(x: Any) -> None:
    other = x.to("cuda:1")
    found = breccia.cast(other, recipes.float8_1x128)
    assert found.data.device == other.device
    assert torch.equal(found.data.cpu(), breccia.cast(x, recipes.float8_1x128).data.cpu())


def test_code_for_another_architecture_is_refused(x: Any) -> None:
    other = "triton:sm_80" if default_target([x]).arch != "sm_80" else "triton:sm_89"
    with pytest.raises(UnsupportedError, match="was made for triton:sm_8"):
        breccia.compile(lambda x: x + 1, target=other)(x)


def test_numpy_arrays_are_untouched() -> None:
    assert default_target([np.zeros((2, 2), np.float32)]).name == "numpy"
