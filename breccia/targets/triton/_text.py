"""What an emitted kernel consists of, as text and as what its launcher is told."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.ir import OpResult, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.ir.tile_ops import EncodeOp


@dataclass(frozen=True)
class KernelText:
    """A kernel's function, and what its launcher needs to know.

    parameters: pointers, sizes and strides, by name. symbols: sizes that it takes after its pointers. programs: how
    many programs there are, as a size. turned: results whose rows are neighbours, padded to fours. boxes: for a kernel
    in Gluon, what each pointer that is a descriptor moves at once; columns: operands that it reads best where rows are
    neighbours.
    """

    source: str
    parameters: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    symbols: tuple[str, ...]
    pointers: tuple[str, ...]
    ranks: tuple[int, ...]
    programs: dims.Dim
    fills: tuple[str | None, ...]
    options: dict[str, int | str]
    turned: tuple[bool, ...] = ()
    boxes: tuple[tuple[int, int] | None, ...] = ()
    columns: tuple[int, ...] = ()


def turned_results(kernel: KernelOp, capabilities: Capabilities) -> tuple[bool, ...]:
    """Which results are written with neighbouring rows: on Hopper, float32 scales of blocks along rows.

    A product reads the scales of one step for all of its rows at once: side by side they are one line of memory, and
    else a line each.
    """
    values = KernelOp.terminator(kernel.finish).args
    return tuple(
        "wgmma" in capabilities.features and tensor_type(o.type).rank == 2 and _scales_of_rows(v)
        for o, v in zip(kernel.outs, values, strict=True)
    )


def _scales_of_rows(value: SSAValue) -> bool:
    op, index = value.owner, value.index if isinstance(value, OpResult) else 0
    if not isinstance(op, EncodeOp) or index == 0:
        return False
    recipe, t = op.recipe.data, tensor_type(op.results[index].type)
    if t.rank != 2 or str(t.dtype) != "f32" or len(recipe.levels) != 1 or recipe.zero_point or recipe.offset:
        return False
    rows, columns = recipe.blocks(2)[0]
    return rows == 1 and columns is not None and columns > 1


def turned_stride(rows: dims.Dim) -> dims.Dim:
    """The distance of columns in a result whose rows are neighbours: whole units of 16 bytes."""
    return dims.mul(dims.ceildiv(rows, 4), 4)


def head(name: str, parameters: Sequence[str]) -> str:
    """The first line of a function; more lines where it would be long."""
    line = f"def {name}({', '.join(parameters)}):"
    if len(line) <= 120:
        return line
    inside = textwrap.indent(textwrap.fill(f"{', '.join(parameters)},", 116, break_long_words=False), "    ")
    return f"def {name}(\n{inside}\n):"


def signature_type(dtype: str) -> str:
    """A Triton dtype as signatures spell it: `fp32`, `u8`, `fp8e4nv`."""
    return (
        dtype.replace("bfloat16", "bf16").replace("float8", "fp8").replace("float", "fp")
        .replace("uint", "u").replace("int", "i")
    )  # fmt: skip
