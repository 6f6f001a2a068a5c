"""Ops on whole tensors: the traced form, and the bodies of kernels.

Elementwise ops compute in f32, f64 or integers only, so that every rounding is an op of its own (`convert`, `quantize`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xdsl.dialects import builtin
from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def, traits_def
from xdsl.traits import IsTerminator, Pure
from xdsl.utils.exceptions import VerifyException

from breccia.ir import dims
from breccia.ir.attributes import PlaceAttr, PolicyAttr
from breccia.ir.base import (
    BrecciaOp,
    Field,
    as_array,
    as_scaled,
    as_tensor,
    broadcast_shapes,
    check_axis,
    show_shape,
)
from breccia.ir.dims import Dim
from breccia.ir.functions import BINARY, COMPARE, LOGIC, REDUCE, TRUTH, UNARY
from breccia.ir.storage import storage_types
from breccia.ir.types import (
    RecipeAttr,
    ScaledType,
    TensorType,
    component_types,
    is_compute,
    is_float,
    permuted,
    scale_shape,
    scaled,
    tensor,
    with_shape,
)
from breccia.recipes import Level, Recipe, normalize_axis

f32 = builtin.f32
Props = Mapping[str, Any]
Types = Sequence[Attribute]


def _compute(op: str, operand: str, type_: Attribute) -> TensorType:
    t = as_tensor(op, operand, type_)
    if not is_compute(t.dtype):
        raise VerifyException(f"{op}: {operand} is {t}; elementwise ops take f32, f64, i1, i32 or i64: convert it first")
    return t


def _known(op: str, fn: str, allowed: Sequence[str]) -> str:
    if fn not in allowed:
        raise VerifyException(f"{op}: unknown function {fn!r}; known: {', '.join(allowed)}")
    return fn


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
    SYNTAX: ClassVar = (Field("axis", "int", "axis"), Field("start", "dim", "start"), Field("shape", "dims"), Field("dtype", "type", ":"))

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
        fn = _known("unary", props["fn"].data, UNARY)
        t = _compute(f"unary {fn}", "the operand", types[0])
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
        fn = _known("binary", props["fn"].data, BINARY)
        a, b = _compute(f"binary {fn}", "operand 0", types[0]), _compute(f"binary {fn}", "operand 1", types[1])
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
        c, x, y = (_compute("select", f"operand {i}", t) for i, t in enumerate(types))
        if c.dtype != i1 or x.dtype != y.dtype:
            raise VerifyException(f"select: takes (i1, T, T), not ({c.dtype}, {x.dtype}, {y.dtype})")
        return [tensor(broadcast_shapes("select", [c.shape, x.shape, y.shape]), x.dtype)]


@irdl_op_definition
class ConvertOp(BrecciaOp):
    """`%y = breccia.convert %x : bf16`: the only change of dtype; one rounding to nearest even.

    From an element format it decodes; to one of 8 bits or fewer it saturates, and NaN stays NaN where the format has it.
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
        fn = _known("reduce", props["fn"].data, REDUCE)
        t = _compute(f"reduce {fn}", "the operand", types[0])
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
            raise VerifyException(f"broadcast: {show_shape(t.shape)} does not broadcast to {show_shape(props['shape'].data)}")
        return [tensor(props["shape"].data, t.dtype)]


@irdl_op_definition
class TransposeOp(BrecciaOp):
    """`%y = breccia.transpose %x [1, 0]`: axis i of the result is axis `order[i]` of %x; blocks move with their axes."""

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
                f"along; only leading axes with blocks of 1 can be regrouped. Dequantize first, or quantize after reshaping"
            )
        whole = front == {None} and (keep == 0 or set(block) == {None})
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
            raise VerifyException(f"reshape: {show_shape(t.shape)} and {show_shape(shape)} hold different numbers of elements")
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
        if isinstance(start, int) and isinstance(stop, int) and isinstance(size, int) and not 0 <= start <= stop <= size:
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
            raise VerifyException(f"concat: operand {i} has {t.encoding}, operand 0 has {ts[0].encoding}; requantize one")
        for block in t.recipe.blocks(t.rank):
            b, size = block[axis], t.shape[axis]
            if b is None:
                raise VerifyException(f"concat: scales of {t.encoding} span axis {axis}; requantize after joining")
            if i < len(ts) - 1 and b != 1 and (not isinstance(size, int) or size % b):
                raise VerifyException(f"concat: operand {i} of {t} ends inside a block of {b} on axis {axis}")


