"""Pallas does what its capabilities claim, for every recipe, as JAX interprets its kernels on the CPU."""

from __future__ import annotations

import pytest

pytest.importorskip("jax")

from breccia.recipes import all_recipes
from breccia.targets.pallas import ARCHITECTURES
from breccia.testing.conformance import SHAPES, Shape, Table, conform

RECIPES = all_recipes()
SHAPE = (5, 160, 24)
MORE_SHAPES = [*(s for s in SHAPES if s != SHAPE), (130, 576, 300), (2, 1, 1), (3, 129, 128)]
CHOSEN = (
    "float8_tensor", "float8_row", "float8_1x128", "float8_128x128_e8m0", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp4", "mxint8",
    "nvfp4", "int8_row", "uint4_g32_f16", "int4_g64_bf16", "nf4",
)  # fmt: skip
"""What is quick and takes every path: scales of each kind, packed codes, zero points, codebooks."""
OTHERS = [(arch, n) for arch in ARCHITECTURES for n in RECIPES if (arch, n) not in {("v6e", c) for c in CHOSEN}]


def held(table: Table) -> None:
    """Every claim of a table holds, and none is refused."""
    assert not table.failures, str(table)
    assert not table.refused, str(table)
    assert len(table.rows) >= 4


@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_recipes(name: str) -> None:
    held(conform("pallas:v6e", recipes={name: RECIPES[name]}, shapes=[SHAPE]))


@pytest.mark.parametrize("name", ["mxfp4", "float8_1x128"])
def test_products_of_v7(name: str) -> None:
    """It multiplies formats of its own."""
    held(conform("pallas:v7", recipes={name: RECIPES[name]}, shapes=[SHAPE]))


@pytest.mark.parametrize("name", ["float8_128x128", "nvfp4"])
def test_several_tiles_along_every_axis(name: str) -> None:
    held(conform("pallas:v6e", recipes={name: RECIPES[name]}, shapes=[(130, 576, 300)]))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("arch", "name"), OTHERS)
def test_every_recipe(arch: str, name: str) -> None:
    held(conform(f"pallas:{arch}", recipes={name: RECIPES[name]}, shapes=[SHAPE]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", MORE_SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_shape(shape: Shape, name: str) -> None:
    table = conform("pallas:v6e", recipes={name: RECIPES[name]}, shapes=[shape])
    assert not table.failures, str(table)
    assert all("is known only at the call" in row.detail for row in table.refused), str(table)
