"""Writes the generated tables of README.md and docs from recipes and ops: `python docs/generate_tables.py`.

Text between `<!-- begin NAME -->` and `<!-- end NAME -->` is generated; tests/test_readme.py fails where it is stale.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from breccia.recipes import Block, Recipe, all_recipes

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]


def bits_per_value(recipe: Recipe) -> float:
    """Stored bits for each value of a large tensor; scales of a whole tensor or row count nothing.

    >>> from breccia import recipes
    >>> bits_per_value(recipes.find("nvfp4"))
    4.5
    """
    bits = float(recipe.element.bits)
    for level in recipe.levels:
        bits += level.dtype.bits / _values_in(level.block)
    for extra in (recipe.zero_point, recipe.offset):
        if extra is not None:
            bits += max(8, extra.dtype.bits) / _values_in(recipe.innermost.block)  # stored one a byte
    return bits


def _values_in(block: Block | None) -> float:
    if block is None or None in block:
        return math.inf
    return math.prod(size for size in block if size is not None)


def recipe_table() -> str:
    """One row for each named recipe."""
    rows = [("recipe", "element", "scales, outermost first", "bits per value"), ("---",) * 4]
    for name, recipe in all_recipes().items():
        element, _, rest = recipe.describe().partition(", ")
        rows.append((f"`{name}`", f"`{element}`", rest, f"{bits_per_value(recipe):.4g}"))
    return _markdown(rows)


def policy_table() -> str:
    """How each named recipe encodes, and which library it equals."""
    rows = [("recipe", "scale rule", "rounding", "overflow", "equals bit for bit"), ("---",) * 5]
    for name, recipe in all_recipes().items():
        policy = recipe.policy
        rows.append((f"`{name}`", policy.scale, policy.rounding, policy.overflow, recipe.equals or "not stated"))
    return _markdown(rows)


def op_table() -> str:
    """One row for each op of the dialect: its name, the first line of its docstring, where it may stand."""
    from breccia.ir.ops import WHOLE_TENSOR_OPS
    from breccia.ir.tile_ops import TILE_OPS

    rows = [("op", "what it is", "stands"), ("---",) * 3]
    for ops, place in ((WHOLE_TENSOR_OPS, "anywhere"), (TILE_OPS, "in tiled kernels")):
        for op in ops:
            first = (op.__doc__ or "").strip().splitlines()[0]
            rows.append((f"`{op.name.removeprefix('breccia.')}`", first, place))
    return _markdown(rows)


def _markdown(rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


TABLES: dict[str, Callable[[], str]] = {"recipes": recipe_table, "policies": policy_table, "ops": op_table}
FILES = (ROOT / "README.md", ROOT / "docs" / "recipes.md", ROOT / "docs" / "ir.md")


def with_tables(text: str) -> str:
    """`text` with every generated block made anew; raises ValueError for a block of an unknown name."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}; known: {', '.join(TABLES)}")
        return f"<!-- begin {name} -->\n\n{TABLES[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (?P<name>\w+) -->.*?<!-- end (?P=name) -->", block, text, flags=re.DOTALL)


def main() -> None:
    """Bring all files up to date."""
    for file in FILES:
        old = file.read_text(encoding="utf-8")
        new = with_tables(old)
        if new != old:
            file.write_text(new, encoding="utf-8")
            print(f"updated {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
