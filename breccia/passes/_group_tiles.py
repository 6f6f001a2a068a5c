"""Tile sizes where groups of warps share what one warp loads (Hopper): a cost model picks among shapes of programs.

A program's tile is `groups * waves_m` by `waves_n` tiles of 64 rows and `block_n` columns. What it costs: for each step
of 128 bytes along k the longer of the instructions' time and of the time in which both operands come out of the L2
cache; an epilogue; and all of it as often as the tiles go around the multiprocessors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from breccia.ir.attributes import Entries
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp, TransposeOp
from breccia.ir.types import ScaledType, TensorType
from breccia.passes._axes import shape_of
from breccia.passes._plan import planned_blocks

APART = "apart"
"""What `decode` says where `split-decode` is to decode operands in kernels of their own."""
Product = MatmulOp | GroupedMatmulOp
ROWS = 64
STEP = 128
"""Elements of 8 bits along k in one step: as many as the widest swizzle of shared memory covers."""
MULTIPROCESSORS = 132
PRODUCTS = 4096
"""Products of 8-bit elements in a cycle of a multiprocessor."""
CACHE_BYTES = 46.6
"""Bytes out of the L2 cache in a cycle, for each multiprocessor."""
EPILOGUE = 600
"""Cycles for what becomes of one tile of 64 rows and 128 columns; those of a group come one after the other."""
LATENCY = 900
"""Cycles that a step takes at least where its scales are fetched one step ahead."""
TURN = 7500
"""Cycles that a program takes besides its steps where groups take turns along k: stages fill, and sums are joined."""
MANY_BYTES = 40 << 10
"""Of stages of so many bytes, four cover the way from memory."""
RESERVED_BYTES = 1024
"""Scratch memory for barriers."""


@dataclass(frozen=True)
class Shape:
    """The shape of a program: groups of four warps, and how many tiles along m and n each of them has.

    turns: groups take turns along k instead, a stage of `steps` steps each; such a program has one tile.
    """

    groups: int
    waves_m: int
    waves_n: int
    block_n: int = 128
    turns: int = 1
    steps: int = 1

    @property
    def rows(self) -> int:
        return ROWS * self.groups * self.waves_m

    @property
    def columns(self) -> int:
        return self.block_n * self.waves_n


SHAPES = (Shape(2, 2, 1), Shape(2, 1, 2), Shape(3, 1, 1), Shape(2, 1, 1))
FEW = (Shape(2, 1, 1, 64), Shape(2, 1, 3, 64))
"""Besides, for rows that fill one program: other numbers of programs."""
SMALL = (Shape(2, 1, 1),)
"""Where registers hold no second tile, since both operands have scales along the step."""
WITHIN_GROUPS = (*SHAPES, Shape(1, 1, 2))
"""Where each group of rows has tiles of its own, and there may be few of them."""
SMALL_WITHIN_GROUPS = (Shape(2, 1, 1, 64),)
"""The same, where both operands have scales along the step."""
SPARE = 2
"""Times the rows that a group usually has for which there is room, where it has room of its own."""
TURNS = tuple(Shape(1, 1, 1, columns, 2, 4 if columns <= 32 else 2) for columns in (16, 32, 64, 128))


def group_tiles(kernel: KernelOp, op: Product, capabilities: Capabilities, said: Entries) -> Entries | None:
    """The schedule of a product for groups of warps; None where it does not suit the product or the architecture."""
    found = group_shapes(op, capabilities, said)
    fitting = (shape_entries(kernel, op, capabilities, shape, found[0], said) for shape in found[1]) if found else ()
    return next((entries for entries in fitting if entries is not None), None)


def group_shapes(op: Product, capabilities: Capabilities, said: Entries) -> tuple[int, list[Shape]] | None:
    """(step along k, shapes that suit a product, quickest first); None where none does."""
    wanted = {"wgmma", "tma", "warp_specialize"}
    if not wanted <= set(capabilities.features) or "block_m" in said or "num_warps" in said:
        return None
    sizes = typical_sizes(op)
    shape, depth = shape_of(op.out.type), shape_of(op.args[0].type)[-1]
    rows, columns = (expected(d, sizes) for d in shape[-2:])
    if len(shape) != 2 or rows is None or columns is None or not isinstance(depth, int):
        return None
    groups = 1
    if isinstance(op, GroupedMatmulOp):
        count = shape_of(op.args[1].type)[0]
        fits = isinstance(count, int) and _takes_bytes(op, capabilities) and isinstance(op.args[1].owner, TransposeOp)
        if not fits or not isinstance(shape[-1], int):
            return None
        assert isinstance(count, int), "asked above"
        groups, rows = count, -(-rows // (count if op.each is None else count * SPARE))
        step, allowed = STEP, SMALL_WITHIN_GROUPS if _both_walk_columns(op) else WITHIN_GROUPS
    elif (
        _takes_halves(op) and said.get("decode", APART) == APART and min(rows, columns) >= capabilities.decode_rows > 0
    ):
        step, allowed = STEP // 2, SHAPES
    elif _takes_bytes(op, capabilities) and _lies_right(op, rows, columns, capabilities):
        few = FEW if rows <= FEW[0].rows else ()
        step, allowed = STEP, (*(SMALL if _both_walk_columns(op) else (*SHAPES, *few)), *TURNS)
    else:
        return None
    return step, sorted(allowed, key=lambda s: cost(s, rows, columns, -(-depth // step), groups))


def shape_entries(
    kernel: KernelOp, op: Product, capabilities: Capabilities, shape: Shape, step: int, said: Entries
) -> Entries | None:
    """The schedule of a product for programs of one shape, with as many stages as pay; None where it does not fit."""
    blocks: Entries = {"block_m": ROWS, "block_n": shape.block_n, "block_k": step}
    kind = "gemm" if isinstance(op, MatmulOp) else "grouped"
    planned = planned_blocks(kernel, kind, {**blocks, "groups": shape.groups, **said})
    stages = _stages(shape, capabilities, kernel, op)
    if stages < 3 or {**blocks, **planned} != blocks:
        return None
    entries: Entries = {**blocks, "groups": shape.groups, "waves_m": shape.waves_m, "waves_n": shape.waves_n}
    if shape.turns > 1:
        entries = {**entries, "turns": shape.turns, "steps": shape.steps}
    apart: Entries = {"decode": APART} if isinstance(op, MatmulOp) else {}
    return {**entries, "raster": 8, "num_warps": 4, "num_stages": stages, **apart, **said}


def cost(shape: Shape, rows: int, columns: int, steps: int, groups: int = 1) -> float:
    """Cycles that a product of so many steps of 128 bytes takes with programs of that shape.

    groups: so many products of about so many rows, the last tile of each being half empty on average.
    """
    tall = -(-rows // shape.rows) if groups == 1 else max(rows / shape.rows + 0.5, 1)
    tiles = math.ceil(groups * tall) * -(-columns // shape.columns)
    products = shape.rows * shape.columns * STEP / PRODUCTS
    loads = (shape.rows + shape.columns) * STEP / CACHE_BYTES
    if shape.turns > 1:
        one = steps * max(products, loads) + TURN
    else:
        one = steps * max(products, loads, LATENCY) + EPILOGUE * shape.waves_m * shape.columns / 128
    return -(-tiles // MULTIPROCESSORS) * one


def element_name(type_: object) -> str:
    """The format of an operand's elements, by its MLIR name."""
    if isinstance(type_, ScaledType):
        return type_.recipe.element.mlir
    assert isinstance(type_, TensorType), "operands of products are arrays"
    return str(type_.dtype)


