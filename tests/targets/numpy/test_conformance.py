"""NumPy does what its capabilities claim, for every recipe."""

from __future__ import annotations

import pytest

from breccia.recipes import all_recipes
from breccia.testing.conformance import SHAPES, conform

RECIPES = all_recipes()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name: str) -> None:
    table = conform("numpy", recipes={name: RECIPES[name]}, shapes=[(5, 160, 24)])
    assert not table.failures, str(table)
    assert not table.refused, str(table)
    assert len(table.rows) >= 4


@pytest.mark.exhaustive
def test_every_recipe_and_shape() -> None:
    table = conform("numpy", shapes=[*SHAPES, (130, 576, 300), (2, 1, 1), (3, 129, 128)])
    assert not table.failures, str(table)
    assert not table.refused, str(table)
