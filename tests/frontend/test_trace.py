"""What traced functions mean: the IR, interpreted, against NumPy or PyTorch's rules."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.frontend.build import trace
from breccia.ir.interpreter import interpret
from breccia.ir.printer import print_module
from breccia.ir.rewriting import show_location

bf16 = ml_dtypes.bfloat16
X = np.linspace(-3, 3, 60, dtype=np.float32).reshape(5, 12)
Y = np.cos(np.arange(60, dtype=np.float32)).reshape(5, 12)


def run(fn: Any, *args: Any, dynamic: bool = True) -> Any:
    """The function's results by the interpreter."""
    traced = trace(fn, args, {}, dynamic=dynamic)
    return interpret(traced.module, [*args, *traced.constants])


def text(fn: Any, *args: Any, dynamic: bool = True) -> str:
    return print_module(trace(fn, args, {}, dynamic=dynamic).module)


SAME_AS_NUMPY = {
    "arithmetic": lambda x, y: (x + y) * 2 - x / (y + 5) + 1.5 / (x + 9),
    "powers": lambda x, y: x**2 + abs(x) ** 0.5 + (y + 3) ** -0.5 + (y + 2) ** 3.0,
    "signs": lambda x, y: -x + (+y) + abs(x),
    "compare": lambda x, y: np.where((x > y) & ~(x > 1) | (y <= 0), x, y),
    "equality": lambda x, y: np.where(x == x, x, y) + np.where(x != y, 1.0, 0.0),
    "functions": lambda x, y: np.exp(y) + np.tanh(x) + np.sqrt(np.square(x)) + np.maximum(x, y) - np.minimum(x, 0.5),
    "ufuncs on arrays": lambda x, y: np.add(np.float32(2), x) + np.subtract(Y, x) + Y * x,
    "reductions": lambda x, y: x.sum(axis=1) + y.max(-1) - np.min(x, axis=1) + np.mean(y, axis=1),
    "keepdims": lambda x, y: x - x.mean(axis=-1, keepdims=True) + np.amax(y, axis=0, keepdims=True),
    "variance": lambda x, y: np.var(x, axis=1) + y.std(axis=1) + np.var(x, axis=1, ddof=1),
    "whole sums": lambda x, y: x.sum() + y.mean(),
    "views": lambda x, y: np.swapaxes(x, 0, 1)[2:5] + np.transpose(y)[2:5],
    "indexing": lambda x, y: x[:, 3:7] + y[:, 1, None] + x[..., -4:] + x[:, None, 0],
    "index of rows": lambda x, y: x[1] + y[-1] + x[2:4].sum(0),
    "joining": lambda x, y: np.concatenate([x, y, x], axis=1) + np.concatenate([y, Y, x], axis=-1),
    "stacking": lambda x, y: np.stack([x, y], axis=1),
    "splitting": lambda x, y: np.split(x, 3, axis=1)[1] + np.split(y, [4, 8], axis=1)[2],
    "reshape": lambda x, y: x.reshape(5, 3, 4).transpose(1, 0, 2).reshape(3, -1),
    "squeeze": lambda x, y: np.squeeze(np.expand_dims(x, (0, 2))) + y.ravel().reshape(5, 12),
    "broadcast": lambda x, y: np.broadcast_to(x[:, :1], (5, 12)) + y,
    "matmul": lambda x, y: x @ y.T + np.matmul(y, x.T) + np.dot(x, Y.T),
    "einsum": lambda x, y: np.einsum("ij,kj->ik", x, y) + np.einsum("ij->i", y) * np.einsum("i,j", x[:, 0], y[:, 1]),
    "batched": lambda x, y: x.reshape(5, 3, 4) @ y.reshape(5, 4, 3),
    "clip": lambda x, y: np.clip(x, -1, 1) + y.clip(0, None),
    "like": lambda x, y: np.zeros_like(x) + np.ones_like(y) + np.full_like(x, 3),
    "casts": lambda x, y: x.astype(np.float16).astype(np.float32) + (x > 0).astype(np.float32),
    "sizes": lambda x, y: x * x.shape[0] / x.shape[1] + np.sum(y, axis=0) / len(y) + x.size,
    "moveaxis": lambda x, y: np.moveaxis(x.reshape(5, 3, 4), 0, -1) * 2,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME_AS_NUMPY)
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_traced_function_gives_what_numpy_gives(name: str, dynamic: bool) -> None:
    fn = SAME_AS_NUMPY[name]
    (found,) = run(fn, X, Y, dynamic=dynamic)
    expected = fn(X, Y)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_narrow_floats_are_computed_in_float32_and_rounded_once_per_operation() -> None:
    x, y = X.astype(bf16), Y.astype(bf16)
    (found,) = run(lambda x, y: (x + y) * y, x, y)
    once = (x.astype(np.float32) + y.astype(np.float32)).astype(bf16)
    twice = (once.astype(np.float32) * y.astype(np.float32)).astype(bf16)
    assert found.dtype == bf16
    np.testing.assert_array_equal(found.view(np.uint16), twice.view(np.uint16))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda b, h, f, i: b + 2.0, bf16),
        (lambda b, h, f, i: b + h, np.float32),
        (lambda b, h, f, i: b + f, np.float32),
        (lambda b, h, f, i: h + np.float32(1), np.float16),
        (lambda b, h, f, i: i + 1, np.int32),
        (lambda b, h, f, i: i + 1.5, np.float32),
        (lambda b, h, f, i: i / i, np.float32),
        (lambda b, h, f, i: i + h, np.float16),
        (lambda b, h, f, i: (b > 0) + i, np.int32),
        (lambda b, h, f, i: b > h, np.bool_),
        (lambda b, h, f, i: b @ b.T, bf16),
        (lambda b, h, f, i: b @ f.T, np.float32),
        (lambda b, h, f, i: breccia.matmul(b, b.T), np.float32),
        (lambda b, h, f, i: breccia.matmul(f, f.T, bf16), bf16),
        (lambda b, h, f, i: b.sum(axis=0), bf16),
        (lambda b, h, f, i: i.sum(axis=0), np.int64),
        (lambda b, h, f, i: np.mean(i, axis=0), np.float32),
        (lambda b, h, f, i: breccia.softmax(h), np.float16),
        (lambda b, h, f, i: breccia.rms_norm(b, f[0]), bf16),
        (lambda b, h, f, i: np.where(b > 0, b, 0.0), bf16),
    ],
)
def test_dtypes_follow_pytorch(fn: Any, expected: Any) -> None:
    args = (X.astype(bf16), X.astype(np.float16), X, X.astype(np.int32))
    traced = trace(fn, args, {})
    assert traced.results[0].dtype == np.dtype(expected)
    (found,) = interpret(traced.module, [*args, *traced.constants])
    assert found.dtype == np.dtype(expected)


