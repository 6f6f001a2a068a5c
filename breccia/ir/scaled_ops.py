"""Ops on scaled tensors: encoding, decoding, products, components, and the state of delayed scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xdsl.dialects import builtin
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
    known_function,
    show_shape,
)
from breccia.ir.storage import storage_types
from breccia.ir.types import DimsAttr, RecipeAttr, ScaledType, TensorType, component_types, is_float, scaled, tensor

f32 = builtin.f32
ACCURACIES = ("exact", "bounded")
Props = Mapping[str, Any]
Types = Sequence[Attribute]


@irdl_op_definition
class QuantizeOp(BrecciaOp):
    """`%q = breccia.quantize %x policy #p to #r`: the only op that encodes.

    Operands after %x: the scales of the levels named by `given` (for delayed and static scaling, and once an outer
    level has been computed elsewhere), then a seed (i64, rank 0) if the policy rounds stochastically.
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
        raise VerifyException(
            f"{op}: takes {len(given)} scales and {seeds} seed after the values, {len(types)} are given"
        )
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
class ScalesOp(BrecciaOp):
    """`%s = breccia.scales %q`: what each element is multiplied by, in f32: the product of all levels."""

    name = "breccia.scales"
    traits = traits_def(Pure())

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [tensor(as_scaled("scales", "the operand", types[0]).shape, f32)]


