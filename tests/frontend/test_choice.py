"""What a call is compiled for where no target was named, gradients that kernels refuse, and sizes that they must know.

There is no GPU here: arrays in the host's memory say that they lie on one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.arrays import primitives_of
from breccia.errors import GradientError, UnknownSizeError, UnsupportedError
from breccia.frontend import choice, keys
from breccia.frontend.choice import check_gradients, default_target, found_target, runs_kernels
from breccia.frontend.compile import CompiledFunction, FallbackWarning
from breccia.ir.hints import TYPICAL
from tests.optional import need

X = np.random.default_rng(0).standard_normal((5, 64), np.float32)
KERNELS = found_target("triton:sm_90")
UNCACHED = choice._known.__wrapped__

OnGpu = Callable[..., None]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    """Make torch's tensors say that they lie on a GPU: of one architecture, or by their last size."""
    need("torch")

    def say(architecture: str = "sm_90", *, of: dict[int, str] | None = None, installed: bool = True) -> None:
        def found(x: Any) -> str:
            return of.get(x.shape[-1], "") if of is not None else architecture

        monkeypatch.setattr(primitives_of("torch"), "architecture", found)
        monkeypatch.setattr(keys, "_PLACES", {})
        monkeypatch.setattr(choice, "find_spec", lambda name: object() if installed else None)
        monkeypatch.setattr(choice, "_known", UNCACHED)

    return say


def tensor(*shape: int) -> Any:
    import torch

    return torch.ones(shape)


def cast_rows(x: Any) -> Any:
    return breccia.cast(breccia.relu(x), recipes.mxfp8_e4m3)


def over_columns(x: Any) -> Any:
    return breccia.softmax(x, axis=0)


# -- the default target ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "mlx"])
def test_arrays_in_the_hosts_memory_run_as_array_functions(library: str) -> None:
    need(library)
    x = breccia.cast(X, recipes.mxfp8_e4m3)
    x = x if library == "numpy" else x.to(library)
    assert primitives_of(library).architecture(x.data) == ""
    assert default_target([x, x.data]).full_name == "numpy"
    assert not runs_kernels(x)
    assert not runs_kernels(x.data)


def test_no_arrays_at_all() -> None:
    assert default_target([]).full_name == "numpy"


def test_arrays_on_a_known_gpu_run_kernels_made_for_it(on_gpu: OnGpu) -> None:
    on_gpu("sm_100")
    x = breccia.cast(X, recipes.mxfp8_e4m3).to("torch")
    assert default_target([tensor(2, 4), x]).full_name == "triton:sm_100"
    assert default_target([tensor(2, 4), X]).full_name == "triton:sm_100", "NumPy's arrays follow the others"
    assert runs_kernels(x)
    assert runs_kernels(tensor(4))
    assert not runs_kernels(X)


def test_a_gpu_without_a_target_and_a_missing_triton_run_array_functions(on_gpu: OnGpu) -> None:
    on_gpu("sm_70")
    assert default_target([tensor(4)]).full_name == "numpy"
    on_gpu("sm_90", installed=False)
    assert default_target([tensor(4)]).full_name == "numpy"
    assert not runs_kernels(tensor(4))


def test_arrays_that_lie_in_several_places_run_as_array_functions(on_gpu: OnGpu) -> None:
    on_gpu(of={4: "sm_90", 8: "sm_100"})
    assert default_target([tensor(4), tensor(4)]).full_name == "triton:sm_90"
    assert default_target([tensor(4), tensor(8)]).full_name == "numpy"
    assert default_target([tensor(4), tensor(3)]).full_name == "numpy"


def test_one_function_serves_both_places(on_gpu: OnGpu) -> None:
    need("torch")
    f = breccia.compile(cast_rows)
    here = f.lower(tensor(5, 64))
    on_gpu()
    there = f.lower(tensor(5, 64))
    assert "lowered for numpy" in repr(here)
    assert "lowered for triton:sm_90" in repr(there)
    assert here._key != there._key
    assert repr(f).endswith("for where its arguments lie>")
    assert "lowered for numpy" in repr(breccia.compile(cast_rows, target="numpy").lower(tensor(5, 64))), "as named"


