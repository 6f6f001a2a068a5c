"""Writes the generated tables of README.md and docs: `python docs/generate_tables.py`.

They are made from recipes, ops, and what the tests of peers and the conformance kit recorded. Text between
`<!-- begin NAME -->` and `<!-- end NAME -->` is generated; tests/test_readme.py fails where it is stale.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breccia.recipes import Block, Recipe, all_recipes

if TYPE_CHECKING:
    from collections.abc import Callable

    from breccia.testing import Table

ROOT = Path(__file__).parents[1]
_COUNT = re.compile(r"(\d+) of (\d+) ([a-z ]+)")


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


def peer_table() -> str:
    """One row for each encoder of a peer, from what tests/peers recorded: equal, or how many parts differ and why."""
    rows = [("peer", "what", "breccia", "equal, or what differs"), ("---",) * 4]
    files = sorted((ROOT / "tests" / "golden" / "peers").glob("*/*.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    records.sort(key=lambda record: record["peer"].lower())  # stable: files stay in order
    rows += [(r["peer"], f"`{r['what']}`", r["breccia"], _differences(r)) for r in records]
    return _markdown(rows)


def _differences(record: dict[str, Any]) -> str:
    kinds: dict[str, list[str]] = {}
    for kind, why in record["why"].items():
        kinds.setdefault(why, []).append(kind)
    parts = [f"{', '.join(some)}: {_sum(record, some)} ({why})" for why, some in kinds.items()]
    if not parts:
        return "equal"
    rest = [kind for kind in record["differences"] if kind not in record["why"]]
    return "<br>".join([f"equal on {', '.join(rest)}"] * bool(rest) + parts)


def _sum(record: dict[str, Any], kinds: list[str]) -> str:
    """How many parts differ, such as `3 of 2048 scales, 5 of 65536 elements in bfloat16`; nothing of what is equal."""
    totals: dict[str, tuple[int, int]] = {}
    dtypes = list(record["differences"][kinds[0]])
    found = {(kind, dtype): _COUNT.findall(record["differences"][kind][dtype]) for kind in kinds for dtype in dtypes}
    unequal = [dtype for dtype in dtypes if any(int(n) for kind in kinds for n, _, _ in found[kind, dtype])]
    for (_, dtype), counts in found.items():
        for n, of, part in counts if dtype in unequal else ():
            before = totals.get(part, (0, 0))
            totals[part] = before[0] + int(n), before[1] + int(of)
    text = ", ".join(f"{n} of {of} {part}" for part, (n, of) in totals.items() if n)
    return text if unequal == dtypes else f"{text} in {' and '.join(unequal)}"


_PLACES = {
    "NumPy": "numpy-cpu", "PyTorch, CPU": "torch-cpu", "PyTorch, CUDA": "torch-cuda", "JAX, CPU": "jax-cpu",
    "JAX, CUDA": "jax-gpu", "MLX, CPU": "mlx-cpu", "MLX, Metal": "mlx-gpu",
}  # fmt: skip


def bit_exact_table() -> str:
    """One row for each named recipe, one column for each library and device: what the tests found."""
    rows: list[tuple[str, ...]] = [("recipe", *_PLACES), ("---",) * (1 + len(_PLACES))]
    found = {
        place: _kept(ROOT / "tests" / "golden" / "matrix" / "test_bit_exact" / f"{place}.txt")
        for place in _PLACES.values()
    }
    for name in all_recipes():
        cells = (found[place].get(name, "not run").partition(" ")[0] for place in _PLACES.values())
        rows.append((f"`{name}`", *(cell if cell == "equal" else "not run" for cell in cells)))
    return _markdown(rows)


TABLES_OF_TARGETS = ROOT / "tests" / "golden" / "test_conformance_tables"
"""What `breccia conform TARGET --output FILE` saved: a file for each target that was held to its claims."""


def conformance_table() -> str:
    """One row for each target that was held to its claims, with counts; then those that never were."""
    head = (
        "target",
        "ran on",
        "claimed cells",
        "ran",
        "programs",
        "equal",
        "close",
        "failed",
        "programs that did not run",
    )
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    found = saved_tables()
    for table in found:
        idle = [(len(table.having(kind)), kind) for kind in ("refused", "not run") if table.having(kind)]
        why = "<br>".join(f"{n} {kind}, such as: {table.having(kind)[0].detail}" for n, kind in idle)
        counts = [len(table.rows), *(len(table.having(name)) for name in ("equal", "close", "FAILED"))]
        cells = (str(table.claimed), str(table.ran), *map(str, counts))
        rows.append((f"`{table.target}`", table.place, *cells, why or "none"))
    tried = {table.target for table in found}
    never: dict[str, list[str]] = {}
    for name in target_names():
        if name not in tried:
            never.setdefault(name.partition(":")[0], []).append(name)
    rows += [(" ".join(f"`{n}`" for n in names), "not run", *("",) * (len(head) - 2)) for names in never.values()]
    return _markdown(rows)


def support_table() -> str:
    """One row for each named recipe, one column for each table: the programs of which every claim ran and held."""
    found = saved_tables()
    rows = [("recipe", *(f"`{table.target}`" for table in found)), ("---",) * (1 + len(found))]
    rows += [(f"`{name}`", *(_support(table, name) for table in found)) for name in all_recipes()]
    return _markdown(rows)


def _support(table: Table, recipe: str) -> str:
    mine = [row for row in table.rows if row.program.recipe == recipe]
    lacking = {row.program.name for row in mine if row.outcome not in ("equal", "close")}
    held = [name for name in dict.fromkeys(row.program.name for row in mine) if name not in lacking]
    return ("none" if mine else "not run") if not held else ", ".join(held) if lacking else "all"


def saved_tables() -> list[Table]:
    """The saved tables, by the names of their targets."""
    from breccia.testing import load_table

    return sorted(map(load_table, TABLES_OF_TARGETS.glob("*.json")), key=lambda table: table.target)


def target_names() -> list[str]:
    """Every target and architecture of this package, whatever else is installed."""
    from breccia.target import built_in, names

    return [name for name in names() if name.partition(":")[0] in built_in()]


PLUGIN = ROOT / "examples" / "target_plugin"
"""The package that docs/adding-a-target.md walks through; tests/test_plugin.py runs it."""


def _file_of_plugin(name: str, language: str) -> Callable[[], str]:
    """A whole file as a code block, under its name."""

    def block() -> str:
        text = (PLUGIN / name).read_text(encoding="utf-8").rstrip()
        return f"`{(PLUGIN / name).relative_to(ROOT).as_posix()}`:\n\n```{language}\n{text}\n```"

    return block


def kernel_of_plugin() -> str:
    """What the package prints for rows times a weight in MXFP4: the kernel, without its tables."""
    import sys

    from breccia import recipes
    from breccia.ir.dialect import parse_module
    from breccia.testing.claims import programs
    from breccia.testing.conformance import lower

    sys.path.insert(0, str(PLUGIN))
    try:
        from breccia_opencl import TARGET  # pyright: ignore[reportMissingImports]

        chosen = programs(TARGET.capabilities, {"mxfp4": recipes.find("mxfp4")}, [(5, 160, 24)])
        program = next(p for p in chosen if (p.name, p.placement) == ("weight", "operand"))
        text = TARGET.emit(lower(parse_module(program.text), TARGET, program.placement)[0])
    finally:
        sys.path.remove(str(PLUGIN))
    kernel = text[text.index("// gemm_0") : text.index('\n""")')]
    return f"```c\n{kernel}\n```"


def _kept(file: Path) -> dict[str, str]:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return dict(line.split(": ", 1) for line in text.splitlines())


def _markdown(rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


TABLES: dict[str, Callable[[], str]] = {
    "recipes": recipe_table,
    "policies": policy_table,
    "ops": op_table,
    "peers": peer_table,
    "bit_exact": bit_exact_table,
    "conformance": conformance_table,
    "support": support_table,
    "plugin_project": _file_of_plugin("pyproject.toml", "toml"),
    "plugin_target": _file_of_plugin("breccia_opencl/__init__.py", "py"),
    "plugin_schedule": _file_of_plugin("breccia_opencl/schedule.py", "py"),
    "plugin_emit": _file_of_plugin("breccia_opencl/emit.py", "py"),
    "plugin_prelude": _file_of_plugin("breccia_opencl/prelude.cl", "c"),
    "plugin_launch": _file_of_plugin("breccia_opencl/launch.py", "py"),
    "plugin_kernel": kernel_of_plugin,
}
PAGES = ("recipes.md", "ir.md", "peers.md", "bit-exact.md", "targets.md", "adding-a-target.md")
FILES = (ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES))


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
