"""`breccia inspect`: what each tensor of a checkpoint is, without reading its data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from breccia.checkpoint import Checkpoint, Weight, open_checkpoint


@dataclass(frozen=True)
class Options:
    """What the command line says; `every` gives each tensor its row, `only` are parts of names."""

    path: Path
    as_json: bool = False
    every: bool = False
    only: tuple[str, ...] = ()


def run(options: Options, console: Console) -> bool:
    """Print what is there; True where the checkpoint is sound. Raises FormatError for files that cannot be opened."""
    with open_checkpoint(options.path, strict=False) as checkpoint:
        chosen = [w for w in checkpoint.weights.values() if not options.only or any(p in w.name for p in options.only)]
        if options.as_json:
            console.out(json.dumps(as_json(checkpoint, chosen), indent=1), highlight=False)
        else:
            _show(checkpoint, chosen, options, console)
        return not checkpoint.problems


def as_json(checkpoint: Checkpoint, chosen: Iterable[Weight]) -> dict[str, Any]:
    """What `--json` prints: the weights chosen, totals over them, and every problem of the checkpoint."""
    weights = list(chosen)
    return {
        "path": checkpoint.path,
        "quant_method": checkpoint.config.method,
        "conventions": list(checkpoint.conventions),
        "weights": [
            {
                "name": w.name, "convention": w.convention, "recipe": recipe_name(w), "shape": list(w.shape),
                "dtype": w.dtype, "bits_per_value": w.bits_per_value, "bytes": w.nbytes, "tensors": list(w.tensors),
                "problem": w.problem,
            }
            for w in weights
        ],
        "totals": [
            {
                "recipe": recipe, "convention": convention, "weights": len(those), "values": sum(w.size for w in those),
                "bytes": sum(w.nbytes for w in those), "bits_per_value": _bits(those),
            }
            for (convention, recipe), those in _by_kind(weights).items()
        ],
        "values": sum(w.size for w in weights),
        "bytes": sum(w.nbytes for w in weights),
        "bits_per_value": _bits(weights),
        "problems": list(checkpoint.problems),
    }  # fmt: skip


def recipe_name(weight: Weight) -> str | None:
    """The recipe's name, or its description where it has none; None of plain tensors.

    >>> from breccia import recipes
    >>> recipe_name(Weight("w", "gguf", recipes.mxfp4, (32,), "MXFP4", ("w",), 17))
    'mxfp4'
    """
    return None if weight.recipe is None else repr(weight.recipe).removeprefix("<recipe ").removesuffix(">")


def pattern(name: str) -> str:
    """A name with its numbers left out, so that layers and experts look alike.

    >>> pattern("model.layers.10.mlp.experts.7.up_proj.weight")
    'model.layers.*.mlp.experts.*.up_proj.weight'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _show(checkpoint: Checkpoint, chosen: list[Weight], options: Options, console: Console) -> None:
    method = checkpoint.config.method
    announced = f", announced as {method}" if method else ""
    console.print(f"{checkpoint.path}: {', '.join(checkpoint.conventions) or 'empty'}{announced}", highlight=False,
                  markup=False, soft_wrap=True)  # fmt: skip
    rows: dict[tuple[object, ...], list[Weight]] = {}
    for weight in chosen:
        name = weight.name if options.every else pattern(weight.name)
        key = name, weight.convention, weight.recipe, weight.shape, weight.dtype, weight.problem is None
        rows.setdefault(key, []).append(weight)
    table = Table(
        Column("tensor", overflow="fold"),
        "",
        "shape",
        "convention",
        "stored",
        "recipe",
        "bits/value",
        box=None,
        pad_edge=False,
    )
    for (name, *_), those in rows.items():
        first = those[0]
        recipe = "[red]problem[/]" if first.problem else escape(recipe_name(first) or "")
        table.add_row(
            escape(str(name)), f"x{len(those)}" if len(those) > 1 else "", "x".join(map(str, first.shape)) or "scalar",
            first.convention, first.dtype, recipe, f"{_bits(those):.4g}",
        )  # fmt: skip
    console.print(table)
    console.print()
    totals = Table("recipe", "convention", "weights", "values", "bytes", "bits/value", box=None, pad_edge=False)
    for (convention, recipe), those in _by_kind(chosen).items():
        totals.add_row(escape(recipe or those[0].dtype), convention, *_amounts(those))
    totals.add_row("total", "", *_amounts(chosen))
    console.print(totals)
    for problem in checkpoint.problems:
        console.print(f"[red]problem:[/] {escape(problem)}", highlight=False, soft_wrap=True)


def _amounts(those: list[Weight]) -> tuple[str, ...]:
    values, octets = sum(w.size for w in those), sum(w.nbytes for w in those)
    return str(len(those)), f"{values:,}", f"{octets:,}", f"{_bits(those):.4g}"


def _by_kind(weights: Iterable[Weight]) -> dict[tuple[str, str | None], list[Weight]]:
    """By convention and recipe; of what has no recipe, by the stored dtype."""
    made: dict[tuple[str, str | None], list[Weight]] = {}
    for weight in weights:
        made.setdefault((weight.convention, recipe_name(weight) or weight.dtype), []).append(weight)
    return made


def _bits(those: Iterable[Weight]) -> float:
    weights = list(those)
    values = sum(w.size for w in weights)
    return 8 * sum(w.nbytes for w in weights) / values if values else 0.0
