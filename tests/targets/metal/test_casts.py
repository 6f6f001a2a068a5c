"""Decoding and encoding in Metal: every code, and values of every kind, against `breccia.numerics`."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from breccia import formats, numerics
from breccia.formats import Format
from breccia.targets.metal import _casts, _functions
from breccia.targets.metal._library import Library
from tests.targets.metal import shim

SHORT = [f for f in formats.ALL if f.bits <= 8]
ENCODED = [*SHORT, formats.float16, formats.bfloat16]
ROUNDINGS = ("rne", "ties_away", "ties_zero", "stochastic")
OVERFLOWS = ("saturate", "nan")
SEED = 0x123456789ABCDEF


@cache
def library() -> ctypes.CDLL:
    """All functions, each behind a loop over arrays."""
    functions, loops = Library(), list[str]()
    for f in ENCODED:
        loops.append(_loop(f"decode_{f.name}", "uint", "float", f"{_casts.decode(functions, f)}(x[i])"))
        for rounding in ROUNDINGS:
            for overflow in OVERFLOWS:
                name = _casts.encode(functions, f, rounding, overflow)  # type: ignore[arg-type]
                random = f", {_casts.random_bits(functions)}({SEED}L, i)" if rounding == "stochastic" else ""
                loops.append(_loop(f"{f.name}_{rounding}_{overflow}", "float", "uint", f"{name}(x[i]{random})"))
    for fn in ("erf", "gelu", "silu", "sigmoid", "gelu_tanh", "relu"):
        loops.append(_loop(f"fn_{fn}", "float", "float", _functions.unary(functions, fn, "x[i]")))
    loops.append(_loop("to_int", "float", "int", f"{_functions.to_integer(functions, 'int')}(x[i])"))
    loops.append(_loop("round_bf16", "float", "float", f"{_casts.round_to(functions, 'bf16')}(x[i])"))
    return shim.build("\n".join(["#include <shim.h>", *functions.texts(), *loops]))


def _loop(name: str, given: str, made: str, text: str) -> str:
    return (
        f'extern "C" void {name}(const {given}* x, {made}* y, long n) {{ for (long i = 0; i < n; i++) y[i] = {text}; }}'
    )


def run(name: str, x: np.ndarray, dtype: type) -> np.ndarray:
    x, out = np.ascontiguousarray(x), np.empty(x.shape, dtype)
    getattr(library(), name)(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_long(x.size))
    return out


@cache
def values() -> np.ndarray:
    """All bfloat16 values, all float16 ones, their neighbours, and random words."""
    rng = np.random.default_rng(0)
    words = np.arange(1 << 16, dtype=np.uint16)
    wide = [words.view(ml_dtypes.bfloat16).astype(np.float32), words.view(np.float16).astype(np.float32)]
    near = np.concatenate(wide).view(np.uint32)
    return np.concatenate([near, near + 1, near - 1, rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32)]).view(
        np.float32
    )


@pytest.mark.parametrize("fmt", SHORT, ids=lambda f: f.name)
def test_every_code_decodes(fmt: Format) -> None:
    codes = np.arange(1 << fmt.bits, dtype=np.uint32)
    wanted = numerics.decode(codes.astype(np.uint8), fmt)
    found = run(f"decode_{fmt.name}", codes, np.float32)
    nan = np.isnan(wanted)  # of either sign
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint32)[~nan], wanted.view(np.uint32)[~nan])


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("fmt", ENCODED, ids=lambda f: f.name)
def test_values_encode(fmt: Format, rounding: str, overflow: str) -> None:
    x = values()
    wanted = numerics.encode(x, fmt, rounding, overflow, seed=SEED if rounding == "stochastic" else None)
    found = run(f"{fmt.name}_{rounding}_{overflow}", x, np.uint32)
    assert np.array_equal(found, wanted.astype(np.uint32))


def test_functions() -> None:
    """Within the last places of the C library's exp and tanh."""
    from breccia.numerics.elementwise import UNARY

    x = np.concatenate([np.linspace(-6, 6, 4001), np.linspace(-1e-3, 1e-3, 101)]).astype(np.float32)
    for fn in ("erf", "gelu", "silu", "sigmoid", "gelu_tanh", "relu"):
        wanted, found = UNARY[fn](_Namespace(), x), run(f"fn_{fn}", x, np.float32)
        assert np.allclose(found, wanted, rtol=4e-6, atol=2e-7), fn
    assert np.isnan(run("fn_relu", np.float32([np.nan]), np.float32)).all()


class _Namespace:
    """NumPy, without its warnings."""

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)


def test_floats_become_integers_and_short_floats() -> None:
    x = np.float32([0.5, 1.5, -2.5, 3e9, -3e9, np.nan, np.inf, 7.0])
    assert run("to_int", x, np.int32).tolist() == [0, 2, -2, 2**31 - 1, -(2**31), 0, 2**31 - 1, 7]
    rounded = run("round_bf16", values(), np.float32)
    with np.errstate(all="ignore"):
        wanted = values().astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(rounded, wanted, equal_nan=True)
