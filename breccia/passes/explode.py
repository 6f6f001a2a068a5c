"""Take scaled tensors apart where values pass between functions and kernels: components of plain numbers remain.

Contract: exact. Function arguments, results and `breccia.constants` become components; views of scaled tensors are done
on components, or inside the kernels that read them where codes are packed.

    func.func @f(%x: !breccia.scaled<[M, 64], f32, #r, #l>) -> !breccia.tensor<[M, 64], f32> {
      %y = breccia.kernel "rowwise" in (%x) out (..) body (%x) { %d = dequantize %x  yield %d } ..
    // becomes
    func.func @f(%x_elements: !breccia.tensor<[M, 64], f8E4M3FN>, %x_scale0: !breccia.tensor<[M, 2], f8E8M0FNU>) -> .. {
      %y = breccia.kernel "rowwise" in (%x_elements, %x_scale0) out (..) body (%x_elements, %x_scale0) {
        %x = assemble %x_elements, %x_scale0 as !breccia.scaled<..>  %d = dequantize %x  yield %d } ..
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from breccia.ir.attributes import IntsAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import AssembleOp, ConvertLayoutOp, PartsOp, QuantizeOp, TransposeOp, YieldOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import erase_dead, functions, insert_before, replace_op, with_location
from breccia.ir.storage import canonical_layout, storage_types
from breccia.ir.types import LayoutAttr, ScaledType
from breccia.passes._component_views import COMPONENT_VIEWS, view_components
from breccia.passes._given_scales import comes_back

CONSTANTS = "breccia.constants"
SUNK = (TransposeOp, ConvertLayoutOp)
"""Views that move into the kernels that read them."""


@dataclass(frozen=True)
class Explode(BrecciaPass):
    """Afterwards no value at function level is scaled."""

    name: ClassVar[str] = "explode"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for function in functions(module):
            _explode_arguments(function)
            for op in list(function.body.block.ops):
                if isinstance(op, KernelOp):
                    _explode_kernel(op)
                elif isinstance(op, COMPONENT_VIEWS) and isinstance(op.out.type, ScaledType):
                    _explode_view(op)
                elif isinstance(op, ConvertLayoutOp) and op.args[0].type == op.out.type:
                    replace_op(op, [], [op.args[0]])  # of a view, which has its operand's layout by now
                elif isinstance(op, ReturnOp):
                    _explode_return(function, op)
            _fold_parts(function.body.block)
            erase_dead(function.body.block)


# ---- function boundary -----------------------------------------------------------------------------------------------


def _explode_arguments(function: FuncOp) -> None:
    """Replace scaled arguments by their components, assembled at the top of the function."""
    block, positions = function.body.block, dict[int, list[int]]()
    attributes: list[Attribute] = list(function.arg_attrs.data) if function.arg_attrs else []
    new_attributes: list[Attribute] = []
    first, count = block.first_op, 0
    assert first is not None, "a function ends in a return"
    for number, arg in enumerate(list(block.args)):
        types = storage_types(arg.type) if isinstance(arg.type, ScaledType) else []
        positions[number] = list(range(count, count + max(len(types), 1)))
        if attributes:
            new_attributes += [attributes[number]] * max(len(types), 1)
        if types:
            parts: list[SSAValue] = []
            for name, type_ in types:
                part = block.insert_arg(type_, count + len(parts))
                part.location = arg.location
                part.name_hint = f"{arg.name_hint}_{name}" if arg.name_hint else None
                parts.append(part)
            whole = AssembleOp.make(*parts, type=arg.type)
            whole.out.name_hint = arg.name_hint
            insert_before(first, whole)
            arg.replace_all_uses_with(whole.out)
            block.erase_arg(arg)
        count = positions[number][-1] + 1
    if attributes:
        function.properties["arg_attrs"] = ArrayAttr([a for a in new_attributes if isinstance(a, DictionaryAttr)])
    constants = function.attributes.get(CONSTANTS)
    if isinstance(constants, IntsAttr):
        function.attributes[CONSTANTS] = IntsAttr(tuple(p for c in constants.data for p in positions[c]))
    function.update_function_type()


def _explode_return(function: FuncOp, op: ReturnOp) -> None:
    values: list[SSAValue] = []
    for value in op.arguments:
        values += _stored_parts(value, op) if isinstance(value.type, ScaledType) else [value]
    new = ReturnOp(*values)
    replace_op(op, new)
    function.update_function_type()


def _stored_parts(value: SSAValue, before: Operation) -> list[SSAValue]:
    """The components of a scaled value in its own layout; a view that no kernel reads gets a kernel of its own."""
    if isinstance(value.owner, SUNK):
        value = _materialized(value, before)
    parts = PartsOp.make(value)
    insert_before(before, parts)
    return list(parts.outs)


def _materialized(value: SSAValue, before: Operation) -> SSAValue:
    """`value`, a view, stored by a kernel."""
    type_ = value.type
    assert isinstance(type_, ScaledType), "only views of scaled tensors are stored"
    region = Region(Block(arg_types=[type_]))
    region.block.add_op(YieldOp.make(region.block.args[0]))
    region.block.args[0].name_hint = value.name_hint
    kernel = KernelOp.make("layout", [value], [type_], body=region)
    kernel.outs[0].name_hint = value.name_hint
    insert_before(before, kernel)
    with_location(kernel, value.owner if isinstance(value.owner, Operation) else before)
    return _explode_kernel(kernel)[0]


# ---- kernels ---------------------------------------------------------------------------------------------------------


def _explode_kernel(kernel: KernelOp) -> list[SSAValue]:
    """Replace a kernel by one on components; its results, assembled again."""
    _sink_views(kernel)
    _explode_operands(kernel)
    return _explode_results(kernel)


def _sink_views(kernel: KernelOp) -> None:
    """Move transposes and layout conversions of scaled operands into the body."""
    body = kernel.body.block
    number = 0
    while number < len(kernel.args):
        value, arg = kernel.args[number], body.args[number]
        op = value.owner
        if not (isinstance(op, SUNK) and isinstance(value.type, ScaledType)):
            number += 1
            continue
        source = op.args[0]
        inner = body.insert_arg(source.type, number)
        inner.name_hint = source.name_hint
        view = type(op).make(inner, **op.properties)
        view.location = op.location
        view.out.name_hint = arg.name_hint
        _insert_first(body, view)
        arg.replace_all_uses_with(view.out)
        body.erase_arg(arg)
        kernel.operands[number] = source


def _insert_first(body: Block, op: Operation) -> None:
    first = body.first_op
    assert first is not None, "a body ends in a yield"
    body.insert_op_before(op, first)


def _explode_operands(kernel: KernelOp) -> None:
    body = kernel.body.block
    operands: list[SSAValue] = []
    seen: dict[SSAValue, SSAValue] = {}
    for value, arg in zip(list(kernel.args), list(body.args), strict=True):
        parts = [value]
        if isinstance(value.type, ScaledType):
            op = PartsOp.make(value)
            insert_before(kernel, op)
            parts = _folded(op)
        inner: list[SSAValue] = []
        for part in parts:
            if part not in seen:
                new = body.insert_arg(part.type, len(body.args))
                new.name_hint = part.name_hint
                seen[part] = new
                operands.append(part)
            inner.append(seen[part])
        _substitute(kernel, arg, inner)
    for _ in range(len(kernel.args)):
        body.erase_arg(body.args[0])
    kernel.operands = operands


def _substitute(kernel: KernelOp, arg: SSAValue, inner: list[SSAValue]) -> None:
    """Let what stands for an argument inside the body take its place."""
    if not isinstance(arg.type, ScaledType):
        arg.replace_all_uses_with(inner[0])
        return
    whole = with_location(AssembleOp.make(*inner, type=arg.type), kernel)
    whole.out.name_hint = arg.name_hint
    _insert_first(kernel.body.block, whole)
    arg.replace_all_uses_with(whole.out)


def _explode_results(kernel: KernelOp) -> list[SSAValue]:
    """Let a kernel yield components; its results, assembled again.

    A given scale that is an operand of the kernel is no result of it: what reads the result takes the operand.
    """
    terminator = KernelOp.terminator(kernel.body)
    if not any(isinstance(v.type, ScaledType) for v in terminator.args):
        return list(kernel.outs)
    rows = [_inner_parts(v, terminator) if isinstance(v.type, ScaledType) else [v] for v in terminator.args]
    forwarded = {part: _operand_behind(kernel, part) for row in rows for part in row}
    yields = [part for row in rows for part in row if forwarded[part] is None]
    replace_op(terminator, YieldOp.make(*yields))
    new = KernelOp.make(
        kernel.kernel_name, list(kernel.args), [y.type for y in yields],
        body=_moved_body(kernel), schedule=kernel.schedule,
    )  # fmt: skip
    new.attributes.update(kernel.attributes)
    erase_dead(new.body.block)
    results: dict[SSAValue, SSAValue] = dict(zip(yields, new.outs, strict=True))
    wholes: list[Operation] = []
    values: list[SSAValue] = []
    for old, row in zip(list(kernel.outs), rows, strict=True):
        parts = [forwarded[part] or results[part] for part in row]
        if isinstance(old.type, ScaledType):
            _name_parts(old, [results.get(part) for part in row])
            whole = AssembleOp.make(*parts, type=old.type)
            wholes.append(whole)
            values.append(whole.out)
        else:
            values.append(parts[0])
    replace_op(kernel, [new, *wholes], values)
    return values


def _operand_behind(kernel: KernelOp, part: SSAValue) -> SSAValue | None:
    """The operand that a component of a result is, where it is a given scale in row-major order."""
    op = part.owner
    if not isinstance(op, PartsOp):
        return None
    source = op.args[0]
    type_ = source.type
    assert isinstance(type_, ScaledType), "parts takes a scaled tensor apart"
    name, stored = storage_types(type_)[op.outs.index(part)]
    while isinstance(source.owner, ConvertLayoutOp):
        source = source.owner.args[0]
    quantize = source.owner
    if not isinstance(quantize, QuantizeOp) or quantize.given is None or not name.startswith("scale"):
        return None
    levels: tuple[int, ...] = quantize.given.data  # type: ignore[attr-defined]
    level = int(name.removeprefix("scale"))
    scale = quantize.args[1 + levels.index(level)] if level in levels else None
    if not isinstance(scale, BlockArgument) or scale.type != stored or not comes_back(quantize, level):
        return None
    return kernel.args[kernel.body.block.args.index(scale)]


def _moved_body(kernel: KernelOp) -> Region:
    region = Region()
    kernel.body.move_blocks(region)
    return region


def _inner_parts(value: SSAValue, terminator: Operation) -> list[SSAValue]:
    parts = PartsOp.make(value)
    insert_before(terminator, parts)
    return list(parts.outs)


def _name_parts(whole: SSAValue, parts: list[SSAValue | None]) -> None:
    assert isinstance(whole.type, ScaledType), "only scaled values have parts"
    for (name, _), part in zip(storage_types(whole.type), parts, strict=True):
        if part is not None:
            part.name_hint = f"{whole.name_hint}_{name}" if whole.name_hint else name


# ---- views on components ---------------------------------------------------------------------------------------------


def _explode_view(op: Operation) -> None:
    """Do a reshape, slice or concat of scaled tensors on their components."""
    parts: list[list[SSAValue]] = []
    for value in op.operands:
        source = _materialized(value, op) if isinstance(value.owner, SUNK) else value
        taken = PartsOp.make(source)
        insert_before(op, taken)
        parts.append(_folded(taken))
    out = op.results[0]
    assert isinstance(out.type, ScaledType), "views of scaled tensors are scaled"
    new_type = out.type if isinstance(out.type.layout, LayoutAttr) else out.type.with_layout(_layout_of(op))
    views = view_components(op, parts, new_type)
    whole = AssembleOp.make(*(v.results[0] for v in views), type=new_type)
    replace_op(op, [*views, whole], [whole.out])


def _layout_of(op: Operation) -> LayoutAttr:
    """The layout that a view keeps: its operand's."""
    type_ = op.operands[0].type
    assert isinstance(type_, ScaledType), "views of scaled tensors take scaled tensors"
    return type_.layout if isinstance(type_.layout, LayoutAttr) else canonical_layout(type_)


def _folded(parts: PartsOp) -> list[SSAValue]:
    """The values that a `parts` gives, without it where they are at hand."""
    source = parts.args[0].owner
    if isinstance(source, AssembleOp) and source.out.type == parts.args[0].type:
        replace_op(parts, [], list(source.args))
        return list(source.args)
    return list(parts.outs)


def _fold_parts(block: Block) -> None:
    for op in list(block.ops):
        if isinstance(op, PartsOp):
            _folded(op)
