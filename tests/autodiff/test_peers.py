"""Gradients of traced functions, against PyTorch's of the same functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import breccia
from breccia import training
from breccia.autodiff import differentiate
from breccia.frontend.build import trace
from breccia.ir.interpreter import interpret
from tests.autodiff.differences import gradients

torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
F = torch.nn.functional


def gated(x: Any, g: Any, u: Any, d: Any) -> Any:
    return breccia.matmul(breccia.silu(breccia.matmul(x, g)) * breccia.matmul(x, u), d)


def attention(q: Any, k: Any, v: Any) -> Any:
    p = breccia.softmax(breccia.matmul(q, breccia.transpose(k, (0, 2, 1))) * 0.25)
    return breccia.matmul(p, v)


def norms(x: Any, w: Any, b: Any) -> Any:
    return breccia.layer_norm(breccia.rms_norm(x, w), w, b)


def pieces(x: Any, y: Any) -> Any:
    joined = breccia.concat([x, breccia.gelu(y)], axis=0)
    chosen = breccia.where(joined > 0.1, breccia.tanh(joined), joined * joined)
    return breccia.reshape(chosen[1:, 2:], (-1,)) - breccia.max(y)


def gated_torch(x: Any, g: Any, u: Any, d: Any) -> Any:
    return (F.silu(x @ g) * (x @ u)) @ d


def norms_torch(x: Any, w: Any, b: Any) -> Any:
    return F.layer_norm(F.rms_norm(x, x.shape[-1:], w, eps=1e-6), x.shape[-1:], w, b, eps=1e-5)


def pieces_torch(x: Any, y: Any) -> Any:
    joined = torch.cat([x, F.gelu(y)], 0)
    return torch.where(joined > 0.1, torch.tanh(joined), joined * joined)[1:, 2:].reshape(-1) - y.max()


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "gated": (gated, gated_torch, [(5, 16), (16, 24), (16, 24), (24, 8)]),
    "attention": (attention, lambda q, k, v: torch.softmax(q @ k.mT * 0.25, -1) @ v, [(2, 5, 16)] * 3),
    "norms": (norms, norms_torch, [(5, 24), (24,), (24,)]),
    "pieces": (pieces, pieces_torch, [(4, 6), (3, 6)]),
}


def arguments_of(shapes: list[tuple[int, ...]]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_pytorch(name: str) -> None:
    ours, theirs, shapes = CASES[name]
    arguments = arguments_of(shapes)
    module = trace(ours, arguments, {}).module
    made = differentiate(module, range(len(arguments)))
    given = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arguments]
    out = theirs(*given)
    upstream = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    wanted = torch.autograd.grad(out, given, torch.tensor(upstream, dtype=torch.float64))
    for found, expected in zip(gradients(made, arguments, [upstream]), wanted, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-6)


def test_a_traced_layer_trains_by_a_recipe() -> None:
    """Five steps downhill with MXFP8 products: the loss of a regression falls each time."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 32)).astype(np.float32), np.zeros((32, 16), np.float32)
    target = x @ rng.standard_normal((32, 16)).astype(np.float32)

    def loss(x: Any, w: Any, t: Any) -> Any:
        d = breccia.matmul(x, w) - t
        return breccia.mean(d * d)

    made = differentiate(trace(loss, [x, w, target], {}).module, [1], training.mxfp8)
    losses: list[float] = []
    for _ in range(5):
        results = interpret(made.forward, [x, w, target])
        losses.append(float(results[0]))
        (dw,) = interpret(made.backward, made.backward_arguments([x, w, target], results, [np.ones_like(results[0])]))
        w = w - 5 * dw
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("cast", [breccia.cast_ste, lambda x, r: breccia.dequantize(breccia.cast(x, r))])
def test_fake_quantization_lets_gradients_through(cast: Callable[..., Any]) -> None:
    (x,) = arguments_of([(4, 64)])
    made = differentiate(trace(lambda x: cast(x, breccia.recipes.mxfp8_e4m3) * x, [x], {}).module, [0])
    upstream = np.ones((4, 64), np.float32)
    rounded = breccia.cast(x, breccia.recipes.mxfp8_e4m3).dequantize()
    (found,) = gradients(made, [x], [upstream], wide=False)
    np.testing.assert_allclose(found, rounded + x, rtol=1e-6)


def test_errors_name_the_users_line() -> None:
    def experts(x: Any, w: Any, offsets: Any) -> Any:
        return breccia.grouped_matmul(x, w, offsets)

    arguments = [*arguments_of([(6, 8), (2, 8, 4)]), np.int32([0, 2, 6])]
    module = trace(experts, arguments, {}).module
    line = experts.__code__.co_firstlineno + 1
    with pytest.raises(breccia.GradientError, match=rf"test_peers\.py:{line}: grouped_matmul has no gradient"):
        differentiate(module, [0, 1])
