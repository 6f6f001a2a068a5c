"""Moves what is made of constant arguments alone to `@prepare`, which runs once. Contract: exact.

`@prepare` takes the constant arguments and gives each one back as the function wants it, one for one and in order; the
function's argument has the converted type from then on. A constant that is read in two forms stays as it is. Kernels
that encode scaled constants anew move too: what they make follows, as further arguments of the function. (Constant
arrays may be written to between calls; scaled tensors are frozen.)

    func.func @f(%x: .., %w: !breccia.scaled<.., #r, #canonical>) attributes {breccia.constants = #breccia.ints[1]} {
      %v = breccia.convert_layout %w to #swizzled   ..
    ->  func.func @f(%x: .., %w: !breccia.scaled<.., #r, #swizzled>) attributes {breccia.constants = ..} { .. }
        func.func @prepare(%w: !breccia.scaled<.., #r, #canonical>) -> !breccia.scaled<.., #r, #swizzled> {
          %v = breccia.convert_layout %w to #swizzled
          func.return %v : .. }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from breccia.errors import PassError
from breccia.ir.attributes import IntsAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertLayoutOp, QuantizeOp, ReshapeOp, SliceOp, TransposeOp
from breccia.ir.pipeline import BrecciaPass
from breccia.ir.rewriting import functions, retype, with_location
from breccia.ir.types import ScaledType

PREPARE = "prepare"
CONSTANTS = "breccia.constants"
"""Attribute of a function: the positions of its constant arguments."""
_MOVED = (ConvertLayoutOp, TransposeOp, ReshapeOp, SliceOp)
_READ = (ConvertLayoutOp, TransposeOp)
"""Views between a constant and a kernel that encodes it."""


@dataclass(frozen=True)
class HoistPrepare(BrecciaPass):
    """Invariants: `@prepare` has one argument and one result for each constant, also for those that it leaves alone;
    its further results are the last arguments of the function.
    """

    name: ClassVar[str] = "hoist-prepare"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        found = list(functions(module))
        if any(f.sym_name.data == PREPARE for f in found):
            return
        with_work = [(f, chains) for f in found for chains in [_chains(f)] if any(chains) or _encoded(f)]
        if len(with_work) > 1:
            names = ", ".join(f"@{f.sym_name.data}" for f, _ in with_work)
            raise PassError(f"hoist-prepare: {names} all have constants to prepare; a module holds one such function")
        for function, chains in with_work:
            module.body.block.add_op(_prepare(function, chains))


def constants(function: FuncOp) -> tuple[int, ...]:
    """The positions of a function's constant arguments; raises PassError for what are no such positions."""
    attribute = function.attributes.get(CONSTANTS)
    positions = attribute.data if isinstance(attribute, IntsAttr) else ()
    count = len(function.body.block.args)
    bad = [p for p in positions if not 0 <= p < count]
    if bad or len(set(positions)) < len(positions):
        raise PassError(
            f"{CONSTANTS} of @{function.sym_name.data} is {list(positions)}; positions of its {count} arguments are "
            "wanted, each once"
        )
    return positions


def _chains(function: FuncOp) -> list[list[Operation]]:
    """For each constant, the ops that turn it into the one form in which it is read: up to the last conversion."""
    return [_chain(function.body.block.args[position]) for position in constants(function)]


def _chain(value: SSAValue) -> list[Operation]:
    ops: list[Operation] = []
    while True:
        use = value.get_unique_use()
        if use is None or not isinstance(use.operation, _MOVED):
            break
        ops.append(use.operation)
        value = use.operation.results[0]
    while ops and not isinstance(ops[-1], ConvertLayoutOp):
        ops.pop()
    return ops


def _prepare(function: FuncOp, chains: list[list[Operation]]) -> FuncOp:
    block = function.body.block
    args = [block.args[position] for position in constants(function)]
    body = Block(arg_types=[a.type for a in args])
    results: list[SSAValue] = []
    for arg, inner, chain in zip(args, list(body.args), chains, strict=True):
        inner.name_hint, inner.location = arg.name_hint, arg.location
        results.append(_moved(arg, inner, chain, body))
    inside = dict[SSAValue, SSAValue](zip(args, body.args, strict=True))
    results += _encode_once(function, inside, body)
    body.add_op(with_location(ReturnOp(*results), function.get_return_op() or function))
    types = FunctionType.from_lists([a.type for a in body.args], [r.type for r in results])
    prepare = FuncOp(PREPARE, types, Region(body))
    prepare.location = function.location
    function.update_function_type()
    return prepare


def _encoded(function: FuncOp) -> list[Operation]:
    """Kernels that encode scaled constants and read nothing else, and the views of constants that they read."""
    block = function.body.block
    known: set[SSAValue] = {a for p in constants(function) if isinstance((a := block.args[p]).type, ScaledType)}
    wanted: set[Operation] = set()
    for op in block.ops:
        if not isinstance(op, (KernelOp, *_READ)) or not known.issuperset(op.operands):
            continue
        if isinstance(op, _READ) or any(isinstance(inner, QuantizeOp) for inner in op.walk()):
            known.update(op.results)
            wanted |= {op} if isinstance(op, KernelOp) else set()
    for op in reversed(list(block.ops)):
        readers = [use.operation for r in op.results for use in r.uses]
        if isinstance(op, _READ) and op.out in known and readers and wanted.issuperset(readers):
            wanted.add(op)
    kernels = [op for op in wanted if isinstance(op, KernelOp)]
    read = {v.owner for op in kernels for v in op.operands if isinstance(v.owner, Operation)}
    return [op for op in block.ops if op in wanted] if read <= wanted else []


def _encode_once(function: FuncOp, inside: dict[SSAValue, SSAValue], body: Block) -> list[SSAValue]:
    """Move the kernels that encode constants to `body`; what the function reads of their results becomes arguments."""
    block = function.body.block
    found = _encoded(function)
    made: list[SSAValue] = []
    for op in found:
        body.add_op(op.clone(inside))
    for op in reversed(found):
        for result in op.results:
            if not result.uses:
                continue
            argument = block.insert_arg(result.type, len(block.args))
            argument.name_hint, argument.location = result.name_hint, op.location
            result.replace_all_uses_with(argument)
            made.append(inside[result])
        op.detach()
        op.erase()
    return made


def _moved(arg: SSAValue, inner: SSAValue, chain: list[Operation], body: Block) -> SSAValue:
    """Move a chain from the argument `arg` to the body, where it starts from `inner`; what it ends in."""
    if not chain:
        return inner
    last = chain[-1].results[0]
    chain[0].operands[0] = inner
    last.replace_all_uses_with(retype(arg, last.type))
    for op in chain:
        op.detach()
        body.add_op(op)
    return last
