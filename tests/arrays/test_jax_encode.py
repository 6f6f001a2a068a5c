"""JAX's own encoder gives the codes that the definition gives, whatever float32 it gets."""

from __future__ import annotations

import numpy as np
import pytest

from breccia import formats
from breccia.arrays import numpy as reference
from breccia.numerics.bit_encode import bit_encode
from breccia.numerics.encode import encode

jax = pytest.importorskip("jax")
jnp = jax.numpy
xp = pytest.importorskip("breccia.arrays.jax")

FP8 = (formats.float8_e4m3fn, formats.float8_e5m2, formats.float8_e4m3fnuz, formats.float8_e5m2fnuz)
FORMATS = [
    fmt
    for fmt in vars(formats).values()
    if isinstance(fmt, formats.Format) and fmt.bits <= 8 and fmt.kind != "codebook" and not fmt.is_power_of_two
]


def floats(bits) -> np.ndarray:
    return np.ascontiguousarray(bits, np.uint32).view(np.float32)


def borders(fmt) -> np.ndarray:
    """Every value, every middle between neighbours, and the next float32 on either side of each."""
    values = np.array(sorted({fmt.decode_code(c) for c in range(1 << fmt.bits) if np.isfinite(fmt.decode_code(c))}))
    every = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32).view(np.uint32)
    around = (every[:, None].astype(np.int64) + np.array([-1, 0, 1])) & 0xFFFFFFFF
    return floats(around.astype(np.uint32).reshape(-1))


def sample() -> np.ndarray:
    """2**24 float32: every value of the upper 16 bits, with 256 random lower halves each."""
    low = np.random.default_rng(1).integers(0, 1 << 16, (1 << 16, 256), np.uint32)
    low[:, 0], low[:, 1], low[:, 2] = 0, 1, 0xFFFF
    return floats((np.arange(1 << 16, dtype=np.uint32)[:, None] << 16) | low).reshape(-1)


@pytest.fixture(scope="module")
def many():
    values = sample()
    return values, jnp.asarray(values)


def assert_codes(found, x, fmt) -> None:
    found, expected = np.asarray(found), bit_encode(reference, x, fmt, "rne", "saturate", None)
    assert found.dtype == np.uint8
    wrong = np.flatnonzero(found != expected)
    assert wrong.size == 0, f"{wrong.size} codes differ, the first for {x[wrong[0]]!r}"


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_borders_and_all_16_bit_floats(fmt):
    halves = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(all="ignore"):
        x = np.concatenate([borders(fmt), floats(halves.astype(np.uint32) << 16), halves.view(np.float16).astype("f4")])
    found = xp.native_encode(jnp.asarray(x), fmt, "rne", "saturate")
    assert found is not None
    assert_codes(found, x, fmt)
    assert_codes(jax.jit(lambda v: encode(v, fmt))(jnp.asarray(x)), x, fmt)


@pytest.mark.parametrize("fmt", FP8, ids=lambda f: f.name)
def test_a_sample_of_all_float32(fmt, many):
    x, there = many
    assert_codes(jax.jit(lambda v: xp.native_encode(v, fmt, "rne", "saturate"))(there), x, fmt)


@pytest.mark.parametrize("fmt", [formats.float4_e2m1fn, formats.int4, formats.int8], ids=lambda f: f.name)
def test_a_sample_of_all_float32_in_other_formats(fmt, many):
    x, there = many[0][::8], many[1][::8]
    assert_codes(jax.jit(lambda v: xp.native_encode(v, fmt, "rne", "saturate"))(there), x, fmt)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", FP8, ids=lambda f: f.name)
def test_every_float32(fmt):
    function = jax.jit(lambda v: xp.native_encode(jax.lax.bitcast_convert_type(v, jnp.float32), fmt, "rne", "saturate"))
    part = 1 << 24
    for start in range(0, 1 << 32, part):
        bits = np.arange(start, start + part, dtype=np.uint32)
        assert_codes(function(jnp.asarray(bits)), bits.view(np.float32), fmt)


@pytest.mark.parametrize("rounding", ["ties_away", "ties_zero"])
@pytest.mark.parametrize("overflow", ["saturate", "nan"])
@pytest.mark.parametrize("fmt", FP8, ids=lambda f: f.name)
def test_other_policies_take_the_definition(fmt, overflow, rounding):
    x = np.concatenate([borders(fmt), floats(np.arange(0, 1 << 32, 65521, dtype=np.uint64))])
    found = jax.jit(lambda v: encode(v, fmt, rounding, overflow))(jnp.asarray(x))
    assert np.array_equal(found, encode(x, fmt, rounding, overflow))


@pytest.mark.parametrize("fmt", [formats.float8_e4m3fn, formats.float4_e2m1fn, formats.int4], ids=lambda f: f.name)
def test_stochastic_rounding_draws_the_same_numbers(fmt):
    x = np.random.default_rng(2).standard_normal((37, 65)).astype(np.float32)
    found = jax.jit(lambda v: encode(v, fmt, "stochastic", seed=2**40 + 7))(jnp.asarray(x))
    assert np.array_equal(found, encode(x, fmt, "stochastic", seed=2**40 + 7))
