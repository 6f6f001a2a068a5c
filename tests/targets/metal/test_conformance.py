"""Metal does what its capabilities claim: kernels are compiled and run by the shim, in two orders of threads."""

from __future__ import annotations

import pytest

from breccia.ir.dialect import parse_module
from breccia.recipes import all_recipes
from breccia.testing.conformance import SHAPES, Shape, Table, conform, lower
from breccia.testing.conformance import programs as conformance_programs
from tests.targets.metal import shim

RECIPES = all_recipes()
SHAPE = (5, 160, 24)
MORE_SHAPES = [*(s for s in SHAPES if s != SHAPE), (65, 256, 72), (2, 1, 1), (3, 129, 128)]
QUICK = (
    "float8_tensor", "float8_e5m2_tensor", "float8_e4m3fnuz_tensor", "float8_row", "float8_1x128",
    "float8_128x128_e8m0", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4", "nvfp4_16x16",
    "int8_row", "int4_g32_f32", "uint4_g32_f16", "uint4_g64_bf16", "nf4",
)  # fmt: skip
"""One recipe for each way to decode and to encode; the others differ from these in block sizes and scale formats."""


def prepare(names: tuple[str, ...], shapes: list[Shape]) -> None:
    """Have the kernels of all programs compiled together, which takes less time than one by one."""
    target = shim.target()
    for program in conformance_programs(target.capabilities, {n: RECIPES[n] for n in names}, shapes):
        lowered, placed = lower(parse_module(program.text), target, program.placement)
        if not program.placement or program.placement in placed:
            shim.loaded(target.emit(lowered))
    shim.compile_waiting()


@pytest.fixture(scope="module")
def compiled() -> None:
    prepare(QUICK, [SHAPE])


def held(name: str, shape: Shape) -> Table:
    table = conform(shim.target(), recipes={name: RECIPES[name]}, shapes=[shape])
    assert not table.failures, str(table)
    return table


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", QUICK)
def test_chosen_recipes(name: str) -> None:
    table = held(name, SHAPE)
    assert not table.refused, str(table)
    assert len(table.rows) >= 4


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in QUICK])
def test_every_recipe(name: str) -> None:
    assert not held(name, SHAPE).refused


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", MORE_SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_shape(shape: Shape, name: str) -> None:
    """Refused is only what needs the height of a tensor as a number."""
    table = held(name, shape)
    assert all(row.program.shape == (2, 1, 1) and "of unknown size" in row.detail for row in table.refused), str(table)