@irdl_op_definition
class MatmulOp(BrecciaOp):
    """`%y = breccia.matmul %a, %b`: sum over k of a[.., m, k] * b[.., k, n], in f32.

    Either side may be plain or scaled; leading axes broadcast. `place_a`, `place_b` say where the scales of a scaled
    operand are applied, one entry a level; `compute` is the dtype that decoded operands are held in (f32 unless said).
    `accuracy bounded` allows rewrites that state what they may lose; without it none may lose anything but the order of
    sums.
    """

    name = "breccia.matmul"
    accuracy = opt_prop_def()
    compute = opt_prop_def()
    place_a = opt_prop_def(PlaceAttr)
    place_b = opt_prop_def(PlaceAttr)
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)
    SYNTAX: ClassVar = (
        Field("accuracy", "name", "accuracy", optional=True),
        Field("compute", "type", "compute", optional=True),
        Field("place_a", "attr", "place_a", optional=True),
        Field("place_b", "attr", "place_b", optional=True),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        if props.get("accuracy") is not None:
            known_function("matmul", props["accuracy"].data, ACCURACIES)
        a, b = (as_array("matmul", name, t) for name, t in zip(("operand a", "operand b"), types, strict=True))
        if a.rank < 2 or b.rank < 2:
            raise VerifyException(
                f"matmul: operands of shape {show_shape(a.shape)} and {show_shape(b.shape)} need two axes each"
            )
        if a.shape[-1] != b.shape[-2]:
            raise VerifyException(
                f"matmul: shape mismatch: a is {show_shape(a.shape)} and b is {show_shape(b.shape)}; "
                f"the last axis of a ({dims.show(a.shape[-1])}) must equal the second to last of b "
                f"({dims.show(b.shape[-2])})"
            )
        for key, t in (("place_a", a), ("place_b", b)):
            check_place(key, t, props.get(key))
        batch = broadcast_shapes("matmul", [a.shape[:-2], b.shape[:-2]])
        return [tensor((*batch, a.shape[-2], b.shape[-1]), f32)]


def check_place(key: str, t: TensorType | ScaledType, place: PlaceAttr | None) -> None:
    """Raise VerifyException unless `place` has one entry for each level of `t`."""
    if place is None:
        return
    levels = len(t.recipe.levels) if isinstance(t, ScaledType) else 0
    if len(place.data) != levels:
        raise VerifyException(f"matmul: {key} is {place}, but {t} has {levels} levels of scales")


@irdl_op_definition
class GroupedMatmulOp(BrecciaOp):
    """`%y = breccia.grouped_matmul %x, %w, %offsets`: rows offsets[e] to offsets[e + 1] of x [T, K] times w[e].

    w is [E, K, N]; rows that no group covers give 0. With `each M`, every group has room for M rows of x [E * M, K], of
    which the first counts[e] are its own: `%y = breccia.grouped_matmul %x, %w, %counts each M`.
    """

    name = "breccia.grouped_matmul"
    compute = opt_prop_def()
    each = opt_prop_def(DimsAttr)
    place_a = opt_prop_def(PlaceAttr)
    place_b = opt_prop_def(PlaceAttr)
    traits = traits_def(Pure())
    ARITY: ClassVar = (3, 3)
    SYNTAX: ClassVar = (Field("each", "dim", "each", optional=True), *MatmulOp.SYNTAX[1:])

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        x, w = as_array("grouped_matmul", "operand x", types[0]), as_array("grouped_matmul", "operand w", types[1])
        offsets = as_tensor("grouped_matmul", "operand offsets", types[2])
        if x.rank != 2 or w.rank != 3 or x.shape[1] != w.shape[1]:
            raise VerifyException(
                f"grouped_matmul: shape mismatch: takes x [T, K] and w [E, K, N], not {show_shape(x.shape)} "
                f"and {show_shape(w.shape)}"
            )
        each = props.get("each")
        name, count = ("offsets", dims.add(w.shape[0], 1)) if each is None else ("counts", w.shape[0])
        if offsets.shape != (count,) or offsets.dtype not in (builtin.i32, builtin.i64):
            raise VerifyException(f"grouped_matmul: {name} is {offsets}; [{dims.show(count)}] of i32 or i64 is wanted")
        if each is not None and x.shape[0] != dims.mul(w.shape[0], each.data[0]):
            raise VerifyException(
                f"grouped_matmul: x has {dims.show(x.shape[0])} rows; {dims.show(w.shape[0])} groups with room for "
                f"{dims.show(each.data[0])} each have {dims.show(dims.mul(w.shape[0], each.data[0]))}"
            )
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
            raise VerifyException(
                f"assemble: {out} has components {', '.join(n for n, _ in wanted)}; {len(types)} are given"
            )
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
    """`%s = breccia.scale_from_amax %amax policy #p to #r level 0`: scales of a level from its blocks' amax (f32)."""

    name = "breccia.scale_from_amax"
    policy = prop_def(PolicyAttr)
    recipe = prop_def(RecipeAttr)
    level = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (
        Field("policy", "attr", "policy"),
        Field("recipe", "attr", "to"),
        Field("level", "int", "level"),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        amax, level = as_tensor("scale_from_amax", "amax", types[0]), props["level"].data
        levels = props["recipe"].data.levels
        if amax.dtype != f32 or not 0 <= level < len(levels):
            raise VerifyException(
                f"scale_from_amax: amax is {amax} and level {level}; f32 and a level below {len(levels)} are wanted"
            )
        return [tensor(amax.shape, levels[level].dtype)]


@irdl_op_definition
class HistoryUpdateOp(BrecciaOp):
    """`%h2 = breccia.history_update %h, %amax`: the history [length] one step on.

    The oldest entry, the first, leaves; %amax (one element) enters last.
    """

    name = "breccia.history_update"
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        history, amax = (as_tensor("history_update", n, t) for n, t in zip(("history", "amax"), types, strict=True))
        if history.rank != 1 or history.dtype != f32 or amax.dtype != f32 or any(d != 1 for d in amax.shape):
            raise VerifyException(
                f"history_update: takes a history [length] and one amax, both f32, not {history} and {amax}"
            )
        return [history]


@irdl_op_definition
class AmaxFromHistoryOp(BrecciaOp):
    """`%a = breccia.amax_from_history max %h`: the largest, or `most_recent`, amax of a history; shape [1]."""

    name = "breccia.amax_from_history"
    rule = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("rule", "word"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        known_function("amax_from_history", props["rule"].data, ("max", "most_recent"))
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
