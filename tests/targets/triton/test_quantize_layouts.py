"""Divisions of narrow floats in few steps, and words of packed codes: equal to the definition, to the bit."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

import breccia
from breccia import formats, numerics
from breccia.formats import Format
from breccia.numerics.scale_rules import scale_from_amax as scale_definition
from breccia.recipes import Level, Policy, Recipe, all_recipes
from breccia.targets.triton import _division, _quantize, _scales
from breccia.targets.triton._casts import Library
from breccia.targets.triton._scales import in_steps
from tests.targets.triton import helpers, interpreter

interpreter.patch()

TARGET = "triton:sm_90"
RECIPES = all_recipes()
NARROW = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
ONE_LEVEL_FP4 = Recipe(formats.float4_e2m1fn, (Level(formats.float8_e4m3fn, (1, 16)),))


def every(dtype: np.dtype) -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(dtype)


# -- amax to scale -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [6.0, 448.0, 57344.0, 240.0, 127.0, 7.0, 28.0, 3.0, 1.0, 131071.0])
@pytest.mark.parametrize("kind", NARROW)
def test_every_narrow_amax_is_divided_right_in_steps(kind: str, top: float) -> None:
    assert in_steps(top)
    policy = Policy(max=top)
    amax = np.abs(every(NARROW[kind]).astype(np.float32))
    for dtype in (formats.float32, formats.float8_e4m3fn):
        recipe = Recipe(formats.float8_e4m3fn, (Level(dtype, (1, 16)),), policy=policy)
        library = Library()
        function = _scales.scale_from_amax(library, recipe, policy, 0, narrow=True)
        stored = np.float32 if dtype.bits == 32 else np.uint8
        (found,) = helpers.run(library, function, [amax], [(amax.shape, stored)])
        with np.errstate(all="ignore"):
            expected = scale_definition(amax, recipe.element, dtype, policy, None)
        assert "tl.fma" in "".join(library.texts)
        np.testing.assert_array_equal(found.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


def test_divisors_that_steps_could_miss_are_left_to_a_division() -> None:
    assert [top for top in (0.75, 7.5, 131072.0, 2.0**100) if in_steps(top)] == []


# -- elements ----------------------------------------------------------------------------------------------------------


def near_ties(fmt: Format, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, scale), scale of every float32 significand, where a quotient is a tie of `fmt` or within some units of one.

    With x = X, a number of `digits` bits with zeros behind it, tie = T and scale = B, those are |X - T B| <= 64.
    """
    values = np.array([fmt.decode_code(c) for c in range(1 << fmt.bits)], np.float64)
    values = np.unique(np.abs(values[np.isfinite(values)]))
    mantissas, _ = np.frexp((values[1:] + values[:-1]) / 2)
    b = np.arange(1 << 23, 1 << 24, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for t in np.unique((mantissas * 32).astype(np.int64)):  # 16 to 31
        product = t * b
        step = np.where(product >= 1 << 28, 1 << (29 - digits), 1 << (28 - digits))
        x = (product + step // 2) // step * step
        near = np.abs(x - product) <= 64
        found.append((x[near], b[near]))
    x, b = (np.concatenate(side) for side in zip(*found, strict=True))
    return np.ldexp(x, -23).astype(np.float32), np.ldexp(b, -23).astype(np.float32)


def test_the_hardest_quotient_is_among_those_near_ties() -> None:
    x, scale = near_ties(formats.float8_e4m3fn, 11)
    hardest = (scale == np.float32(2 - 2.0**-23)) & (np.log2(x) % 1 == 0)
    assert hardest.any()
    assert len(x) > 50_000


@pytest.mark.parametrize(
    "fmt", [formats.float8_e4m3fn, formats.float8_e5m2, formats.float4_e2m1fn], ids=lambda f: f.name
)
@pytest.mark.parametrize("kind", ["given", "computed"])
def test_narrow_quotients_of_every_scale_have_the_code_of_the_rounded_one(fmt: Format, kind: str) -> None:
    x, scale = (np.resize(side, 1 << (len(side) - 1).bit_length()) for side in near_ties(fmt, 11))
    library = Library()
    if kind == "given":
        parts = f"factor, divisor, inverse, more = {_division.narrow_divisor(library, nan=False)}(scale)"
    else:
        parts = f"factor, inverse, more = {_division.computed_divisor(library)}(scale)"
    body = f"{parts}\nx = x * factor\nreturn tl.fma(x, inverse, x * more), more"
    name = library.define("_quotient", "x, scale", "x / scale, for a float of 8 bits.", body)
    for power in (-126, -149 + 24, 0, 100):  # of both: quotients stay
        with np.errstate(all="ignore"):
            a, b = np.ldexp(x, power).astype(np.float32), np.ldexp(scale, power).astype(np.float32)
        usable = np.isfinite(a)
        found, more = helpers.run(library, name, [a, b], [(a.shape, np.float32)] * 2)
        assert (more > 0).all()
        for shift in (-6, 0, 3):  # among all exponents of the format
            wanted = numerics.encode(np.ldexp(a / b, shift), fmt)
            codes = numerics.encode(np.ldexp(found, shift), fmt)
            wrong = usable & (codes != wanted)
            assert not wrong.any(), (a[wrong][:3], b[wrong][:3], found[wrong][:3])


@pytest.mark.parametrize(
    "recipe", [ONE_LEVEL_FP4, RECIPES["nvfp4"], RECIPES["float8_1x128"]], ids=["fp4", "nvfp4", "fp8"]
)
def test_every_pair_of_amax_and_element(recipe: Recipe) -> None:
    """All significands of bfloat16 as the largest of blocks, with thousands of elements that are not above it."""
    width = int((recipe.innermost.block or (1, 128))[-1] or 128)
    rng = np.random.default_rng(20)
    rows, columns = 128, 4096
    largest = (np.arange(rows)[:, None] + 128.0) * 2
    x = rng.integers(128, 256, (rows, columns)) * np.exp2(rng.integers(-10, 2, (rows, columns)))
    x = np.minimum(x, largest) * rng.choice([-1.0, 1.0], x.shape)
    x[:, ::width] = largest
    for power in (-120, -20, 110):
        check_narrow(recipe, np.ldexp(x, power - 8).astype(ml_dtypes.bfloat16))


def check_narrow(recipe: Recipe, x: np.ndarray) -> None:
    given: tuple[np.ndarray, ...] = ()
    with np.errstate(all="ignore"):
        parts = numerics.quantize(x.astype(np.float32), recipe)
    if len(recipe.levels) > 1:
        given = (np.full((1, 1), parts.scales[0].reshape(-1)[0]),)
    library = Library()
    function = _quantize.quantize(library, recipe, recipe.policy, x.shape, tuple(range(len(given))), narrow=True)
    outputs = [(x.shape, np.uint8), (parts.scales[-1].shape, parts.scales[-1].dtype)]
    found = helpers.run(library, function, [x, *given], outputs)
    assert "narrow" in "".join(library.texts) or "_inverse" in "".join(library.texts)
    np.testing.assert_array_equal(found[0], parts.elements)
    np.testing.assert_array_equal(found[1].view(np.uint8), parts.scales[-1].view(np.uint8))


@pytest.mark.parametrize("name", ["fp4", "nvfp4", "float8_1x128", "float8_row", "mxfp6_e2m3", "float8_128x128"])
def test_all_narrow_values_are_cast_right(name: str) -> None:
    recipe = ONE_LEVEL_FP4 if name == "fp4" else RECIPES[name]
    for kind, dtype in NARROW.items():
        for seed in (None, 3):
            values = every(dtype) if seed is None else np.random.default_rng(seed).permutation(every(dtype))
            x = torch.from_numpy(values.view(np.int16).reshape(256, 256)).view(
                {"bf16": torch.bfloat16, "f16": torch.float16}[kind]
            )
            same(lambda a: breccia.cast(a, recipe), x)


def same(function: object, x: torch.Tensor) -> None:
    with np.errstate(all="ignore"):
        found = breccia.compile(function, target=TARGET)(x)
        wanted = breccia.compile(function, target="numpy")(x)
    for a, b in zip(leaves(found), leaves(wanted), strict=True):
        assert torch.equal(a, b), f"{int((a != b).sum())} of {a.numel()} differ"


def leaves(value: object) -> list[torch.Tensor]:
    if isinstance(value, tuple):
        return [leaf for v in value for leaf in leaves(v)]
    return [t.reshape(-1).view(torch.uint8) for t in (value.data, *value.scales)]


# -- packing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 48), (3, 40), (4, 1024), (2, 1040), (7, 96)])
def test_six_bits_are_stored_in_words_where_rows_allow(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    function = lambda a: breccia.cast(a, RECIPES["mxfp6_e2m3"])  # noqa: E731
    same(function, x)
    source = breccia.compile(function, target=TARGET).lower(x).source()
    assert ("pointer_type(tl.uint32)" in source) == (shape[1] % 16 == 0)


def test_a_tile_encoded_along_both_axes_leaves_room_for_a_second_program() -> None:
    x = torch.zeros(1024, 1024).bfloat16()
    recipe = RECIPES["float8_1x128"]
    both = breccia.compile(lambda a: (breccia.cast(a, recipe), breccia.cast(a, recipe, axis=0)), target=TARGET)
    one = breccia.compile(lambda a: breccia.cast(a, recipe), target=TARGET)
    assert "maxnreg=128" in both.lower(x).source()
    assert "maxnreg" not in one.lower(x).source()
    same(lambda a: (breccia.cast(a, recipe), breccia.cast(a, recipe, axis=0)), torch.randn(256, 256).bfloat16())