def test_kernels_are_chosen_for_the_sizes_that_a_call_had(on_gpu: OnGpu) -> None:
    assert TYPICAL not in breccia.compile(cast_rows).lower(tensor(40, 64)).ir(), "array functions take all sizes alike"
    on_gpu()
    f = breccia.compile(cast_rows)
    assert f'{TYPICAL} = "M=64"' in f.lower(tensor(40, 64)).ir()
    assert f'{TYPICAL} = "M=4096"' in f.lower(tensor(1000, 64)).ir()
    assert TYPICAL not in breccia.compile(cast_rows, dynamic=False).lower(tensor(40, 64)).ir()

    def key(rows: int) -> Any:
        return keys.call_key((tensor(rows, 64),), {}, True)[0]

    assert key(40) == key(64) != key(65)
    assert key(1) == key(16) != key(17)
    assert key(257) == key(100000)


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_differentiated_tensors_are_refused_by_kernels_that_were_asked_for() -> None:
    need("torch")
    import torch

    x = tensor(5, 64).requires_grad_()
    f = breccia.compile(lambda x: breccia.relu(x) * 2, target="triton:sm_90")
    with pytest.raises(GradientError, match="kernels of triton:sm_90 give no gradients; detach the arrays, or name no"):
        f(x)
    with torch.no_grad():
        check_gradients(KERNELS, [x])
    check_gradients(KERNELS, [x.detach(), X])
    check_gradients(found_target("numpy"), [x])


def test_differentiated_scales_are_refused_too() -> None:
    need("torch")
    st = breccia.cast(X, recipes.float8_row).to("torch")
    check_gradients(KERNELS, [st])
    st.scales[0].requires_grad_()
    with pytest.raises(GradientError, match="kernels of triton:sm_90 give no gradients"):
        check_gradients(KERNELS, [st])


# -- sizes that a target has to know -----------------------------------------------------------------------------------


def columns() -> CompiledFunction:
    return breccia.compile(over_columns, target="triton:sm_90")


def test_a_size_that_must_be_known_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownSizeError, match="M is known only at the call; triton:sm_90 needs tiles of a known size"):
        columns().lower(X).source()
    assert issubclass(UnknownSizeError, UnsupportedError)
    assert "over_columns" in columns().lower(X[0]).source(), "a vector's size is known"


def test_pinned_sizes_are_part_of_the_code_and_a_fallback() -> None:
    lowered = columns()._lowered((X,), {}, "triton:sm_90 needs to know the size of an axis")
    assert "[5, 64]" in lowered.ir()
    assert "def over_columns" in lowered.source()
    (text,) = lowered.pinned_numbers()
    assert text.startswith("triton:sm_90 needs to know the size of an axis, so the size 5 is part of the code")
    assert text in "; ".join(lowered.fallbacks())
    assert lowered.plan(prepare=False).pinned == ((0, 5),)


def test_pinned_sizes_may_differ_from_one_argument_to_the_next() -> None:
    f = breccia.compile(lambda x, y: breccia.concat([x, y], axis=0), target="numpy")
    assert f._lowered((X, X[:3]), {}, "why not").plan(prepare=False).pinned == ((0, 5), (1, 3))


def test_a_call_falls_back_to_known_sizes_and_says_so() -> None:
    """Without a GPU nothing runs, but for the interpreter where other tests turned it on; the code is made before."""
    need("torch")
    pytest.importorskip("triton")
    wanted = "over_columns: triton:sm_90 needs to know the size of an axis, so the size 5 is part of the code"
    f = columns()
    with pytest.warns(FallbackWarning, match=wanted), suppress(UnsupportedError):
        f(tensor(5, 64))


def test_strict_refuses_that_fallback() -> None:
    need("torch")
    f = breccia.compile(over_columns, target="triton:sm_90", strict=True)
    with pytest.raises(UnsupportedError, match="strict=True, and triton:sm_90 needs to"):
        f(tensor(5, 64))
