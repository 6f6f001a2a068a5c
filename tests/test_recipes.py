"""Recipes as values: blocks, axes, equality, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from breccia import formats, recipes
from breccia.errors import RecipeError, ShapeError
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint, all_recipes, find, grid_shape

ALL = all_recipes()


def test_named_recipes_are_attributes_and_found_by_name():
    for name, recipe in ALL.items():
        assert getattr(recipes, name) is recipe is find(name)
        assert recipe.name == name
    with pytest.raises(RecipeError, match=r"unknown recipe 'fp7'; known recipes: float8_tensor"):
        find("fp7")


def test_the_issue_asks_for_these():
    for scale in ("f16", "bf16", "f32"):
        for block in (32, 64, 128):
            assert {f"int4_g{block}_{scale}", f"uint4_g{block}_{scale}"} <= ALL.keys()
    assert {
        "float8_tensor", "float8_row", "float8_1x128", "float8_128x128", "float8_1x128_e8m0", "float8_128x128_e8m0",
        "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4",
        "nvfp4_16x16", "int8_row", "nf4",
    } <= ALL.keys()  # fmt: skip


def test_blocks_resolve_for_any_rank():
    assert recipes.mxfp4.blocks(3) == ((1, 1, 32),)
    assert recipes.mxfp4.blocks(1) == ((32,),)
    assert recipes.nvfp4.blocks(2) == ((None, None), (1, 16))
    assert recipes.float8_128x128.blocks(1) == ((128,),)
    assert grid_shape((300, 576), (128, 128)) == (3, 5)
    assert grid_shape((0, 5), (1, None)) == (0, 1)


@pytest.mark.parametrize("name", ALL)
def test_along_records_the_axis(name):
    recipe = ALL[name]
    assert recipe.along(-1, 2) is recipe.along(1, 2) is recipe
    turned = recipe.along(0, 3)
    assert turned.blocks(3) == tuple((*b[-1:], *b[:-1]) for b in recipe.blocks(3))
    back = turned.permuted((1, 2, 0))
    assert back.blocks(3) == recipe.blocks(3)


def test_names_and_provenance_do_not_decide_equality():
    assert replace(recipes.mxfp4, name="x", equals="y") == recipes.mxfp4
    assert recipes.mxfp4.along(0, 2) != recipes.mxfp4
    assert recipes.mxfp4.along(0, 2).name == "mxfp4 32x1"
    assert recipes.mxfp4.with_policy(scale="floor").decode_key == recipes.mxfp4.decode_key
    assert recipes.mxfp4.with_policy(scale="floor").equals == ""
    assert recipes.mxfp4.with_policy(scale="ceil") is recipes.mxfp4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Level(formats.float32, (1, 0)), "block size; allowed: an integer of at least 1"),
        (lambda: Level(formats.float32, (1, -32)), "-32 is not a block size"),
        (lambda: Level(formats.float32, (1, 3.5)), "3.5 is not a block size"),
        (lambda: Level(formats.float32, (1, True)), "True is not a block size"),
        (lambda: Level(formats.float32, 32), "give a tuple"),
        (lambda: Level(formats.nf4), "cannot be stored as nf4"),
        (lambda: ZeroPoint(formats.float16), "an integer, not float16"),
        (lambda: Offset(formats.uint4), "a float, not uint4"),
        (lambda: Recipe("float8_e4m3fn", (Level(formats.float32),)), "give a format"),
        (lambda: Recipe(formats.int4, ()), "at least one Level"),
        (
            lambda: Recipe(formats.int4, (Level(formats.float8_e8m0fnu, (1, 32)),)),
            "powers of two.*'ceil', 'floor' or 'even'",
        ),
        (
            lambda: Recipe(formats.int4, (Level(formats.float32, (1, 16)), Level(formats.float32))),
            "outermost to innermost",
        ),
        (
            lambda: Recipe(formats.int4, (Level(formats.float32, (1, 48)), Level(formats.float32, (1, 32)))),
            "whole number",
        ),
        (lambda: Policy(scale="nearest"), "allowed: exact, floor, ceil, even"),
        (lambda: Policy(history=0), "at least 1"),
        (lambda: Policy(margin=-1), "at least 0"),
        (lambda: Policy(max=0.0), "positive and finite"),
        (lambda: Policy(amax_min=float("inf")), "positive and finite"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize("axis", [2, -3, 1.0, True])
def test_axis_out_of_range(axis):
    with pytest.raises(ShapeError, match="allowed: -2 to 1"):
        recipes.mxfp4.along(axis, 2)


def test_describe_says_all_parts():
    assert recipes.nvfp4.describe() == "float4_e2m1fn, float32 per tensor, float8_e4m3fn per 1x16"
    assert recipes.uint4_g32_f16.describe() == "uint4, float16 per 1x32, zero point uint4"
