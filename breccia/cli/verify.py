"""`breccia verify`: two checkpoints, in any formats, by the values that they decode to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table

from breccia.checkpoint import open_checkpoint
from breccia.checkpoint.compare import Comparison, compare
from breccia.errors import FormatError


@dataclass(frozen=True)
class Options:
    """What the command line says. `rename` are regular expressions of B's names, with `=` and what replaces them."""

    a: Path
    b: Path
    tolerance: float = 0.0
    rename: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    common: bool = False
    every: bool = False


def run(options: Options, console: Console) -> bool:
    """Compare and print; True where all weights are on both sides and within the tolerance.

    Raises FormatError for checkpoints that are not sound, and for a `rename` that is no regular expression.
    """
    renaming = [_renaming(text) for text in options.rename]

    def rename(name: str) -> str:
        for found, replacement in renaming:
            name = found.sub(replacement, name)
        return name

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), MofNCompleteColumn())
    done: list[Comparison] = []
    with (
        open_checkpoint(options.a) as a,
        open_checkpoint(options.b) as b,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("", total=len(a))
        for each in compare(a, b, rename=rename, only=options.only):
            progress.update(task, advance=1, description=each.name)
            if not (options.common and each.verdict.startswith("only")):
                done.append(each)
    _show(done, options, console)
    return bool(done) and all(each.within(options.tolerance) for each in done)


def _renaming(text: str) -> tuple[re.Pattern[str], str]:
    found, separator, replacement = text.rpartition("=")
    try:
        if not separator:
            raise FormatError(f"--rename {text!r} has no '='; give a regular expression, '=' and what replaces it")
        made = re.compile(found)
        made.sub(replacement, "")  # so that groups that are not there are found before anything is compared
        return made, replacement
    except (re.error, IndexError) as error:
        raise FormatError(f"--rename {text!r} is no regular expression: {error}") from None


def _show(done: list[Comparison], options: Options, console: Console) -> None:
    shown = [each for each in done if options.every or each.verdict != "equal"]
    if shown:
        table = Table(
            Column("weight", overflow="fold"), "verdict", "unequal", "largest difference", "relative", "",
            box=None, pad_edge=False,
        )  # fmt: skip
        for each in shown:
            figures = (f"{each.unequal}/{each.size}", f"{each.largest:.6g}", f"{each.relative:.6g}")
            compared = each.verdict in ("equal", "differs")
            color = "green" if each.within(options.tolerance) else "red"
            table.add_row(
                escape(each.name), f"[{color}]{each.verdict}[/]", *(figures if compared else ("", "", "")),
                escape(each.detail),
            )  # fmt: skip
        console.print(table)
        console.print()
    equal, within = (sum(each.within(tolerance) for each in done) for tolerance in (0.0, options.tolerance))
    text = f"equal {equal}/{len(done)}"
    if options.tolerance:
        text += f", within {options.tolerance:g} {within}/{len(done)}"
    console.print(text if done else "nothing was compared: no weight has the same name on both sides", highlight=False)
