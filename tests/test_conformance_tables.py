"""The saved conformance tables, from which the docs' support matrix is made, say what the kit finds today."""

from __future__ import annotations

from pathlib import Path

import pytest

from breccia.recipes import all_recipes
from breccia.testing import Row, Table, conform, load_table
from breccia.testing.claims import EPILOGUES, SHAPES

FOLDER = Path(__file__).parent / "golden" / Path(__file__).stem
FILES = sorted(FOLDER.glob("*.json"))
RECIPES = all_recipes()
SHAPE = (5, 160, 24)


def said(row: Row) -> tuple[str, ...]:
    """A row without what depends on the order in which a library sums."""
    name, recipe, shape, placement, epilogue, outcome, detail = row.cells
    return name, recipe, shape, placement, epilogue, "held" if outcome in ("equal", "close") else outcome, detail


def again(file: Path) -> str:
    return (
        f"{file.name} is out of date: write it again with `breccia conform TARGET --output FILE`, see docs/targets.md"
    )


def test_there_are_tables() -> None:
    assert {"numpy", "opencl", "triton-sm_90"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_saved_table_is_whole_and_passed(file: Path) -> None:
    table = load_table(file)
    assert table.passed, table.summary()
    assert table.place, "a table says what its programs ran on"
    assert table.text() == file.read_text(encoding="utf-8")
    assert {row.program.recipe for row in table.rows} == set(RECIPES), again(file)
    assert {row.program.shape for row in table.rows} == set(SHAPES), again(file)
    assert {row.program.epilogue for row in table.rows} == {"", *EPILOGUES}, again(file)


@pytest.fixture(scope="module")
def saved() -> Table:
    return load_table(FOLDER / "numpy.json")


@pytest.mark.parametrize("name", RECIPES)
def test_numpy_does_what_its_table_says(name: str, saved: Table) -> None:
    table = conform("numpy", recipes={name: RECIPES[name]}, shapes=[SHAPE])
    assert table.passed, str(table)
    assert not table.refused, str(table)
    wanted = [said(r) for r in saved.rows if (r.program.recipe, r.program.shape) == (name, SHAPE)]
    assert [said(r) for r in table.rows] == wanted, again(FOLDER / "numpy.json")
