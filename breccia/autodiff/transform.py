"""A traced function taken apart into a forward and a backward one.

    func @f(%x, %w) -> %y        func @f(%x, %w) -> %y, %s              // what is saved stands after the results
                            ->   func @f_backward(%dy, %s, %w) -> %dx, %dw

No pass: a pass changes one module in place and keeps what it computes. Here one function becomes two, each in a module
of its own, since a module is compiled into one callable (and `@prepare`). Both are in traced form: all passes follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import BlockArgument, Operation, Region, SSAValue

from breccia.autodiff import arrays, elementwise, scaled
from breccia.autodiff.backward import Backward, Rule, differentiable, gradient_type, no_gradient, shape_of
from breccia.autodiff.products import Product, differentiate_product, encode_products
from breccia.errors import GradientError
from breccia.ir import dims
from breccia.ir.attributes import IntsAttr
from breccia.ir.dims import Sym
from breccia.ir.forms import verify_form
from breccia.ir.functions import COMPARE, LOGIC
from breccia.ir.interpreter import CONSTANTS_KEY
from breccia.ir.ops import (
    AmaxFromHistoryOp,
    BinaryOp,
    BroadcastOp,
    ConcatOp,
    ConvertOp,
    DequantizeOp,
    GroupedMatmulOp,
    HistoryUpdateOp,
    MatmulOp,
    QuantizeOp,
    ReduceOp,
    ReshapeOp,
    ScaleFromAmaxOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    UnaryOp,
)
from breccia.ir.rewriting import erase_dead, functions, with_location
from breccia.ir.types import ScaledType, TensorType, is_float
from breccia.training import TrainingRecipe

T = TypeVar("T")
BACKWARD = "_backward"
"""What is put after a function's name."""
RULES: dict[type[Operation], Rule] = {
    UnaryOp: elementwise.unary,
    BinaryOp: elementwise.binary,
    SelectOp: elementwise.select,
    ConvertOp: elementwise.convert,
    ReduceOp: arrays.reduce,
    BroadcastOp: arrays.broadcast,
    TransposeOp: arrays.transpose,
    ReshapeOp: arrays.reshape,
    SliceOp: arrays.slice,
    ConcatOp: arrays.concat,
    QuantizeOp: scaled.quantize,
    DequantizeOp: scaled.dequantize,
    MatmulOp: scaled.matmul,
    GroupedMatmulOp: scaled.grouped_matmul,
}
STATE = (ScaleFromAmaxOp, HistoryUpdateOp, AmaxFromHistoryOp)
"""What scales are made of: constants to the straight-through estimator."""


@dataclass(frozen=True)
class Saved:
    """Where a value that the backward function takes comes from: an argument or a result of the forward function."""

    kind: Literal["argument", "result"]
    index: int


@dataclass(frozen=True)
class Differentiated:
    """A forward and a backward function, each in a module of its own, and how they fit together.

    Invariants: `forward` returns the `count` results of the function it was made from, then what is saved beyond
    arguments and results. `backward` takes a gradient for each result in `results`, in its shape and dtype, then
    `saved`; it returns a gradient for each argument in `arguments`, in its shape and dtype.
    """

    forward: ModuleOp
    backward: ModuleOp
    count: int
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    saved: tuple[Saved, ...]

    def backward_arguments(self, arguments: Sequence[T], results: Sequence[T], gradients: Sequence[T]) -> list[T]:
        """What to call the backward function with: `results` are all that the forward one returned."""
        given = {"argument": arguments, "result": results}
        return [*gradients, *(given[s.kind][s.index] for s in self.saved)]


