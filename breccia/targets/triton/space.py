"""Which schedules a kernel may have besides its default, and what makes one illegal: the space that is searched.

A kernel is looked at before it is tiled, in a module that says what it is lowered for. What does not fit (scratch
memory, registers, the blocks of a recipe) is left out here, before anything is compiled; `refusal` gives the reason,
and is asked again of every schedule that comes from a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from breccia.errors import BrecciaError
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp, QuantizeOp
from breccia.passes import _group_tiles, _tile_sizes
from breccia.passes._axes import shape_of
from breccia.passes._group_tiles import Shape
from breccia.passes._plan import planned_blocks, skeleton
from breccia.passes.schedule import default_schedule
from breccia.target import Entries

RASTERS = (8, 4, 16)
BLOCKS = ("block_m", "block_n", "block_k")
WARPS = (1, 2, 4, 8, 16)
MOST_SUMS = 128
"""Registers of a thread that the sums of a product's tile may take."""
MOST_HELD = 128
"""Elements of a rowwise tile for each thread."""
FEW_ROWS = 256
"""Rows up to which plain Triton is tried beside kernels in Gluon."""
MOST_PLAIN = 32
"""Plain products that are worth trying, by the cost model."""
HALVES = 2
"""Times that products of 16 bits take longer than those of 8."""


def candidates(kernel: KernelOp, capabilities: Capabilities) -> tuple[Entries, ...]:
    """Every schedule worth trying: the default first, then by what the cost model expects, quickest first.

    The default alone for kernels whose schedule changes nothing that matters, such as reductions of whole tensors.
    """
    default = default_schedule(kernel, capabilities, {})
    kind = skeleton(kernel)
    if kind in ("gemm", "grouped"):
        found = _products(kernel, capabilities, default)
    elif kind == "rowwise":
        found = _rowwise(kernel, capabilities, default)
    else:
        found = iter(())
    unique: list[Entries] = [default]
    for entries in found:
        if entries not in unique and not refusal(kernel, capabilities, entries):
            unique.append(entries)
    return tuple(unique)


def refusal(kernel: KernelOp, capabilities: Capabilities, entries: Entries) -> str:
    """Why a schedule is not legal for a kernel; empty where it is."""
    try:
        if entries == default_schedule(kernel, capabilities, {}):
            return ""
        kind = skeleton(kernel)
        if kind == "reduce":
            return "reductions of whole tensors have no schedule but the default"
        if kind == "rowwise":
            wrong = _refused_keys(entries, ("block_m", "block_n", "num_warps")) or _refused_rows(kernel, entries)
        elif "groups" in entries:
            wrong = _refused_groups(kernel, capabilities, entries)
        else:
            wrong = _refused_product(kernel, kind, capabilities, entries)
        if not wrong and (filled := default_schedule(kernel, capabilities, entries)) != entries:
            wrong = f"it leaves out what the kernel needs: {_differing(entries, filled)}"
        return wrong
    except BrecciaError as error:  # no tile fits, as for blocks that do not divide each other
        return str(error)


# -- products ----------------------------------------------------------------------------------------------------------


def _products(kernel: KernelOp, capabilities: Capabilities, default: Entries) -> Iterator[Entries]:
    """Products for groups of warps where the default is one; plain ones elsewhere, and beside them for few rows."""
    op = _tile_sizes._product(kernel)
    rows = expected(shape_of(op.out.type)[-2], typical_sizes(op))
    if "groups" in default and isinstance(op, MatmulOp):
        yield from _groups(kernel, op, capabilities)
        if rows is None or rows > FEW_ROWS:
            return
    plain = sorted(_plain(kernel, capabilities), key=lambda e: plain_cost(op, e))
    yield from plain[:MOST_PLAIN]


def _groups(kernel: KernelOp, op: MatmulOp, capabilities: Capabilities) -> Iterator[Entries]:
    """Shapes of programs as the cost model orders them; then with other rasters, then with fewer stages."""
    found = _group_tiles.group_shapes(op, capabilities, {})
    if found is None:
        return
    step, shapes = found
    best = [_group_tiles.shape_entries(kernel, op, capabilities, shape, step, {}) for shape in shapes]
    fitting = [entries for entries in best if entries is not None]
    yield from fitting
    for raster in RASTERS[1:]:
        yield from ({**entries, "raster": raster} for entries in fitting if "turns" not in entries)
    for fewer, raster in product((1, 2), RASTERS):
        for entries in fitting:
            turns = int(entries.get("turns", 1))
            if raster == RASTERS[0] or turns == 1:
                yield {**entries, "num_stages": int(entries["num_stages"]) - fewer * turns, "raster": raster}


