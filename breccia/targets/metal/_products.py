"""Products of tiles by 8 x 8 matrices of a simdgroup.

Both operands are written into threadgroup memory, decoded, and filled up with 0 to multiples of 8. Each simdgroup owns
a part of the result, and holds it in registers, all the way through the loop over k.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import prop, tensor_type
from breccia.ir.tile_ops import contraction_axes
from breccia.targets.metal import _casts
from breccia.targets.metal._ops import unsupported
from breccia.targets.metal._reductions import SIMDS
from breccia.targets.metal._region import Array, Region, scalar_type

SIDE = 8
UNROLL = "#pragma clang loop unroll(full)"
"""Before loops over matrices: they lie in registers, which have no addresses."""
_TYPES = {"f16": "half", "bf16": "bfloat"}


@dataclass(frozen=True)
class Fragments:
    """A product's sums in registers: an array `name` of 8 x 8 matrices of each of `rows` x `columns` simdgroups.

    `high` and `wide` matrices are owned by one simdgroup; the others of the program own none.
    """

    name: str
    rows: int
    columns: int
    high: int
    wide: int

    @property
    def busy(self) -> int:
        return self.rows * self.columns


def _matrices(size: int) -> int:
    return -(-size // SIDE)


def new_fragments(region: Region, m: int, n: int) -> Fragments:
    """Declare the sums of an m x n tile, and set them to 0."""
    high, wide = _matrices(m), _matrices(n)
    splits = [
        (rows, columns)
        for rows in range(1, SIMDS + 1)
        for columns in range(1, SIMDS // rows + 1)
        if high % rows == 0 and wide % columns == 0
    ]
    # As many simdgroups as there is work for, each with a part that is close to a square.
    rows, columns = max(splits, key=lambda s: (s[0] * s[1], -(high // s[0] + wide // s[1])))
    found = Fragments(region.names.fresh("partial"), rows, columns, high // rows, wide // columns)
    region.line(f"simdgroup_matrix<float, 8, 8> {found.name}[{found.high}][{found.wide}];")
    region.line(UNROLL)
    with region.block(f"for (int i = 0; i < {found.high * found.wide}; i++)"):
        at = f"{found.name}[i / {found.wide}][i % {found.wide}]"
        region.line(f"{at} = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);")
    return found


def operand(region: Region, op: Operation, value: SSAValue, name: str) -> tuple[Array, str]:
    """Room for an operand in its own order of axes, rows and columns padded to multiples of 8; its C type."""
    kinds = [str(tensor_type(v.type).dtype) for v in op.operands[:2]]
    ctype = _TYPES.get(kinds[0], "float") if kinds[0] == kinds[1] else "float"
    shape = tensor_type(value.type).shape
    if len(shape) != 2 or not all(isinstance(d, int) for d in shape):
        raise unsupported(op, f"tiles of {tensor_type(value.type)} are not multiplied; two axes of known size are")
    rows, columns = (_matrices(d) * SIDE for d in shape if isinstance(d, int))
    return region.array(name, ctype, (rows, columns), columns), ctype


def prepare(region: Region, op: Operation) -> tuple[Array, Array]:
    """Room for both operands, set to 0 where they are padded."""
    found: list[Array] = []
    for value, name in zip(op.operands[:2], ("left", "right"), strict=True):
        array, ctype = operand(region, op, value, f"{value.name_hint or name}_tile")
        if array.shape != tensor_type(value.type).shape:
            with region.each(array.shape[:1] + array.shape[1:]) as (_, coords):
                region.line(f"{array.at(coords)} = {ctype}(0.0f);")
            region.barrier()
        found.append(array)
    return found[0], found[1]


def fill(region: Region, op: Operation, arrays: tuple[Array, Array]) -> None:
    """Write both operands, decoded, into their arrays; then a barrier."""
    for value, array in zip(op.operands[:2], arrays, strict=True):
        t = tensor_type(value.type)
        with region.each(t.shape) as (scope, coords):
            text = scope.value(value, coords)
            if scalar_type(t) == "uint":
                assert t.format is not None, "codes have formats"
                text = f"{_casts.decode(region.library, t.format)}({text})"
            elif scalar_type(t) != "float":
                raise unsupported(op, f"tiles of {t.dtype} are not multiplied; convert them to f32")
            region.line(f"{array.at(coords)} = {text if array.ctype == 'float' else f'{array.ctype}({text})'};")
    region.barrier()


def multiply(region: Region, op: Operation, arrays: tuple[Array, Array], sums: Fragments) -> None:
    """Add the product of the arrays to the sums."""
    form, (left, right) = prop(op, "form"), arrays
    k = left.shape[contraction_axes(form, 2, 2)[0]]
    with region.block(f"if (simdgroup < {sums.busy})" if sums.busy < SIMDS else ""):
        region.line(f"const int top = {_part('simdgroup', sums.columns, sums.high, first=True)};")
        region.line(f"const int side = {_part('simdgroup', sums.columns, sums.wide, first=False)};")
        with region.block(f"for (int k = 0; k < {k}; k += {SIDE})"):
            _loads(region, "rows", left, sums.high, "top", turned=form[0] == "t", along_rows=form[0] == "n")
            _loads(region, "columns", right, sums.wide, "side", turned=form[1] == "t", along_rows=form[1] == "t")
            region.line(UNROLL)
            with region.block(f"for (int i = 0; i < {sums.high * sums.wide}; i++)"):
                at = f"{sums.name}[i / {sums.wide}][i % {sums.wide}]"
                region.line(
                    f"simdgroup_multiply_accumulate({at}, rows[i / {sums.wide}], columns[i % {sums.wide}], {at});"
                )


def _part(simdgroup: str, columns: int, matrices: int, *, first: bool) -> str:
    """Where the part of a simdgroup begins along an axis."""
    if columns == 1:
        return f"{simdgroup} * {matrices * SIDE}" if first else "0"
    return f"{simdgroup} {'/' if first else '%'} {columns} * {matrices * SIDE}"


def _loads(region: Region, name: str, array: Array, count: int, start: str, *, turned: bool, along_rows: bool) -> None:
    """Matrices of one step along k. along_rows: m, or n, counts rows of the array."""
    region.line(f"simdgroup_matrix<{array.ctype}, 8, 8> {name}[{count}];")
    region.line(UNROLL)
    with region.block(f"for (int i = 0; i < {count}; i++)"):
        place = (
            f"({start} + i * {SIDE}) * {array.pitch} + k" if along_rows else f"k * {array.pitch} + {start} + i * {SIDE}"
        )
        flag = ", ulong2(0, 0), true" if turned else ""
        region.line(f"simdgroup_load({name}[i], &{array.name}[{place}], {array.pitch}{flag});")


def write_out(region: Region, sums: Fragments, wanted: str, m: int, n: int) -> Array:
    """Write sums into threadgroup memory, where every thread reads them; then a barrier."""
    width = _matrices(n) * SIDE
    room = region.array(wanted, "float", (_matrices(m) * SIDE, width), width)
    with region.block(f"if (simdgroup < {sums.busy})" if sums.busy < SIMDS else ""):
        region.line(f"const int top = {_part('simdgroup', sums.columns, sums.high, first=True)};")
        region.line(f"const int side = {_part('simdgroup', sums.columns, sums.wide, first=False)};")
        region.line(UNROLL)
        with region.block(f"for (int i = 0; i < {sums.high * sums.wide}; i++)"):
            place = f"(top + i / {sums.wide} * {SIDE}) * {width} + side + i % {sums.wide} * {SIDE}"
            at = f"{sums.name}[i / {sums.wide}][i % {sums.wide}]"
            region.line(f"simdgroup_store({at}, &{room.name}[{place}], {width});")
    region.barrier()
    return Array(room.name, "float", (m, n), width)


def write_dot(region: Region, op: Operation) -> None:
    """A product of its own: its sums in threadgroup memory."""
    out = op.results[0]
    m, n = tile_of(op)
    sums = new_fragments(region, m, n)
    arrays = prepare(region, op)
    fill(region, op, arrays)
    multiply(region, op, arrays, sums)
    region.arrays[out] = write_out(region, sums, f"{out.name_hint or 'product'}_tile", m, n)


def tile_of(op: Operation) -> tuple[int, int]:
    """The size of a product's tile."""
    shape = tensor_type(op.results[0].type).shape
    if len(shape) != 2 or not all(isinstance(d, int) for d in shape):
        raise unsupported(op, f"a product of {tensor_type(op.results[0].type)} is not printed; two known axes are")
    m, n = (d for d in shape if isinstance(d, int))
    return m, n