def differentiate(module: ModuleOp, arguments: Sequence[int], recipe: TrainingRecipe | None = None) -> Differentiated:
    """The forward and backward function of the only function of `module`, which is in traced form and stays as it is.

    arguments: positions of those whose gradients are wanted; arrays of floats. Results that are arrays of floats have
    gradients, stored elements and integers have none. Gradients are summed in f32 (f64 for f64) and rounded once, to
    the dtype of their argument. An argument that no such result depends on has a gradient of zeros.

    recipe: by which products with a plain matrix on the right are encoded, forward and backward (see `products`).

    Raises GradientError where an op between has no gradient, naming the user's line, and for arguments without one.

    >>> from breccia.ir.dialect import parse_module
    >>> from breccia.ir.interpreter import interpret
    >>> import numpy as np
    >>> made = differentiate(parse_module('''
    ... func.func @square(%x : !breccia.tensor<[M], f32>) -> !breccia.tensor<[M], f32> {
    ...   %y = breccia.unary square %x
    ...   func.return %y : !breccia.tensor<[M], f32>
    ... }'''), [0])
    >>> x = np.float32([1, 3])
    >>> given = made.backward_arguments([x], interpret(made.forward, [x]), [np.float32([1, 1])])
    >>> interpret(made.backward, given)[0].tolist()
    [2.0, 6.0]
    """
    verify_form(module, "traced")
    forward = module.clone()
    found = list(functions(forward))
    if len(found) != 1:
        raise GradientError(f"a module of {len(found)} functions; gradients are made of a module with one")
    function = found[0]
    wanted = [_checked(function, i) for i in arguments]
    products = {} if recipe is None else encode_products(function, recipe)
    returned = function.body.block.last_op
    assert isinstance(returned, ReturnOp), "a function ends with its return"
    outputs = list(returned.operands)
    results = tuple(i for i, v in enumerate(outputs) if isinstance(v.type, TensorType) and is_float(v.type.dtype))
    b = Backward(_active(function, wanted))
    for i in results:
        seed = b.block.insert_arg(outputs[i].type, len(b.block.args))
        seed.name_hint = f"d{outputs[i].name_hint}" if outputs[i].name_hint else None
        b.add(outputs[i], lambda seed=seed: seed)
    _run_rules(b, function, products)
    gradients = [_gradient(b, argument) for argument in wanted]
    b.block.add_op(ReturnOp(*gradients))
    erase_dead(b.block)
    _bind_symbols(b, function)
    saved = _save(function, returned, list(b.saved))
    _forget_constants(function, arguments)
    backward = _backward_module(b, function, gradients, saved)
    for made in (forward, backward):
        made.verify()
    return Differentiated(forward, backward, len(outputs), tuple(arguments), results, saved)


def _checked(function: FuncOp, index: int) -> BlockArgument:
    """An argument whose gradient may be asked for."""
    args = function.body.block.args
    if not 0 <= index < len(args):
        raise GradientError(
            f"@{function.sym_name.data} has arguments 0 to {len(args) - 1}; a gradient of {index} is asked"
        )
    argument = args[index]
    if isinstance(argument.type, TensorType) and is_float(argument.type.dtype):
        return argument
    what = f"argument {index}" + (f" (%{argument.name_hint})" if argument.name_hint else "")
    why = (
        "stored elements are constants; pass the values, and encode them inside with cast_ste"
        if isinstance(argument.type, ScaledType)
        else "only arrays of floats have gradients"
    )
    raise GradientError(f"@{function.sym_name.data}: {what} is {argument.type}, which has no gradient: {why}")


def _active(function: FuncOp, wanted: Sequence[SSAValue]) -> set[SSAValue]:
    """Values with a gradient that depend on a wanted argument."""
    active = set(wanted)
    for op in function.body.block.ops:
        if any(v in active for v in _followed(op)):
            active.update(r for r in op.results if differentiable(r.type))
    return active


def _followed(op: Operation) -> Sequence[SSAValue]:
    """The operands on which an op's result depends as far as gradients know."""
    if isinstance(op, STATE):
        return ()
    if isinstance(op, UnaryOp):
        return () if op.data("fn") in elementwise.FLAT else op.args
    if isinstance(op, BinaryOp):
        fn = op.data("fn")
        return () if fn in (*COMPARE, *LOGIC) else op.args[:1] if fn == "straight_through" else op.args
    return op.args[:1] if isinstance(op, QuantizeOp) else op.operands


