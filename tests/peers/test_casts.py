"""Casts of ml_dtypes, PyTorch, JAX and MLX to one format each: no scales, every 16-bit pattern among the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import formats
from breccia.formats import Format
from breccia.numerics import encode
from tests.peers.compare import Case, Parts, because, check, load, need
from tests.peers.inputs import KINDS
from tests.peers.torch_arrays import codes_of, to_torch

CAST_KINDS = (*KINDS, "patterns")

FLOAT8 = (formats.float8_e4m3fn, formats.float8_e5m2, formats.float8_e4m3fnuz, formats.float8_e5m2fnuz)
SMALL = (formats.float6_e2m3fn, formats.float6_e3m2fn, formats.float4_e2m1fn)


def one_nan(codes: np.ndarray, fmt: Format) -> Parts:
    """Codes with all NaN made one: peers keep the sign of a NaN, or its bits."""
    nan = [code for code in range(1 << fmt.bits) if np.isnan(fmt.decode_code(code))]
    return {"elements": np.where(np.isin(codes, nan), fmt.nan_code or 0, codes).astype(np.uint8)}


def by_ml_dtypes(fmt: Format) -> Callable[[np.ndarray], Parts]:
    return lambda x: one_nan(x.astype(getattr(ml_dtypes, fmt.name)).view(np.uint8), fmt)


def by_torch(fmt: Format) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        import torch

        return one_nan(codes_of(to_torch(x).to(getattr(torch, fmt.name))), fmt)

    return run


def by_jax(fmt: Format) -> Callable[[np.ndarray], Parts]:
    def run(x: np.ndarray) -> Parts:
        made = load("jax.numpy").asarray(x).astype(getattr(ml_dtypes, fmt.name))
        return one_nan(np.asarray(made).view(np.uint8), fmt)

    return run


def by_mlx(x: np.ndarray) -> Parts:
    mx = load("mlx.core")
    values = mx.array(x.astype(np.float32))
    with mx.stream(mx.cpu):
        return one_nan(np.array(mx.to_fp8(values)), formats.float8_e4m3fn)


def ours(fmt: Format, overflow: Any) -> Callable[[np.ndarray, Any], Parts]:
    return lambda x, _: one_nan(encode(x, fmt, overflow=overflow), fmt)


NO_NAN = {
    "ml_dtypes": "the format has no NaN: a zero of the opposite sign in ml_dtypes, 0 here",
    "jax": "the format has no NaN: -0 in JAX, 0 here",
    "mlx": "NaN becomes 448 in MLX",
}


def cast_case(peer: str, fmt: Format, run: Callable[[np.ndarray], Parts], what: str, overflow: str = "nan") -> Case:
    differs = because(NO_NAN[peer], "nan", "patterns") if peer == "mlx" or fmt in SMALL else {}
    note = f"encode, {fmt.name}, overflow={overflow!r}; NaN of all signs and bits taken for one"
    return Case(f"{peer}_{fmt.name}", what, None, run, differs, kinds=CAST_KINDS, ours=ours(fmt, overflow), note=note)


CASES = [
    *(cast_case("ml_dtypes", fmt, by_ml_dtypes(fmt), f"astype({fmt.name})") for fmt in (*FLOAT8, *SMALL)),
    *(
        cast_case("torch", fmt, by_torch(fmt), f"to({fmt.name})", "saturate" if fmt is FLOAT8[0] else "nan")
        for fmt in FLOAT8
    ),
    *(cast_case("jax", fmt, by_jax(fmt), f"astype({fmt.name})") for fmt in (*FLOAT8, formats.float4_e2m1fn)),
    cast_case("mlx", FLOAT8[0], by_mlx, "to_fp8", "saturate"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cast(case: Case, golden: Any) -> None:
    check(case, need(case.name.rpartition("_float")[0]), golden)
