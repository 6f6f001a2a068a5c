"""Which dtype holds which decoded values: the rule from significant bits and exponents, against all pairs of codes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from breccia import formats
from breccia.formats import Format
from breccia.numerics import decode
from breccia.passes._exactness import contains, differences, fits, numbers, products, survives

SMALL = [f for f in formats.ALL if f.bits <= 8]
SCALES = [f for f in SMALL if f.kind == "float" and f.fraction_bits == 0]
COMPUTE = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}


def values(fmt: Format) -> np.ndarray:
    return decode(np.arange(1 << fmt.bits, dtype=np.uint8), fmt)


def all_equal(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("scale", SCALES, ids=lambda f: f.name)
@pytest.mark.parametrize("element", SMALL, ids=lambda f: f.name)
def test_products_of_all_codes(element: Format, scale: Format, compute: str) -> None:
    with np.errstate(all="ignore"):
        decoded = np.multiply.outer(values(element), values(scale)).astype(np.float32)
        exact = all_equal(decoded, decoded.astype(COMPUTE[compute]).astype(np.float32))
    assert fits(products(numbers(element), numbers(scale)), formats.find(compute)) == exact


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("element", SMALL, ids=lambda f: f.name)
def test_elements_alone(element: Format, compute: str) -> None:
    with np.errstate(all="ignore"):
        exact = all_equal(values(element), values(element).astype(COMPUTE[compute]).astype(np.float32))
    assert fits(numbers(element), formats.find(compute)) == exact


@pytest.mark.parametrize("element", [formats.uint4, formats.int4, formats.uint8, formats.int8], ids=lambda f: f.name)
@pytest.mark.parametrize("zero", [formats.uint4, formats.int4, formats.uint8, formats.int8], ids=lambda f: f.name)
def test_zero_points(element: Format, zero: Format) -> None:
    difference = np.subtract.outer(values(element), values(zero))
    for compute, dtype in COMPUTE.items():
        exact = all_equal(difference, difference.astype(dtype).astype(np.float32))
        assert fits(differences(element, zero), formats.find(compute)) == exact, compute


@pytest.mark.parametrize(
    ("element", "scale", "compute", "wanted"),
    [
        (formats.float4_e2m1fn, formats.float8_e4m3fn, "bf16", True),
        (formats.uint4, formats.float16, "bf16", False),
        (formats.int4, formats.bfloat16, "bf16", False),
        (formats.int4, formats.bfloat16, "f32", True),
        (formats.float8_e4m3fn, formats.float32, "bf16", False),
    ],
)
def test_wide_scales(element: Format, scale: Format, compute: str, wanted: bool) -> None:
    assert fits(products(numbers(element), numbers(scale)), formats.find(compute)) == wanted


@pytest.mark.parametrize("floor", [-140, -126, 0])
@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("scale", SCALES, ids=lambda f: f.name)
@pytest.mark.parametrize("element", SMALL, ids=lambda f: f.name)
def test_values_below_a_floor_may_lose_bits(element: Format, scale: Format, compute: str, floor: int) -> None:
    """Where the rule says that values from the floor on fit, they do; without a floor it is what it was."""
    with np.errstate(all="ignore"):
        decoded = np.multiply.outer(values(element), values(scale)).astype(np.float32)
        kept = decoded[~(np.abs(decoded) < np.float32(2.0**floor))]
        exact = all_equal(kept, kept.astype(COMPUTE[compute]).astype(np.float32))
    found = products(numbers(element), numbers(scale))
    fine = fits(found, formats.find(compute), floor)
    assert exact or not fine
    assert fine or not fits(found, formats.find(compute)), "a floor forbids nothing"


def test_a_floor_lets_e8m0_scales_into_bf16() -> None:
    found = products(numbers(formats.float8_e4m3fn), numbers(formats.float8_e8m0fnu))
    assert not fits(found, formats.bfloat16)
    assert fits(found, formats.bfloat16, -126)
    assert not fits(found, formats.float16, -126), "that overflows"
    assert not fits(products(numbers(formats.int8), numbers(formats.float16)), formats.bfloat16, 0), "too many bits"


@pytest.mark.parametrize("scale", [formats.float16, formats.bfloat16], ids=lambda f: f.name)
@pytest.mark.parametrize("element", [formats.int4, formats.uint4, formats.float4_e2m1fn], ids=lambda f: f.name)
def test_16_bit_scales_against_all_codes(element: Format, scale: Format) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16).view(COMPUTE["f16" if scale is formats.float16 else "bf16"])
    with np.errstate(all="ignore"):
        decoded = np.multiply.outer(values(element), stored.astype(np.float32))
        for compute, dtype in COMPUTE.items():
            exact = all_equal(decoded, decoded.astype(dtype).astype(np.float32))
            assert fits(products(numbers(element), numbers(scale)), formats.find(compute)) == exact, compute


@pytest.mark.parametrize("narrow", SMALL, ids=lambda f: f.name)
@pytest.mark.parametrize("wide", [formats.float16, formats.bfloat16, formats.float32], ids=lambda f: f.name)
def test_survives_a_round_trip(narrow: Format, wide: Format) -> None:
    """Where the rule says that codes survive, they do; encoding is the reference's."""
    from breccia.numerics import encode

    if narrow.kind == "codebook" or narrow is formats.float8_e8m0fnu:
        assert not survives(narrow, wide) or narrow is formats.float8_e8m0fnu
        return
    codes = np.arange(1 << narrow.bits, dtype=np.uint8)
    with np.errstate(all="ignore"):
        wider = decode(codes, narrow).astype(COMPUTE[wide.mlir]).astype(np.float32)
    try:
        back = encode(wider, narrow)
    except ValueError:
        back = None
    if survives(narrow, wide):
        assert back is not None
        assert np.array_equal(back, codes)


def test_contains() -> None:
    f = formats
    assert contains(f.float32, f.bfloat16)
    assert contains(f.float32, f.float16)
    assert not contains(f.float16, f.bfloat16)
    assert not contains(f.bfloat16, f.float16)
    assert contains(f.bfloat16, f.float8_e5m2)
    assert contains(f.float64, f.float32)
    assert not contains(f.float32, f.float64)
    assert not survives(f.float8_e4m3fn, f.float32), "two codes for NaN become one"
    assert survives(f.float8_e4m3fnuz, f.float32)
