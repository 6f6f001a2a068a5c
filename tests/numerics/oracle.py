"""A second, slow opinion on numerics: exact fractions, from the definitions, sharing no code with `breccia.numerics`.

An element format is the sorted list of its finite values; encoding is a search for the nearest one. Scales are
computed on fractions and rounded to float32 by `round_to`. Only names are taken from breccia.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np

SPECS = {  # exponent bits, mantissa bits, bias, how NaN is spelled
    "float8_e4m3fn": (4, 3, 7, "top"),
    "float8_e4m3fnuz": (4, 3, 8, "minus zero"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e5m2fnuz": (5, 2, 16, "minus zero"),
    "float6_e2m3fn": (2, 3, 1, ""),
    "float6_e3m2fn": (3, 2, 3, ""),
    "float4_e2m1fn": (2, 1, 1, ""),
    "float16": (5, 10, 15, "ieee"),
    "bfloat16": (8, 7, 127, "ieee"),
    "float32": (8, 23, 127, "ieee"),
}
INTEGERS = {
    "int4": (4, True, 0),
    "uint4": (4, False, 0),
    "int8": (8, True, 0),
    "uint8": (8, False, 0),
    "mxint8": (8, True, 6),
}
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """The finite values of a format as points on a line, ascending, with the code of each."""

    values: tuple[Fraction, ...]
    codes: tuple[int, ...]
    nan: int | None
    infinity: int | None
    signed_zero: int | None
    virtual: Fraction | None
    """The value that the code after the largest one would have: rounding to it is overflow."""


@cache
def line(name: str) -> Line:
    if name == "nf4":
        return Line(tuple(map(Fraction, NF4)), tuple(range(16)), None, None, None, None)
    if name in INTEGERS:
        bits, signed, point = INTEGERS[name]
        low = -(1 << (bits - 1)) if signed else 0
        numbers = range(low, low + (1 << bits))
        return Line(
            tuple(Fraction(n, 1 << point) for n in numbers),
            tuple(n % (1 << bits) for n in numbers),
            None,
            None,
            None,
            None,
        )
    if name == "float8_e8m0fnu":
        return Line(
            tuple(Fraction(2) ** (c - 127) for c in range(255)), tuple(range(255)), 255, None, None, Fraction(2) ** 128
        )
    return _float_line(*SPECS[name])


def _float_line(exponent_bits: int, mantissa_bits: int, bias: int, nan: str) -> Line:
    def value(code: int) -> Fraction:
        field, fraction = divmod(code, 1 << mantissa_bits)
        if field == 0:
            return Fraction(fraction, 1 << mantissa_bits) * Fraction(2) ** (1 - bias)
        return (1 + Fraction(fraction, 1 << mantissa_bits)) * Fraction(2) ** (field - bias)

    count = 1 << (exponent_bits + mantissa_bits)
    infinity = nan_code = None
    last = count
    if nan == "top":
        last, nan_code = count - 1, count - 1
    elif nan == "ieee":
        infinity = last = count - (1 << mantissa_bits)
        nan_code = infinity + (1 << (mantissa_bits - 1))
    elif nan == "minus zero":
        nan_code = count
    positive = [(value(code), code) for code in range(last)]
    negative = [(-v, code + count) for v, code in positive[1:]]
    points = sorted(negative) + positive
    zero = None if nan == "minus zero" else count
    return Line(tuple(v for v, _ in points), tuple(c for _, c in points), nan_code, infinity, zero, value(last))


def encode(x: np.ndarray, name: str, rounding: str, overflow: str) -> np.ndarray:
    """Codes of float32 or float64 values that are exact in float64; deterministic roundings."""
    points = line(name)
    with np.errstate(invalid="ignore"):  # signalling NaN
        x = x.astype(np.float64)
    borders = _borders(name)
    below, upto = np.searchsorted(borders, x, "left"), np.searchsorted(borders, x, "right")
    choice = below.copy()
    for i in np.flatnonzero((below != upto) & ~np.isnan(x)):
        choice[i] = _break_tie(points, int(below[i]), x[i], rounding)
    codes = np.array(points.codes)[np.where(np.isnan(x), 0, choice)]
    codes = _large(codes, x, points, rounding, overflow)
    if points.signed_zero is not None:
        codes = np.where((codes == 0) & np.signbit(x), points.signed_zero, codes)
    if name == "float8_e8m0fnu":
        codes = np.where(~(x > 0), 255, codes)
    zero_code = points.codes[min(range(len(points.values)), key=lambda i: abs(points.values[i]))]
    return np.where(np.isnan(x), zero_code if points.nan is None else points.nan, codes)


@cache
def _borders(name: str) -> np.ndarray:
    points = line(name).values
    middles = [(a + b) / 2 for a, b in pairwise(points)]
    borders = np.array([float(m) for m in middles])
    assert all(Fraction(b) == m for b, m in zip(borders.tolist(), middles, strict=True)), "borders must be exact"
    return borders


def _break_tie(points: Line, below: int, x: float, rounding: str) -> int:
    low, high = points.values[below], points.values[below + 1]
    if rounding == "ties_away":
        return below + 1 if x > 0 else below
    if rounding == "ties_zero":
        return below if x > 0 else below + 1
    del low, high
    if points.codes[0] == 0 and points.nan == 255:
        return below + 1  # E8M0: a significand of 1 is odd, so that 1.5 rounds to 2
    return below if points.codes[below] % 2 == 0 else below + 1


def _large(codes: np.ndarray, x: np.ndarray, points: Line, rounding: str, overflow: str) -> np.ndarray:
    if overflow == "saturate" or points.virtual is None or (points.infinity is None and points.nan is None):
        return codes
    largest, code = points.values[-1], points.codes[-1]
    border = float((largest + points.virtual) / 2)
    on_border = {"ties_away": True, "ties_zero": False}.get(rounding, code % 2 == 1)
    if points.codes[0] == 0:
        on_border = rounding != "ties_zero"
    over = (np.abs(x) > border) | ((np.abs(x) == border) & on_border)
    if points.infinity is not None:
        top = 2 * points.infinity if points.infinity < 0 else points.infinity
        sign_bit = 1 << (max(points.codes)).bit_length() - 1
        return np.where(over, np.where(x < 0, top | sign_bit, top), codes)
    return np.where(over, points.nan, codes)


# -- scales ------------------------------------------------------------------------------------------------------------


def round_to(value: Fraction, name: str) -> Fraction:
    """A positive value to the nearest of a float format, ties to even, saturating."""
    _, mantissa_bits, bias, _ = SPECS[name]
    largest = line_largest(name)
    if value >= largest:
        return largest
    exponent = max(floor_log2(value), 1 - bias) if value else 1 - bias
    quantum = Fraction(2) ** (exponent - mantissa_bits)
    return min(Fraction(round(value / quantum)) * quantum, largest)


def line_largest(name: str) -> Fraction:
    exponent_bits, mantissa_bits, bias, nan = SPECS[name]
    top = (1 << exponent_bits) - 1 - (nan == "ieee")
    fraction = (1 << mantissa_bits) - 1 - (nan == "top")
    return (1 + Fraction(fraction, 1 << mantissa_bits)) * Fraction(2) ** (top - bias)


def line_smallest(name: str) -> Fraction:
    if name == "float8_e8m0fnu":
        return Fraction(2) ** -127
    _, mantissa_bits, bias, _ = SPECS[name]
    return Fraction(2) ** (1 - bias - mantissa_bits)


def floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    while Fraction(2) ** guess > value:
        guess -= 1
    while Fraction(2) ** (guess + 1) <= value:
        guess += 1
    return guess


def f32(value: Fraction) -> Fraction:
    """Rounded to float32, either sign."""
    return -round_to(-value, "float32") if value < 0 else round_to(value, "float32")


def scale(amax: Fraction, top: Fraction, rule: str, dtype: str, mantissa_bits: int, outer: Fraction | None) -> Fraction:
    """The scale of a block whose amax is finite and not zero; `top` is what amax maps to."""
    if rule == "exact":
        quotient = f32(amax / top)
        if outer is not None:
            quotient = f32(quotient / outer)
        return max(round_to(quotient, dtype), line_smallest(dtype))
    if rule == "ceil":
        exponent = floor_log2(amax / top)
        exponent += Fraction(2) ** exponent < amax / top
    else:
        if rule == "even":
            unit = Fraction(2) ** (floor_log2(amax) - mantissa_bits)
            amax = math.floor(amax / unit + Fraction(1, 2)) * unit
        exponent = floor_log2(amax) - floor_log2(top)
    smallest = -127 if dtype == "float8_e8m0fnu" else floor_log2(line_smallest(dtype))
    return Fraction(2) ** min(max(exponent, smallest), 127)


# -- whole tensors -----------------------------------------------------------------------------------------------------


@dataclass
class Quantized:
    """Codes by index, scales by level and block index (None for NaN), zero points by block index."""

    codes: dict[tuple[int, ...], int]
    scales: list[dict[tuple[int, ...], Fraction | None]]
    zeros: dict[tuple[int, ...], int]


def quantize(x: np.ndarray, recipe) -> Quantized:
    """One element at a time; recipes of one or two levels, symmetric or with a zero point."""
    blocks = recipe.blocks(x.ndim)
    members: dict[tuple[int, ...], list[float]] = {}
    for index in np.ndindex(*x.shape):
        members.setdefault(home(index, blocks[-1]), []).append(float(x[index]))
    outer: dict[tuple[int, ...], Fraction | None] = {}
    top = Fraction(recipe.policy.max) if recipe.policy.max else line(recipe.element.name).values[-1]
    if len(blocks) == 2:
        amax: dict[tuple[int, ...], Fraction] = {}
        for index in np.ndindex(*x.shape):
            value = float(x[index])
            where = home(index, blocks[0])
            size = abs(Fraction(value)) if math.isfinite(value) else Fraction(0)
            amax[where] = max(amax.get(where, Fraction(0)), size)
        reach = f32(top * line_largest(recipe.levels[1].dtype.name))
        for where, size in amax.items():
            outer[where] = scale(size, reach, "exact", "float32", 0, None) if size else Fraction(1)
    inner: dict[tuple[int, ...], Fraction | None] = {}
    zeros: dict[tuple[int, ...], int] = {}
    for where, values in members.items():
        outside = outer[_outer_home(where, blocks)] if outer else None
        inner[where], zero = _block_scale(values, recipe, top, outside)
        zeros[where] = zero
    codes = {}
    for index in np.ndindex(*x.shape):
        where = home(index, blocks[-1])
        s = inner[where]
        if s is None:
            codes[index] = -1
            continue
        if outer:
            s = f32(s * (outer[_outer_home(where, blocks)] or 0))
        codes[index] = _element(float(x[index]), s, zeros[where], recipe)
    return Quantized(codes, [outer, inner] if outer else [inner], zeros)


def home(index: tuple[int, ...], block) -> tuple[int, ...]:
    return tuple(0 if b is None else i // b for i, b in zip(index, block, strict=True))


def _outer_home(where: tuple[int, ...], blocks) -> tuple[int, ...]:
    first = tuple(w * (b or 0) for w, b in zip(where, blocks[-1], strict=True))
    return home(first, blocks[0])


def _block_scale(values: list[float], recipe, top: Fraction, outer: Fraction | None) -> tuple[Fraction | None, int]:
    if not all(map(math.isfinite, values)):
        return None, 0
    dtype, policy = recipe.innermost.dtype.name, recipe.policy
    if recipe.zero_point is not None:
        low, high = min(0, *map(Fraction, values)), max(0, *map(Fraction, values))
        if low == high:
            return Fraction(1), 0
        found = scale(f32(high - low), Fraction(15), "exact", dtype, 0, None)
        return found, min(max(_even(f32(-low / found)), 0), 15)
    amax = max(abs(Fraction(v)) for v in values)
    if amax == 0:
        return (Fraction(1) if policy.zero_scale == "one" else line_smallest(dtype)), 0
    bits = 6 if recipe.element.name == "mxint8" else SPECS.get(recipe.element.name, (0, 0))[1]
    return scale(amax, top, policy.scale, dtype, bits, outer), 0


def _even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def _element(value: float, s: Fraction, zero: int, recipe) -> int:
    ratio = f32(Fraction(value) / s)
    if recipe.zero_point is not None:
        return min(max(_even(ratio) + zero, 0), 15)
    wanted = np.array([float(ratio)])
    if ratio == 0 and math.copysign(1, value) < 0:
        wanted = np.array([-0.0])
    return int(encode(wanted, recipe.element.name, recipe.policy.rounding, recipe.policy.overflow)[0])


def dequantize(parts: Quantized, recipe, shape: tuple[int, ...]) -> np.ndarray:
    """float64 array of float32 values."""
    blocks = recipe.blocks(len(shape))
    points = line(recipe.element.name)
    value_of = dict(zip(points.codes, points.values, strict=True))
    if points.signed_zero is not None:
        value_of[points.signed_zero] = Fraction(0)
    out = np.zeros(shape)
    for index in np.ndindex(*shape):
        where = home(index, blocks[-1])
        s = parts.scales[-1][where]
        if s is None:
            out[index] = math.nan
            continue
        value = value_of[parts.codes[index]] - parts.zeros[where]
        value = f32(value * s)
        if len(parts.scales) == 2:
            value = f32(value * (parts.scales[0][_outer_home(where, blocks)] or 0))
        out[index] = float(value)
    return out
