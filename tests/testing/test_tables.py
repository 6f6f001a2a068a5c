"""Tables count what ran, and are read back as they were saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from breccia.errors import FormatError
from breccia.testing import Row, Table, load_table
from breccia.testing.claims import Program


def row(outcome: str, shape: tuple[int, int, int] = (1, 2, 3), name: str = "product", detail: str = "") -> Row:
    return Row(Program(name, "mxfp4", shape, "operand", "", "bias"), outcome, detail)


def test_a_cell_ran_if_all_of_its_programs_did() -> None:
    table = Table("mine", [row("equal"), row("refused", (4, 5, 6), detail="why"), row("close", name="weight")])
    assert (table.claimed, table.ran) == (2, 1)
    assert table.passed
    assert table.reasons() == {"refused: why": 1}
    assert "1 of 2 claimed cells ran" in table.summary()
    assert "3 programs: 1 equal, 1 close, 1 refused, 0 not run, 0 FAILED" in table.summary()


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [
        ([], False),
        (["refused"], False),
        (["not run"], False),
        (["not run", "FAILED"], False),
        (["equal", "FAILED"], False),
        (["equal", "not run"], True),
        (["close"], True),
    ],
)
def test_nothing_passes_unless_something_ran_and_nothing_failed(outcomes: list[str], passed: bool) -> None:
    assert Table("mine", [row(outcome) for outcome in outcomes]).passed is passed


def test_a_table_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    table = Table("mine:a1", [row("equal"), row("FAILED", (4, 5, 6), detail='1 of 2, first at [0]: "x"')], "a chip")
    table.save(tmp_path / "folder" / "mine.json")
    again = load_table(tmp_path / "folder" / "mine.json")
    assert again == table
    assert str(again) == str(table)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"target": "mine", "place": "", "columns": ["program"], "rows": []}',
        Table("mine", [row("equal")]).text().replace("equal", "fine"),
        Table("mine", [row("equal")]).text().replace("1x2x3", "1x2"),
    ],
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"table\.json is no conformance table of this version .*breccia conform"):
        load_table(tmp_path / "table.json")
