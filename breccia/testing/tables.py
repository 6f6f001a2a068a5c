"""What the conformance kit found, as a table that is printed, counted, saved and read back."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breccia.errors import FormatError
from breccia.testing.claims import Program

OUTCOMES = ("equal", "close", "refused", "not run", "FAILED")
RAN = ("equal", "close", "FAILED")
_HEAD = ("program", "recipe", "shape", "placement", "epilogue", "outcome", "detail")
_WIDTHS = (12, 24, 13, 11, 10, 9)


@dataclass(frozen=True)
class Row:
    """What became of a program.

    outcome: `equal`, or `close` (within the rounding of its sums); `refused`, by an UnsupportedError; `not run`, where
    the target was lowered for, but cannot run here; `FAILED`. detail: the reason.
    """

    program: Program
    outcome: str
    detail: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Its entries under the table's head."""
        p = self.program
        return p.name, p.recipe, "x".join(map(str, p.shape)), p.placement, p.epilogue, self.outcome, self.detail

    def __str__(self) -> str:
        return _line(self.cells)


def _line(cells: tuple[str, ...]) -> str:
    padded = (f"{cell:<{width}} " for cell, width in zip(cells, _WIDTHS, strict=False))
    return f"{''.join(padded)}{cells[-1]}".rstrip()


@dataclass
class Table:
    """All rows of one target. Invariant: every claimed program has one row, whether it ran or not.

    place: what its programs ran on, in words.
    """

    target: str
    rows: list[Row] = field(default_factory=list[Row])
    place: str = ""

    def having(self, *outcomes: str) -> list[Row]:
        """The rows of some outcomes."""
        return [row for row in self.rows if row.outcome in outcomes]

    @property
    def failures(self) -> list[Row]:
        return self.having("FAILED")

    @property
    def refused(self) -> list[Row]:
        return self.having("refused")

    @property
    def passed(self) -> bool:
        """True where programs ran, and none failed; not so where none could run."""
        return bool(self.having(*RAN)) and not self.failures

    @property
    def claimed(self) -> int:
        """How many cells are claimed: recipes with a program, a placement and an epilogue, whatever the shape."""
        return len({row.program.cell for row in self.rows})

    @property
    def ran(self) -> int:
        """How many of the claimed cells had all of their programs run."""
        return self.claimed - len({row.program.cell for row in self.having("refused", "not run")})

    def reasons(self) -> dict[str, int]:
        """Why programs did not run, with counts."""
        return dict(Counter(f"{row.outcome}: {row.detail}" for row in self.having("refused", "not run")).most_common())

    def summary(self) -> str:
        """Counts, and a line for each reason why programs did not run."""
        count = Counter(row.outcome for row in self.rows)
        programs = ", ".join(f"{count[name]} {name}" for name in OUTCOMES)
        where = f" on {self.place}" if self.place else ""
        lines = [
            f"conformance of {self.target}{where}: {self.ran} of {self.claimed} claimed cells ran",
            f"{len(self.rows)} programs: {programs}",
            *(f"  {n} {reason}" for reason, n in self.reasons().items()),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.summary(), _line(_HEAD), *map(str, self.rows)])

    # -- files ---------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The table as JSON, a row a line, so that versions compare well."""
        head = {"target": self.target, "place": self.place, "columns": _HEAD}
        rows = ",\n".join("  " + json.dumps(row.cells) for row in self.rows)
        return f'{{\n{json.dumps(head)[1:-1]},\n"rows": [\n{rows}\n]\n}}\n'

    def save(self, file: Path) -> None:
        """Write the table; `load_table` reads it. Folders are made."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text(), encoding="utf-8")


def load_table(file: Path) -> Table:
    """A table that `save` wrote; its programs have no text. Raises FormatError for any other file."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if tuple(data["columns"]) != _HEAD:
            raise ValueError(f"its columns are {', '.join(data['columns'])}")
        return Table(data["target"], [_row(cells) for cells in data["rows"]], data["place"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{file} is no conformance table of this version ({type(error).__name__}: {error}); write it again with "
            "`breccia conform TARGET --output FILE`"
        ) from error


def _row(cells: list[Any]) -> Row:
    name, recipe, shape, placement, epilogue, outcome, detail = map(str, cells)
    m, k, n = map(int, shape.split("x"))
    if outcome not in OUTCOMES:
        raise ValueError(f"{outcome!r} is no outcome; allowed: {', '.join(OUTCOMES)}")
    return Row(Program(name, recipe, (m, k, n), placement, "", epilogue), outcome, detail)
