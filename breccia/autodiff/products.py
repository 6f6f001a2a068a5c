"""Products of a linear layer by a `TrainingRecipe`: encoded forward, and each gradient from operands of its own.

    %y = breccia.matmul %x, %w
    ->  %qx = quantize %x along K    %qw = quantize %w along K     %y  = matmul %qx, %qw
        %cx = quantize %x along M    (forward too: one kernel reads %x once and writes both; %cx is saved, not %x)
    backward:
        %qd = quantize %dy along N   %rw = quantize %w along N     %dx = matmul %qd, transpose %rw
        %cd = quantize %dy along M                                 %dw = matmul transpose %cx, %cd

Where a recipe is the same along both axes (a scale for the tensor, blocks of 128x128), its one encoding serves both.
All gradients go straight through, as if nothing were encoded: here nothing is clipped, whatever the policy saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from xdsl.dialects import builtin
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from breccia.autodiff.backward import Backward, shape_of
from breccia.autodiff.scaled import gradient_operand, transposed
from breccia.ir import dims
from breccia.ir.attributes import PolicyAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim
from breccia.ir.ops import MatmulOp, QuantizeOp, ReshapeOp
from breccia.ir.rewriting import inserted, replace_op
from breccia.ir.types import DimsAttr, RecipeAttr, TensorType, decode_half
from breccia.recipes import Recipe
from breccia.training import TrainingRecipe

Emit = Callable[[BrecciaOp], SSAValue]
_VALUES = (builtin.f32, builtin.bf16, builtin.f16)


@dataclass(frozen=True)
class Product:
    """A product by a recipe: its operands as they were, and as they are multiplied.

    Invariants: `x` is [.., M, K] and `w` [K, N], both plain; `op` multiplies `encoded_x` and `encoded_w`.
    """

    op: MatmulOp
    x: SSAValue
    w: SSAValue
    encoded_x: SSAValue
    encoded_w: SSAValue
    recipe: TrainingRecipe


def encode_products(function: FuncOp, recipe: TrainingRecipe) -> dict[Operation, Product]:
    """Encode the operands of every product with a matrix, as a linear layer's is; the new products.

    Products of more axes on the right (attention) and with operands that are scaled already stay as they are.
    """
    made: dict[Operation, Product] = {}
    for op in list(function.body.block.ops):
        if isinstance(op, MatmulOp) and _is_linear(op):
            product = _encoded(op, recipe)
            made[product.op] = product
    return made


def _is_linear(op: MatmulOp) -> bool:
    plain = all(isinstance(a.type, TensorType) and a.type.dtype in _VALUES for a in op.args)
    return plain and len(shape_of(op.args[1])) == 2


def _encoded(op: MatmulOp, recipe: TrainingRecipe) -> Product:
    def emit(new: BrecciaOp) -> SSAValue:
        return inserted(op, new)

    x, w = op.args
    encoded_x, encoded_w = encode(emit, x, recipe.x, -1), encode(emit, w, recipe.w, 0)
    new = MatmulOp.make(encoded_x, encoded_w, **op.properties)
    new.attributes.update(op.attributes)
    replace_op(op, new)
    return Product(new, x, w, encoded_x, encoded_w, recipe)


def encode(emit: Emit, x: SSAValue, recipe: Recipe | None, axis: int) -> SSAValue:
    """`x` encoded with blocks along an axis; itself without a recipe."""
    if recipe is None:
        return x
    rank = len(shape_of(x))
    laid = recipe.along(axis, rank)
    made = emit(QuantizeOp.make(x, policy=PolicyAttr(laid.policy), recipe=RecipeAttr(decode_half(laid, rank))))
    made.name_hint = f"{x.name_hint}_{'rows' if axis == -1 else 'columns'}" if x.name_hint else None
    return made


def differentiate_product(b: Backward, product: Product, g: SSAValue) -> None:
    """Both gradients of a product, each from operands that are encoded for it."""
    plain = gradient_operand(b, product.x, product.w, g)
    b.add(product.x, lambda: _input_gradient(b, product, g, plain))
    b.add(product.w, lambda: _weight_gradient(b, product, g, plain))


def _emitter(b: Backward) -> Emit:
    def emit(op: BrecciaOp) -> SSAValue:
        return b.append(op)[0]

    return emit


def _input_gradient(b: Backward, product: Product, g: SSAValue, plain: SSAValue) -> SSAValue:
    recipe, emit = product.recipe, _emitter(b)
    dy = plain if recipe.dy is None else encode(emit, g, recipe.dy, -1)
    if recipe.w is not None and same(recipe.w, 0, recipe.w, 1):
        w = b.save(product.encoded_w)
    else:
        w = encode(emit, b.save(product.w), recipe.w, -1)
    return b.emit(MatmulOp, dy, transposed(b, w))


def _weight_gradient(b: Backward, product: Product, g: SSAValue, plain: SSAValue) -> SSAValue:
    recipe, emit = product.recipe, _emitter(b)
    of_x, of_dy = recipe.weight_gradient
    if of_x is not None and recipe.x is not None and same(recipe.x, -1, of_x, 0) and _is_matrix(product.x, of_x):
        x = rows(emit, b.save(product.encoded_x))
    elif of_x is None:
        x = rows(emit, b.save(product.x))
    else:  # in the forward function, beside the other encoding of x

        def beside(op: BrecciaOp) -> SSAValue:
            return inserted(product.op, op)

        x = b.save(encode(beside, rows(beside, product.x), of_x, 0))
    dy = rows(emit, plain) if of_dy is None else encode(emit, rows(emit, g), of_dy, 0)
    return b.emit(MatmulOp, transposed(b, x), dy)


def _is_matrix(x: SSAValue, recipe: Recipe) -> bool:
    """True where encoding `x` and encoding it as a matrix are the same: it is one, or its scales are of the tensor."""
    return len(shape_of(x)) == 2 or all(level.block is None for level in recipe.levels)


def same(one: Recipe, axis: int, other: Recipe, other_axis: int) -> bool:
    """True if a matrix is encoded alike by two recipes along two axes."""
    a, b = one.along(axis, 2), other.along(other_axis, 2)
    return a.policy == b.policy and decode_half(a, 2).decode_key == decode_half(b, 2).decode_key


def rows(emit: Emit, x: SSAValue) -> SSAValue:
    """`x` with its leading axes as one: [.., M, K] as a matrix."""
    shape = shape_of(x)
    if len(shape) == 2:
        return x
    lead: Dim = reduce(dims.mul, shape[:-1])
    return emit(ReshapeOp.make(x, shape=DimsAttr((lead, shape[-1]))))
