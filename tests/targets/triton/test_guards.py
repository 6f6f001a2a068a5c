"""Kernels that keep what a quick product made: emitted text, and what it does in Triton's interpreter."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.ir.capabilities import set_target  # noqa: E402
from breccia.ir.interpreter import interpret  # noqa: E402
from breccia.ir.pipeline import Pipeline  # noqa: E402
from breccia.passes import default_pipeline  # noqa: E402
from breccia.target import find  # noqa: E402
from breccia.targets.triton.emit import emit  # noqa: E402
from breccia.tensor import ScaledTensor  # noqa: E402
from tests.passes.test_fold_exponents import product, spread_rows, values  # noqa: E402
from tests.targets.triton import interpreter  # noqa: E402
from tests.targets.triton.helpers import load  # noqa: E402

pytestmark = interpreter.needed()

ADA = replace(find("triton:sm_89").capabilities, decode_rows=1)
M, N, K = 150, 140, 160
EXACT = 131
"""The row whose exponents lie far apart."""


def emitted(recipe: str = "mxfp8") -> str:
    module = product(recipe, recipe, accuracy="bounded", M=str(M), N=N, K=K)
    set_target(module, ADA)
    Pipeline(default_pipeline(ADA)).run(module)
    return emit(module)


def operands() -> tuple[ScaledTensor, ScaledTensor, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((M, K)).astype(np.float32)
    x[EXACT] = spread_rows(rng, 16, K)[15]
    w = rng.standard_normal((N, K)).astype(np.float32)
    mx = recipes.mxfp8_e4m3
    return breccia.cast(x, mx), breccia.cast(w, mx), rng.standard_normal(N).astype(np.float32)


def tensors(st: ScaledTensor) -> list[Any]:
    return [torch.from_numpy(np.ascontiguousarray(a).view(np.uint8)) for a in (st.data, *st.scales)]


def meant(x: ScaledTensor, w: ScaledTensor, bias: np.ndarray) -> np.ndarray:
    """The function without any fold."""
    exact = product("mxfp8", "mxfp8", M=str(M), N=N, K=K)
    return interpret(exact, [values(x), values(w), bias])[0].astype(np.float32)


def floats(tensor: Any) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).astype(np.float32)


def exact_kernel(programs: int, rows: Sequence[int], columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What the exact kernel alone makes of a result full of 7 where rows and columns are marked; what is meant."""
    x, w, bias = operands()
    module = load(emitted())
    lost = torch.zeros((M, 1), dtype=torch.bool), torch.zeros((1, N), dtype=torch.bool)
    lost[0][list(rows)] = True
    lost[1][:, list(columns)] = True
    out = torch.full((M, N), 7.0, dtype=torch.bfloat16)
    parts = dict(zip(("x_elements", "x_scale0", "w_elements", "w_scale0"), (*tensors(x), *tensors(w)), strict=True))
    parts |= {"b": torch.from_numpy(bias), "x_lost": lost[0], "w_lost": lost[1]}
    names = module._gemm_1.arg_names
    with np.errstate(all="ignore"):
        module.gemm_1(programs, *(parts.get(n, out) for n in names[: names.index("x_elements_stride0")]))
    computed = lost[0].numpy() | lost[1].numpy()
    return floats(out), np.where(computed, meant(x, w, bias), 7.0)


def test_the_text_ends_early_and_writes_in_place() -> None:
    text = emitted()
    body = text[text.index("def _gemm_1(") :]
    assert re.search(r"if tl\.max\(anything\) == 0:\n\s+return\n\s+for pid in range\(tl\.program_id\(0\), ", body)
    assert re.search(r"walks=1,\n\s+target=", body)
    call = re.search(r"gemm_1\(\d+, .*, (\w+), (\w+)\)", body)
    assert call is not None
    assert call[1] == call[2]
    assert f"return {call[1]}" in body


def test_the_function_means_the_same() -> None:
    x, w, bias = operands()
    with np.errstate(all="ignore"):
        found = floats(load(emitted()).f(*tensors(x), *tensors(w), torch.from_numpy(bias)))
    wanted = meant(x, w, bias)
    assert np.abs(found - wanted).max() <= 2.0**-7 * np.abs(wanted).max()
    np.testing.assert_allclose(found[EXACT], wanted[EXACT], rtol=2.0**-7)


@pytest.mark.parametrize(("rows", "columns"), [((), ()), ((EXACT,), ()), ((), (3,)), ((0, 149), (139,))])
def test_only_marked_rows_and_columns_are_computed(rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    found, wanted = exact_kernel(4, rows, columns)
    assert np.array_equal(found == 7, wanted == 7)
    np.testing.assert_allclose(found, wanted, rtol=2.0**-7, atol=1e-2)


@pytest.mark.parametrize("programs", [1, 3, 9])
def test_programs_walk(programs: int) -> None:
    """Fewer programs than tiles leave none out, and more do no harm."""
    found, wanted = exact_kernel(programs, range(M), ())
    np.testing.assert_allclose(found, wanted, rtol=2.0**-7, atol=1e-2)
