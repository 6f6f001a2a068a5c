"""Swapped operands in plain Triton, by its interpreter: the same results, the weight first."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.passes import _tile_sizes  # noqa: E402
from breccia.target import find  # noqa: E402
from breccia.tensor import flatten  # noqa: E402
from tests.targets.triton import interpreter, programs  # noqa: E402

pytestmark = interpreter.needed()


@pytest.mark.parametrize("name", ["int4_g128_f16", "uint4_g32_f16", "mxfp4"])
def test_results_are_those_of_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tile_sizes, "SWAPPED_ROWS", 16)
    torch.manual_seed(0)
    m, n, k = 5, 200, 640
    w, x = breccia.cast(torch.randn(n, k).bfloat16(), recipes.find(name)), torch.randn(m, k).bfloat16()
    bias = torch.randn(1, n)
    source = programs.source(programs.gemm("", name, typical=16, n=n, k=k, bias=True), "sm_80")
    assert "acc = tl.full((64, 16)" in source
    found = find("triton:sm_80").launch(source, "gemm", "torch")(x, *flatten(w)[0], bias)
    wanted = torch.nn.functional.silu(x.double() @ w.dequantize("float32").double().T + bias.double())
    assert (found.double() - wanted).norm() <= 2e-3 * wanted.norm()