def test_integer_sums_do_not_wrap_at_32_bits() -> None:
    (found,) = run(lambda x: x.sum(), np.full((4, 4), 2**30, np.int32))
    assert found == 2**34


def test_leading_sizes_are_symbols() -> None:
    assert "%x: !breccia.tensor<[M, 12], f32>" in text(lambda x: x + 1, X)
    assert "%x: !breccia.tensor<[5, 12], f32>" in text(lambda x: x + 1, X, dynamic=False)
    assert "%x: !breccia.tensor<[5], f32>" in text(lambda x: x + 1, X[:, 0])


def test_sizes_that_must_be_equal_share_a_symbol() -> None:
    assert text(lambda x, y: x + y, X, Y).count("<[M, 12], f32>") == 4
    both = text(lambda x, y: (x * 2, y * 2), X, Y)
    assert "[M, 12]" in both
    assert "[M1, 12]" in both


def test_a_size_that_meets_a_number_becomes_one() -> None:
    traced = trace(lambda x, w: x @ w, (X, np.ones((12, 3), np.float32)), {})
    assert "%w: !breccia.tensor<[12, 3], f32>" in print_module(traced.module)
    assert "%x: !breccia.tensor<[M, 12], f32>" in print_module(traced.module)
    assert traced.symbols.pinned() == ((1, 12),)
    assert "matmul at" in traced.notes[0]


def test_a_size_of_one_that_is_broadcast_becomes_a_number() -> None:
    traced = trace(lambda x, y: x + y, (X, Y[:1]), {})
    assert "%y: !breccia.tensor<[1, 12], f32>" in print_module(traced.module)
    assert "broadcast" in traced.notes[0]


def test_a_leading_size_of_one_stays_a_symbol() -> None:
    assert "%x: !breccia.tensor<[M, 12], f32>" in text(lambda x: x * 2 + np.ones((1, 12), np.float32), X[:1])


def test_a_size_used_as_a_number_becomes_one_and_the_line_is_noted() -> None:
    traced = trace(lambda x: x * float(int(x.shape[0])), (X,), {})
    assert "%x: !breccia.tensor<[5, 12], f32>" in print_module(traced.module)
    assert "M is used as a number by int() at" in traced.notes[0]
    assert "test_trace.py" in traced.notes[0]


