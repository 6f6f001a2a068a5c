"""Tile sizes where few rows meet a weight of 4 bits (Hopper): the weight is the first operand, out of registers.

What such a product costs is reading the weight. So its rows are the rows of the matrix instruction, of which a program
has 64, and the few rows of the activation are the instruction's columns. A warp keeps several stages of both operands
on their way; groups of warps take turns along k, decode what has arrived, and multiply (see `targets/triton/
_gluon_weights.py`). Programs walk over tiles, so that memory is not idle between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Attribute

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import MatmulOp, TransposeOp
from breccia.ir.types import ScaledType, TensorType
from breccia.passes._axes import shape_of
from breccia.passes._plan import planned_blocks
from breccia.passes.swap_operands import SWAPPED
from breccia.recipes import Recipe

Entries = dict[str, int | str]
ROWS = 64
"""Rows of the weight in a tile: those of Hopper's matrix instruction of four warps."""
STEP = 128
"""Elements along k that are decoded and multiplied at once: a block of the usual scales."""
BITS = 4
RESERVED_BYTES = 1024
"""Scratch memory for barriers."""
MOST_STAGES = 16


MULTIPROCESSORS = 132
CACHE_BYTES = 46.6
"""Bytes out of the L2 cache in a cycle, for each multiprocessor."""
MEMORY_BYTES = 13.0
"""Bytes out of memory in a cycle, for each multiprocessor."""


@dataclass(frozen=True)
class Shape:
    """The shape of a program for activations of at most `rows` rows. Groups of warps take `turns` along k, a stage of
    `steps` steps each; or `groups` of them, a power of two, have rows of the weight of their own, and share the
    activation.
    """

    rows: int
    turns: int
    steps: int
    groups: int = 1


SHAPES = (Shape(16, 4, 2), Shape(32, 2, 4), Shape(64, 2, 2), Shape(64, 1, 2, 2))
"""In the order of their rows; none for kernels that are not warp-specialized."""


def weight_tiles(kernel: KernelOp, op: MatmulOp, capabilities: Capabilities, said: Entries) -> Entries | None:
    """The schedule of a product for groups of warps that decode; None where it does not suit it or the architecture."""
    wanted = {"wgmma", "tma", "warp_specialize"}
    if not wanted <= set(capabilities.features) or "block_m" in said or "num_warps" in said or not _decodes(op):
        return None
    shape, depth = shape_of(op.out.type), shape_of(op.args[0].type)[-1]
    rows = expected(shape[0], typical_sizes(op))
    fitting = [s for s in SHAPES if rows is not None and rows <= s.rows]
    if not fitting or rows is None or not isinstance(shape[1], int) or not isinstance(depth, int):
        return None
    columns = shape[1]
    found = min((s for s in fitting if s.rows == fitting[0].rows), key=lambda s: cost(s, rows, columns))
    blocks: Entries = {"block_m": found.rows, "block_n": ROWS, "block_k": STEP}
    planned = planned_blocks(kernel, "gemm", ScheduleAttr(tuple({**blocks, **said}.items())))
    stages = _stages(found, capabilities)
    # An axis of one tile has no dimension, and is not planned.
    if planned != blocks or stages < 2:
        return None
    return {
        **blocks, "operands": SWAPPED, "groups": found.groups, "turns": found.turns, "steps": found.steps,
        "num_warps": 4, "num_stages": stages, **said,
    }  # fmt: skip


def cost(shape: Shape, rows: int, columns: int) -> float:
    """Cycles that a step of all rounds of tiles takes, where it waits for memory or for the L2 cache."""
    tiles = -(-columns // (ROWS * shape.groups)) * -(-rows // shape.rows)
    weight, activation = ROWS * shape.groups * STEP * BITS // 8, shape.rows * STEP * 2
    return -(-tiles // MULTIPROCESSORS) * max(weight / MEMORY_BYTES, (weight + activation) / CACHE_BYTES)


def _stages(shape: Shape, capabilities: Capabilities) -> int:
    """How many stages fit beside the sums that groups hand to the first: a multiple of the turns."""
    stage = (ROWS * shape.groups * BITS // 8 + shape.rows * 2) * STEP * shape.steps
    room = capabilities.scratch_bytes - RESERVED_BYTES - (shape.turns - 1) * ROWS * shape.rows * 4
    return min(room // stage, MOST_STAGES) // shape.turns * shape.turns


def _decodes(op: MatmulOp) -> bool:
    """True for a plain activation of 16 bits times a weight [N, K] that decodes to its format step by step."""
    a, b = (v.type for v in op.args[:2])
    computed = op.properties.get("compute")
    if len(op.args) != 2 or not isinstance(a, TensorType) or not isinstance(b, ScaledType) or b.rank != 2:
        return False
    if str(computed) not in ("bf16", "f16") or str(a.dtype) != str(computed):
        return False
    turned = isinstance(op.args[1].owner, TransposeOp) and not isinstance(op.args[0].owner, TransposeOp)
    return turned and _known(b.recipe, op.properties.get("place_b"), str(computed))


def _known(recipe: Recipe, places: Attribute | None, computed: str) -> bool:
    """True where elements are decoded by what `_gluon_weights` has instructions for, and scales meet the steps."""
    element, zero = recipe.element, recipe.zero_point
    if element.bits != BITS or recipe.offset is not None or element.kind == "codebook" or places is None:
        return False
    if element.kind == "float" and computed != "bf16":
        return False
    for block, place in zip(recipe.blocks(2), places.data, strict=True):  # type: ignore[attr-defined]
        if place == "epilogue":
            continue
        along, across = block
        if across != 1 or along is None or (STEP % along if place == "operand" else along % STEP):
            return False
        if place == "operand" and (element.kind != "float" or zero is not None):
            return False
    return zero is None or (element.kind == "int" and not element.signed)
