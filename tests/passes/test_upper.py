"""Every pass up to the laid-out form, held to its contract on every example program, with locations kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from breccia.ir.capabilities import TARGET_KEY, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.forms import verify_form
from breccia.ir.printer import print_module
from breccia.testing.inputs import KINDS
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import (
    PROGRAMS,
    UPPER,
    capabilities,
    lost_locations,
    lowered,
    number_locations,
    parsed,
    passes,
    validated,
    with_layouts,
)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", UPPER)
def test_contract_and_locations(name: str, program: str) -> None:
    validated(name, PROGRAMS[program], "triton:sm_90")


@pytest.mark.parametrize("target", ["numpy", "triton:sm_80", "triton:sm_100", "pallas:v5e", "metal:apple"])
def test_worked_example_on_other_targets(target: str) -> None:
    module = parsed(PROGRAMS["mlp"], target)
    out = validate_pipeline(module, passes(UPPER), sizes=[{"M": 3}], kinds=("normal", "exact", "nan"))
    verify_form(out, "laid_out")


@pytest.mark.parametrize("program", PROGRAMS)
def test_laid_out_form_with_layouts(program: str) -> None:
    verify_form(lowered(PROGRAMS[program], target=with_layouts()), "laid_out")


@pytest.mark.parametrize("program", PROGRAMS)
def test_passes_are_deterministic_and_idempotent(program: str) -> None:
    once = lowered(PROGRAMS[program])
    assert print_module(once) == print_module(lowered(PROGRAMS[program]))
    twice = once.clone()
    for step in passes(("canonicalize", "cse", "dce", "hoist-prepare")):
        step.run(twice)
    assert print_module(twice) == print_module(once)


FILECHECK = Path(__file__).parents[1] / "filecheck" / "passes"
CHUNKS = [
    pytest.param(name, chunk, id=f"{name}-{number}")
    for name in UPPER
    for number, chunk in enumerate((FILECHECK / f"{name}.mlir").read_text(encoding="utf-8").split("// -----"))
]


@pytest.mark.parametrize(("name", "chunk"), CHUNKS)
def test_contract_on_filecheck_programs(name: str, chunk: str) -> None:
    """What the text tests show is also right, for values of every kind."""
    module = parse_module(chunk)
    if TARGET_KEY not in module.attributes:
        set_target(module, capabilities("triton:sm_90"))
    number_locations(module)
    kinds = ("exact", "nan") if name == "place-scales" else KINDS
    after = validate_pipeline(module, passes([name]), sizes=[{"M": 3, "N": 5, "K": 130, "T": 9}], kinds=kinds)
    assert lost_locations(after) == []
