"""The conformance kit finds what a target does wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from breccia.recipes import find as find_recipe
from breccia.target import Target, find
from breccia.testing.conformance import conform

RECIPES = {name: find_recipe(name) for name in ("float8_row", "nvfp4")}
SHAPES = [(3, 40, 8)]


def with_source(change: tuple[str, str]) -> Target:
    """NumPy with a planted mistake in its emitted text."""
    numpy = find("numpy")

    def emit(module):
        return numpy.emit(module).replace(*change)

    return replace(numpy, emitter=emit)


def test_what_is_right_passes() -> None:
    table = conform("numpy", recipes=RECIPES, shapes=SHAPES)
    assert not table.failures, str(table)
    assert "conformance of numpy: " in str(table)
    assert {row.outcome for row in table.rows} <= {"equal", "close"}
    assert {row.program.placement for row in table.rows} == {"", "epilogue", "operand"}


@pytest.mark.parametrize(
    "change",
    [
        ("xp.matmul(", "2 * xp.matmul("),
        ("rt.dequantize(", "rt.decode(xp, "),
        ('"float8_e4m3fn")', '"float8_e5m2")'),
        ("(1, 16)", "(1, 8)"),
        (" += b", " -= b"),
        ('"bf16")', '"f32")'),
        (" *= s", " /= s"),
        ("rt.quantize(xp, x,", "rt.quantize(xp, 2 * x,"),
        ('"float8_e4m3fn", (1, 16)', '"float8_e5m2", (1, 16)'),
        ("return ", "return return "),
    ],
)
def test_planted_mistakes_are_failures(change: tuple[str, str]) -> None:
    table = conform(with_source(change), recipes=RECIPES, shapes=SHAPES)
    assert table.failures, str(table)
    assert "FAILED" in str(table)


def test_a_claim_that_cannot_be_lowered_is_refused_and_shown() -> None:
    def refuse(module):
        from breccia.errors import UnsupportedError

        raise UnsupportedError("no such instruction")

    table = conform(replace(find("numpy"), emitter=refuse), recipes=RECIPES, shapes=SHAPES)
    assert len(table.refused) == len(table.rows)
    assert "no such instruction" in str(table)


def test_a_target_without_an_emitter_has_its_ir_interpreted() -> None:
    capabilities = find("numpy").capabilities
    rows = (replace(capabilities, name="paper", placements=("epilogue", "mainloop", "operand")),)
    target = Target("paper", "1", lambda: rows)
    table = conform(target, recipes={"float8_1x128": find_recipe("float8_1x128")}, shapes=[(3, 256, 8)])
    assert not table.failures, str(table)
    assert "mainloop" in {row.program.placement for row in table.rows}