def _refused_groups(kernel: KernelOp, capabilities: Capabilities, entries: Entries) -> str:
    op = _tile_sizes._product(kernel)
    found = _group_tiles.group_shapes(op, capabilities, {}) if isinstance(op, MatmulOp) else None
    if found is None:
        return "the product does not suit groups of warps"
    shape = next((s for s in found[1] if _named(s) == {key: entries.get(key, 1) for key in _named(s)}), None)
    if shape is None:
        return "no program has that shape"
    most = _group_tiles.shape_entries(kernel, op, capabilities, shape, found[0], {})  # type: ignore[arg-type]
    if most is None:
        return f"{capabilities.scratch_bytes} bytes of scratch memory hold too few stages of that shape"
    stages, least = entries.get("num_stages"), max(2, shape.turns)
    if not isinstance(stages, int) or not least <= stages <= int(most["num_stages"]) or stages % shape.turns:
        return f"{stages} stages; from {least} to {most['num_stages']} in steps of {shape.turns} fit"
    if entries.get("raster") not in RASTERS:
        return f"raster {entries.get('raster')}; allowed: {', '.join(map(str, RASTERS))}"
    rest = {**most, "num_stages": stages, "raster": entries["raster"]}
    return "" if entries == rest else f"it differs from what programs of that shape have: {_differing(entries, rest)}"


def _named(shape: Shape) -> dict[str, int]:
    """A shape by the names of schedule entries."""
    return {
        "groups": shape.groups, "waves_m": shape.waves_m, "waves_n": shape.waves_n, "block_n": shape.block_n,
        "turns": shape.turns, "steps": shape.steps,
    }  # fmt: skip


def _differing(entries: Entries, rest: Entries) -> str:
    return ", ".join(sorted(k for k in {*entries, *rest} if entries.get(k) != rest.get(k)))


def _plain(kernel: KernelOp, capabilities: Capabilities) -> Iterator[Entries]:
    """Tiles of a product in plain Triton. Steps along k are not longer than the target's, since sums of FP8 products
    keep few bits inside an instruction.
    """
    kind = skeleton(kernel)
    longest = next((row.k for row in capabilities.tiles if row.skeleton == kind), 32)
    usual = plain_default(kernel, kind, capabilities)
    apart: Entries = {"decode": usual["decode"]} if "decode" in usual else {}
    depths = [k for k in (128, 64, 32) if k <= longest]
    for m, n, k in product((16, 32, 64, 128, 256), (32, 64, 128, 256), depths):
        wanted: Entries = {"block_m": m, "block_n": n, "block_k": k}
        planned: Entries = dict(planned_blocks(kernel, kind, wanted))
        for warps, stages in product((4, 8), (2, 3, 4, 5)):
            entries: Entries = {**planned, "num_warps": warps, "num_stages": stages, **apart}
            if not _refused_product(kernel, kind, capabilities, entries):
                yield entries


