"""Values from the specifications (OCP OFP8 v1.0, OCP MX v1.0) and ml_dtypes' finfo."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from breccia import formats
from breccia.errors import FormatError

LIMITS = {  # largest, smallest normal, smallest positive
    "float8_e4m3fn": (448.0, 2.0**-6, 2.0**-9),
    "float8_e4m3fnuz": (240.0, 2.0**-7, 2.0**-10),
    "float8_e5m2": (57344.0, 2.0**-14, 2.0**-16),
    "float8_e5m2fnuz": (57344.0, 2.0**-15, 2.0**-17),
    "float8_e8m0fnu": (2.0**127, 2.0**-127, 2.0**-127),
    "float6_e2m3fn": (7.5, 1.0, 0.125),
    "float6_e3m2fn": (28.0, 0.25, 0.0625),
    "float4_e2m1fn": (6.0, 1.0, 0.5),
    "float16": (65504.0, 2.0**-14, 2.0**-24),
    "bfloat16": (float.fromhex("0x1.fep127"), 2.0**-126, 2.0**-133),
    "mxint8": (127 / 64, 1 / 64, 1 / 64),
    "int4": (7.0, 1.0, 1.0),
    "uint4": (15.0, 1.0, 1.0),
    "int8": (127.0, 1.0, 1.0),
    "nf4": (1.0, 0.07958029955625534, 0.07958029955625534),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    fmt = formats.find(name)
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_positive) == LIMITS[name]
    assert fmt.decode_code(fmt.max_code) == fmt.max


@pytest.mark.parametrize("fmt", [f for f in formats.ALL if f.kind == "float" and f.bits <= 16], ids=lambda f: f.name)
def test_limits_are_those_of_ml_dtypes(fmt):
    info = ml_dtypes.finfo(getattr(ml_dtypes, fmt.name, None) or getattr(np, fmt.name))
    assert fmt.max == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.min == float(info.min)
    assert fmt.bits == info.bits


def test_codes_of_special_values():
    f = formats
    assert [f.float8_e4m3fn.nan_code, f.float8_e4m3fnuz.nan_code, f.float8_e5m2.nan_code] == [0x7F, 0x80, 0x7E]
    assert (f.float8_e8m0fnu.nan_code, f.float8_e5m2.infinity_code, f.float4_e2m1fn.nan_code) == (255, 0x7C, None)
    assert f.float8_e8m0fnu.decode_code(0) == 2.0**-127
    assert np.isnan(f.float8_e8m0fnu.decode_code(255))
    assert f.float4_e2m1fn.has_negative_zero
    assert not f.float8_e5m2fnuz.has_negative_zero
    assert f.float8_e8m0fnu.is_power_of_two
    assert [f.float8_e4m3fn.emax, f.float8_e5m2.emax, f.float4_e2m1fn.emax, f.mxint8.emax] == [8, 15, 2, 0]


def test_fnuz_is_half_of_fn_for_the_same_code():
    for code in range(256):
        if code not in (0x7F, 0x80, 0xFF):
            assert formats.float8_e4m3fnuz.decode_code(code) == formats.float8_e4m3fn.decode_code(code) / 2


@pytest.mark.parametrize("fmt", formats.ALL, ids=lambda f: f.name)
def test_find_knows_both_spellings(fmt):
    assert formats.find(fmt.name) is fmt
    assert formats.find(fmt.mlir) is fmt


@pytest.mark.parametrize("bits", [-1, 0, 999, 3.5, True])
def test_widths_out_of_range_are_refused(bits):
    with pytest.raises(FormatError, match="allowed: 1 to 64"):
        formats.Format("mine", "mine", "int", bits)


def test_parts_must_fit_together():
    with pytest.raises(FormatError, match="take 8"):
        formats.Format("mine", "mine", "float", 9, exponent_bits=4, mantissa_bits=3)
    with pytest.raises(FormatError, match="needs 16 values, got 2"):
        formats.Format("mine", "mine", "codebook", 4, codebook=(0.0, 1.0))
    with pytest.raises(FormatError, match="allowed: 1 to 16"):
        formats.Format("mine", "mine", "int", 32)
    assert formats.Format("int9", "i9", "int", 9).max == 255


def test_errors_say_what_is_allowed():
    with pytest.raises(FormatError, match=r"unknown format 'float7'; known formats: .*float8_e4m3fn"):
        formats.find("float7")
    with pytest.raises(FormatError, match="codes are 0 to 15"):
        formats.float4_e2m1fn.decode_code(16)
