"""Planted compiler bugs: each takes a module of tiled kernels and gives one that is wrong, for tests that must notice.

    for mutant in MUTANTS:
        wrong = mutant.apply(module)          # None where there is nothing to break
        if wrong is not None:
            assert caught(module, wrong, sizes).by

A mutant is caught by the verifier without data, by the interpreter because tiles do not fit, or by its results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Operation
from xdsl.utils.exceptions import ParseError, VerifyException

from breccia.errors import BrecciaError
from breccia.ir import dims
from breccia.ir.attributes import NumberAttr, PolicyAttr
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Dim
from breccia.ir.interpreter import interpret, public_function
from breccia.ir.kernel import KernelOp
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels
from breccia.ir.tile_ops import EncodeOp, MaskOp, UnpackOp
from breccia.ir.tiling import Tiling, TilingAttr, Window
from breccia.ir.types import DimsAttr, TensorType
from breccia.testing.inputs import make_arguments

Break = Callable[[KernelOp], bool]


@dataclass(frozen=True)
class Mutant:
    """A planted bug. `plant` changes one kernel in place and says whether it could."""

    name: str
    plant: Break

    def apply(self, module: ModuleOp) -> str | None:
        """The text of `module` with this bug in its first kernel that can have it; None if none can."""
        broken = module.clone()
        for kernel in kernels(broken):
            if kernel.is_tiled and self.plant(kernel):
                return print_module(broken)
        return None


@dataclass(frozen=True)
class Verdict:
    """How a mutant was caught: `verifier`, `interpreter`, `values`, `padded values`; an empty text if it was not."""

    by: str
    message: str = ""


def caught(
    module: ModuleOp,
    wrong: str,
    sizes: Mapping[str, int],
    *,
    function: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> Verdict:
    """Tell a mutant from the module it was made of, on normal inputs in float64."""
    try:
        mutant = parse_module(wrong)
    except (VerifyException, ParseError) as error:
        return Verdict("verifier", _reason(error))
    func = public_function(module, function)
    masked = any(isinstance(op, MaskOp) for op in module.walk())
    for seed in seeds:
        arguments = make_arguments(func, sizes, "normal", np.random.default_rng(seed))
        options: dict[str, Any] = {"function": func.sym_name.data, "wide": True}
        wanted = interpret(module, arguments, **options)
        try:
            if _differ(wanted, interpret(mutant, arguments, **options)):
                return Verdict("values")
            if masked and _differ(wanted, interpret(mutant, arguments, **options, pad="nan")):
                return Verdict("padded values")
        except BrecciaError as error:
            return Verdict("interpreter", str(error))
    return Verdict("")


def _differ(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """True where results differ by more than sums in another order could."""
    for x, y in zip(a, b, strict=True):
        p, q = np.asarray(x, np.float64), np.asarray(y, np.float64)
        size = float(np.max(np.abs(p[np.isfinite(p)]), initial=0))
        if not np.allclose(p, q, rtol=1e-9, atol=1e-12 * size, equal_nan=True):
            return True
    return False


def _reason(error: Exception) -> str:
    """The line of a verifier's or parser's message that says what is wrong."""
    lines = [line.strip(" |^-") for line in str(error).splitlines()]
    said = [line for line in lines if line.startswith(("kernel ", "Operation does not verify", "breccia."))]
    return said[0] if said else next((line for line in lines if line), "")


# -- editing a tiling --------------------------------------------------------------------------------------------------


def _retile(kernel: KernelOp, **changes: Any) -> bool:
    kernel.properties["tiling"] = TilingAttr(replace(kernel.tiles, **changes))
    return True


def _with_input(kernel: KernelOp, i: int, window: Window) -> bool:
    inputs = list(kernel.tiles.inputs)
    inputs[i] = window
    return _retile(kernel, inputs=tuple(inputs))


def _with_output(kernel: KernelOp, i: int, window: Window) -> bool:
    outputs = list(kernel.tiles.outputs)
    outputs[i] = window
    return _retile(kernel, outputs=tuple(outputs))


def _substituted(window: Window, **names: Dim) -> Window:
    return replace(window, index=tuple(dims.substitute(i, names) for i in window.index))


def _names(tiling: Tiling, kind: str) -> list[str]:
    return [d.name for d in tiling.grid if d.kind == kind]


def _thin(kernel: KernelOp) -> list[int]:
    """Operands that look like scales: windows thinner than the widest one, with a map that moves on two axes or one."""
    sizes = {i: np.prod([b for b in w.tile if isinstance(b, int)]) for i, w in enumerate(kernel.tiles.inputs) if w}
    widest = max(sizes.values(), default=0)
    return [i for i, n in sizes.items() if 8 * n <= widest and i in kernel.tiles.step_uses]


def _wide(kernel: KernelOp) -> list[int]:
    return [i for i, w in enumerate(kernel.tiles.inputs) if w and i not in _thin(kernel)]


def _edit(kernel: KernelOp, operands: Sequence[int], change: Callable[[Window, Tiling], Window | None]) -> bool:
    """Change the first window that `change` gives another one for."""
    for i in operands:
        window = kernel.tiles.inputs[i]
        new = change(window, kernel.tiles) if window else None
        if new is not None and new != window:
            return _with_input(kernel, i, new)
    return False


def _extent_less_one(kernel: KernelOp, kind: str) -> bool:
    for i, d in enumerate(kernel.tiles.grid):
        if d.kind == kind and d.extent != 1:
            grid = list(kernel.tiles.grid)
            grid[i] = replace(d, extent=dims.sub(d.extent, 1))
            return _retile(kernel, grid=tuple(grid))
    return False


def _without_diagonal(kernel: KernelOp) -> bool:
    for i, d in enumerate(kernel.tiles.grid):
        e = d.extent
        if isinstance(e, dims.Op) and e.kind == "min" and isinstance(e.right, dims.Op) and e.right.kind == "add":
            grid = list(kernel.tiles.grid)
            grid[i] = replace(d, extent=dims.minimum(e.left, e.right.left))
            return _retile(kernel, grid=tuple(grid))
    return False


def _ignore_reduction(w: Window, t: Tiling) -> Window:
    return _substituted(w, **dict.fromkeys(_names(t, "reduction"), 0))


def _transposed(w: Window, _: Tiling) -> Window:
    return replace(w, index=(*w.index[:-2], *reversed(w.index[-2:])))


def _reversed(w: Window, t: Tiling) -> Window:
    ends = {d.name: dims.sub(dims.sub(d.extent, 1), dims.Sym(d.name)) for d in t.dims("reduction")}
    return _substituted(w, **ends)


def _row_for_column(w: Window, t: Tiling) -> Window | None:
    parallel = _names(t, "parallel")
    return _substituted(w, **{parallel[-2]: dims.Sym(parallel[-1])}) if len(parallel) > 1 else None


def _next_reduction(w: Window, t: Tiling) -> Window:
    return _substituted(w, **{n: dims.add(dims.Sym(n), 1) for n in _names(t, "reduction")})


def _reduction_by_row(w: Window, t: Tiling) -> Window | None:
    parallel = _names(t, "parallel")
    return _substituted(w, **dict.fromkeys(_names(t, "reduction"), dims.Sym(parallel[-2]))) if parallel[1:] else None


def _half_as_wide(w: Window, _: Tiling) -> Window:
    half = tuple(b // 2 if isinstance(b, int) and b > 1 else b for b in w.block)
    return replace(w, block=(*w.block[:-1], half[-1]))


def _not_divided(w: Window, _: Tiling) -> Window:
    def plain(d: Dim) -> Dim:
        return d.left if isinstance(d, dims.Op) and d.kind == "floordiv" else d

    return replace(w, index=tuple(plain(i) for i in w.index))


def _divided_by_four(w: Window, _: Tiling) -> Window:
    def coarser(d: Dim) -> Dim:
        return dims.floordiv(d.left, 4) if isinstance(d, dims.Op) and d.kind == "floordiv" else d

    return replace(w, index=tuple(coarser(i) for i in w.index))


def _first_expert(w: Window, _: Tiling) -> Window:
    return replace(w, index=tuple(0 if b is None else i for b, i in zip(w.block, w.index, strict=True)))


def _no_segment(w: Window, _: Tiling) -> Window:
    return replace(w, segment=None)


def _longer_segment(w: Window, _: Tiling) -> Window:
    return replace(w, segment=replace(w.segment, limit=dims.add(w.segment.limit, 1)) if w.segment else None)


def _output_race(kernel: KernelOp) -> bool:
    w = kernel.tiles.outputs[0]
    moving = [i for i, e in enumerate(w.index) if dims.symbols(e)]
    if not moving or w.combine:
        return False
    fixed = tuple(0 if i == moving[-1] else e for i, e in enumerate(w.index))
    return _with_output(kernel, 0, replace(w, index=fixed))


def _no_combine(kernel: KernelOp) -> bool:
    w = kernel.tiles.outputs[0]
    return w.combine is not None and _with_output(kernel, 0, replace(w, combine=None))


def _other_combine(kernel: KernelOp) -> bool:
    w = kernel.tiles.outputs[0]
    return w.combine == "add" and _with_output(kernel, 0, replace(w, combine="max"))


def _transposed_output(kernel: KernelOp) -> bool:
    last = len(kernel.tiles.outputs) - 1
    w = kernel.tiles.outputs[last]
    new = _transposed(w, kernel.tiles)
    return len(w.index) > 1 and new != w and _with_output(kernel, last, new)


def _step_reads_other_scale(kernel: KernelOp) -> bool:
    """Two operands of equal tiles swap places: levels, sides, or a scale and a zero point."""
    for key in ("finish_uses", "step_uses"):
        uses = list(getattr(kernel.tiles, key))
        for i in range(len(uses)):
            for j in range(i + 1, len(uses)):
                a, b = kernel.args[uses[i]].type, kernel.args[uses[j]].type
                wa, wb = kernel.tiles.inputs[uses[i]], kernel.tiles.inputs[uses[j]]
                if isinstance(a, TensorType) and isinstance(b, TensorType) and wa and wb:
                    if (a.dtype, wa.tile) == (b.dtype, wb.tile):
                        uses[j] = uses[i]
                        return _redirect(kernel, key, uses)
    return False


def _redirect(kernel: KernelOp, key: str, uses: Sequence[int]) -> bool:
    """Let a region read one operand where it read another: its arguments by that operand become one."""
    region = kernel.step if key == "step_uses" else kernel.finish
    block = region.block
    first = len(block.args) - len(uses)
    seen: dict[int, int] = {}
    kept: list[int] = []
    for position, operand in reversed(list(enumerate(uses))):
        if operand in list(uses[:position]):
            block.args[first + position].replace_all_uses_with(block.args[first + list(uses).index(operand)])
            block.erase_arg(block.args[first + position])
        else:
            seen[operand] = position
            kept.insert(0, operand)
    return _retile(kernel, **{key: tuple(kept)})


# -- editing regions ---------------------------------------------------------------------------------------------------


def _blocks(kernel: KernelOp) -> list[Block]:
    return [region.block for _, region in kernel.named_regions()]


def _bypass(op: Operation, operand: int) -> bool:
    """Let users of `op` use one of its operands instead."""
    op.results[0].replace_all_uses_with(op.operands[operand])
    op.detach()
    op.erase()
    return True


def _drop(name: str, fn: str | None, operand: int, nth: int = 0, region: str = "") -> Break:
    """Bypass the nth op of a kind."""

    def plant(kernel: KernelOp) -> bool:
        found = 0
        for part, body in kernel.named_regions():
            for op in list(body.block.ops):
                kind = getattr(getattr(op, "fn", None), "data", None)
                if op.name == f"breccia.{name}" and kind == fn and region in ("", part):
                    if found == nth:
                        return _bypass(op, operand)
                    found += 1
        return False

    return plant


def _change(kind: type[Operation], edit: Callable[[Any], bool], *, last: bool = False) -> Break:
    """Edit the first (or last) op of a class that `edit` accepts."""

    def plant(kernel: KernelOp) -> bool:
        found = [op for block in _blocks(kernel) for op in block.ops if isinstance(op, kind)]
        return any(edit(op) for op in (reversed(found) if last else found))

    return plant


def _rename(name: str, old: str, new: str) -> Break:
    """Replace the function of the first op `name old`."""

    def plant(kernel: KernelOp) -> bool:
        for block in _blocks(kernel):
            for op in block.ops:
                if op.name == f"breccia.{name}" and getattr(op, "fn", StringAttr("")).data == old:
                    op.properties["fn"] = StringAttr(new)
                    return True
        return False

    return plant


def _lost_carry(kernel: KernelOp) -> bool:
    """The last sum of step forgets what was carried."""
    if not kernel.step.blocks:
        return False
    carried = set(kernel.step.block.args[: len(kernel.step.block.args) - len(kernel.tiles.step_uses)])
    for op in reversed(list(kernel.step.block.ops)):
        if op.name == "breccia.binary" and op.properties["fn"] == StringAttr("add") and op.operands[0] in carried:
            return _bypass(op, 1)
    return False


def _scaled_twice(kernel: KernelOp) -> bool:
    """A product with a scale is taken once more."""
    for block in _blocks(kernel):
        for op in block.ops:
            if op.name == "breccia.binary" and op.properties["fn"] == StringAttr("mul"):
                again = type(op).make(op.results[0], op.operands[1], fn=StringAttr("mul"))  # type: ignore[attr-defined]
                block.insert_op_after(again, op)
                op.results[0].replace_uses_with_if(again.results[0], lambda use, new=again: use.operation is not new)
                return True
    return False


def _dirty_accumulator(kernel: KernelOp) -> bool:
    """A sum starts at 1. Not where step rescales it first, since the first factor is 0."""
    for op in kernel.init.block.ops if kernel.init.blocks else ():
        if op.name == "breccia.full" and op.properties["value"] == NumberAttr(0.0) and _only_added_to(kernel, op):
            op.properties["value"] = NumberAttr(1.0)
            return True
    return False


def _only_added_to(kernel: KernelOp, first: Operation) -> bool:
    position = list(KernelOp.terminator(kernel.init).args).index(first.results[0])
    users = [use.operation for use in kernel.step.block.args[position].uses]
    return all(u.properties.get("fn") == StringAttr("add") for u in users)


def _lost_bias(kernel: KernelOp) -> bool:
    """An operand that finish adds is left out."""
    for op in list(kernel.finish.block.ops):
        if op.name == "breccia.binary" and op.properties["fn"] == StringAttr("add"):
            if op.operands[1] in kernel.finish.block.args:
                return _bypass(op, 0)
    return False


def _lost_rounding(kernel: KernelOp) -> bool:
    """A value rounded to bf16 and widened again is taken as it was."""
    for block in _blocks(kernel):
        for op in block.ops:
            inner = op.operands[0].owner if op.name == "breccia.convert" else None
            if isinstance(inner, Operation) and inner.name == "breccia.convert":
                if op.results[0].type == inner.operands[0].type:
                    op.results[0].replace_all_uses_with(inner.operands[0])
                    return True
    return False


def _policy(**changes: Any) -> Break:
    def edit(op: Any) -> bool:
        try:
            new = replace(op.policy.data, **changes)
        except ValueError:
            return False
        if new == op.policy.data or (op.recipe.data.innermost.dtype.is_power_of_two and new.scale == "exact"):
            return False
        op.properties["policy"] = PolicyAttr(new)
        return True

    return _change(EncodeOp, edit)


def _mask_value(op: Any) -> bool:
    op.properties["value"] = NumberAttr(op.value.data + 1.0)
    return True


def _mask_late(op: Any) -> bool:
    op.properties["valid"] = DimsAttr((dims.add(op.valid.data[0], 1),))
    return True


def _mask_early(op: Any) -> bool:
    op.properties["valid"] = DimsAttr((dims.sub(op.valid.data[0], 1),))
    return True


def _mask_gone(op: Any) -> bool:
    return _bypass(op, 0)


def _other_sign(op: Any) -> bool:
    from breccia import formats
    from breccia.ir.types import dtype_of, format_of

    pairs = {formats.uint4: formats.int4, formats.int4: formats.uint4, formats.float4_e2m1fn: formats.int4}
    new = pairs.get(format_of(op.dtype))  # type: ignore[arg-type]
    if new is None:
        return False
    op.properties["dtype"] = dtype_of(new)
    return True


def _other_order(op: Any) -> bool:
    op.properties["order"] = StringAttr("packed6")
    return True


def _iota_at_zero(kernel: KernelOp) -> bool:
    for block in _blocks(kernel):
        for op in block.ops:
            if op.name == "breccia.iota" and op.properties["start"] != DimsAttr((0,)):
                op.properties["start"] = DimsAttr((0,))
                return True
    return False


def _windows(change: Callable[[Window, Tiling], Window | None], which: Callable[[KernelOp], list[int]]) -> Break:
    return lambda kernel: _edit(kernel, which(kernel), change)


def _last_thin(kernel: KernelOp) -> list[int]:
    return list(reversed(_thin(kernel)))


def _finish_only(kernel: KernelOp) -> list[int]:
    return [i for i in kernel.tiles.finish_uses if kernel.tiles.inputs[i] is not None]


MUTANTS: tuple[Mutant, ...] = (
    Mutant("dropped k tail", lambda k: _extent_less_one(k, "reduction")),
    Mutant("uncovered block of rows", lambda k: _extent_less_one(k, "parallel")),
    Mutant("scale map ignores k", _windows(_ignore_reduction, _thin)),
    Mutant("weight scale map ignores k", _windows(_ignore_reduction, _last_thin)),
    Mutant("scale map transposed", _windows(_transposed, _last_thin)),
    Mutant("scale map reversed", _windows(_reversed, _thin)),
    Mutant("weight scale map reversed", _windows(_reversed, _last_thin)),
    Mutant("k scale indexed by m", _windows(_reduction_by_row, _thin)),
    Mutant("scale of the next k block", _windows(_next_reduction, _thin)),
    Mutant("zero point of the next k block", _windows(_next_reduction, _last_thin)),
    Mutant("elements of the next k block", _windows(_next_reduction, _wide)),
    Mutant("a by n", _windows(_row_for_column, _wide)),
    Mutant("epilogue operand by n", _windows(_row_for_column, _finish_only)),
    Mutant("window too small", _windows(_half_as_wide, _wide)),
    Mutant("elements transposed", _windows(_transposed, _wide)),
    Mutant("group index not divided", _windows(_not_divided, _wide)),
    Mutant("group index divided twice", _windows(_divided_by_four, _wide)),
    Mutant("always the first expert", _windows(_first_expert, _wide)),
    Mutant("scale of the first expert", _windows(_first_expert, _last_thin)),
    Mutant("rows without their segment", _windows(_no_segment, _wide)),
    Mutant("scale rows without their segment", _windows(_no_segment, _thin)),
    Mutant("segment one row longer", _windows(_longer_segment, _wide)),
    Mutant("causal bound without its diagonal", _without_diagonal),
    Mutant("output race", _output_race),
    Mutant("combine forgotten", _no_combine),
    Mutant("combine max for add", _other_combine),
    Mutant("last output transposed", _transposed_output),
    Mutant("one scale read for another", _step_reads_other_scale),
    Mutant("first scale dropped", _drop("binary", "mul", 0)),
    Mutant("second scale dropped", _drop("binary", "mul", 0, 1)),
    Mutant("epilogue scale dropped", _drop("binary", "mul", 0, region="finish")),
    Mutant("softmax sum not rescaled", _drop("binary", "mul", 0, 1, "step")),
    Mutant("scale applied twice", _scaled_twice),
    Mutant("zero point dropped", _drop("binary", "sub", 0)),
    Mutant("bias dropped", _lost_bias),
    Mutant("activation dropped", _drop("unary", "silu", 0)),
    Mutant("accumulator not carried", _lost_carry),
    Mutant("accumulator not cleared", _dirty_accumulator),
    Mutant("lost rounding", _lost_rounding),
    Mutant("amax without abs", _rename("reduce", "amax", "max")),
    Mutant("max for sum", _rename("reduce", "sum", "max")),
    Mutant("diagonal excluded", _rename("binary", "ge", "gt")),
    Mutant("positions of the first tile", _iota_at_zero),
    Mutant("other scale rule", _policy(scale="floor")),
    Mutant("rounding toward zero on ties", _policy(rounding="ties_zero", scale="even")),
    Mutant("other maximum", _policy(max=1.0)),
    Mutant("unpacked as another format", _change(UnpackOp, _other_sign)),
    Mutant("unpacked in another order", _change(UnpackOp, _other_order)),
    Mutant("missing mask", _change(MaskOp, _mask_gone)),
    Mutant("mask of another value", _change(MaskOp, _mask_value, last=True)),
    Mutant("mask one element late", _change(MaskOp, _mask_late)),
    Mutant("mask one element early", _change(MaskOp, _mask_early)),
)
"""Every planted bug. Each can be told from what it was made of on at least one kernel."""
