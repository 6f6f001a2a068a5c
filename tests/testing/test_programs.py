"""Random programs: typed, printable, and unchanged in meaning by the whole pipeline."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from xdsl.dialects.builtin import FileLineColLoc, ModuleOp

from breccia.ir.capabilities import set_target
from breccia.ir.forms import verify_form
from breccia.ir.printer import print_module
from breccia.passes import default_pipeline
from breccia.recipes import all_recipes
from breccia.target import find
from breccia.testing.programs import programs, random_program
from breccia.testing.validate import check_round_trip, validate_pipeline

NUMPY = find("numpy").capabilities


def lowered(module: ModuleOp) -> ModuleOp:
    set_target(module, NUMPY)
    return validate_pipeline(
        module, default_pipeline(NUMPY), sizes=[{"M": 1}, {"M": 7}], kinds=["normal", "exact", "nan"]
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_print_and_parse(module: ModuleOp) -> None:
    verify_form(module, "traced")
    check_round_trip(module)


def test_seeds() -> None:
    assert print_module(random_program(5)) == print_module(random_program(5))
    assert len({print_module(random_program(s)) for s in range(20)}) == 20
    names = [op.name for s in range(60) for op in random_program(s).walk()]
    for op in ("quantize", "dequantize", "matmul", "reduce", "select", "slice", "concat"):
        assert f"breccia.{op}" in names


def test_programs_have_locations_and_one_to_three_quantizes_or_one_more_for_the_result() -> None:
    for seed in range(40):
        found = [op for op in random_program(seed).walk() if op.name == "breccia.quantize"]
        assert 1 <= len(found) <= 4
        assert all(isinstance(op.location, FileLineColLoc) for op in found)


@pytest.mark.parametrize("name", all_recipes())
def test_the_pipeline_keeps_the_meaning_of_every_recipe(name: str) -> None:
    """Validated after every pass; the seeds are chosen so that each recipe quantizes and multiplies."""
    for seed in range(1000):
        module = random_program(seed, 3, all_recipes()[name])
        kinds = {op.name for op in module.walk()}
        if {"breccia.matmul", "breccia.quantize"} <= kinds:
            verify_form(lowered(module), "tiled")
            return


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_the_pipeline_keeps_the_meaning(module: ModuleOp) -> None:
    verify_form(lowered(module), "tiled")
