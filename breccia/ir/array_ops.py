"""Ops on whole tensors that know nothing of encoding: constants, elementwise functions, reductions and views.

Elementwise ops compute in f32, f64 or integers only, so that every rounding is an op of its own (`convert`,
`quantize`). Views (`transpose`, `reshape`, `slice`, `concat`) also take scaled tensors where no block is cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute
from xdsl.irdl import irdl_op_definition, prop_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from breccia.ir import dims
from breccia.ir.base import (
    BrecciaOp,
    Field,
    as_array,
    as_compute,
    as_tensor,
    broadcast_shapes,
    check_axis,
    known_function,
    show_shape,
)
from breccia.ir.dims import Dim
from breccia.ir.functions import BINARY, COMPARE, LOGIC, REDUCE, TRUTH, UNARY
from breccia.ir.types import ScaledType, permuted, tensor, with_shape
from breccia.recipes import Level, Recipe

Props = Mapping[str, Any]
Types = Sequence[Attribute]


@irdl_op_definition
class FullOp(BrecciaOp):
    """A constant: `%c = breccia.full 1.0 [1, 1] : f32`. Rank 0 is `[]`."""

    name = "breccia.full"
    value = prop_def()
    shape = prop_def()
    dtype = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (0, 0)
    SYNTAX: ClassVar = (Field("value", "number"), Field("shape", "dims"), Field("dtype", "type", ":"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [tensor(props["shape"].data, props["dtype"])]


@irdl_op_definition
class IotaOp(BrecciaOp):
    """Positions along an axis: `%i = breccia.iota axis 1 start 0 [1, N] : i32` holds `start + index`."""

    name = "breccia.iota"
    axis = prop_def()
    start = prop_def()
    shape = prop_def()
    dtype = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (0, 0)
    SYNTAX: ClassVar = (
        Field("axis", "int", "axis"),
        Field("start", "dim", "start"),
        Field("shape", "dims"),
        Field("dtype", "type", ":"),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        check_axis("iota", props["axis"].data, len(props["shape"].data))
        return [tensor(props["shape"].data, props["dtype"])]


@irdl_op_definition
class UnaryOp(BrecciaOp):
    """`%y = breccia.unary silu %x`."""

    name = "breccia.unary"
    fn = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("fn", "word"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        fn = known_function("unary", props["fn"].data, UNARY)
        t = as_compute(f"unary {fn}", "the operand", types[0])
        return [tensor(t.shape, i1) if fn in TRUTH else t]


@irdl_op_definition
class BinaryOp(BrecciaOp):
    """`%z = breccia.binary add %x, %y`: shapes broadcast as in NumPy, dtypes must agree. Comparisons give i1."""

    name = "breccia.binary"
    fn = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)
    SYNTAX: ClassVar = (Field("fn", "word"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        fn = known_function("binary", props["fn"].data, BINARY)
        a, b = as_compute(f"binary {fn}", "operand 0", types[0]), as_compute(f"binary {fn}", "operand 1", types[1])
        if a.dtype != b.dtype:
            raise VerifyException(f"binary {fn}: dtypes {a.dtype} and {b.dtype} differ; convert one of them first")
        if fn in LOGIC and a.dtype != i1:
            raise VerifyException(f"binary {fn}: takes truth values (i1), not {a.dtype}")
        shape = broadcast_shapes(f"binary {fn}", [a.shape, b.shape])
        return [tensor(shape, i1 if fn in COMPARE else a.dtype)]


@irdl_op_definition
class SelectOp(BrecciaOp):
    """`%z = breccia.select %condition, %x, %y`: x where the condition (i1) holds, else y."""

    name = "breccia.select"
    traits = traits_def(Pure())
    ARITY: ClassVar = (3, 3)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        c, x, y = (as_compute("select", f"operand {i}", t) for i, t in enumerate(types))
        if c.dtype != i1 or x.dtype != y.dtype:
            raise VerifyException(f"select: takes (i1, T, T), not ({c.dtype}, {x.dtype}, {y.dtype})")
        return [tensor(broadcast_shapes("select", [c.shape, x.shape, y.shape]), x.dtype)]


@irdl_op_definition
class ConvertOp(BrecciaOp):
    """`%y = breccia.convert %x : bf16`: the only change of dtype; one rounding to nearest even.

    From an element format it decodes; to one of 8 bits or fewer it saturates, and NaN stays NaN where there is one.
    """

    name = "breccia.convert"
    dtype = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("dtype", "type", ":"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [tensor(as_tensor("convert", "the operand", types[0]).shape, props["dtype"])]


@irdl_op_definition
class ReduceOp(BrecciaOp):
    """`%s = breccia.reduce sum %x axis [1]`: reduced axes stay with size 1."""

    name = "breccia.reduce"
    fn = prop_def()
    axes = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("fn", "word"), Field("axes", "ints", "axis"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        fn = known_function("reduce", props["fn"].data, REDUCE)
        t = as_compute(f"reduce {fn}", "the operand", types[0])
        axes = props["axes"].data
        for axis in axes:
            check_axis(f"reduce {fn}", axis, t.rank)
        return [tensor([1 if i in axes else d for i, d in enumerate(t.shape)], t.dtype)]


@irdl_op_definition
class BroadcastOp(BrecciaOp):
    """`%y = breccia.broadcast %x to [M, 64]`, by NumPy's rule."""

    name = "breccia.broadcast"
    shape = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("shape", "dims", "to"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t = as_tensor("broadcast", "the operand", types[0])
        if broadcast_shapes("broadcast", [t.shape, props["shape"].data]) != props["shape"].data:
            raise VerifyException(
                f"broadcast: {show_shape(t.shape)} does not broadcast to {show_shape(props['shape'].data)}"
            )
        return [tensor(props["shape"].data, t.dtype)]


@irdl_op_definition
class TransposeOp(BrecciaOp):
    """`%y = breccia.transpose %x [1, 0]`: result axis i is axis `order[i]` of %x; blocks move along."""

    name = "breccia.transpose"
    order = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("order", "ints"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, order = as_array("transpose", "the operand", types[0]), props["order"].data
        if sorted(order) != list(range(t.rank)):
            raise VerifyException(f"transpose: {list(order)} is no permutation of the axes of {t}")
        return [permuted(t, order) if isinstance(t, ScaledType) else tensor([t.shape[i] for i in order], t.dtype)]


def _factors(shape: Sequence[Dim]) -> tuple[int, Counter[str]]:
    """The number of elements as a constant and a bag of symbolic factors, for comparing sizes."""
    constant, bag = 1, Counter[str]()
    pending = list(shape)
    while pending:
        d = pending.pop()
        if isinstance(d, int):
            constant *= d
        elif isinstance(d, dims.Op) and d.kind == "mul":
            pending += [d.left, d.right]
        else:
            bag[dims.show(d)] += 1
    return constant, bag


def reshaped_recipe(t: ScaledType, shape: Sequence[Dim]) -> Recipe:
    """The recipe after a reshape, which may only regroup leading axes that no block spans; else VerifyException."""
    keep = 0
    while keep < min(t.rank, len(shape)) and t.shape[-1 - keep] == shape[-1 - keep]:
        keep += 1
    lead, new_lead = t.rank - keep, len(shape) - keep
    levels: list[Level] = []
    for level in t.recipe.levels:
        block = level.resolve(t.rank)
        front = set(block[:lead])
        if not front <= {1} and not front <= {None}:
            raise VerifyException(
                f"reshape: {show_shape(t.shape)} to {show_shape(shape)} would regroup axes that blocks of {block} lie "
                f"along; only leading axes with blocks of 1 can be regrouped. Quantize after reshaping"
            )
        whole = set(block) == {None}
        if front == {None} and not whole:
            raise VerifyException(f"reshape: blocks of {block} span axes that {show_shape(shape)} regroups")
        levels.append(Level(level.dtype, (None if whole else 1,) * new_lead + block[lead:]))
    return Recipe(t.recipe.element, tuple(levels), t.recipe.zero_point, t.recipe.offset, t.recipe.policy)


@irdl_op_definition
class ReshapeOp(BrecciaOp):
    """`%y = breccia.reshape %x to [M, 4, 64]`. A scaled tensor keeps its blocked axes as they are."""

    name = "breccia.reshape"
    shape = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("shape", "dims", "to"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, shape = as_array("reshape", "the operand", types[0]), props["shape"].data
        if _factors(t.shape) != _factors(shape):
            raise VerifyException(
                f"reshape: {show_shape(t.shape)} and {show_shape(shape)} hold different numbers of elements"
            )
        if isinstance(t, ScaledType):
            return [with_shape(t, shape, reshaped_recipe(t, shape))]
        return [tensor(shape, t.dtype)]


@irdl_op_definition
class SliceOp(BrecciaOp):
    """`%y = breccia.slice %x axis 0 from 0 to 128`: of a scaled tensor, only at block borders."""

    name = "breccia.slice"
    axis = prop_def()
    start = prop_def()
    stop = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("axis", "int", "axis"), Field("start", "dim", "from"), Field("stop", "dim", "to"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, axis = as_array("slice", "the operand", types[0]), props["axis"].data
        check_axis("slice", axis, t.rank)
        (start,), (stop,) = props["start"].data, props["stop"].data
        size = t.shape[axis]
        if (
            isinstance(start, int)
            and isinstance(stop, int)
            and isinstance(size, int)
            and not 0 <= start <= stop <= size
        ):
            raise VerifyException(f"slice: {start} to {stop} is out of range on axis {axis} of {show_shape(t.shape)}")
        shape = [dims.sub(stop, start) if i == axis else d for i, d in enumerate(t.shape)]
        if not isinstance(t, ScaledType):
            return [tensor(shape, t.dtype)]
        for block in t.recipe.blocks(t.rank):
            b = block[axis]
            for border in (start, stop):
                if b not in (None, 1) and border != size and (not isinstance(border, int) or border % b):
                    raise VerifyException(
                        f"slice: {dims.show(border)} on axis {axis} of {t} cuts a block of {b}; "
                        f"slice at multiples of {b}, or dequantize first"
                    )
        return [with_shape(t, shape)]


@irdl_op_definition
class ConcatOp(BrecciaOp):
    """`%y = breccia.concat %a, %b axis 0`: scaled tensors meet at block borders and need one recipe."""

    name = "breccia.concat"
    axis = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (1, None)
    SYNTAX: ClassVar = (Field("axis", "int", "axis"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        ts, axis = [as_array("concat", f"operand {i}", t) for i, t in enumerate(types)], props["axis"].data
        first = ts[0]
        check_axis("concat", axis, first.rank)
        for i, t in enumerate(ts[1:], 1):
            cut = [d for j, d in enumerate(t.shape) if j != axis]
            same_kind = type(t) is type(first) and t.dtype == first.dtype
            if not same_kind or cut != [d for j, d in enumerate(first.shape) if j != axis]:
                raise VerifyException(f"concat: operand {i} is {t}, which does not continue {first} along axis {axis}")
        shape = list(first.shape)
        shape[axis] = sum((t.shape[axis] for t in ts[1:]), start=shape[axis])
        if not isinstance(first, ScaledType):
            return [tensor(shape, first.dtype)]
        _check_concat_blocks([t for t in ts if isinstance(t, ScaledType)], axis)
        return [with_shape(first, shape)]


def _check_concat_blocks(ts: Sequence[ScaledType], axis: int) -> None:
    for i, t in enumerate(ts):
        if t.encoding != ts[0].encoding:
            raise VerifyException(
                f"concat: operand {i} has {t.encoding}, operand 0 has {ts[0].encoding}; requantize one"
            )
        for block in t.recipe.blocks(t.rank):
            b, size = block[axis], t.shape[axis]
            if b is None:
                raise VerifyException(f"concat: scales of {t.encoding} span axis {axis}; requantize after joining")
            if i < len(ts) - 1 and b != 1 and (not isinstance(size, int) or size % b):
                raise VerifyException(f"concat: operand {i} of {t} ends inside a block of {b} on axis {axis}")
