"""Decorated functions, called: values, sizes, containers, what was bound anew, ahead of time, dumps."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

import inspect
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.errors import PassError, ShapeError, TraceError, UnsupportedError
from breccia.frontend.compile import CompiledFunction, FallbackWarning
from breccia.ir.interpreter import interpret
from breccia.target import find

bf16 = ml_dtypes.bfloat16
RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 64), np.float32)
MX = recipes.mxfp8_e4m3
W = breccia.cast(RNG.standard_normal((64, 32), np.float32), MX, axis=0)
BIAS = np.arange(32, dtype=np.float32)
FACTOR = 2.0


def counted(fn: CompiledFunction) -> int:
    """How many programs were made."""
    return sum(map(len, fn._programs.values()))


def mlp(x: Any, w: Any) -> Any:
    h = breccia.silu(breccia.matmul(breccia.cast(breccia.rms_norm(x), MX), w) + BIAS)
    return (h.astype(bf16) * FACTOR).astype(np.float32)


def test_the_call_gives_what_the_interpreter_gives() -> None:
    f = breccia.compile(mlp)
    traced = f.lower(X, W)._traced
    from breccia.frontend.results import convert_scaled
    from breccia.ir.interpreter import ScaledValue

    codes, scale = convert_scaled(W)
    (expected,) = interpret(traced.module, [X, ScaledValue(codes, (scale,), None, None), *traced.constants])
    np.testing.assert_allclose(f(X, W), expected, rtol=1e-2, atol=1e-2)
    assert f(X, W).dtype == np.float32


def test_decorator_forms() -> None:
    assert isinstance(breccia.compile(mlp), CompiledFunction)
    assert isinstance(breccia.compile(dynamic=False)(mlp), CompiledFunction)
    assert isinstance(breccia.compile(mlp, target="numpy", strict=True, name="block"), CompiledFunction)
    f = breccia.compile(mlp, name="block")
    assert "@block" in f.lower(X, W).ir("traced")
    assert f.__name__ == "mlp"
    assert inspect.unwrap(f) is mlp
    assert list(inspect.signature(f).parameters) == ["x", "w"]
    assert repr(f) == "<compiled mlp for where its arguments lie>"
    assert repr(breccia.compile(mlp, target="numpy")) == "<compiled mlp for numpy>"


def test_one_program_serves_every_leading_size() -> None:
    f = breccia.compile(lambda x: breccia.softmax(x) + 1)
    for rows in (5, 1, 3, 4):
        np.testing.assert_allclose(f(X[:rows]).sum(-1), 65.0, rtol=1e-5)
    assert counted(f) == 1
    g = breccia.compile(lambda x: breccia.softmax(x) + 1, dynamic=False)
    g(X)
    g(X[:3])
    assert counted(g) == 2


def test_a_program_for_equal_sizes_is_not_used_for_unequal_ones() -> None:
    f = breccia.compile(lambda x, y: x + y)
    np.testing.assert_array_equal(f(X, X), 2 * X)
    np.testing.assert_array_equal(f(X, X[:1]), X + X[:1])
    np.testing.assert_array_equal(f(X[:2], X[:2]), 2 * X[:2])
    assert counted(f) == 2
    with pytest.raises(ShapeError, match="shape mismatch"):
        f(X, X[:3])


def test_a_size_that_is_part_of_the_code_is_checked() -> None:
    f = breccia.compile(lambda x: x * float(int(x.shape[0])))
    with pytest.warns(FallbackWarning, match=r"used as a number by int\(\) .*size 5 is part of the code") as caught:
        np.testing.assert_array_equal(f(X), X * 5)
    assert caught[0].filename == __file__
    with pytest.warns(FallbackWarning, match="size 2"):
        f(X[:2])
    np.testing.assert_array_equal(f(X[:2]), X[:2] * 2)
    np.testing.assert_array_equal(f(X), X * 5)
    assert counted(f) == 2


def test_empty_batches() -> None:
    f = breccia.compile(lambda x: x * 2)
    assert f(X).shape == (5, 64)
    assert f(X[:0]).shape == (0, 64)


def test_results_keep_their_containers() -> None:
    class Out(NamedTuple):
        a: Any
        b: Any

    f = breccia.compile(lambda p, n, flag=True: {"o": Out(p["x"] * n, [p["y"][0]]), "n": n, "f": flag, "none": None})
    out = f({"x": X, "y": (X[0], 1)}, 3)
    assert type(out["o"]) is Out
    np.testing.assert_array_equal(out["o"].a, X * 3)
    np.testing.assert_array_equal(out["o"].b[0], X[0])
    assert (out["n"], out["f"], out["none"]) == (3, True, None)


def test_a_function_without_arrays_in_its_result() -> None:
    assert breccia.compile(lambda x: (1, None))(X) == (1, None)


def test_scalars_are_part_of_the_code() -> None:
    f = breccia.compile(lambda x, n: x * n)
    np.testing.assert_array_equal(f(X, 2), X * 2)
    np.testing.assert_array_equal(f(X, 3), X * 3)
    np.testing.assert_array_equal(f(X, n=3), X * 3)


@pytest.mark.parametrize("name", list(recipes.all_recipes()))
def test_scaled_results_equal_the_eager_cast(name: str) -> None:
    recipe = recipes.find(name)
    x = RNG.standard_normal((6, 160), np.float32)
    out = breccia.compile(lambda x: breccia.cast(x, recipe))(x)
    assert out == breccia.cast(x, recipe)
    assert out.recipe is recipe


def test_classes_of_breccia_01_stay_in_results() -> None:
    recipe = breccia.Float8BlockScaling(block_k=32)
    out = breccia.compile(lambda x: breccia.cast(x, recipe).T)(X)
    assert out == breccia.cast(X, recipe).T
    assert breccia.compile(lambda x: breccia.cast(x, recipe))(X).recipe is recipe


def test_logical_dtypes_of_scaled_results() -> None:
    out = breccia.compile(lambda x: (breccia.cast(x, MX), breccia.cast(x, MX, dtype=np.float16)))(X.astype(bf16))
    assert [st.dtype.name for st in out] == ["bfloat16", "float16"]


def test_narrow_plain_results_have_their_dtype() -> None:
    out = breccia.compile(lambda x: x.astype(ml_dtypes.float8_e4m3fn))(X)
    assert out.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(out.astype(np.float32), X.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_byte_order_and_strides_do_not_matter() -> None:
    f = breccia.compile(lambda x: np.exp(x) @ BIAS[:, None].repeat(2, 1)[:4].T.copy() if False else np.exp(x))
    np.testing.assert_array_equal(f(X.astype(">f4")), f(X))
    np.testing.assert_array_equal(f(X[::-1, ::2]), f(np.ascontiguousarray(X[::-1, ::2])))


def test_rebinding_a_global_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    f = breccia.compile(mlp)
    before = f(X, W)
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    np.testing.assert_array_equal(f(X, W), 2 * before)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    np.testing.assert_array_equal(f(X, W), before)


def test_rebinding_a_cell_and_writing_into_a_captured_array_are_seen() -> None:
    bias = np.zeros(64, np.float32)
    scale = 1.0

    def fn(x: Any) -> Any:
        return x * scale + bias

    f = breccia.compile(fn)
    np.testing.assert_array_equal(f(X), X)
    bias += 1
    np.testing.assert_array_equal(f(X), X + 1)
    scale = 3.0
    np.testing.assert_array_equal(f(X), X * 3 + 1)


def test_methods_are_compiled_for_their_object() -> None:
    class Layer:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @breccia.compile
        def forward(self, x: Any) -> Any:
            return x * self.scale

    a, b = Layer(2.0), Layer(3.0)
    np.testing.assert_array_equal(a.forward(X), X * 2)
    np.testing.assert_array_equal(b.forward(X), X * 3)
    assert a.forward is a.forward
    a.scale = 5.0
    np.testing.assert_array_equal(a.forward(X), X * 5)
    np.testing.assert_array_equal(breccia.compile(SimpleNamespace(f=lambda x: x + 1).f)(X), X + 1)


def test_two_threads_make_one_program() -> None:
    f = breccia.compile(lambda x: np.tanh(x))
    threads = [threading.Thread(target=f, args=(X,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert counted(f) == 1


def test_ahead_of_time() -> None:
    compiled = breccia.compile(mlp).lower(X, W).compile()
    np.testing.assert_array_equal(compiled(X[:2], W), breccia.compile(mlp)(X[:2], W))
    with pytest.raises(ShapeError, match="mlp is compiled for other arguments"):
        compiled(X[:, :32], W)


def test_stages_of_ir() -> None:
    low = breccia.compile(mlp).lower(X, W)
    assert "breccia.kernel" not in low.ir("traced")
    assert "breccia.kernel" in low.ir("partitioned")
    assert "#breccia.layout" in low.ir("laid_out")
    assert "window" in low.ir("tiled")
    assert low.passes()[0] == "canonicalize"
    for name in low.passes():
        assert "func.func @mlp" in low.ir(name)
    assert 'loc("' in low.ir("tiled", locations=True)
    assert [r.name for r in low.records] == low.passes()
    assert all(r.seconds >= 0 for r in low.records)
    assert "def mlp(" in low.source()
    with pytest.raises(PassError, match="no stage 'final'; stages: traced, partitioned"):
        low.ir("final")


def test_targets_without_an_emitter_lower_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = replace(find("metal"), emitter=None, launcher=None, stands_in=False)
    monkeypatch.setattr("breccia.frontend.compile.found_target", lambda name: silent)
    low = breccia.compile(mlp, target="metal").lower(X, W)
    assert 'breccia.target<"metal:apple"' in low.ir("partitioned")
    assert "mlp for metal:apple" in low.explain()
    with pytest.raises(UnsupportedError, match="does not emit code for it"):
        low.source()
    with pytest.raises(UnsupportedError, match="does not emit code for it"):
        breccia.compile(mlp, target="metal")(X, W)


def test_a_target_emits_for_arrays_that_it_does_not_run_on() -> None:
    f = breccia.compile(mlp, target="triton:sm_90")
    assert "@triton.jit" in f.lower(X, W).source()
    with pytest.raises(UnsupportedError, match="triton:sm_90 runs on arrays of torch, not of numpy; convert them"):
        f(X, W)


def test_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_DUMP", str(tmp_path / "dump"))
    breccia.compile(mlp)(X, W)
    names = sorted(file.name for file in (tmp_path / "dump" / "mlp").iterdir())
    assert names[0] == "00-start.mlir"
    assert names[1] == "01-canonicalize.mlir"
    assert names[-1].endswith("-source.py")


def test_strict_makes_a_size_in_the_code_an_error() -> None:
    f = breccia.compile(lambda x: x * float(int(x.shape[0])), strict=True)
    with pytest.raises(UnsupportedError, match=r"strict=True, and M is used as a number by int\(\).*dynamic=False"):
        f(X)
    g = breccia.compile(lambda x: x * float(int(x.shape[0])), strict=True, dynamic=False)
    np.testing.assert_array_equal(g(X), X * 5)


def test_an_error_in_the_function_leaves_it_usable() -> None:
    f = breccia.compile(lambda x, ok: x * 2 if ok else x[x > 0])
    with pytest.raises(TraceError):
        f(X, False)
    np.testing.assert_array_equal(f(X, True), X * 2)


def test_recursion_into_itself_is_traced_through() -> None:
    @breccia.compile
    def power(x: Any, n: int) -> Any:
        return x if n == 1 else x * power(x, n - 1)

    np.testing.assert_allclose(power(X, 3), X**3, rtol=1e-6)


def test_clear_forgets() -> None:
    f = breccia.compile(lambda x: x + 1)
    f(X)
    f.clear()
    assert counted(f) == 0
    np.testing.assert_array_equal(f(X), X + 1)