@irdl_op_definition
class QuantizeOp(BrecciaOp):
    """`%q = breccia.quantize %x policy #p to #r`: the only op that encodes.

    Operands after %x: the scales of the levels named by `given` (for delayed and static scaling, and once an outer level has
    been computed elsewhere), then a seed (i64, rank 0) if the policy rounds stochastically.
    """

    name = "breccia.quantize"
    given = opt_prop_def()
    policy = prop_def(PolicyAttr)
    recipe = prop_def(RecipeAttr)
    traits = traits_def(Pure())
    ARITY: ClassVar = (1, None)
    SYNTAX: ClassVar = (
        Field("given", "ints", "given", optional=True),
        Field("policy", "attr", "policy"),
        Field("recipe", "attr", "to"),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        x = as_tensor("quantize", "operand 0", types[0])
        if not is_float(x.dtype):
            raise VerifyException(f"quantize: operand 0 is {x}; it takes f16, bf16, f32 or f64")
        out = scaled(x.shape, x.dtype, props["recipe"].data)
        check_given("quantize", types[1:], out, props)
        return [out]


def check_given(op: str, types: Types, out: ScaledType, props: Props) -> None:
    """Operands after the values: given scales, then the seed."""
    given = props["given"].data if props.get("given") else ()
    seeds = int(props["policy"].data.rounding == "stochastic")
    if len(types) != len(given) + seeds:
        raise VerifyException(f"{op}: takes {len(given)} scales and {seeds} seed after the values, {len(types)} are given")
    parts = component_types(out)
    for type_, level in zip(types, given, strict=False):
        if not 0 <= level < len(out.recipe.levels):
            raise VerifyException(f"{op}: level {level} does not exist; {out.encoding} has {len(out.recipe.levels)}")
        if type_ != parts[1 + level][1]:
            raise VerifyException(f"{op}: scale of level {level} is {type_}; {out} needs {parts[1 + level][1]}")


@irdl_op_definition
class DequantizeOp(BrecciaOp):
    """`%x = breccia.dequantize %q`: decoded values in f32. Rounding to the logical dtype is a `convert`."""

    name = "breccia.dequantize"
    traits = traits_def(Pure())

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [tensor(as_scaled("dequantize", "the operand", types[0]).shape, f32)]


@irdl_op_definition
class MatmulOp(BrecciaOp):
    """`%y = breccia.matmul %a, %b`: sum over k of a[.., m, k] * b[.., k, n], in f32.

    Either side may be plain or scaled; leading axes broadcast. `place_a`, `place_b` say where the scales of a scaled operand
    are applied, one entry a level; `compute` is the dtype that decoded operands are held in (f32 unless said).
    """

    name = "breccia.matmul"
    compute = opt_prop_def()
    place_a = opt_prop_def(PlaceAttr)
    place_b = opt_prop_def(PlaceAttr)
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)
    SYNTAX: ClassVar = (
        Field("compute", "type", "compute", optional=True),
        Field("place_a", "attr", "place_a", optional=True),
        Field("place_b", "attr", "place_b", optional=True),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        a, b = (as_array("matmul", name, t) for name, t in zip(("operand a", "operand b"), types, strict=True))
        if a.rank < 2 or b.rank < 2:
            raise VerifyException(f"matmul: operands of shape {show_shape(a.shape)} and {show_shape(b.shape)} need two axes each")
        if a.shape[-1] != b.shape[-2]:
            raise VerifyException(
                f"matmul: shape mismatch: a is {show_shape(a.shape)} and b is {show_shape(b.shape)}; "
                f"the last axis of a ({dims.show(a.shape[-1])}) must equal the second to last of b ({dims.show(b.shape[-2])})"
            )
        for key, t in (("place_a", a), ("place_b", b)):
            check_place(key, t, props.get(key))
        batch = broadcast_shapes("matmul", [a.shape[:-2], b.shape[:-2]])
        return [tensor((*batch, a.shape[-2], b.shape[-1]), f32)]


def check_place(key: str, t: TensorType | ScaledType, place: PlaceAttr | None) -> None:
    if place is None:
        return
    levels = len(t.recipe.levels) if isinstance(t, ScaledType) else 0
    if len(place.data) != levels:
        raise VerifyException(f"matmul: {key} is {place}, but {t} has {levels} levels of scales")


@irdl_op_definition
class GroupedMatmulOp(BrecciaOp):
    """`%y = breccia.grouped_matmul %x, %w, %offsets`: rows offsets[e] to offsets[e + 1] of x [T, K] times w[e] of [E, K, N]."""

    name = "breccia.grouped_matmul"
    compute = opt_prop_def()
    place_a = opt_prop_def(PlaceAttr)
    place_b = opt_prop_def(PlaceAttr)
    traits = traits_def(Pure())
    ARITY: ClassVar = (3, 3)
    SYNTAX: ClassVar = MatmulOp.SYNTAX

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        x, w = as_array("grouped_matmul", "operand x", types[0]), as_array("grouped_matmul", "operand w", types[1])
        offsets = as_tensor("grouped_matmul", "operand offsets", types[2])
        if x.rank != 2 or w.rank != 3 or x.shape[1] != w.shape[1]:
            raise VerifyException(
                f"grouped_matmul: shape mismatch: takes x [T, K] and w [E, K, N], not {show_shape(x.shape)} and {show_shape(w.shape)}"
            )
        if offsets.shape != (dims.add(w.shape[0], 1),) or offsets.dtype != builtin.i32:
            raise VerifyException(f"grouped_matmul: offsets is {offsets}; [{dims.show(dims.add(w.shape[0], 1))}] of i32 is wanted")
        for key, t in (("place_a", x), ("place_b", w)):
            check_place(key, t, props.get(key))
        return [tensor((x.shape[0], w.shape[2]), f32)]


@irdl_op_definition
class AssembleOp(BrecciaOp):
    """`%q = breccia.assemble %elements, %scale as !breccia.scaled<...>`: a scaled tensor from its stored components."""

    name = "breccia.assemble"
    type = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, None)
    SYNTAX: ClassVar = (Field("type", "type", "as"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        out = as_scaled("assemble", "the result", props["type"])
        wanted = storage_types(out)
        if len(types) != len(wanted):
            raise VerifyException(f"assemble: {out} has components {', '.join(n for n, _ in wanted)}; {len(types)} are given")
        for found, (name, t) in zip(types, wanted, strict=True):
            if found != t:
                raise VerifyException(f"assemble: {name} is {found}; {out} needs {t}")
        return [out]


@irdl_op_definition
class PartsOp(BrecciaOp):
    """`%elements, %scale = breccia.parts %q`: the stored components of a scaled tensor."""

    name = "breccia.parts"
    traits = traits_def(Pure())

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [t for _, t in storage_types(as_scaled("parts", "the operand", types[0]))]


@irdl_op_definition
class ConvertLayoutOp(BrecciaOp):
    """`%r = breccia.convert_layout %q to #breccia.layout<...>`: the same values in another memory order."""

    name = "breccia.convert_layout"
    layout = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("layout", "attr", "to"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [as_scaled("convert_layout", "the operand", types[0]).with_layout(props["layout"])]


@irdl_op_definition
class ScaleFromAmaxOp(BrecciaOp):
    """`%s = breccia.scale_from_amax %amax policy #p to #r level 0`: the scales of a level from the amax of its blocks (f32)."""

    name = "breccia.scale_from_amax"
    policy = prop_def(PolicyAttr)
    recipe = prop_def(RecipeAttr)
    level = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("policy", "attr", "policy"), Field("recipe", "attr", "to"), Field("level", "int", "level"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        amax, level = as_tensor("scale_from_amax", "amax", types[0]), props["level"].data
        levels = props["recipe"].data.levels
        if amax.dtype != f32 or not 0 <= level < len(levels):
            raise VerifyException(f"scale_from_amax: amax is {amax} and level {level}; f32 and a level below {len(levels)} are wanted")
        return [tensor(amax.shape, levels[level].dtype)]


@irdl_op_definition
class HistoryUpdateOp(BrecciaOp):
    """`%h2 = breccia.history_update %h, %amax`: the amax history [length] rolled by one, with %amax (one element) first."""

    name = "breccia.history_update"
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        history, amax = (as_tensor("history_update", n, t) for n, t in zip(("history", "amax"), types, strict=True))
        if history.rank != 1 or history.dtype != f32 or amax.dtype != f32 or any(d != 1 for d in amax.shape):
            raise VerifyException(f"history_update: takes a history [length] and one amax, both f32, not {history} and {amax}")
        return [history]


@irdl_op_definition
class AmaxFromHistoryOp(BrecciaOp):
    """`%a = breccia.amax_from_history max %h`: the largest, or `most_recent`, amax of a history, as a tensor of shape [1]."""

    name = "breccia.amax_from_history"
    rule = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("rule", "word"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        _known("amax_from_history", props["rule"].data, ("max", "most_recent"))
        history = as_tensor("amax_from_history", "history", types[0])
        if history.rank != 1 or history.dtype != f32:
            raise VerifyException(f"amax_from_history: takes a history [length] of f32, not {history}")
        return [tensor([1], f32)]


@irdl_op_definition
class YieldOp(BrecciaOp):
    """The results of a region."""

    name = "breccia.yield"
    traits = traits_def(IsTerminator(), Pure())
    ARITY: ClassVar = (0, None)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return []


WHOLE_TENSOR_OPS = (
    FullOp, IotaOp, UnaryOp, BinaryOp, SelectOp, ConvertOp, ReduceOp, BroadcastOp, TransposeOp, ReshapeOp, SliceOp, ConcatOp,
    QuantizeOp, DequantizeOp, MatmulOp, GroupedMatmulOp, AssembleOp, PartsOp, ConvertLayoutOp, ScaleFromAmaxOp,
    HistoryUpdateOp, AmaxFromHistoryOp, YieldOp,
)  # fmt: skip
__all__ = ["WHOLE_TENSOR_OPS", "normalize_axis", "scale_shape", *(op.__name__ for op in WHOLE_TENSOR_OPS)]
