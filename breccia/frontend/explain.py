"""What `explain()` prints: a block for each kernel, with decisions and their reasons as passes left them in the IR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from breccia.frontend.schedules import chosen
from breccia.ir import dims
from breccia.ir.base import BrecciaOp, show_shape
from breccia.ir.dims import Dim
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import (
    BinaryOp,
    ConcatOp,
    ConvertLayoutOp,
    FullOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    UnaryOp,
    YieldOp,
)
from breccia.ir.rewriting import functions, kernels, show_location
from breccia.ir.types import LayoutAttr, ScaledType, TensorType, component_types

REASON = "breccia.reason"
_BF16_BYTES = 2
_SILENT = (YieldOp, FullOp, ConvertLayoutOp)
"""Ops that a list of what is fused does without."""


@dataclass(frozen=True)
class Facts:
    """What there is to explain: the module after the passes that decide something, and the trace's own decisions."""

    name: str
    target: str
    library: str
    """The library whose arrays it is called with; what is emitted for NumPy runs as operations of that library."""
    notes: tuple[str, ...]
    fallbacks: tuple[str, ...]
    laid_out: ModuleOp
    scheduled: ModuleOp
    hints: Mapping[str, int]
    tunable: bool = False
    """True where the target has schedules to choose among."""


def explain(facts: Facts) -> str:
    """The report, as text."""
    found = kernels(facts.laid_out)
    scheduled = {k.sym_name.data: k for k in kernels(facts.scheduled)}
    where = facts.target if facts.library == "numpy" else f"{facts.target} on arrays of {facts.library}"
    lines = [f"{facts.name} for {where}: {_count(len(found), 'kernel')}", *_signature(facts)]
    lines += [f"  note: {note}" for note in facts.notes]
    lines += [f"  slower: {text}" for text in facts.fallbacks]
    if not facts.fallbacks:
        lines.append("  no fallback was taken")
    for kernel in found:
        lines += ["", *_kernel(kernel, facts, scheduled.get(kernel.sym_name.data))]
    outside = [op for f in functions(facts.laid_out) for op in f.body.ops if _converts(op)]
    if outside:
        lines += ["", "layouts converted between kernels:", *(f"  {op.results[0].type} {_at(op)}" for op in outside)]
    return "\n".join(lines) + "\n"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _signature(facts: Facts) -> Iterator[str]:
    for function in functions(facts.laid_out):
        if function.sym_name.data == "prepare":
            yield "  constants are converted once, in @prepare"
            continue
        yield from (f"  {line}" for line in _arguments(function))
    used = {s for f in functions(facts.laid_out) for a in f.args for d in _shape(a) for s in dims.symbols(d)}
    if used:
        sizes = [f"{name} (here {facts.hints[name]})" for name in sorted(used & set(facts.hints))]
        yield f"  any size: {', '.join(sizes)}"


def _arguments(function: FuncOp) -> Iterator[str]:
    for arg in function.args:
        yield f"{arg.name_hint or '_'}: {_describe(arg)}"


def _describe(value: SSAValue) -> str:
    kind = value.type
    if isinstance(kind, ScaledType):
        packed = [f"{name} {order}" for name, order in _orders(kind) if order != "row_major"]
        layout = f", {', '.join(packed)}" if packed else ""
        return f"{show_shape(kind.shape)} {str(kind.encoding).removeprefix('#breccia.recipe')}{layout}"
    assert isinstance(kind, TensorType), "functions and kernels take tensors"
    return f"{show_shape(kind.shape)} {kind.dtype}"


def _orders(kind: ScaledType) -> Sequence[tuple[str, str]]:
    return kind.layout.data if isinstance(kind.layout, LayoutAttr) else ()


def _shape(value: SSAValue) -> Sequence[Dim]:
    kind = value.type
    return kind.shape if isinstance(kind, ScaledType | TensorType) else ()


