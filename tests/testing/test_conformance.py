"""The conformance kit finds what a target does wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from breccia.ir.capabilities import TileRow
from breccia.recipes import find as find_recipe
from breccia.target import Target, find
from breccia.testing import Row, conform
from breccia.testing.claims import EPILOGUES

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
    assert table.passed, str(table)
    assert table.ran == table.claimed == len(table.rows)
    assert "conformance of numpy: " in str(table)
    assert {row.outcome for row in table.rows} <= {"equal", "close"}
    assert {row.program.placement for row in table.rows} == {"", "epilogue", "operand"}
    assert {row.program.epilogue for row in table.rows} == {"", *EPILOGUES}


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
    assert table.ran == 0
    assert not table.passed
    assert f"{len(table.rows)} refused: no such instruction" in table.summary()


def test_chosen_epilogues_and_every_row_as_it_comes() -> None:
    rows: list[Row] = []
    table = conform("numpy", recipes=RECIPES, shapes=SHAPES, epilogues=["bias"], seen=rows.append)
    assert rows == table.rows
    assert {row.program.epilogue for row in rows if row.program.name == "product"} == {"bias"}


# -- targets that cannot run here --------------------------------------------------------------------------------------

ONE = {"float8_1x128": find_recipe("float8_1x128")}


def paper(**changes: Any) -> Target:
    """A target that scales partial sums, and only lowers unless told."""
    rows = (
        replace(find("numpy").capabilities, name="paper", placements=("epilogue", "mainloop", "operand"), **changes),
    )
    return Target("paper", "1", lambda: rows)


def test_a_target_that_only_lowers_has_its_ir_interpreted_and_passes_nothing() -> None:
    table = conform(paper(), recipes=ONE, shapes=[(3, 256, 8)])
    assert {row.outcome for row in table.rows} == {"not run"}
    assert "mainloop" in {row.program.placement for row in table.rows}
    assert (table.ran, table.passed) == (0, False)
    assert table.reasons() == {"not run: this version of breccia does not emit code for it": len(table.rows)}


def test_what_cannot_run_here_is_emitted_all_the_same() -> None:
    numpy, emitted = find("numpy"), list[str]()

    def emit(module):
        emitted.append(numpy.emit(module))
        return emitted[-1]

    def launch(source, entry):
        raise AssertionError("it was launched")

    target = replace(numpy, emitter=emit, launcher=launch, missing=lambda arch: "no such chip")
    table = conform(target, recipes=ONE, shapes=SHAPES)
    assert len(emitted) == len(table.rows) > 0
    assert {(row.outcome, row.detail) for row in table.rows} == {("not run", "no such chip")}


def test_an_emitter_that_breaks_fails_where_its_code_cannot_run() -> None:
    def emit(module):
        raise KeyError("f8")

    table = conform(replace(find("numpy"), emitter=emit, missing=lambda arch: "no chip"), recipes=ONE, shapes=SHAPES)
    assert len(table.failures) == len(table.rows) > 0


def test_lowering_that_is_wrong_fails_where_code_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are interpreted as the target's fetches fill them: without masks, what lies outside counts."""
    from breccia.passes import insert_masks

    tiles = (TileRow("gemm", 16, 16, 32), TileRow("rowwise", 8, 32, 1), TileRow("reduce", 8, 32, 1))
    target = paper(whole_windows=False, fetch_pad="garbage", tiles=tiles)
    assert not conform(target, recipes=ONE, shapes=[(3, 72, 8)]).failures
    monkeypatch.setattr(insert_masks.InsertMasks, "run", lambda self, module: None)
    assert conform(target, recipes=ONE, shapes=[(3, 72, 8)]).failures
