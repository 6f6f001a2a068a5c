"""The demo's results in the terminal."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from breccia.demo.lexer import IRLexer

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from rich.console import Console

    from breccia.demo.measure import NeighbourRow, WeightRow, WeightTable
    from breccia.demo.results import BlockResult, BlockRow, Lowering, Neighbours

_THEME = "ansi_dark"
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def print_weights(console: Console, table: WeightTable, title: str) -> None:
    """Part 1: one row a recipe, and what fp32 takes to compare with."""
    console.rule(f"[bold]1. Every linear weight in every recipe[/]  {escape(title)}")
    view = _table("recipe", "bits/value", "MB", "relative error", "SNR dB")
    view.add_row("[dim]float32[/]", "32.000", f"{4 * table.values / 1e6:.2f}", "0", "")
    for row in table.rows:
        view.add_row(*weight_cells(row))
    console.print(view)
    console.print(
        f"{table.tensors} weights, {table.values:,} values; blocks run along each weight's input axis.", style="dim"
    )
    for name in table.skipped:
        console.print(f"skipped {escape(name)}: it holds NaN or Inf", style="yellow")


def weight_cells(row: WeightRow) -> tuple[str, ...]:
    """The cells of one row of part 1, as text."""
    return (
        row.recipe.name or row.recipe.describe(),
        f"{row.bits:.3f}",
        f"{row.megabytes:.2f}",
        f"{row.relative_error:.5f}",
        f"{row.signal_to_noise:.1f}",
    )


def print_block(console: Console, result: BlockResult) -> None:
    """Part 2: the function, its IR from form to form, its source, what explain() says, and its cosines."""
    console.rule(f"[bold]2. A real block, compiled[/]  {escape(result.layer)}")
    _print_code(console, result.lowering.python, "python")
    console.print(escape(f"Run on {result.inputs}."))
    print_lowering(console, result.lowering)
    view = _table("recipe", "cosine: weights cast", "cosine: inputs cast too")
    for row in result.rows:
        view.add_row(*block_cells(row))
    console.print(view)
    console.print(block_note(result), style="dim")


def block_note(result: BlockResult) -> str:
    """How near compiled code comes to plain NumPy where nothing is quantized."""
    return f"Compiled on fp32 weights, it differs from plain NumPy by at most {result.difference:.1e}."


def block_cells(row: BlockRow) -> tuple[str, ...]:
    """The cells of one row of part 2, as text."""
    name = "float32" if row.recipe is None else row.recipe.name or row.recipe.describe()
    return name, f"{row.weights:.7f}", "" if row.both is None else f"{row.both:.7f}"


def print_lowering(console: Console, lowering: Lowering) -> None:
    """The first form in full, then a coloured diff from each form to the next, the emitted source, and explain()."""
    name, text = lowering.forms[0]
    console.print(f"\n[bold]IR, {name}[/] (recipe {lowering.recipe.name})")
    _print_code(console, text, IRLexer())
    for (before, old), (after, new) in zip(lowering.forms, lowering.forms[1:], strict=False):
        console.print(f"\n[bold]IR, {before} -> {after}[/]")
        for line in diff_lines(old, new, before, after):
            console.print(Text(line, style=_DIFF_STYLES.get(line[:1], "")), soft_wrap=True)
    console.print(f"\n[bold]Passes[/] {' -> '.join(lowering.passes)}")
    console.print("\n[bold]The emitted source[/]")
    _print_code(console, lowering.source, "python")
    console.print(Panel(Text(lowering.explain.rstrip()), title="explain()", title_align="left"))


def diff_lines(old: str, new: str, before: str, after: str, context: int = 3) -> list[str]:
    """Unified diff of two texts, one string a line, without line ends; empty where they are equal.

    >>> diff_lines("a", "b", "traced", "tiled")[-2:]
    ['-a', '+b']
    """
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, n=context, lineterm=""))


def print_neighbours(console: Console, found: Neighbours | None, skipped: str) -> None:
    """Part 3, or why it was skipped."""
    console.rule("[bold]3. Sentences, end to end[/]")
    if found is None:
        console.print(escape(f"Skipped: {skipped}."))
        return
    view = _table(*neighbour_head(found.k))
    for row in found.rows:
        view.add_row(*neighbour_cells(row))
    console.print(view)
    console.print(neighbour_note(found), style="dim")


def neighbour_head(k: int) -> tuple[str, ...]:
    """The heads of the columns that `neighbour_cells` fills; a star is for inputs cast too."""
    heads = ("cosine", f"top {k}", "top 1")
    return "recipe", *heads, *(f"{head}*" for head in heads)


def neighbour_note(found: Neighbours) -> str:
    """What the columns of part 3 mean, in words."""
    k = found.k
    return (
        f"{len(found.sentences)} sentences, {found.tokens} tokens. Every linear weight is cast; with a star, the "
        "inputs of the linear layers too; embeddings and norms stay fp32. cosine: mean cosine with the fp32 embedding. "
        f"top {k}: share of each sentence's {k} nearest neighbours that stay among its nearest {k}. "
        "top 1: share of sentences whose nearest neighbour stays the nearest."
    )


def neighbour_cells(row: NeighbourRow) -> tuple[str, ...]:
    """The cells of one row of part 3, as text."""
    cells = [(f"{a.cosine:.5f}", f"{a.kept:.1%}", f"{a.top:.1%}") for a in (row.weights, row.both)]
    return row.recipe.name or row.recipe.describe(), *cells[0], *cells[1]


def _print_code(console: Console, text: str, lexer: Lexer | str) -> None:
    """Print code in colours, with every line whole: what is cut off cannot be copied."""
    code = Syntax("", lexer, theme=_THEME, background_color="default").highlight(text)
    code.rstrip()
    console.print(code, soft_wrap=True)


def _table(*columns: str) -> Table:
    view = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        view.add_column(column, justify="right" if index else "left", no_wrap=not index)
    return view
