"""Products with a decoded weight, found in the IR, so that an array library can do both steps at once.

    w_values = rt.dequantize(xp, w, "float4_e2m1fn", ((rt.decode(xp, s, "float8_e8m0fnu"), (1, 32)),), size=256)
    p = xp.matmul(x, w_values.T)
    // becomes, where the module's target has the feature `native_products`
    p = rt.weight_product(xp, x, w, "float4_e2m1fn", s, "float8_e8m0fnu", 32, size=256)

Libraries without such a product, and weights that theirs does not mean, take the two steps.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import f32
from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import prop, tensor_type
from breccia.codegen.names import quoted
from breccia.formats import Format
from breccia.ir.array_ops import BinaryOp, ConvertOp
from breccia.ir.tile_ops import DotOp
from breccia.ir.types import format_of
from breccia.targets.numpy._chains import Chain, Spread, _spread
from breccia.targets.numpy._ops import check_whole_rows
from breccia.targets.numpy._region import Region

FEATURE = "native_products"


@dataclass(frozen=True)
class NativeProduct:
    """x times the transpose of a weight [n, k] whose scales are of blocks along k.

    scale: stored codes, or floats. offset: of each block, added to what is decoded; None for none. ops: what the one
    line stands for, the product last.
    """

    x: SSAValue
    chain: Chain
    scale: SSAValue
    scale_format: Format
    block: int
    offset: SSAValue | None
    ops: tuple[Operation, ...]


def find_products(ops: Sequence[Operation], chains: dict[Operation, Chain]) -> dict[Operation, NativeProduct]:
    """The products of a region's ops that one function of a library may do, by their `dot`."""
    found: dict[Operation, NativeProduct] = {}
    for op in ops:
        product = _match(op, chains) if isinstance(op, DotOp) else None
        if product is not None:
            found[op] = product
    return found


def _match(op: DotOp, chains: dict[Operation, Chain]) -> NativeProduct | None:
    x, weight = op.args
    if op.form.data != "nt" or tensor_type(x.type).rank != 2 or tensor_type(weight.type).rank != 2:  # type: ignore[attr-defined]
        return None
    offset: Spread | None = None
    last, after = weight.owner, list[Operation]()
    if isinstance(last, BinaryOp) and prop(last, "fn") == "add" and weight.has_one_use():
        spread = _spread(last.args[1], last.out)
        if spread is None:
            return None
        offset, ops = spread
        after = [*ops, last]
        weight = last.args[0]
        last = weight.owner
    if not isinstance(last, Operation) or last not in chains or not weight.has_one_use():
        return None
    chain = chains[last]
    if len(chain.scales) != 1 or chain.zero is not None:
        return None
    (value, (rows, width)) = chain.scales[0]
    if rows != 1 or width is None or (offset is not None and offset[1] != (1, width)):
        return None
    before = value.owner
    fmt = format_of(tensor_type(value.type).dtype)
    if isinstance(before, ConvertOp) and value.has_one_use() and prop(before, "dtype") == f32:
        value, fmt = before.args[0], format_of(tensor_type(before.args[0].type).dtype)
        after.append(before)
    if fmt is None:
        return None
    shift = None if offset is None else offset[0]
    return NativeProduct(x, chain, value, fmt, width, shift, (*chain.ops, *after, op))


def kernels_with_products(source: str) -> tuple[str, ...]:
    """The kernels of emitted text that leave a product to the array library."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return tuple(f.name.removeprefix("_") for f in functions if "rt.weight_product(" in ast.unparse(f))


def write_product(region: Region, op: Operation, product: NativeProduct) -> None:
    """The line of a product."""
    chain = product.chain
    parts = [
        "xp", region[product.x], region[chain.source], quoted(chain.format.name), region[product.scale],
        quoted(product.scale_format.name), str(product.block),
    ]  # fmt: skip
    if product.offset is not None:
        parts.append(f"offset={region[product.offset]}")
    if chain.unpack is not None:
        check_whole_rows(region, chain.source)
        (size,) = prop(chain.unpack, "size")
        parts.append(f"size={region.size(size)}")
    region.assign(op, f"rt.weight_product({', '.join(parts)})", wanted="p")
