"""Functions of breccia under `torch.compile(fullgraph=True)`, `torch.export`, FakeTensor and autograd."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import GradientError, UnsupportedError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
RECIPES = ("float8_tensor", "float8_128x128", "mxfp8_e4m3", "mxfp4", "nvfp4", "int8_row", "uint4_g128_f16")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()


@pytest.fixture
def x():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32))


def compiled(f, backend="aot_eager"):
    return torch.compile(f, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", RECIPES)
def test_casts_and_decodes_in_one_graph(name, x):
    recipe = breccia.all_recipes()[name]
    st = compiled(lambda v: breccia.cast(v, recipe))(x)
    assert st == breccia.cast(x, recipe)
    assert torch.equal(compiled(lambda s: s.dequantize())(st), st.dequantize())


def test_scaled_tensors_can_be_looked_into(x):
    def f(v):
        st = breccia.cast(v, recipes.nvfp4)
        return st.data, st.scales[1], st.scale, st.shape[0], st.T, st[2:4], st.reshape(2, 4, 256), st.codes()

    for got, want in zip(compiled(f)(x), f(x), strict=True):
        assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want


def test_functions_take_closed_over_tensors(x):
    w = breccia.cast(torch.randn(256, 32), recipes.mxfp8_e4m3, axis=0)

    def f(v):
        h = breccia.silu(breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), w))
        return breccia.requantize(breccia.cast(h, recipes.mxfp8_e4m3), recipes.nvfp4), breccia.astype(h, torch.bfloat16)

    (st, narrow), (want, wide) = compiled(f)(x), f(x)
    assert st == want
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, wide)


def test_a_compiled_function_is_part_of_the_graph(x):
    w = breccia.cast(torch.randn(256, 32), recipes.nvfp4, axis=0)

    @breccia.compile
    def layer(v, weight, parts):
        return breccia.gelu(breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), weight)) * parts["scale"]

    f = compiled(lambda v, weight: layer(v, weight, {"scale": 2.0}) + 1)
    torch.testing.assert_close(f(x, w), layer(x, w, {"scale": 2.0}) + 1)


def test_gradients_pass_straight_through(x):
    w = torch.randn(256, 16, requires_grad=True)

    @breccia.compile
    def product(v, weight):
        q = breccia.cast_ste(v, recipes.mxfp8_e4m3)
        return breccia.matmul(q, breccia.cast_ste(weight, recipes.mxfp8_e4m3, axis=0))

    def loss(v, weight):
        return (product(v, weight) ** 2).sum()

    loss(x, w).backward()
    eager, w.grad = w.grad, None
    compiled(loss)(x, w).backward()
    torch.testing.assert_close(w.grad, eager, rtol=1e-4, atol=1e-3)


def test_a_linear_layer_trains_under_inductor(x):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weight = torch.nn.Parameter(torch.randn(16, 256))

        def forward(self, v):
            w = breccia.cast_ste(self.weight, recipes.mxfp8_e4m3)
            return torch.nn.functional.linear(breccia.cast_ste(v, recipes.mxfp8_e4m3), w)

    plain, other = Linear(), Linear()
    fast = torch.compile(other, fullgraph=True)
    for model in (plain, fast):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        (model(x) ** 2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(other.weight, plain.weight)


def test_inductor_gives_the_eager_bits(x):
    recipe = recipes.mxfp4
    assert torch.compile(lambda v: breccia.cast(v, recipe), fullgraph=True)(x) == breccia.cast(x, recipe)


@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="PyTorch 2.11 takes no symbolic sizes out of nonstrict_trace; 2.12 was not tried"
)
def test_the_batch_may_be_dynamic(x):
    f = torch.compile(
        lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize(), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (8, 5, 3):
        assert torch.equal(f(x[:rows]), breccia.cast(x[:rows], recipes.mxfp8_e4m3).dequantize())


def test_fake_tensors_have_the_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        st = breccia.cast(torch.empty(4, 64), recipes.nvfp4)
        assert tuple(st.data.shape) == (4, 32)
        assert tuple(st.scale.shape) == (4, 4)
        assert st.dequantize().shape == (4, 64)


def test_what_a_trace_made_for_a_gpu_is_not_kept():
    """Tables of constants are kept for each device, but those that a trace made belong to it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from breccia.arrays.torch import _table

    for _ in range(2):
        with FakeTensorMode() as mode:
            table = _table(np.arange(4, dtype=np.float32), torch.empty(1, device="cuda"))
        assert table.fake_mode is mode


def test_a_policy_that_looks_at_values_cannot_be_traced():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(UnsupportedError, match="PyTorch is tracing"):
        breccia.cast(torch.empty(4, 64), recipes.mxfp8_e4m3.with_policy(nonfinite="error"))


def test_a_parameter_is_not_cast_silently():
    with pytest.raises(GradientError, match=r"breccia\.cast_ste"):
        breccia.cast(torch.nn.Parameter(torch.randn(4, 64)), recipes.mxfp4)
    with torch.no_grad():
        assert breccia.cast(torch.nn.Parameter(torch.randn(4, 64)), recipes.mxfp4).shape == (4, 64)


class Quantized(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = breccia.cast(torch.randn(256, 8), recipes.nvfp4, axis=0)

    def forward(self, v):
        return breccia.matmul(breccia.cast(v, recipes.mxfp8_e4m3), self.weight)


def test_export_holds_the_components(x):
    model = Quantized()
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(x), model(x))


def test_export_takes_scaled_tensors(x):
    class Decode(torch.nn.Module):
        def forward(self, st):
            return st.dequantize()

    st = breccia.cast(x, recipes.mxfp8_e4m3)
    program = torch.export.export(Decode(), (st,))
    assert torch.equal(program.module()(st), st.dequantize())


def test_copies_and_pickles(x):
    st = breccia.cast(x, recipes.nvfp4)
    assert copy.deepcopy(st) == st
    file = io.BytesIO()
    torch.save(st, file)
    file.seek(0)
    assert torch.load(file, weights_only=False) == st


FRESH = """
import torch, breccia
from breccia import recipes
x = torch.randn(4, 64)
f = torch.compile(lambda v: breccia.cast(v, recipes.mxfp8_e4m3).dequantize(), fullgraph=True, backend="aot_eager")
y = f(x)
assert torch.equal(y, breccia.cast(x, recipes.mxfp8_e4m3).dequantize())
print("one graph")
"""


def test_the_first_call_of_a_process_may_be_compiled():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FRESH)], capture_output=True, text=True, check=False)
    assert done.stdout == "one graph\n", done.stderr[-2000:]