def plain_cost(op: MatmulOp | GroupedMatmulOp, entries: Entries) -> float:
    """Cycles that a plain product takes: as in `_group_tiles`, except that a program has one tile, and more stages hide
    more of what a step takes to arrive.
    """
    model, sizes = _group_tiles, typical_sizes(op)
    rows, columns, depth = (
        expected(size, sizes) or 4096 for size in (*shape_of(op.out.type)[-2:], shape_of(op.args[0].type)[-1])
    )
    m, n = (_tile_sizes._size(op, entries, name) for name in BLOCKS[:2])
    k = int(entries.get("block_k", min(depth, 32)))
    width = max(_tile_sizes._bits(value.type) for value in op.args[:2]) / 8
    tiles = -(-rows // m) * -(-columns // n)
    products = m * n * k / model.PRODUCTS * (HALVES if width > 1 else 1)
    loads = (m + n) * k * width / model.CACHE_BYTES
    step = max(products, loads, model.LATENCY / int(entries["num_stages"]))
    return -(-tiles // model.MULTIPROCESSORS) * (-(-depth // k) * step + model.EPILOGUE)


def _refused_product(kernel: KernelOp, kind: str, capabilities: Capabilities, entries: Entries) -> str:
    op = _tile_sizes._product(kernel)
    apart = entries.get("decode") == _tile_sizes.APART
    wrong = _refused_keys(entries, (*BLOCKS, "num_warps", "num_stages", "decode"), words=("decode",))
    if wrong or {"num_warps", "num_stages"} - set(entries):
        return wrong or "it says neither warps nor stages"
    plain = plain_default(kernel, kind, capabilities)
    if plain.get("decode") != entries.get("decode"):
        return f"decode = {entries.get('decode')}, where this product has {plain.get('decode')}"
    wrong = _refused_blocks(entries, planned_blocks(kernel, kind, entries))
    if wrong:
        return wrong
    stages, warps = int(entries["num_stages"]), int(entries["num_warps"])
    fitting = max(_tile_sizes._stages(op, entries, capabilities, apart=apart), 1)
    if not 1 <= stages <= fitting:
        return f"{stages} stages, of which {capabilities.scratch_bytes} bytes of scratch memory hold {fitting}"
    sums = _tile_sizes._size(op, entries, "block_m") * _tile_sizes._size(op, entries, "block_n") // (32 * warps)
    return f"sums that take {sums} registers of a thread; at most {MOST_SUMS}" if sums > MOST_SUMS else ""


def plain_default(kernel: KernelOp, kind: str, capabilities: Capabilities) -> Entries:
    """What the cost model would pick if there were no groups of warps."""
    row = next(row for row in capabilities.tiles if row.skeleton == kind)
    wanted: Entries = {"block_m": row.m, "block_n": row.n, "block_k": row.k}
    return _tile_sizes.product_tiles(kernel, kind, wanted, capabilities, {"num_warps": 4})


# -- rows --------------------------------------------------------------------------------------------------------------


def _rowwise(kernel: KernelOp, capabilities: Capabilities, default: Entries) -> Iterator[Entries]:
    """Tiles of a quarter to four times as many elements as the default's, and more and fewer warps for each."""
    row = next(row for row in capabilities.tiles if row.skeleton == "rowwise")
    wanted: Entries = {"block_m": row.m, "block_n": row.n, "block_k": row.k}
    narrower: list[Entries] = [{}]
    if isinstance(width := default.get("block_n"), int):
        narrower.extend({"block_n": wide} for wide in (width // 2, width * 2))
    if isinstance(height := default.get("block_m"), int):
        narrower.extend({"block_m": high} for high in (height // 2, height * 2))
    for factor, said in product((1, 0.5, 2, 0.25, 4), narrower):
        if 0 in said.values():
            continue
        found = _tile_sizes.row_tiles(kernel, {**wanted, **said}, int(row.m * row.n * factor), said)
        warps = int(found["num_warps"])
        yield from ({**found, "num_warps": other} for other in (warps, warps * 2, warps // 2, warps * 4))


def _refused_rows(kernel: KernelOp, entries: Entries) -> str:
    warps = entries.get("num_warps")
    if not isinstance(warps, int):
        return "it does not say how many warps"
    split = "block_n" in entries
    wrong = _refused_blocks(entries, planned_blocks(kernel, "rowwise", entries, split=split))
    if wrong:
        return wrong
    body = kernel.body.block
    shapes = [shape_of(v.type) for v in (*body.args, *(r for op in body.ops for r in op.results))]
    longest = [1, 1]
    for shape in shapes:
        for axis, size in enumerate(reversed(shape[-2:])):
            longest[axis] = max(longest[axis], size if isinstance(size, int) else 1)
    tile = int(entries.get("block_m", longest[1])) * int(entries.get("block_n", longest[0]))
    copies = 2 if any(isinstance(op, QuantizeOp) for op in body.ops) else 1
    held = tile * copies // (32 * warps)
    return f"{held} elements for each thread; at most {MOST_HELD}" if held > MOST_HELD else ""


# -- both --------------------------------------------------------------------------------------------------------------


def _refused_keys(entries: Entries, allowed: tuple[str, ...], words: tuple[str, ...] = ()) -> str:
    for key, value in entries.items():
        if key not in allowed:
            return f"an entry {key}; this kind of kernel has {', '.join(allowed)}"
        if not isinstance(value, str if key in words else int) or isinstance(value, bool):
            return f"{key} = {value!r}"
        if key == "num_warps" and value not in WARPS:
            return f"{value} warps; allowed: {', '.join(map(str, WARPS))}"
        if isinstance(value, int) and value < 1:
            return f"{key} = {value}"
    return ""


def _refused_blocks(entries: Entries, planned: dict[str, int]) -> str:
    """Why `tile` would not cut as the entries say."""
    wanted = {key: entries[key] for key in BLOCKS if key in entries}
    if wanted == planned:
        return ""
    shown = ", ".join(f"{key} = {value}" for key, value in planned.items()) or "whole axes"
    return f"its tiles do not fit the sizes and blocks, which make them {shown}"