def _run_rules(b: Backward, function: FuncOp, products: Mapping[Operation, Product]) -> None:
    """The rule of every op that has the gradient of a result, from the last to the first."""
    for op in reversed(list(function.body.block.ops)):
        reached = [r for r in op.results if r in b.gradients]
        if not reached:
            continue
        b.place = op
        if op in products:
            differentiate_product(b, products[op], b.gradients[reached[0]])
            continue
        rule = RULES.get(type(op))
        if rule is None:
            raise no_gradient(op, "it deals with stored components; dequantize first, or stop_gradient its operand")
        rule(b, op, b.gradients[reached[0]])
    b.place = None


def _gradient(b: Backward, argument: BlockArgument) -> SSAValue:
    """The gradient of an argument in its dtype; zeros where nothing depends on it."""
    assert isinstance(argument.type, TensorType), "checked before"
    found = b.gradients.get(argument)
    if found is None:
        found = b.full(0.0, shape_of(argument), gradient_type(argument.type).dtype)
    made = b.convert(found, argument.type.dtype)
    if isinstance(made.owner, Operation) and argument.name_hint:
        made.name_hint = f"d{argument.name_hint}"
    return made


def _bind_symbols(b: Backward, function: FuncOp) -> None:
    """Save arguments that say what each size of the backward function is, where nothing else that it takes does."""
    for name in sorted(_used(b)):
        held = {d.name for a in b.block.args for d in shape_of(a) if isinstance(d, Sym)}
        if name in held:
            continue
        for argument in function.body.block.args:
            if Sym(name) in shape_of(argument):
                b.save(argument)
                break


def _used(b: Backward) -> set[str]:
    """The symbols in the types of the backward function's values."""
    values = [*b.block.args, *(r for op in b.block.ops for r in op.results)]
    return {name for v in values for d in shape_of(v) for name in dims.symbols(d)}


def _save(function: FuncOp, returned: ReturnOp, values: Sequence[SSAValue]) -> tuple[Saved, ...]:
    """Where each value comes from; what is neither argument nor result becomes another result."""
    outputs, saved = list(returned.operands), list[Saved]()
    arguments: list[SSAValue] = list(function.body.block.args)
    for value in values:
        if value in arguments:
            saved.append(Saved("argument", arguments.index(value)))
            continue
        if value not in outputs:
            outputs.append(value)
        saved.append(Saved("result", outputs.index(value)))
    new = ReturnOp(*outputs)
    new.location = returned.location
    block = function.body.block
    block.erase_op(returned)
    block.add_op(new)
    function.properties["function_type"] = FunctionType.from_lists(
        [a.type for a in block.args], [v.type for v in outputs]
    )
    return tuple(saved)


def _backward_module(b: Backward, function: FuncOp, gradients: Sequence[SSAValue], saved: Sequence[Saved]) -> ModuleOp:
    types = ([a.type for a in b.block.args], [g.type for g in gradients])
    made = FuncOp(function.sym_name.data + BACKWARD, types, Region(b.block))
    with_location(made, function)
    made.attributes.update({k: v for k, v in function.attributes.items() if k != CONSTANTS_KEY})
    constants = function.attributes.get(CONSTANTS_KEY)
    if isinstance(constants, IntsAttr):
        first = len(b.block.args) - len(saved)
        kept = [first + i for i, s in enumerate(saved) if s.kind == "argument" and s.index in constants.data]
        if kept:
            made.attributes[CONSTANTS_KEY] = IntsAttr(tuple(kept))
    module = function.parent_op()
    return ModuleOp([made], dict(module.attributes) if module is not None else {})


def _forget_constants(function: FuncOp, wanted: Sequence[int]) -> None:
    """Arguments whose gradients are wanted change from call to call."""
    constants: Any = function.attributes.get(CONSTANTS_KEY)
    if isinstance(constants, IntsAttr):
        kept = tuple(i for i in constants.data if i not in wanted)
        function.attributes.pop(CONSTANTS_KEY)
        if kept:
            function.attributes[CONSTANTS_KEY] = IntsAttr(kept)
