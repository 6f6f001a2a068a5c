"""Gives every scaled tensor at a boundary its memory order. Contract: exact.

Function arguments and results are canonical (row-major, codes of 4 and 6 bits packed). Where a target asks for another
order of what a product reads, the kernel that makes it writes that order, and everything else is converted:

    %q = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<.., #r>) ..
    %y = breccia.kernel "gemm_0" in (%q, %w) ..
    ->  %q = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<.., #r, #swizzled>) ..   // written that way
        %v = breccia.convert_layout %w to #swizzled                                           // hoist-prepare moves it
        %y = breccia.kernel "gemm_0" in (%q, %v) ..
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue, Use

from breccia.ir.capabilities import Capabilities, target_of
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertLayoutOp, GroupedMatmulOp, MatmulOp, PartsOp, YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions, insert_before, replace_op, retype, with_location
from breccia.ir.storage import canonical_layout
from breccia.ir.types import LayoutAttr, ScaledType, component_types

_READ_BY_THE_DOT = ("mma", "mainloop")
"""Placements whose scales are read in the loop over k, where their order in memory matters."""


@dataclass(frozen=True)
class AssignLayouts(BrecciaPass):
    """Invariants: function boundaries are canonical; every scaled operand and result of a kernel has a layout."""

    name: ClassVar[str] = "assign-layouts"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        capabilities = target_of(module, self.name)
        for function in functions(module):
            _Assignment(function, capabilities).run()


class _Assignment:
    """State while one function is laid out: conversions made so far, so that each is made once."""

    def __init__(self, function: FuncOp, capabilities: Capabilities) -> None:
        self.function = function
        self.capabilities = capabilities
        self.made: dict[tuple[SSAValue, LayoutAttr], SSAValue] = {}
        self.kernels = 0

    def run(self) -> None:
        block = self.function.body.block
        for arg in list(block.args):
            if isinstance(arg.type, ScaledType):
                _retype(arg, canonical_layout(arg.type))
        for op in list(block.ops):
            if isinstance(op, KernelOp):
                self._operands(op)
                self._results(op)
            elif isinstance(op, ReturnOp):
                self._canonical_operands(op)
            elif isinstance(op, PartsOp):
                self._wrap(op)
            elif not isinstance(op, ConvertLayoutOp):
                self._view(op)
        self.function.update_function_type()

    # ---- kernels ---------------------------------------------------------------------------------------------------

    def _operands(self, kernel: KernelOp) -> None:
        for i, (value, arg) in enumerate(zip(list(kernel.args), list(kernel.body.block.args), strict=True)):
            if not isinstance(value.type, ScaledType):
                continue
            wish = self._wish(kernel, i)
            value = value if wish is None else self._converted(value, wish, kernel)
            kernel.operands[i] = value
            assert isinstance(value.type, ScaledType), "conversions keep tensors scaled"
            assert isinstance(value.type.layout, LayoutAttr), "producers come first, so they have a layout by now"
            _retype(arg, value.type.layout)

    def _results(self, kernel: KernelOp) -> None:
        terminator = kernel.terminator(kernel.body)
        for i, out in enumerate(list(kernel.outs)):
            if not isinstance(out.type, ScaledType):
                continue
            layout = self._result_layout(out)
            inner = terminator.args[i]
            assert isinstance(inner.type, ScaledType), "the verifier holds yields to the results' types"
            if inner.type.layout != layout:
                convert = ConvertLayoutOp.make(inner, layout=layout)
                convert.out.name_hint = inner.name_hint
                insert_before(terminator, convert)
                terminator.operands[i] = convert.out
            _retype(out, layout)

    def _result_layout(self, out: SSAValue) -> LayoutAttr:
        """What the readers ask for, if any of them asks; else what the target likes to write; else canonical."""
        assert isinstance(out.type, ScaledType), "only scaled results have layouts"
        canonical = canonical_layout(out.type)
        wishes: list[LayoutAttr | None] = []
        for use in out.uses:
            user = use.operation
            wishes.append(self._wish(user, use.index) if isinstance(user, KernelOp) else canonical)
        asked = [w for w in wishes if w is not None]
        if not asked:
            return self._layout(out.type, "out", scales=True) or canonical
        return min(asked, key=lambda w: (-asked.count(w), str(w)))

    def _wish(self, kernel: KernelOp, index: int) -> LayoutAttr | None:
        """The layout that a kernel wants operand `index` in; None where it takes any."""
        arg = kernel.body.block.args[index]
        assert isinstance(arg.type, ScaledType), "only scaled operands have layouts"
        for use in arg.uses:
            op = use.operation
            if isinstance(op, MatmulOp | GroupedMatmulOp) and use.index < 2:
                side = "ab"[use.index]
                place = op.properties.get(f"place_{side}")
                read = place is not None and place.data[-1] in _READ_BY_THE_DOT  # type: ignore[attr-defined]
                return self._layout(arg.type, side, scales=read)
        return None

    def _layout(self, type_: ScaledType, side: str, *, scales: bool) -> LayoutAttr | None:
        """The canonical layout with what the target asks for, or None where it asks for nothing.

        scales: whether the innermost scales count as well.
        """
        canonical = canonical_layout(type_)
        innermost = f"scale{len(type_.recipe.levels) - 1}"
        orders: list[tuple[str, str]] = []
        for (name, component), (_, order) in zip(component_types(type_), canonical.data, strict=True):
            role = {"elements": f"{side}_elements"}.get(name, f"{side}_scale")
            fmt = component.format
            rows = [
                row.order
                for row in self.capabilities.layouts
                if row.role == role and row.format in ("any", fmt.mlir if fmt else "")
            ]
            counts = name == "elements" or (name == innermost and scales)
            orders.append((name, rows[0] if rows and counts and type_.rank > 1 else order))
        wanted = LayoutAttr(tuple(orders))
        return None if wanted == canonical else wanted

    # ---- everything else -------------------------------------------------------------------------------------------

    def _converted(self, value: SSAValue, layout: LayoutAttr, before: Operation) -> SSAValue:
        """`value` in another layout, by a conversion that stands before `before` or earlier."""
        assert isinstance(value.type, ScaledType), "only scaled values have layouts"
        if value.type.layout == layout:
            return value
        if (value, layout) not in self.made:
            convert = ConvertLayoutOp.make(value, layout=layout)
            convert.out.name_hint = value.name_hint
            insert_before(before, convert)
            self.made[value, layout] = convert.out
        return self.made[value, layout]

    def _canonical_operands(self, op: Operation) -> None:
        for i, value in enumerate(op.operands):
            if isinstance(value.type, ScaledType):
                op.operands[i] = self._converted(value, canonical_layout(value.type), op)

    def _view(self, op: Operation) -> None:
        """Views read and write canonical order; the types of their results say so by a conversion."""
        self._canonical_operands(op)
        for result in op.results:
            if not isinstance(result.type, ScaledType) or isinstance(result.type.layout, LayoutAttr):
                continue
            convert = with_location(ConvertLayoutOp.make(result, layout=canonical_layout(result.type)), op)
            convert.out.name_hint = result.name_hint
            block = op.parent_block()
            assert block is not None, "the view stands in a function"
            block.insert_op_after(convert, op)
            result.replace_uses_with_if(convert.out, _not_by(convert))

    def _wrap(self, op: PartsOp) -> None:
        """Taking unpacked components out of a packed tensor is work, so it becomes a kernel."""
        value = op.args[0]
        assert isinstance(value.type, ScaledType), "parts takes a scaled tensor"
        wanted = [o.type for o in op.outs]
        if PartsOp.infer([value.type], {}) == wanted:
            return
        plain = LayoutAttr(tuple((name, "row_major") for name, _ in component_types(value.type)))
        body = Block(arg_types=[value.type])
        body.args[0].name_hint = value.name_hint
        convert = ConvertLayoutOp.make(body.args[0], layout=plain)
        parts = PartsOp.make(convert)
        body.add_ops([convert, parts, YieldOp.make(*parts.outs)])
        kernel = KernelOp.make(self._name(), [value], wanted, body=Region(body))
        replace_op(op, kernel)

    def _name(self) -> str:
        taken = {k.kernel_name for k in _kernels(self.function)}
        while f"parts_{self.kernels}" in taken:
            self.kernels += 1
        return f"parts_{self.kernels}"


def _kernels(function: FuncOp) -> Iterator[KernelOp]:
    return (op for op in function.body.block.ops if isinstance(op, KernelOp))


def _not_by(op: Operation) -> Callable[[Use], bool]:
    return lambda use: use.operation is not op


def _retype(value: SSAValue, layout: LayoutAttr) -> None:
    """Give a scaled value a layout, in place."""
    assert isinstance(value.type, ScaledType), "only scaled values have layouts"
    if value.type.layout == layout:
        return
    retype(value, value.type.with_layout(layout))
