"""The `breccia` command. A command's work is imported when it runs, so that `breccia --version` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError as error:
    raise SystemExit("the breccia command needs typer and rich: pip install 'breccia[cli]'") from error

import breccia
from breccia.errors import FormatError, RecipeError, UnsupportedError

app = typer.Typer(help="Block-scaled numbers as one type, compiled to readable kernels.", no_args_is_help=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"breccia {breccia.__version__}")
        raise typer.Exit


@app.callback()
def breccia_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Block-scaled numbers as one type, compiled to readable kernels."""


@app.command()
def demo(
    weights: Annotated[
        Path | None, typer.Option(help="Any safetensors file, instead of all-MiniLM-L6-v2.", metavar="FILE")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the page.", metavar="FILE")] = Path("demo.html"),
    recipes: Annotated[
        str | None, typer.Option(help="Names with commas between, or `all`. Default: one of each kind.")
    ] = None,
    show: Annotated[str | None, typer.Option(help="The recipe whose IR is printed.", metavar="RECIPE")] = None,
    sentences: Annotated[int, typer.Option(help="How many sentences to embed.", min=4, max=48)] = 24,
) -> None:
    """Quantize real weights in every recipe, compile a real block and show each step, embed real sentences."""
    from rich.console import Console

    try:
        from breccia.demo.run import Options, check_packages, choose_shown, run

        check_packages()
        from breccia.demo.measure import choose_recipes
        from breccia.recipes import find

        chosen = choose_recipes(recipes)
        shown = choose_shown(chosen) if show is None else find(show)
        run(Options(weights, out, chosen, shown, sentences), Console())
    except (FormatError, RecipeError, UnsupportedError) as error:
        typer.echo(f"breccia demo: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def tune(
    what: Annotated[str, typer.Argument(help="path.py:function, or the list `hopper` of FP8 products.")],
    input: Annotated[
        list[str] | None,
        typer.Option(help="An argument, such as x=bf16[4096,7168]:float8_1x128.", metavar="NAME=DTYPE[SIZES]:RECIPE"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to search for each call.", min=0.1)] = 60.0,
    output: Annotated[
        Path | None, typer.Option(help="The table to add to, instead of the user's for this GPU.", metavar="FILE")
    ] = None,
    again: Annotated[bool, typer.Option(help="Search for kernels that the table knows, too.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Calls whose name contains one of these.", metavar="PART")
    ] = None,
) -> None:
    """Find the quickest schedules of kernels on this machine's GPU, and keep them for later runs."""
    from rich.console import Console

    from breccia.cli.tune import Options, run
    from breccia.errors import BrecciaError

    try:
        result = run(Options(what, tuple(input or ()), seconds, output, again, tuple(only or ())), Console())
    except BrecciaError as error:
        typer.echo(f"breccia tune: {error}", err=True)
        raise typer.Exit(2) from None
    if result.interrupted:
        typer.echo("breccia tune: interrupted; what was found so far is kept", err=True)
        raise typer.Exit(130)
    if result.failed:
        raise typer.Exit(1)


@app.command()
def targets(
    names: Annotated[list[str] | None, typer.Argument(help="Show all capabilities of these targets.")] = None,
) -> None:
    """List the targets of breccia and of other packages: whether each can run here, and what it can do."""
    from rich.console import Console

    from breccia.cli.targets import run
    from breccia.errors import BrecciaError

    try:
        run(names or [], Console())
    except BrecciaError as error:
        typer.echo(f"breccia targets: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def conform(
    target: Annotated[str, typer.Argument(help="A target, such as numpy or triton:sm_90; see `breccia targets`.")],
    recipe: Annotated[list[str] | None, typer.Option(help="Only this recipe; may be given more than once.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="M, K and N of a product.", metavar="5x160x24")] = None,
    epilogue: Annotated[list[str] | None, typer.Option(help="none, bias or quantize; all by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the table as JSON.", metavar="FILE")] = None,
    device: Annotated[str | None, typer.Option(help="Where the array library puts arrays, such as cuda.")] = None,
    place: Annotated[str, typer.Option(help="What programs run on, in words, for the table.")] = "",
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    rows: Annotated[bool, typer.Option("--rows", help="Print every row, not counts and failures alone.")] = False,
) -> None:
    """Hold a target to what its capabilities claim: run the conformance kit; exit code 1 unless it passed."""
    from rich.console import Console

    from breccia.cli.conform import Options, run
    from breccia.errors import BrecciaError

    given = (tuple(recipe or ()), tuple(shape or ()), tuple(epilogue or ()))
    try:
        table = run(Options(target, *given, output, device, place, seed, rows), Console())
    except BrecciaError as error:
        typer.echo(f"breccia conform: {error}", err=True)
        raise typer.Exit(2) from None
    if not table.passed:
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder, an index, a .safetensors or a .gguf file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[bool, typer.Option("--every", help="A row for each tensor, not for each kind.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Names with one of these parts.", metavar="PART")] = None,
) -> None:
    """Say what each tensor of a checkpoint is, and check its scales; exit code 1 where something is wrong."""
    from rich.console import Console

    from breccia.cli.inspect import Options, run
    from breccia.errors import BrecciaError

    try:
        sound = run(Options(path, json, every, tuple(only or ())), Console())
    except (BrecciaError, OSError) as error:
        typer.echo(f"breccia inspect: {error}", err=True)
        raise typer.Exit(2) from None
    if not sound:
        raise typer.Exit(1)


@app.command()
def verify(
    a: Annotated[Path, typer.Argument(help="A checkpoint: a folder, an index, a .safetensors or a .gguf file.")],
    b: Annotated[Path, typer.Argument(help="Another one, in any format.")],
    tolerance: Annotated[
        float, typer.Option(help="Allowed norm of a weight's differences, relative to A's.", min=0.0)
    ] = 0.0,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="For names of B: a regular expression, = and what replaces it.", metavar="REGEX=TEXT"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Names with one of these parts.", metavar="PART")] = None,
    common: Annotated[bool, typer.Option("--common", help="Pass over what one side alone has.")] = False,
    every: Annotated[bool, typer.Option("--every", help="Print equal weights, too.")] = False,
) -> None:
    """Compare the values that two checkpoints decode to; exit code 1 unless all weights are equal."""
    from rich.console import Console

    from breccia.cli.verify import Options, run
    from breccia.errors import BrecciaError

    options = Options(a, b, tolerance, tuple(rename or ()), tuple(only or ()), common, every)
    try:
        same = run(options, Console())
    except (BrecciaError, OSError) as error:
        typer.echo(f"breccia verify: {error}", err=True)
        raise typer.Exit(2) from None
    if not same:
        raise typer.Exit(1)
