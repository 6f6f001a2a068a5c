"""Decoding in slabs equals the definition of every recipe, to the bit, whatever the shape and the order in memory."""

from __future__ import annotations

import numpy as np
import pytest

from breccia import formats, numerics
from breccia.numerics import Components, decode
from breccia.recipes import Level, Recipe, all_recipes, grid_shape
from breccia.targets.numpy import runtime as rt
from breccia.targets.numpy._decode import dequantize

RECIPES = all_recipes()
SHAPES = ((1, 1), (3, 130), (200, 333), (70, 1024), (2, 3, 70, 33), (1, 1, 5, 64))


def parts_of(recipe: Recipe, shape: tuple[int, ...]) -> Components:
    rng = np.random.default_rng(sum(shape))
    return numerics.quantize(rng.standard_normal(shape).astype(np.float32), recipe)


def spreads(parts: Components, recipe: Recipe, shape: tuple[int, ...]):
    """Scales innermost first and the zero point, as emitted code hands them over."""
    blocks = recipe.blocks(len(shape))
    grids = [
        (decode(s, level.dtype).reshape(grid_shape(shape, block)), block)
        for s, level, block in zip(parts.scales, recipe.levels, blocks, strict=True)
    ]
    zero = None
    if recipe.zero_point is not None:
        zero = (decode(parts.zero_point, recipe.zero_point.dtype).reshape(grid_shape(shape, blocks[-1])), blocks[-1])
    return tuple(reversed(grids)), zero


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_recipe_along_every_axis(name: str, shape: tuple[int, ...]) -> None:
    for axis in {0, len(shape) - 1}:
        recipe = RECIPES[name].along(axis, len(shape))
        parts = parts_of(recipe, shape)
        wanted = numerics.dequantize(parts, recipe).view(np.uint32)
        scales, zero = spreads(parts, recipe, shape)
        found = rt.dequantize(np, parts.elements, recipe.element.name, scales, zero)
        assert np.array_equal(found.view(np.uint32), wanted)
        if recipe.element.bits in (4, 6):
            packed = numerics.pack(parts.elements, recipe.element)
            found = rt.dequantize(np, packed, recipe.element.name, scales, zero, size=shape[-1])
            assert np.array_equal(found.view(np.uint32), wanted)


@pytest.mark.parametrize("name", ["float8_1x128", "mxfp8_e4m3", "nvfp4", "uint4_g32_f32"])
def test_transposed_and_strided_codes(name: str) -> None:
    recipe = RECIPES[name]
    parts = parts_of(recipe, (96, 160))
    wanted = numerics.dequantize(parts, recipe)
    scales, zero = spreads(parts, recipe, (96, 160))
    turned = tuple((grid.T, block[::-1]) for grid, block in scales)
    turned_zero = None if zero is None else (zero[0].T, zero[1][::-1])
    assert np.array_equal(rt.dequantize(np, parts.elements.T, recipe.element.name, turned, turned_zero), wanted.T)
    spaced = np.repeat(parts.elements, 2, axis=1)[:, ::2]
    assert np.array_equal(rt.dequantize(np, spaced, recipe.element.name, scales, zero), wanted)


def test_levels_of_different_blocks_nest() -> None:
    recipe = Recipe(formats.int8, (Level(formats.float32, (64, 64)), Level(formats.float8_e4m3fn, (1, 16))))
    parts = parts_of(recipe, (130, 200))
    scales, zero = spreads(parts, recipe, (130, 200))
    found = rt.dequantize(np, parts.elements, "int8", scales, zero)
    assert np.array_equal(found, numerics.dequantize(parts, recipe))


def test_rank_0_and_1_and_nothing() -> None:
    codes = np.arange(0, 120, dtype=np.uint8)
    wanted = decode(codes, formats.float8_e4m3fn)
    assert np.array_equal(rt.decode(np, codes, "float8_e4m3fn"), wanted)
    scale = np.float32([2.0, 3.0, 0.5])
    found = rt.dequantize(np, codes, "float8_e4m3fn", ((scale, (50,)),))
    assert np.array_equal(found, wanted * np.repeat(scale, 50)[:120])
    assert rt.decode(np, np.array(56, np.uint8), "float8_e4m3fn") == 1.0
    assert dequantize(np.zeros((0, 4), np.uint8), formats.float8_e4m3fn).shape == (0, 4)
    assert dequantize(np.zeros((4, 0), np.uint8), formats.float4_e2m1fn, size=0).shape == (4, 0)


def test_results_can_be_written_to() -> None:
    out = rt.decode(np, np.zeros((4, 4), np.uint8), "float8_e4m3fn")
    out += 1
    assert rt.decode(np, np.zeros((4, 4), np.uint8), "float8_e4m3fn").sum() == 0
