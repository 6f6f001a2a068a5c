"""`breccia conform`: hold a target to its claims, show what became of them, and keep the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from breccia.errors import UnsupportedError
from breccia.recipes import all_recipes
from breccia.recipes import find as find_recipe
from breccia.target import find
from breccia.testing.claims import EPILOGUES, SHAPES, Shape
from breccia.testing.conformance import conform
from breccia.testing.tables import Row, Table


@dataclass(frozen=True)
class Options:
    """What the command line says; empty for all recipes, and for the kit's own shapes and epilogues."""

    target: str
    recipes: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    epilogues: tuple[str, ...] = ()
    output: Path | None = None
    device: str | None = None
    place: str = ""
    seed: int = 0
    every_row: bool = False


def run(options: Options, console: Console) -> Table:
    """The table, printed and saved. Raises UnsupportedError and RecipeError for what is unknown."""
    target = find(options.target)
    recipes = {name: find_recipe(name) for name in options.recipes} or all_recipes()
    shapes = tuple(map(parse_shape, options.shapes)) or SHAPES
    for name in options.epilogues:
        if name not in EPILOGUES:
            raise UnsupportedError(f"unknown epilogue {name!r}; known: {', '.join(EPILOGUES)}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def seen(row: Row) -> None:
            progress.update(task, advance=1, description=f"{row.program.recipe} {row.program.name}")

        table = conform(
            target, recipes=recipes, shapes=shapes, epilogues=options.epilogues or EPILOGUES, seed=options.seed,
            device=options.device, place=options.place, seen=seen,
        )  # fmt: skip
    _report(table, console, every_row=options.every_row)
    if options.output is not None:
        table.save(options.output)
        console.print(f"wrote {options.output}", soft_wrap=True, highlight=False)
    return table


def parse_shape(text: str) -> Shape:
    """The shape (M, K, N) that `5x160x24` spells.

    >>> parse_shape("5x160x24")
    (5, 160, 24)
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UnsupportedError(f"{text!r} is no shape; give the sizes M, K and N of a product, such as 5x160x24")
    m, k, n = map(int, parts)
    return m, k, n


def _report(table: Table, console: Console, *, every_row: bool) -> None:
    """Counts and failures; with `every_row`, the whole table."""
    lines = [str(table)] if every_row else [table.summary(), *map(str, table.failures)]
    console.print(escape("\n".join(lines)), soft_wrap=True, highlight=False)
    if not table.passed:
        verdict = "claims do not hold" if table.failures else "nothing could run here, so nothing has passed"
        console.print(f"[red]{verdict}[/]", highlight=False)
