"""Tables of steps give the codes that breccia's numerics gives, at every step and on both sides of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from breccia import formats, numerics
from breccia.codegen.c import Dialect, Tables
from breccia.codegen.c.tables import steps_of
from breccia.recipes import Policy, all_recipes

ELEMENTS = sorted({r.element for r in all_recipes().values()}, key=lambda f: f.name)
POLICIES = [Policy(), Policy(overflow="nan"), Policy(rounding="ties_away"), Policy(rounding="ties_zero")]
SCALES = [Policy(scale="floor"), Policy(scale="ceil"), Policy(scale="even"), Policy(scale="ceil", scale_min=2.0**-20)]


def key_of(bits: np.ndarray) -> np.ndarray:
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def looked_up(steps: list[int], codes: list[int], x: np.ndarray) -> np.ndarray:
    """What the prelude's `code_of` gives."""
    return np.array(codes)[np.searchsorted(np.array(steps), key_of(x.view(np.uint32)), side="right")]


def probes(steps: list[int]) -> np.ndarray:
    """Every float of 16 bits but NaN, and those around each step."""
    wide = np.arange(1 << 16, dtype=np.uint32) << 16
    keys = np.array(steps, np.int64)[:, None] + np.array([-2, -1, 0, 1])
    keys = keys[(keys > 0) & (keys < 1 << 32)].astype(np.uint32)
    bits = np.where(keys >> 31, keys ^ np.uint32(0x80000000), ~keys)
    x = np.concatenate([wide, bits]).view(np.float32)
    return x[~np.isnan(x)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.rounding}-{p.overflow}")
@pytest.mark.parametrize("fmt", ELEMENTS, ids=lambda f: f.name)
def test_elements(fmt: formats.Format, policy: Policy) -> None:
    def codes_of(x: np.ndarray) -> np.ndarray:
        return numerics.encode(x, fmt, policy.rounding, policy.overflow)

    steps, codes = steps_of(codes_of, -np.inf)
    assert steps == sorted(set(steps))
    assert len(codes) == len(steps) + 1
    x = probes(steps)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(looked_up(steps, codes, x), codes_of(x))


@pytest.mark.parametrize("policy", SCALES, ids=lambda p: f"{p.scale}-{p.scale_min}")
@pytest.mark.parametrize("element", [formats.float8_e4m3fn, formats.float4_e2m1fn, formats.int8], ids=lambda f: f.name)
def test_scales_that_are_powers_of_two(element: formats.Format, policy: Policy) -> None:
    text = Tables(Dialect("test")).power_of_two_scale(element, formats.float8_e8m0fnu, policy, "amax")
    tables = Tables(Dialect("test"))
    assert tables.power_of_two_scale(element, formats.float8_e8m0fnu, policy, "amax") == text
    steps, codes = ([int(n) for n in re.findall(r"\d+", t.partition("= ")[2])] for t in tables.texts)
    x = probes(steps)
    x = x[(x > 0)]
    expected = numerics.scale_from_amax(x, element, formats.float8_e8m0fnu, policy)
    np.testing.assert_array_equal(looked_up(steps, codes, x), expected)
    nan = int(numerics.scale_from_amax(np.array([np.nan], np.float32), element, formats.float8_e8m0fnu, policy)[0])
    assert text == f"code_of(amax, _table0_steps, {len(steps)}, _table0_codes, {nan})"


def test_equal_tables_are_declared_once() -> None:
    tables = Tables(Dialect("test", as_float="bits({0})"))
    assert tables.decode(formats.float4_e2m1fn, "c") == "bits(_float4_e2m1fn[c])"
    assert tables.decode(formats.float4_e2m1fn, "d") == "bits(_float4_e2m1fn[d])"
    assert tables.encode(formats.float4_e2m1fn, Policy(), "x") == tables.encode(formats.float4_e2m1fn, Policy(), "x")
    assert len(tables.texts) == 3
    numbers = [int(n) for n in re.findall(r"\d+", tables.texts[0].partition("= ")[2])]
    decoded = numerics.decode(np.arange(16, dtype=np.uint8), formats.float4_e2m1fn)
    np.testing.assert_array_equal(np.array(numbers, np.uint32).view(np.float32), decoded)
