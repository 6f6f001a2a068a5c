"""What an emitted kernel consists of, as text and as what its launcher is told."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.ir import OpResult, SSAValue

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.hints import ROWS_TOGETHER, scales_of_rows
from breccia.ir.kernel import KernelOp
from breccia.ir.tile_ops import EncodeOp


@dataclass(frozen=True)
class KernelText:
    """A kernel's function, and what its launcher needs to know.

    parameters: pointers, sizes and strides, by name. symbols: sizes that it takes after its pointers. programs: how
    many programs there are, as a size. turned: results whose rows are neighbours, padded to fours. boxes: for a kernel
    in Gluon, what each pointer that is a descriptor moves at once; columns: operands that it reads best where rows are
    neighbours. kept: for each result, the operand that it takes the place of, if it does.
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
    kept: tuple[int, ...] = ()


def turned_results(kernel: KernelOp, capabilities: Capabilities) -> tuple[bool, ...]:
    """Which results are written with neighbouring rows: see `hints.scales_of_rows`."""
    values = KernelOp.terminator(kernel.finish).args
    together = ROWS_TOGETHER in capabilities.features
    return tuple(
        together and tensor_type(o.type).rank == 2 and _is_scale(v) for o, v in zip(kernel.outs, values, strict=True)
    )


def _is_scale(value: SSAValue) -> bool:
    op, index = value.owner, value.index if isinstance(value, OpResult) else 0
    return isinstance(op, EncodeOp) and index > 0 and scales_of_rows(op.recipe.data, tensor_type(value.type).rank)


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
