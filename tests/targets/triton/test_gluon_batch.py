"""Products of activations with leading axes, in kernels for Hopper: those of matrices, with the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, by whichever module does so
torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.tensor import ScaledTensor, flatten  # noqa: E402
from tests.targets.triton import gluon, programs  # noqa: E402
from tests.targets.triton.test_gluon import agree, emitted, fused, layer, multiply, scaled, values  # noqa: E402

BATCHES = [(3, 100), (2, 5, 30), (1, 300), (300, 1)]


def arrays(*args: Any) -> list[Any]:
    return [array for arg in args for array in (flatten(arg)[0] if isinstance(arg, ScaledTensor) else [arg])]


def batched(x: ScaledTensor, batch: tuple[int, ...]) -> ScaledTensor:
    return breccia.reshape(x, (*batch, x.shape[-1]))


@pytest.mark.parametrize("function", [multiply, fused])
@pytest.mark.parametrize("form", ["2x1x1", "turns 128"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_bits_are_those_of_the_matrix(batch: tuple[int, ...], form: str, function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    x, w = scaled("float8_1x128", 300, 640), scaled("float8_128x128", 264, 640)
    flat, given = arrays(x, w), arrays(batched(x, batch), w)
    assert given[0].dim() == len(batch) + 1
    one = gluon.run(emitted(function, form, x, w), *flat, programs=2)
    many = gluon.run(emitted(function, form, batched(x, batch), w), *given, programs=2)
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (one, many)), strict=True):
        assert b.shape[: len(batch)] == batch
        assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().flatten(0, -2).view(torch.uint8))


def test_vectors_and_residuals_join_as_well() -> None:
    torch.manual_seed(0)
    x, w = scaled("float8_1x128", 300, 640), scaled("float8_128x128", 264, 640)
    bias, residual = torch.randn(264), torch.randn(3, 100, 264)
    source = emitted(layer, "2x1x1", batched(x, (3, 100)), w, bias, residual)
    assert source.count("rt.Kernel(") == 1
    correct = breccia.compile(layer, target="numpy")(x, w, bias, residual.flatten(0, 1))
    wide = torch.randn(3, 100, 300)
    wide[:, :, :264] = residual
    for given in (residual, wide[:, :, :264]):
        found = gluon.run(source, *arrays(batched(x, (3, 100)), w), bias, given, programs=2)
        assert agree(found.flatten(0, 1), correct)


@pytest.mark.parametrize("batch", [(3, 100), (1, 7), (0, 5), (5, 0)])
def test_sizes_may_be_unknown(batch: tuple[int, int]) -> None:
    """The cast before the product is plain Triton, which the interpreter of Gluon runs as well."""
    source = programs.source(programs.batch(k=640, n=256), "sm_90")
    assert source.count("gl.warp_specialize") == 1
    torch.manual_seed(0)
    x, w = torch.randn(*batch, 640).bfloat16(), scaled("float8_128x128", 256, 640)
    elements, scales = gluon.run(source, x, *arrays(w), programs=3)
    assert (elements.shape, scales.shape) == ((*batch, 256), (*batch, 2))
    if x.numel():
        correct = breccia.compile(fused, target="numpy")(breccia.cast(x.flatten(0, 1), recipes.float8_1x128), w)
        found = values((elements.flatten(0, 1), scales.flatten(0, 1)))
        assert agree(found, correct.dequantize("float32"))
