"""Every code and every 16-bit value, against ml_dtypes and against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import breccia.arrays.numpy as xp
from breccia import formats
from breccia.errors import DTypeError, FormatError, RecipeError, UnsupportedError
from breccia.numerics import decode, encode
from breccia.numerics.bit_encode import bit_encode
from breccia.numerics.bits import float32_bits
from breccia.numerics.rounding import random_bits
from tests.numerics import oracle

NARROW = [f for f in formats.ALL if f.bits <= 8]
FLOATS = [f for f in formats.ALL if f.kind == "float" and f.bits <= 32]
WITH_DTYPE = [f for f in FLOATS if f.bits <= 16]


def sixteen_bit_values() -> np.ndarray:
    """All bfloat16 and all float16 values, as float32."""
    patterns = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    return np.concatenate([patterns.view(ml_dtypes.bfloat16), patterns.view(np.float16)], dtype=np.float32)


VALUES = sixteen_bit_values()


def dtype_of(fmt: formats.Format) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, fmt.name, None) or getattr(np, fmt.name))


@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_every_code_decodes_as_its_definition(fmt):
    codes = np.arange(1 << fmt.bits).astype(np.uint8)
    want = np.array([fmt.decode_code(int(c)) for c in codes], np.float64)
    np.testing.assert_array_equal(decode(codes, fmt).astype(np.float64), want)
    assert np.array_equal(np.signbit(decode(codes, fmt))[want == 0], np.signbit(want)[want == 0])


@pytest.mark.parametrize("fmt", WITH_DTYPE, ids=lambda f: f.name)
def test_every_code_decodes_as_in_ml_dtypes(fmt):
    codes = np.arange(1 << fmt.bits).astype(np.uint8 if fmt.bits <= 8 else np.uint16)
    want = codes.view(dtype_of(fmt)).astype(np.float32)
    got = decode(codes, fmt)
    finite = ~np.isnan(want)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.array_equal(got.view(np.uint32)[finite], want.view(np.uint32)[finite])


@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_every_code_encodes_to_itself(fmt):
    codes = np.arange(1 << fmt.bits).astype(np.uint8)
    values = decode(codes, fmt)
    again = encode(values, fmt)
    canonical = np.where(np.isnan(values), fmt.nan_code or 0, codes)
    finite = np.isfinite(values) | np.isnan(values)
    assert np.array_equal(again[finite], canonical[finite])


@pytest.mark.parametrize("overflow", ["saturate", "nan"])
@pytest.mark.parametrize("rounding", ["rne", "ties_away", "ties_zero"])
@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_every_16_bit_value_encodes_as_exact_fractions_say(fmt, rounding, overflow):
    want = oracle.encode(VALUES, fmt.name, rounding, overflow)
    got = encode(VALUES, fmt, rounding, overflow)
    bad = np.flatnonzero(got != want)
    assert bad.size == 0, [(float(VALUES[i]), int(want[i]), int(got[i])) for i in bad[:5]]


@pytest.mark.parametrize("rounding", ["rne", "ties_away", "ties_zero"])
@pytest.mark.parametrize("fmt", NARROW, ids=lambda f: f.name)
def test_borders_and_their_neighbours_encode_as_exact_fractions_say(fmt, rounding):
    """Float32 values on and one step beside every border between two codes."""
    points = oracle.line(fmt.name).values
    middles = [float((a + b) / 2) for a, b in pairwise(points)]
    x = np.array([*middles, *map(float, points)], np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    for overflow in ("saturate", "nan"):
        assert np.array_equal(encode(x, fmt, rounding, overflow), oracle.encode(x, fmt.name, rounding, overflow))


@pytest.mark.parametrize("fmt", [f for f in FLOATS if f.name != "float8_e8m0fnu"], ids=lambda f: f.name)
def test_float32_encodes_as_in_ml_dtypes(fmt):
    """A million patterns; ml_dtypes does not saturate. E8M0 differs: ml_dtypes rounds subnormals of float32 up."""
    x = np.random.default_rng(1).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, VALUES, np.random.default_rng(2).standard_normal(1 << 18).astype(np.float32) * 9])
    with np.errstate(all="ignore"):
        want = x.astype(dtype_of(fmt))
    width = f"u{max(1, fmt.bits // 8)}"
    got = encode(x, fmt, overflow="nan").view(dtype_of(fmt))
    nan = np.isnan(x) if not fmt.has_nan else np.isnan(want.astype(np.float32))
    assert np.array_equal(got.view(width)[~nan], want.view(width)[~nan])
    assert not fmt.has_nan or np.array_equal(np.isnan(got.astype(np.float32)), nan)


@pytest.mark.parametrize("overflow", ["saturate", "nan"])
@pytest.mark.parametrize("rounding", ["rne", "ties_away", "ties_zero"])
@pytest.mark.parametrize("fmt", [f for f in NARROW if f.kind != "codebook"], ids=lambda f: f.name)
def test_tables_equal_the_integer_encoder(fmt, rounding, overflow):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, VALUES, *(rng.standard_normal(1 << 16).astype(np.float32) * s for s in (1, 8, 90, 300))])
    assert np.array_equal(encode(x, fmt, rounding, overflow), bit_encode(xp, x, fmt, rounding, overflow, None))


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", [f for f in NARROW if f.kind != "codebook"], ids=lambda f: f.name)
def test_tables_equal_the_integer_encoder_for_every_float32(fmt):
    for start in range(0, 1 << 32, 1 << 24):
        x = np.arange(start, start + (1 << 24), dtype=np.uint32).view(np.float32)
        assert np.array_equal(encode(x, fmt), bit_encode(xp, x, fmt, "rne", "saturate", None)), hex(start)


@pytest.mark.parametrize("fmt", [f for f in NARROW if not f.is_power_of_two], ids=lambda f: f.name)
def test_stochastic_rounding_takes_a_neighbour_with_the_right_probability(fmt):
    rng = np.random.default_rng(4)
    points = oracle.line(fmt.name)
    values = np.array([float(v) for v in points.values])
    x = rng.uniform(values[0], values[-1], 200).astype(np.float32)
    random = (np.arange(4096, dtype=np.uint64) * (1 << 20)).astype(np.uint32)
    for value in x.tolist():
        codes = bit_encode(xp, np.full(random.shape, value, np.float32), fmt, "stochastic", "saturate", random)
        got = decode(codes, fmt).astype(np.float64)
        low, high = values[values <= value].max(), values[values >= value].min()
        assert set(got.tolist()) <= {low, high}
        share = 0.0 if low == high else (value - low) / (high - low)
        assert abs(np.mean(got == high) - (share if low != high else 1)) <= 2 / 4096


def test_stochastic_bits_depend_on_seed_and_index_alone():
    index = np.arange(1 << 16, dtype=np.uint64)

    def draw(seed, index):
        return random_bits(xp, xp.seed_words(seed, index), xp.words(index))

    bits = draw(7, index)
    assert np.array_equal(bits[1000:2000], draw(7, index[1000:2000]))
    assert not np.array_equal(bits, draw(8, index))
    assert not np.array_equal(bits, draw(7 + (1 << 32), index))
    assert not np.array_equal(bits, draw(7, index + np.uint64(1 << 32)))
    ones = np.unpackbits(bits.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.005
    assert abs(np.corrcoef(bits[:-1], bits[1:])[0, 1]) < 0.02
    assert np.unique(bits).size > 65_000


def test_stochastic_rounding_without_a_seed_is_refused():
    with pytest.raises(RecipeError, match="needs a seed"):
        encode([1.0], formats.float8_e4m3fn, "stochastic")


def test_decode_refuses_codes_and_dtypes_that_are_none():
    with pytest.raises(FormatError, match="0 to 15"):
        decode(np.array([16], np.uint8), formats.float4_e2m1fn)
    with pytest.raises(DTypeError, match="uint8"):
        decode(np.array([1], np.int32), formats.float4_e2m1fn)
    with pytest.raises(DTypeError, match="uint16"):
        decode(np.array([1], np.uint8), formats.float16)
    with pytest.raises(UnsupportedError, match="float64"):
        decode(np.array([1.0]), formats.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        encode([1.0], formats.float64)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.5, 2.0**-149, 2.0**-127, 3.4e38, 1e39, float("inf"), 0.1, 1 / 3])
def test_float32_bits_rounds_as_the_hardware_does(value):
    with np.errstate(over="ignore"):
        assert float32_bits(value) == int(np.float64(value).astype(np.float32).view(np.uint32))


def test_float32_bits_takes_fractions_and_nan():
    assert float32_bits(Fraction(1, 3)) == int(np.float32(1 / 3).view(np.uint32))
    assert float32_bits(float("nan")) == 0x7FC00000
