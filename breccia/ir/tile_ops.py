"""Ops that stand only inside the regions of a tiled kernel, on tiles of plain components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xdsl.dialects import builtin
from xdsl.ir import Attribute
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from breccia import formats
from breccia.ir import dims
from breccia.ir.attributes import PolicyAttr
from breccia.ir.base import BrecciaOp, Field, as_tensor, broadcast_shapes, check_axis, show_shape
from breccia.ir.dims import Dim
from breccia.ir.scaled_ops import check_given
from breccia.ir.storage import PACKING, storage_type
from breccia.ir.types import RecipeAttr, ScaledType, component_types, scaled, tensor

Props = Mapping[str, Any]
Types = Sequence[Attribute]
DOT_FORMS = ("nn", "nt", "tn", "tt")
"""Whether each operand stands transposed: `nt` is a [m, k] times b [n, k]."""


def contraction_axes(form: str, rank_a: int, rank_b: int) -> tuple[int, int]:
    """The contracted axis of each operand of a `dot`."""
    return (rank_a - 2 if form[0] == "t" else rank_a - 1), (rank_b - 1 if form[1] == "t" else rank_b - 2)


def dot_shape(op: str, form: str, a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """Shape of the product of two tiles; raises VerifyException where contracted axes differ."""
    if form not in DOT_FORMS:
        raise VerifyException(f"{op}: unknown form {form!r}; known: {', '.join(DOT_FORMS)}")
    if len(a) < 2 or len(b) < 2:
        raise VerifyException(f"{op}: tiles {show_shape(a)} and {show_shape(b)} need two axes each")
    ka, kb = contraction_axes(form, len(a), len(b))
    if a[ka] != b[kb]:
        raise VerifyException(f"{op} {form}: contracted tile axes differ: {show_shape(a)} and {show_shape(b)}")
    m, n = a[-1 if form[0] == "t" else -2], b[-2 if form[1] == "t" else -1]
    return (*broadcast_shapes(op, [a[:-2], b[:-2]]), m, n)


@irdl_op_definition
class DotOp(BrecciaOp):
    """`%p = dot nn %a, %b`: product of two tiles of floats or element codes, summed in f32. Leading axes broadcast."""

    name = "breccia.dot"
    form = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (2, 2)
    SYNTAX: ClassVar = (Field("form", "word"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        a, b = as_tensor("dot", "operand a", types[0]), as_tensor("dot", "operand b", types[1])
        for name, t in (("a", a), ("b", b)):
            if t.format is None:
                raise VerifyException(f"dot: operand {name} is {t}; it takes floats or element formats")
        return [tensor(dot_shape("dot", props["form"].data, a.shape, b.shape), builtin.f32)]


@irdl_op_definition
class DotScaledOp(BrecciaOp):
    """`%p = dot_scaled nn %a, %sa, %b, %sb block 32`: the scaled matrix instruction; each k-block of 32 has one scale.

    Scales are [m, k / block] and [k / block, n] for form nn: they lie as their operand does.
    """

    name = "breccia.dot_scaled"
    form = prop_def()
    block = prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (4, 4)
    SYNTAX: ClassVar = (Field("form", "word"), Field("block", "int", "block"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        a, sa, b, sb = (as_tensor("dot_scaled", f"operand {i}", t) for i, t in enumerate(types))
        form, block = props["form"].data, props["block"].data
        shape = dot_shape("dot_scaled", form, a.shape, b.shape)
        for name, t, s, axis in zip("ab", (a, b), (sa, sb), contraction_axes(form, a.rank, b.rank), strict=True):
            wanted = tuple(dims.ceildiv(d, block) if i == axis else d for i, d in enumerate(t.shape))
            if s.shape != wanted:
                raise VerifyException(
                    f"dot_scaled: scales of {name} are {s}; {t} in blocks of {block} needs {show_shape(wanted)}"
                )
        return [tensor(shape, builtin.f32)]


@irdl_op_definition
class ExpandOp(BrecciaOp):
    """`%s = expand %scale axis 1 by 128 to 576`: every entry repeated `by` times, cut off at `to` elements."""

    name = "breccia.expand"
    axis = prop_def()
    by = prop_def()
    to = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("axis", "int", "axis"), Field("by", "dim", "by"), Field("to", "dim", "to"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, axis = as_tensor("expand", "the operand", types[0]), props["axis"].data
        check_axis("expand", axis, t.rank)
        (by,), (to,) = props["by"].data, props["to"].data
        if dims.ceildiv(to, by) != t.shape[axis]:
            raise VerifyException(
                f"expand: {show_shape(t.shape)} has {dims.show(t.shape[axis])} blocks on axis {axis}; "
                f"{dims.show(to)} elements in blocks of {dims.show(by)} need {dims.show(dims.ceildiv(to, by))}"
            )
        return [tensor([to if i == axis else d for i, d in enumerate(t.shape)], t.dtype)]


@irdl_op_definition
class UnpackOp(BrecciaOp):
    """`%e = unpack %bytes order packed4 size 128 of 575 : f4E2M1FN`: `size` codes from bytes, along the last axis.

    `of` is the length of the whole axis, which bytes alone do not tell: 288 bytes hold 575 or 576 codes of 4 bits.
    """

    name = "breccia.unpack"
    order = prop_def()
    size = prop_def()
    of = opt_prop_def()
    dtype = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (
        Field("order", "name", "order"),
        Field("size", "dim", "size"),
        Field("of", "dim", "of", optional=True),
        Field("dtype", "type", ":"),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, order = as_tensor("unpack", "the operand", types[0]), props["order"].data
        if order not in PACKING:
            raise VerifyException(f"unpack: {order!r} is no packed layout; known: {', '.join(PACKING)}")
        out = tensor((*t.shape[:-1], props["size"].data[0]), props["dtype"])
        wanted = storage_type(out, order)
        if t != wanted:
            raise VerifyException(f"unpack: the operand is {t}; {out} packed as {order} is {wanted}")
        return [out]


@irdl_op_definition
class PackOp(BrecciaOp):
    """`%bytes = pack %e order packed4`: bytes from codes, along the last axis; a last byte is filled up with code 0."""

    name = "breccia.pack"
    order = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("order", "name", "order"),)

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        return [storage_type(as_tensor("pack", "the operand", types[0]), props["order"].data)]


@irdl_op_definition
class UnswizzleOp(BrecciaOp):
    """`%s = unswizzle %tile order swizzle_128x4 to [128, 4]`: scales in logical order."""

    name = "breccia.unswizzle"
    order = prop_def()
    shape = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("order", "name", "order"), Field("shape", "dims", "to"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t, shape = as_tensor("unswizzle", "the operand", types[0]), props["shape"].data
        out = tensor(shape, t.dtype)
        if storage_type(out, props["order"].data) != t:
            raise VerifyException(f"unswizzle: {t} is not how {props['order'].data} stores {show_shape(shape)}")
        return [out]


@irdl_op_definition
class MaskOp(BrecciaOp):
    """`%m = mask %x axis 1 valid (K - k * 64) value 0.0`: elements at and past `valid` on the axis become `value`.

    Only `insert-masks` makes it: on a target whose fetch fills partial windows, what lies outside must not count.
    """

    name = "breccia.mask"
    axis = prop_def()
    valid = prop_def()
    value = prop_def()
    traits = traits_def(Pure())
    SYNTAX: ClassVar = (Field("axis", "int", "axis"), Field("valid", "dim", "valid"), Field("value", "number", "value"))

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        t = as_tensor("mask", "the operand", types[0])
        check_axis("mask", props["axis"].data, t.rank)
        return [t]


@irdl_op_definition
class EncodeOp(BrecciaOp):
    """`%e, %s = encode %x policy #p to #r`: `quantize` on a tile, giving components instead of a scaled tensor.

    Operands and `given` as for `quantize`; results: elements, the scales of every level that is not given, zero point,
    offset. `origin` and `extent` place the tile in its tensor, which stochastic rounding needs: its random numbers
    belong to elements, not to tiles.
    """

    name = "breccia.encode"
    given = opt_prop_def()
    policy = prop_def(PolicyAttr)
    recipe = prop_def(RecipeAttr)
    origin = opt_prop_def()
    extent = opt_prop_def()
    traits = traits_def(Pure())
    ARITY: ClassVar = (1, None)
    SYNTAX: ClassVar = (
        Field("given", "ints", "given", optional=True),
        Field("policy", "attr", "policy"),
        Field("recipe", "attr", "to"),
        Field("origin", "dims", "origin", optional=True),
        Field("extent", "dims", "extent", optional=True),
    )

    @classmethod
    def infer(cls, types: Types, props: Props) -> list[Attribute]:
        x = as_tensor("encode", "operand 0", types[0])
        out: ScaledType = scaled(x.shape, formats.float32, props["recipe"].data)
        check_given("encode", types[1:], out, props)
        given = props["given"].data if props.get("given") else ()
        if props["policy"].data.rounding == "stochastic" and not (props.get("origin") and props.get("extent")):
            raise VerifyException(
                "encode: stochastic rounding needs origin and extent, so that it does not depend on tiles"
            )
        skip = {f"scale{level}" for level in given}
        return [t for name, t in component_types(out) if name not in skip]


TILE_OPS = (DotOp, DotScaledOp, ExpandOp, UnpackOp, PackOp, UnswizzleOp, MaskOp, EncodeOp)
