"""The demo from beginning to end: measure, print as it goes, and write the page."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from breccia.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.progress import Progress

    from breccia.demo.block import Block
    from breccia.demo.encoder import Encoder
    from breccia.demo.results import HeatMap, Neighbours, Results
    from breccia.demo.tokenize import Tokens
    from breccia.demo.weights import Checkpoint, TensorInfo
    from breccia.recipes import Recipe

_NEEDS = ("matplotlib", "pygments", "rich", "safetensors", "tokenizers")
_HEAT_RECIPES, _HEAT_ROWS, _HEAT_COLUMNS = 4, 64, 96
_EMBEDDED = (
    "float8_row", "float8_128x128", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "nvfp4", "int8_row", "uint4_g32_f16", "nf4",
)  # fmt: skip
"""Embedding sentences takes a second a recipe, so one recipe of each family stands for it unless recipes were named."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Invariants: `weights` is None for the model that the demo knows; `shown` is the recipe whose IR is printed.
    """

    weights: Path | None
    out: Path
    recipes: tuple[Recipe, ...]
    shown: Recipe
    sentences: int


@dataclass(frozen=True, eq=False)
class _Model:
    """The model that the demo knows, ready to embed sentences."""

    encoder: Encoder
    sentences: tuple[str, ...]
    tokens: Tokens


def run(options: Options, console: Console) -> Results:
    """Run the whole demo, printing each part when it is done, and write `options.out`.

    Raises FormatError for a file that cannot be used and UnsupportedError for a missing package, before any work is
    done.
    """
    check_packages()
    check_writable(options.out)
    started = perf_counter()
    from breccia.demo.results import environment

    line = environment()
    console.print(line, style="dim")
    results = _measure(options, console, line)
    from rich.markup import escape

    from breccia.demo.html import page

    with _progress(console) as progress:
        progress.add_task(f"writing {escape(str(options.out))}", total=None)
        options.out.write_text(page(results), encoding="utf-8")
    console.print(f"\nWrote [bold]{escape(str(options.out))}[/] ({perf_counter() - started:.0f} s in all).")
    return results


def _measure(options: Options, console: Console, line: str) -> Results:
    from breccia.demo import report
    from breccia.demo.measure import measure_weights
    from breccia.demo.results import Results
    from breccia.demo.weights import Checkpoint

    model = _load_model(options) if options.weights is None else None
    checkpoint = Checkpoint(_weights_path(options))
    linears = checkpoint.linears()
    title = "all-MiniLM-L6-v2" if model else checkpoint.path.name
    with _progress(console) as progress:
        bar = progress.add_task("casting weights", total=sum(_size(info) for info in linears) * len(options.recipes))
        table = measure_weights(checkpoint, linears, options.recipes, lambda n: progress.advance(bar, n))
    report.print_weights(console, table, title)

    usable = [info for info in linears if info.name not in table.skipped]
    block = _choose_block(checkpoint, usable, model)
    with _progress(console) as progress:
        from breccia.demo.block import measure_block

        bar = progress.add_task("compiling the block in each recipe", total=len(options.recipes))
        result = measure_block(block, options.recipes, options.shown, lambda n: progress.advance(bar, n))
    report.print_block(console, result)

    skipped = "" if model else "sentences need the demo's own model, and --weights gave another file"
    names = [info.name for info in usable]
    neighbours = _neighbours(console, model, names, _embedded(options.recipes)) if model else None
    report.print_neighbours(console, neighbours, skipped)
    ranked = [row.recipe for row in sorted(table.rows, key=lambda row: -row.relative_error)]
    heat = _heat(block, _spread(ranked, _HEAT_RECIPES))
    return Results(line, title, table, block.weight_name, heat, result, neighbours, skipped)


def _load_model(options: Options) -> _Model:
    from breccia.demo.encoder import Encoder
    from breccia.demo.sentences import SENTENCES
    from breccia.demo.tokenize import tokenize
    from breccia.demo.weights import Checkpoint, find_model

    folder = find_model()
    sentences = SENTENCES[: options.sentences]
    encoder = Encoder.load(folder / "config.json", Checkpoint(folder / "model.safetensors"))
    return _Model(encoder, sentences, tokenize(folder, sentences))


def _weights_path(options: Options) -> Path:
    from breccia.demo.weights import find_model

    return find_model() / "model.safetensors" if options.weights is None else options.weights


def _choose_block(checkpoint: Checkpoint, linears: Sequence[TensorInfo], model: _Model | None) -> Block:
    from breccia.demo.block import checkpoint_block, feed_forward_block
    from breccia.demo.weights import mlp_pair

    if model is not None:
        return feed_forward_block(model.encoder, model.tokens, model.encoder.config.layers // 2)
    return checkpoint_block(checkpoint, linears, mlp_pair(list(linears)))


def _neighbours(console: Console, model: _Model, linears: Sequence[str], recipes: Sequence[Recipe]) -> Neighbours:
    from breccia.demo.measure import NeighbourRow, measure_neighbours
    from breccia.demo.results import Neighbours
    from breccia.demo.sentences import PER_SUBJECT

    k, reference, rows = PER_SUBJECT - 1, model.encoder.embed(model.tokens), list[NeighbourRow]()
    with _progress(console) as progress:
        for recipe in progress.track(recipes, description="embedding sentences"):
            rows.append(measure_neighbours(model.encoder, model.tokens, reference, linears, recipe, k))
    return Neighbours(model.sentences, model.tokens.count, k, reference, tuple(rows))


def _embedded(recipes: Sequence[Recipe]) -> Sequence[Recipe]:
    """The recipes that sentences are embedded with: one of each family, or all where few were asked for."""
    from breccia.recipes import find

    if len(recipes) <= len(_EMBEDDED):
        return recipes
    family = [find(name) for name in _EMBEDDED]
    return [recipe for recipe in recipes if recipe in family]


def _heat(block: Block, recipes: Sequence[Recipe]) -> tuple[HeatMap, ...]:
    import numpy as np

    import breccia
    from breccia.demo.results import HeatMap

    weight = block.weights[0]
    rms = np.sqrt(np.square(weight, dtype=np.float64).mean()) or 1.0
    corner = (slice(_HEAT_ROWS), slice(_HEAT_COLUMNS))
    return tuple(
        HeatMap(recipe, (np.abs(weight - breccia.cast(weight, recipe).dequantize())[corner] / rms).astype(np.float32))
        for recipe in recipes
    )


def _spread(ranked: Sequence[Recipe], count: int) -> list[Recipe]:
    """At most `count` of them, evenly from first to last."""
    if len(ranked) <= count:
        return list(ranked)
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def choose_shown(recipes: Sequence[Recipe]) -> Recipe:
    """The recipe whose IR says most: the first with a scale for each output, which folds into the epilogue; else the
    first.
    """
    rows = [recipe for recipe in recipes if recipe.blocks(2)[-1] == (1, None)]
    return (rows or list(recipes))[0]


def check_packages() -> None:
    """Raise UnsupportedError, with the command that installs them, if a package that the demo needs is missing."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise UnsupportedError(f"the demo needs {', '.join(missing)}: pip install 'breccia[demo]'")


def check_writable(out: Path) -> None:
    """Raise FormatError if the page cannot be written to `out`, before the work is done and lost."""
    if out.is_dir():
        raise FormatError(f"--out {out} is a folder; give the name of a file, such as {out / 'demo.html'}")
    if not out.parent.is_dir():
        raise FormatError(f"--out {out}: the folder {out.parent} does not exist; make it, or choose another")


def _size(info: TensorInfo) -> int:
    rows, columns = info.shape
    return rows * columns


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