def _takes_bytes(op: Product, capabilities: Capabilities) -> bool:
    """True where both operands are multiplied as the 8-bit floats that they are stored as."""
    kinds = tuple(element_name(v.type) for v in op.args[:2])
    known = any((row.a, row.b) == kinds for row in capabilities.mma)
    return known and op.properties.get("compute") is None and all(k.startswith("f8") for k in kinds)


def _takes_halves(op: MatmulOp) -> bool:
    """True where an operand is decoded to a 16-bit float, by a kernel of its own, and multiplied as such."""
    computed = op.properties.get("compute")
    if str(computed) not in ("bf16", "f16") or not any(isinstance(v.type, ScaledType) for v in op.args[:2]):
        return False
    places = [op.properties.get(key) for key in ("place_a", "place_b")]
    known = [set(p.data) for p in places if p is not None]  # type: ignore[attr-defined]
    plain = [str(v.type.dtype) for v in op.args[:2] if isinstance(v.type, TensorType)]
    return all(p <= {"operand", "epilogue"} for p in known) and all(dtype == str(computed) for dtype in plain)


def _lies_right(op: MatmulOp, rows: int, columns: int, capabilities: Capabilities) -> bool:
    """True where both operands lie as rows of k, or will be turned, which pays for large products."""
    if min(rows, columns) >= capabilities.decode_rows > 0:
        return True
    return isinstance(op.args[1].owner, TransposeOp) and not isinstance(op.args[0].owner, TransposeOp)


def _both_walk_columns(op: Product) -> bool:
    """True where both operands have scales for each row, or column, and each step along k."""
    return all(_walks_columns(op, side) for side in (0, 1))


def _walks_columns(op: Product, side: int) -> bool:
    """True where an operand has a scale for each row of it and each step along k."""
    type_, place = op.args[side].type, op.properties.get(("place_a", "place_b")[side])
    if not isinstance(type_, ScaledType) or place is None or "mainloop" not in place.data:  # type: ignore[attr-defined]
        return False
    block = type_.recipe.blocks(type_.rank)[-1]
    return block[-2 if side == 0 else -1] == 1


def _stages(shape: Shape, capabilities: Capabilities, kernel: KernelOp, op: Product) -> int:
    """How many steps of both operands fit beside the tiles that leave; of large ones four are enough."""
    if shape.turns > 1:
        stage = (shape.rows + shape.columns) * STEP * shape.steps
        room = capabilities.scratch_bytes - RESERVED_BYTES - ROWS * shape.block_n * 4
        return min(room // stage, 6 if shape.steps == 2 else 4) // shape.turns * shape.turns
    whole = shape_of(op.out.type)
    leaving = [
        t.format.bits
        for t in (o.type for o in kernel.outs)
        if isinstance(t, TensorType) and t.shape == whole and t.format
    ]
    bytes_ = sum(leaving) * shape.groups * ROWS * shape.block_n // 8
    stage = (shape.rows + shape.columns) * STEP
    return min((capabilities.scratch_bytes - RESERVED_BYTES - bytes_) // stage, 4 if stage >= MANY_BYTES else 6)