def _kernel(kernel: KernelOp, facts: Facts, scheduled: KernelOp | None) -> Iterator[str]:
    schedule = "" if scheduled is None or scheduled.schedule is None else str(scheduled.schedule)
    ops = [op for op in kernel.body.ops if isinstance(op, BrecciaOp) and not isinstance(op, _SILENT)]
    yield f"{kernel.sym_name.data}{_lines_of(ops)}"
    yield f"  fuses     {' -> '.join(_short(op) for op in ops)}"
    for label, values in (("takes", kernel.args), ("gives", kernel.outs)):
        for value in values:
            yield f"  {label:<9} {_named(value)}{_describe(value)}"
    if schedule:
        yield f"  schedule  {schedule.removeprefix('#breccia.schedule')}"
    if scheduled is not None and schedule and facts.tunable:
        yield f"  chosen    {chosen(scheduled)}"
    if "decode = apart" in schedule:
        yield "  before    operands are decoded, or turned, once: by kernels of their own, which are not counted here"
    yield f"  moves     {_moved([*kernel.args, *kernel.outs], facts.hints)}"
    for op in ops:
        reason = op.attributes.get(REASON)
        if isinstance(reason, StringAttr):
            yield f"  scales of {_short(op)}{_at(op)}"
            yield from (f"    {line}" for line in reason.data.splitlines())


def _named(value: SSAValue) -> str:
    return f"{value.name_hint}: " if value.name_hint else ""


def _short(op: BrecciaOp) -> str:
    if isinstance(op, UnaryOp | BinaryOp):
        return str(op.fn.data)  # type: ignore[attr-defined]
    if isinstance(op, ReduceOp):
        return f"reduce {op.fn.data}"  # type: ignore[attr-defined]
    return op.short_name


def _converts(op: Operation) -> bool:
    """True for a conversion that moves something: not for one that says which order a view kept."""
    if not isinstance(op, ConvertLayoutOp):
        return False
    view = op.args[0].owner
    source = view.operands[0].type if isinstance(view, ReshapeOp | SliceOp | ConcatOp) else op.args[0].type
    return not isinstance(source, ScaledType) or source.layout != op.properties["layout"]


def _at(op: Operation) -> str:
    place = show_location(op)
    return f" ({place})" if place else ""


def _lines_of(ops: Sequence[Operation]) -> str:
    """The user's lines that went into a kernel, as `(model.py:12-14)`."""
    files: dict[str, set[int]] = {}
    for op in ops:
        file, _, line = show_location(op).rpartition(":")
        if file:
            files.setdefault(file, set()).add(int(line))
    shown = [f"{f}:{min(ls)}-{max(ls)}" if len(ls) > 1 else f"{f}:{min(ls)}" for f, ls in files.items()]
    return f" ({', '.join(shown)})" if shown else ""


def _moved(values: Sequence[SSAValue], hints: Mapping[str, int]) -> str:
    """Bytes that a kernel reads and writes, next to the same tensors in bfloat16."""
    ours = sum(_bits(v, hints) for v in values) / 8
    plain = sum(_elements(_shape(v), hints) for v in values) * _BF16_BYTES
    ratio = f", {ours / plain:.2f} x" if plain else ""
    at = ", ".join(f"{n} = {hints[n]}" for n in sorted({s for v in values for d in _shape(v) for s in dims.symbols(d)}))
    return f"{_bytes(ours)} (in bf16 {_bytes(plain)}{ratio}){f' at {at}' if at else ''}"


def _bits(value: SSAValue, hints: Mapping[str, int]) -> int:
    kind = value.type
    parts = [t for _, t in component_types(kind)] if isinstance(kind, ScaledType) else [kind]
    total = 0
    for part in parts:
        assert isinstance(part, TensorType), "components are plain tensors"
        bits = part.format.bits if part.format is not None else {"i1": 8, "i32": 32, "i64": 64}[str(part.dtype)]
        total += _elements(part.shape, hints) * bits
    return total


def _elements(shape: Sequence[Dim], hints: Mapping[str, int]) -> int:
    total = 1
    for d in shape:
        total *= int(dims.evaluate(d, hints))
    return total


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} GiB"
