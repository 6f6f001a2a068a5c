"""Tile sizes where few rows meet a weight of 4 bits (Hopper): the weight is the first operand, out of registers.

What such a product costs is reading the weight. So its rows are the rows of the matrix instruction, of which a program
has 64, and the few rows of the activation are the instruction's columns. A warp keeps several stages of both operands
on their way; groups of warps take turns along k, decode what has arrived, and multiply (see `targets/triton/
_gluon_weights.py`). Programs walk over tiles, so that memory is not idle between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from breccia.ir.attributes import Entries
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import MatmulOp, TransposeOp
from breccia.ir.types import ScaledType, TensorType
from breccia.passes._axes import shape_of
from breccia.passes._group_tiles import CACHE_BYTES, MULTIPROCESSORS, RESERVED_BYTES
from breccia.passes._plan import planned_blocks
from breccia.passes.swap_operands import SWAPPED
from breccia.recipes import Recipe

ROWS = 64
"""Rows of the weight in a tile: those of Hopper's matrix instruction of four warps."""
STEP = 128
"""Elements along k that are decoded and multiplied at once, where scales of partial sums do not want fewer."""
SHORTEST = 32
"""The fewest of them."""
BITS = 4
MOST_STAGES = 16
MOST_STEPS = 4
"""Of one stage: all their scales are in registers."""
MEMORY_BYTES = 13.0
"""Bytes out of memory in a cycle, for each multiprocessor."""


@dataclass(frozen=True)
class Shape:
    """The shape of a program for activations of at most `rows` rows. Groups of warps take `turns` along k, a stage of
    `steps` times 128 elements each; or `groups` of them, a power of two, have rows of the weight of their own, and
    share the activation.
    """

    rows: int
    turns: int
    steps: int
    groups: int = 1


SHAPES = (Shape(16, 1, 2, 4), Shape(16, 2, 4), Shape(32, 2, 4), Shape(64, 2, 2), Shape(64, 1, 2, 2))
"""In the order of their rows; none for kernels that are not warp-specialized. Measured on an H100, as the others."""
SCALED_SHAPES = (Shape(16, 3, 2), Shape(32, 2, 4), Shape(64, 2, 2), Shape(64, 1, 2, 2))
"""Where the scales of short blocks are applied as elements are decoded, which takes about twice as long."""


def weight_tiles(kernel: KernelOp, op: MatmulOp, capabilities: Capabilities, said: Entries) -> Entries | None:
    """The schedule of a product for groups of warps that decode; None where it does not suit it or the architecture."""
    wanted = {"wgmma", "tma", "warp_specialize"}
    if not wanted <= set(capabilities.features) or "block_m" in said or "num_warps" in said:
        return None
    step = _step(op)
    shape, depth = shape_of(op.out.type), shape_of(op.args[0].type)[-1]
    rows = expected(shape[0], typical_sizes(op))
    fitting = [s for s in _shapes(op) if rows is not None and rows <= s.rows]
    if not step or not fitting or rows is None or not isinstance(shape[1], int) or not isinstance(depth, int):
        return None
    columns = shape[1]
    found = min((s for s in fitting if s.rows == fitting[0].rows), key=lambda s: cost(s, rows, columns))
    blocks: Entries = {"block_m": found.rows, "block_n": ROWS, "block_k": step}
    planned = planned_blocks(kernel, "gemm", {**blocks, "groups": found.groups, **said})
    steps = min(found.steps * STEP // step, MOST_STEPS)
    stages = _stages(found, steps * step, capabilities)
    # An axis of one tile has no dimension, and is not planned.
    if planned != blocks or stages < 2:
        return None
    return {
        **blocks, "operands": SWAPPED, "groups": found.groups, "turns": found.turns,
        "steps": steps,
        "num_warps": 4, "num_stages": stages, **said,
    }  # fmt: skip


def _shapes(op: MatmulOp) -> tuple[Shape, ...]:
    """The shapes to choose from for a product."""
    places = op.properties.get("place_b")
    return SCALED_SHAPES if SHAPES and places is not None and "operand" in places.data else SHAPES  # type: ignore[attr-defined]


def cost(shape: Shape, rows: int, columns: int) -> float:
    """Cycles that a step of all rounds of tiles takes, where it waits for memory or for the L2 cache."""
    tiles = -(-columns // (ROWS * shape.groups)) * -(-rows // shape.rows)
    weight, activation = ROWS * shape.groups * STEP * BITS // 8, shape.rows * STEP * 2
    return -(-tiles // MULTIPROCESSORS) * max(weight / MEMORY_BYTES, (weight + activation) / CACHE_BYTES)


def _stages(shape: Shape, depth: int, capabilities: Capabilities) -> int:
    """How many stages of `depth` elements along k fit beside the sums that groups hand to the first: whole turns."""
    stage = (ROWS * shape.groups * BITS // 8 + shape.rows * 2) * depth
    room = capabilities.scratch_bytes - RESERVED_BYTES - (shape.turns - 1) * ROWS * shape.rows * 4
    return min(room // stage, MOST_STAGES) // shape.turns * shape.turns


def _step(op: MatmulOp) -> int:
    """Elements along k of a step for a plain activation of 16 bits and a weight [N, K] to decode; 0 for others."""
    a, b = (v.type for v in op.args[:2])
    computed, places = op.properties.get("compute"), op.properties.get("place_b")
    if len(op.args) != 2 or not isinstance(a, TensorType) or not isinstance(b, ScaledType) or b.rank != 2:
        return 0
    if str(computed) not in ("bf16", "f16") or str(a.dtype) != str(computed) or places is None:
        return 0
    turned = isinstance(op.args[1].owner, TransposeOp) and not isinstance(op.args[0].owner, TransposeOp)
    return _shortest(b.recipe, places.data) if turned and _known(b.recipe, str(computed)) else 0  # type: ignore[attr-defined]


def _known(recipe: Recipe, computed: str) -> bool:
    """True where elements are decoded by what `_gluon_weights` has instructions for."""
    element, zero = recipe.element, recipe.zero_point
    if element.bits != BITS or recipe.offset is not None or element.kind == "codebook":
        return False
    if element.kind == "float":
        return computed == "bf16" and zero is None
    return zero is None or not element.signed


def _shortest(recipe: Recipe, places: tuple[str, ...]) -> int:
    """Elements of a step: those that all scales of partial sums share; 0 where scales do not meet steps."""
    step = STEP
    for (along, across), place in zip(recipe.blocks(2), places, strict=True):
        if place == "epilogue":
            continue
        if across != 1 or along is None or (place == "operand" and recipe.element.kind != "float"):
            return 0
        if place == "operand" and STEP % along:
            return 0
        if place == "mainloop":
            step = min(step, along)
            if along % step or step < SHORTEST or STEP % step:
                return 0
    return step
