"""Tile sizes where a program is a group of warps: as much work as registers hold, as many stages as fit the scratch
memory.
"""

from __future__ import annotations

from xdsl.ir import Attribute

from breccia.ir.attributes import Entries
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import expected, typical_sizes
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import GroupedMatmulOp, MatmulOp, QuantizeOp
from breccia.ir.types import ScaledType, TensorType, format_of
from breccia.passes._axes import shape_of
from breccia.passes._group_tiles import APART, element_name, group_tiles
from breccia.passes._plan import planned_blocks
from breccia.passes._weight_tiles import weight_tiles
from breccia.passes.swap_operands import SWAPPED

WARP_TILE = 64 * 64
"""Elements of a product's tile that keep one group of four warps busy."""
ROW_ELEMENTS = 1024
"""Elements of rowwise tiles that are read for each warp: 32 registers of a thread."""
REDUCED_ELEMENTS = 2048
"""The same for whole rows, of which every warp has to know what the others found: fewer of them do it quicker."""
HELD = 4
"""Times the elements that are asked for that a tile may hold before short rows are split too."""
LINE = 64
"""Fewest neighbours along the last axis: a cache line of 2-byte elements."""
MAX_STAGES = 4
NARROW = 16
"""Bits of the floats that operands are decoded to."""
SWAPPED_ROWS = 0
"""Most rows with which a decoded weight is the first operand in plain Triton too: none, until that is measured."""
WIDE_SCRATCH = 160 << 10
"""Scratch memory from which on tiles of 256 columns have room for three steps."""


