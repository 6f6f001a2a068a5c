"""Programs of the conformance kit: one for each claim, each a verified module."""

from __future__ import annotations

import pytest

from breccia.ir.capabilities import Capabilities
from breccia.ir.dialect import parse_module
from breccia.recipes import all_recipes
from breccia.testing.claims import EPILOGUES, SHAPES, programs

RECIPES = all_recipes()


@pytest.mark.parametrize("name", RECIPES)
def test_every_program_is_a_verified_module_with_its_recipe(name: str) -> None:
    found = list(programs(Capabilities("mine", placements=("operand",)), {name: RECIPES[name]}))
    for program in found:
        parse_module(program.text).verify()
    assert len(found) == len({p.text for p in found}) == len(SHAPES) * (3 + len(EPILOGUES))


def test_claims_are_recipes_by_placements_by_epilogues() -> None:
    chosen = dict(list(RECIPES.items())[:2])
    found = list(programs(Capabilities("mine", placements=("epilogue", "operand")), chosen, [(1, 64, 48)]))
    assert len({p.cell for p in found}) == len(found) == 2 * (2 + 2 * (1 + len(EPILOGUES)))