def test_symbolic_sizes_compute_and_reshape() -> None:
    ir = text(lambda x: x.reshape(x.shape[0] * 3, -1).reshape(-1, 12), X)
    assert "reshape %x to [M * 3, 4]" in ir
    assert "to [M, 12]" in ir


def test_arrays_from_outside_are_constant_arguments_each_once() -> None:
    traced = trace(lambda x: x * Y[0] + Y + (x - Y), (X,), {})
    assert [c.shape for c in traced.constants] == [(12,), (5, 12)]
    assert "breccia.constants = #breccia.ints[1, 2]" in print_module(traced.module)
    assert traced.constants[1] is Y


def test_scaled_tensors_from_outside_are_constant_arguments() -> None:
    w = breccia.cast(np.ones((12, 4), np.float32), recipes.float8_tensor, axis=0)
    traced = trace(lambda x: x @ w, (X,), {})
    assert traced.constants == (w,)
    assert "%constant0: !breccia.scaled<[12, 4], f32" in print_module(traced.module)


def test_every_op_has_the_users_line() -> None:
    def fn(x: Any) -> Any:
        y = np.exp(x)
        return breccia.softmax(y @ y.T)

    first = fn.__code__.co_firstlineno
    traced = trace(fn, (X,), {})
    places = {show_location(op).rpartition(":") for op in traced.module.walk() if op.name.startswith("breccia.")}
    assert {file.rpartition("/")[2] for file, _, _ in places} == {"test_trace.py"}
    assert {int(line) for _, _, line in places} == {first + 1, first + 2}


def test_nested_arguments_and_results() -> None:
    def fn(p: Any, *rest: Any, k: Any = None) -> Any:
        return {"sum": p["w"][0] + p["b"] + rest[1], "k": (k, 3, None, "s"), "l": [rest[0]]}

    args = ({"w": [X, 2.5], "b": Y}, X, Y)
    traced = trace(fn, args, {"k": X})
    assert [a.name_hint for a in traced.module.body.block.first_op.args] == ["p_w0", "p_b", "rest0", "rest1", "k"]
    out = traced.tree.fill(iter(interpret(traced.module, [X, Y, X, Y, X])))
    np.testing.assert_allclose(out["sum"], X + Y + Y)
    assert out["k"][1:] == (3, None, "s")
    assert isinstance(out["l"], list)


def test_cast_records_axis_policy_and_recipe() -> None:
    traced = trace(lambda x: breccia.cast(x, recipes.mxfp8_e4m3, axis=0), (np.ones((64, 8), np.float32),), {})
    ir = print_module(traced.module)
    assert "#breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>" in ir
    assert "#breccia.policy<scale = ceil, zero_scale = smallest>" in ir
    assert traced.results[0].recipe == recipes.mxfp8_e4m3.along(0, 2)


def test_given_scales_and_seeds_are_operands() -> None:
    static = recipes.float8_tensor.with_policy(amax="static")
    ir = text(lambda x, s: breccia.cast(x, static, scale=s), X, np.float32(2))
    assert "given [0]" in ir
    seeded = recipes.float8_tensor.with_policy(rounding="stochastic")
    ir = text(lambda x, s: breccia.cast(x, seeded, seed=s), X, np.asarray(7))
    assert "quantize %x, %s policy" in ir
    (q,) = run(lambda x, s: breccia.cast(x, seeded, seed=s).dequantize(), X, np.asarray(7))
    np.testing.assert_array_equal(q, breccia.cast(X, seeded, seed=7).dequantize())


def test_transposed_weights_turn_their_blocks() -> None:
    w = breccia.cast(np.ones((4, 64), np.float32), recipes.mxfp8_e4m3)
    assert "per [32, 1]" in text(lambda x, w: x @ w.T, np.ones((2, 64), np.float32), w)


def test_a_function_compiled_elsewhere_is_traced_as_part_of_this_one() -> None:
    inner = breccia.compile(lambda x: np.exp(x))
    assert "breccia.unary exp %x" in text(lambda x: inner(x) + 1, X)


def test_lambdas_methods_and_odd_names() -> None:
    class Model:
        def __init__(self) -> None:
            self.scale = 3.0

        def forward(self, x: Any) -> Any:
            return x * self.scale

    assert "@lambda" in text(lambda x: x, X)
    assert "breccia.full 3.0" in text(Model().forward, X)
    assert "@forward" in text(Model().forward, X)