def row_tiles(kernel: KernelOp, wanted: Entries, elements: int, said: Entries) -> Entries:
    """Tiles of a rowwise kernel, of about `elements` elements, and warps to hold them.

    Rows that have to be whole leave room for fewer of them; blocks along the first axis for fewer columns. said: what
    the kernel's schedule has already, which stays.
    """
    wanted = {**wanted, **said}
    entries: Entries = dict(planned_blocks(kernel, "rowwise", wanted, split=True))
    # Results may be shorter than what they are made of, as sums of rows are.
    body = kernel.body.block
    shapes = [shape_of(v.type) for v in (*body.args, *(r for op in body.ops for r in op.results))]
    columns = max((s[-1] for s in shapes if s), key=_known, default=1)
    height = max((_known(s[-2]) for s in shapes if len(s) > 1 and s[-1] == columns), default=1)
    if "block_n" in entries:
        rows = entries.get("block_m", _next_power(height))
        assert isinstance(rows, int), "planned tiles are integers"
        width = _dividing(columns if isinstance(columns, int) else 0, max(LINE, elements // rows))
        entries = dict(planned_blocks(kernel, "rowwise", {**wanted, "block_n": width, **said}, split=True))
    elif isinstance(columns, int):
        rows = max(1, elements // _next_power(columns))
        entries = dict(planned_blocks(kernel, "rowwise", {**wanted, "block_m": rows, **said}, split=True))
        high = entries.get("block_m", _next_power(height))
        if isinstance(high, int) and high * _next_power(columns) > HELD * elements:  # blocks, or all, of the first axis
            width = _dividing(columns, max(LINE, elements // high))
            narrower = {**wanted, "block_m": rows, "block_n": width, **said}
            entries = dict(planned_blocks(kernel, "rowwise", narrower, split=True))
    held = 1
    for name, size in (("block_m", height), ("block_n", columns if isinstance(columns, int) else 1)):
        entry = said.get(name, entries.get(name, size))
        held *= _next_power(entry if isinstance(entry, int) else 1)
    read = sum(len(s) > 1 and s[-1] == columns and s[-2] != 1 for s in (shape_of(a.type) for a in kernel.args))
    encoded = sum(isinstance(op, QuantizeOp) for op in body.ops)  # twice: fewer warps leave each the registers for it
    warps = held * max(read, 1) // max(encoded, 1) // ROW_ELEMENTS if "block_n" in entries else held // REDUCED_ELEMENTS
    warps = min(max(warps, 1), 16)
    return {**entries, "num_warps": 1 << (warps.bit_length() - 1), **said}


def _known(size: object) -> int:
    return size if isinstance(size, int) else 1


def _next_power(size: int) -> int:
    return 1 << (size - 1).bit_length() if size > 1 else 1


def _dividing(size: int, most: int) -> int:
    """The longest power of two up to `most` that divides `size`, if that is not too short; else `most`."""
    tile = 1 << (most.bit_length() - 1)
    shorter = tile
    while size and size % shorter and shorter * 4 > tile:
        shorter //= 2
    return shorter if size and size % shorter == 0 else tile


def product_tiles(kernel: KernelOp, kind: str, wanted: Entries, capabilities: Capabilities, said: Entries) -> Entries:
    """Tiles of a product with the warps to hold its sums, and as many stages as fit the scratch memory.

    Few rows get tiles of few rows; operands of 16 bits wide tiles. A shorter step along k makes room where even two
    stages do not fit. said: what the kernel's schedule has already, which stays.
    """
    op = _product(kernel)
    together = group_tiles(kernel, op, capabilities, said)
    if together is None and isinstance(op, MatmulOp):
        together = weight_tiles(kernel, op, capabilities, said)
    if together is not None:
        return together
    apart = said["decode"] == APART if "decode" in said else _decodes_apart(op, capabilities)
    wanted = {**_fitting(op, wanted, apart=apart, whole=capabilities), **said}
    while True:
        entries: Entries = {**planned_blocks(kernel, kind, wanted), **said}
        stages = _stages(op, entries, capabilities, apart=apart)
        k, asked = entries.get("block_k", 1), wanted["block_k"]
        assert isinstance(k, int) and isinstance(asked, int), "tile sizes are integers"  # noqa: PT018
        if stages > 1 or asked <= 32 or asked > 2 * k or "block_k" in said:
            break
        wanted = {**wanted, "block_k": asked // 2}
    tile = _size(op, entries, "block_m") * _size(op, entries, "block_n")
    entries["num_warps"] = 8 if tile >= 4 * WARP_TILE else 4
    # Wide tiles do not gain by a fourth step in flight, and lose where power is short.
    entries["num_stages"] = max(min(stages, 3 if tile > 4 * WARP_TILE else MAX_STAGES), 1)
    return {**entries, **({"decode": APART} if apart else {}), **({"operands": SWAPPED} if _swaps(op) else {}), **said}


def _swaps(op: MatmulOp | GroupedMatmulOp) -> bool:
    """True for a weight that is decoded, and meets few rows."""
    rows = expected(shape_of(op.out.type)[-2], typical_sizes(op)) if isinstance(op, MatmulOp) else None
    decoded = op.properties.get("compute") is not None and isinstance(op.args[1].type, ScaledType)
    return decoded and rows is not None and rows <= SWAPPED_ROWS


def _decodes_apart(op: MatmulOp | GroupedMatmulOp, capabilities: Capabilities) -> bool:
    """True where an operand is decoded on load to a narrow float, and enough tiles would decode it again; and for
    bytes that Hopper's instructions take only as rows of k.
    """
    shape, sizes = shape_of(op.out.type), typical_sizes(op)
    rows = [expected(size, sizes) for size in shape[-2:]]
    least = capabilities.decode_rows
    if not least or isinstance(op, GroupedMatmulOp) or any(n is None or n < least for n in rows):
        return False
    kinds = tuple(element_name(v.type) for v in op.args[:2])
    if "wgmma" in capabilities.features and all(_bits(v.type) == 8 for v in op.args[:2]):
        return any((row.a, row.b) == kinds for row in capabilities.mma)
    computed = _bits_of(op.properties.get("compute"))
    return computed == NARROW and any(_bits(v.type) < NARROW for v in op.args[:2])


def _fitting(op: MatmulOp | GroupedMatmulOp, wanted: Entries, *, apart: bool, whole: Capabilities) -> Entries:
    """The wanted tile, for the sizes that are expected and the operands that are multiplied."""
    rows = expected(shape_of(op.out.type)[-2], typical_sizes(op)) if isinstance(op, MatmulOp) else None
    if rows is not None and rows <= 64:
        return {**wanted, "block_m": max(16, _next_power(rows)), "block_n": 64}
    if _computed_bits(op, whole) == 32:
        return {**wanted, "block_k": min(int(wanted["block_k"]), 32)}
    plain = all(_bits(v.type) == NARROW for v in op.args[:2])
    places = [p for key in ("place_a", "place_b") if (p := op.properties.get(key)) is not None]
    partial = any("mainloop" in p.data for p in places)  # type: ignore[attr-defined]  # sums of a block need room too
    narrow = apart and op.properties.get("compute") is not None and not partial
    if (plain or narrow) and whole.scratch_bytes >= WIDE_SCRATCH:
        return {**wanted, "block_n": 256, "block_k": 64}
    return wanted


def _product(kernel: KernelOp) -> MatmulOp | GroupedMatmulOp:
    return next(op for op in kernel.body.block.ops if isinstance(op, MatmulOp | GroupedMatmulOp))


def _size(op: MatmulOp | GroupedMatmulOp, entries: Entries, name: str) -> int:
    """A tile size; where it is not planned, the axis is whole."""
    size = entries.get(name)
    if isinstance(size, int):
        return size
    shape = shape_of(op.out.type)
    whole = shape[-2] if name == "block_m" else shape[-1]
    return whole if isinstance(whole, int) else 1


def _stages(op: MatmulOp | GroupedMatmulOp, entries: Entries, capabilities: Capabilities, *, apart: bool) -> int:
    """How many steps along k of both operands the scratch memory holds, besides the decoded step that is multiplied."""
    k = entries.get("block_k", 32)
    assert isinstance(k, int), "tile sizes are integers"
    stage = decoded = 0
    for value, name in ((op.args[0], "block_m"), (op.args[1], "block_n")):
        cells = _next_power(_size(op, entries, name)) * _next_power(k)
        computed = _computed_bits(op, capabilities)
        bits = min(computed, NARROW) if apart else _bits(value.type)
        stage += cells * bits // 8
        if bits != computed:
            decoded += cells * computed // 8 * (2 if computed == 32 else 1)  # as two parts of fewer bits
    room = capabilities.scratch_bytes or 1 << 30
    return (room - decoded) // max(stage, 1)


def _bits(type_: object) -> int:
    """Bits of one stored element."""
    if isinstance(type_, ScaledType):
        return max(type_.recipe.element.bits, 4)
    assert isinstance(type_, TensorType), "operands of products are arrays"
    return type_.format.bits if type_.format is not None else 32


def _computed_bits(op: MatmulOp | GroupedMatmulOp, capabilities: Capabilities) -> int:
    """Bits of an element as it is multiplied: as it is stored where an instruction takes it, else in a wider float."""
    if op.properties.get("compute") is not None:
        return _bits_of(op.properties.get("compute"))
    kinds = tuple(element_name(v.type) for v in op.args[:2])
    instructions = (*capabilities.mma, *capabilities.scaled_mma)
    return max(_bits(v.type) for v in op.args[:2]) if any((i.a, i.b) == kinds for i in instructions) else 32


def _bits_of(dtype: Attribute | None) -> int:
    fmt = format_of(dtype) if dtype is not None else None
    return 32 if fmt is None else fmt.bits
