"""Builds the regions of a tiled kernel from its body, op by op, starting from what a region has to yield."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from xdsl.dialects import builtin
from xdsl.dialects.builtin import IntAttr, StringAttr
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue

from breccia import formats
from breccia.errors import UnsupportedError
from breccia.ir import dims
from breccia.ir.attributes import IntsAttr, NumberAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.kernel import tile_type
from breccia.ir.ops import (
    AssembleOp,
    BinaryOp,
    BroadcastOp,
    ConvertLayoutOp,
    ConvertOp,
    DequantizeOp,
    FullOp,
    IotaOp,
    PartsOp,
    QuantizeOp,
    ScalesOp,
    TransposeOp,
    YieldOp,
)
from breccia.ir.rewriting import with_location
from breccia.ir.storage import PACKING
from breccia.ir.tile_ops import EncodeOp, ExpandOp, PackOp, UnpackOp, UnswizzleOp
from breccia.ir.tiling import Window
from breccia.ir.types import DimsAttr, ScaledType, component_types, format_of
from breccia.passes._axes import scaled_type, shape_of
from breccia.passes._windows import Cuts, order_of


class Operands:
    """The operands of a tiled kernel: a value stands once for each window that lies over it."""

    def __init__(self) -> None:
        self.values: list[SSAValue] = []
        self.windows: list[Window | None] = []

    def index(self, value: SSAValue, window: Window | None) -> int:
        """The number of an operand, which is added where it is new."""
        for i, (v, w) in enumerate(zip(self.values, self.windows, strict=True)):
            if v is value and w == window:
                return i
        self.values.append(value)
        self.windows.append(window)
        return len(self.values) - 1


class RegionBuilder:
    """One region: pulls the tiles of body values that are asked for.

    sources: the operand behind each argument of the body.
    """

    def __init__(self, cuts: Cuts, operands: Operands, sources: dict[BlockArgument, SSAValue]) -> None:
        self.cuts = cuts
        self.operands = operands
        self.sources = sources
        self.block = Block()
        self.uses: list[int] = []
        self._tiles: dict[SSAValue, SSAValue] = {}
        self._components: dict[tuple[SSAValue, str], SSAValue] = {}
        self._arguments: dict[int, BlockArgument] = {}
        self._like: list[Operation] = []

    # ---- making ops ------------------------------------------------------------------------------------------------

    def add(self, op: BrecciaOp, hint: str | None = None) -> SSAValue:
        """Append an op with the location of the body op that is being spelled out; its first result."""
        if self._like:
            with_location(op, self._like[-1])
        self.block.add_op(op)
        if op.outs and hint:
            op.outs[0].name_hint = hint
        return op.outs[0]

    @contextmanager
    def spelling(self, op: Operation) -> Generator[None]:
        """While this lasts, new ops take the location of `op`."""
        self._like.append(op)
        yield
        self._like.pop()

    def binary(self, fn: str, a: SSAValue, b: SSAValue, hint: str | None = None) -> SSAValue:
        return self.add(BinaryOp.make(a, b, fn=StringAttr(fn)), hint)

    def convert(self, value: SSAValue, dtype: Attribute) -> SSAValue:
        """`value` as `dtype`; itself where it is that already."""
        if value.type.dtype == dtype:  # type: ignore[attr-defined]
            return value
        return self.add(ConvertOp.make(value, dtype=dtype), value.name_hint)

    def full(self, value: float, shape: tuple[dims.Dim, ...], dtype: Attribute, hint: str | None = None) -> SSAValue:
        return self.add(FullOp.make(value=NumberAttr(value), shape=DimsAttr(shape), dtype=dtype), hint)

    def swap(self, value: SSAValue) -> SSAValue:
        """`value` with its last two axes exchanged."""
        shape = shape_of(value.type)
        if shape[-1] == shape[-2] == 1:
            return value
        order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        return self.add(TransposeOp.make(value, order=IntsAttr(order)), value.name_hint)

    def carry(self, type_: Attribute, hint: str) -> BlockArgument:
        """A carried value; all of them are taken before the first operand."""
        assert not self.uses, "carried values come before operands"
        argument = self.block.insert_arg(type_, len(self.block.args))
        argument.name_hint = hint
        return argument

    def finish(self, values: list[SSAValue], like: Operation) -> Region:
        """The region, which yields `values`."""
        self.block.add_op(with_location(YieldOp.make(*values), like))
        return Region(self.block)

    def bind(self, value: SSAValue, tile: SSAValue) -> None:
        """Let `tile` stand for a body value."""
        self._tiles[value] = tile

    # ---- fetching --------------------------------------------------------------------------------------------------

    def fetch(self, argument: SSAValue, window: Window) -> SSAValue:
        """The tile of an operand under a window, as an argument of this region."""
        if not isinstance(argument, BlockArgument):
            raise UnsupportedError(
                f"a scaled tensor is assembled from {argument.type}, which the kernel computes; only operands can be "
                "assembled inside a kernel: compute the components in a kernel of their own"
            )
        source = self.sources[argument]
        number = self.operands.index(source, window)
        if number not in self._arguments:
            tile = self.block.insert_arg(tile_type(source.type, window), len(self.block.args))
            tile.name_hint = source.name_hint or argument.name_hint
            self._arguments[number] = tile
            self.uses.append(number)
        return self._arguments[number]

    def tile(self, value: SSAValue) -> SSAValue:
        """The tile of a plain body value."""
        pending = [value]  # a stack, since chains of ops may be longer than Python's recursion goes
        while pending:
            missing = [a for a in self._read_by(pending[-1]) if a not in self._tiles]
            if missing:
                pending += reversed(missing)
            else:
                self._tile_one(pending.pop())
        return self._tiles[value]

    def _read_by(self, value: SSAValue) -> Sequence[SSAValue]:
        """The plain values whose tiles are needed first."""
        op = value.owner
        if value in self._tiles or not isinstance(op, BrecciaOp) or isinstance(op, PartsOp | DequantizeOp | ScalesOp):
            return ()
        return op.args

    def _tile_one(self, value: SSAValue) -> None:
        if value in self._tiles:
            return
        if isinstance(value, BlockArgument):
            self._tiles[value] = self.fetch(value, self.cuts.window(value))
            return
        assert isinstance(value.owner, BrecciaOp), "bodies hold ops of this dialect alone"
        self._like.append(value.owner)
        out = self._build(value.owner, value)
        self._like.pop()
        if out.name_hint is None or value.name_hint is not None:
            out.name_hint = value.name_hint
        self._tiles[value] = out

    # ---- ops, one by one -------------------------------------------------------------------------------------------

    def _build(self, op: BrecciaOp, value: SSAValue) -> SSAValue:
        special: dict[type, Callable[[Any], SSAValue]] = {
            FullOp: self._full,
            IotaOp: self._iota,
            BroadcastOp: self._broadcast,
            TransposeOp: self._transpose,
            DequantizeOp: lambda op: self.decode(op.args[0]),
            ScalesOp: self._scales,
        }
        if isinstance(op, PartsOp):
            name = component_types(scaled_type(op.args[0]))[op.outs.index(value)][0]
            return self.store_component(op.args[0], name)
        if type(op) in special:
            return special[type(op)](op)
        properties = dict(op.properties)
        if "shape" in properties:
            properties["shape"] = DimsAttr(self.cuts.tile_shape(value))
        return self.add(type(op).make(*(self.tile(a) for a in op.args), **properties))

    def _full(self, op: FullOp) -> SSAValue:
        shape = DimsAttr(self.cuts.tile_shape(op.out))
        return self.add(FullOp.make(**{**op.properties, "shape": shape}))

    def _iota(self, op: IotaOp) -> SSAValue:
        axis: int = op.properties["axis"].data  # type: ignore[attr-defined]
        cut = self.cuts.of(op.out, axis)
        (start,) = op.properties["start"].data  # type: ignore[attr-defined]
        if cut is not None:
            start = dims.add(cut.origin, start)
        shape = DimsAttr(self.cuts.tile_shape(op.out))
        return self.add(IotaOp.make(**{**op.properties, "shape": shape, "start": DimsAttr((start,))}))

    def _broadcast(self, op: BroadcastOp) -> SSAValue:
        tile, shape = self.tile(op.args[0]), self.cuts.tile_shape(op.out)
        return tile if shape_of(tile.type) == shape else self.add(BroadcastOp.make(tile, shape=DimsAttr(shape)))

    def _transpose(self, op: TransposeOp) -> SSAValue:
        return self._permute(self.tile(op.args[0]), op, self.cuts.dropped(op.out))

    def _permute(self, tile: SSAValue, op: TransposeOp, dropped: int) -> SSAValue:
        order: tuple[int, ...] = op.properties["order"].data  # type: ignore[attr-defined]
        if all(d == 1 for d in shape_of(tile.type)):
            return tile
        if order[:dropped] != tuple(range(dropped)):
            raise UnsupportedError(f"a transpose that moves the axis of groups: {op.args[0].type} by {list(order)}")
        return self.add(TransposeOp.make(tile, order=IntsAttr(tuple(i - dropped for i in order[dropped:]))))

    # ---- scaled tensors --------------------------------------------------------------------------------------------

    def component(self, value: SSAValue, name: str) -> SSAValue:
        """The tile of one component of a scaled body value, in logical order, unpacked."""
        key = (value, name)
        if key not in self._components:
            op = value.owner
            assert isinstance(op, BrecciaOp), "scaled values are made inside the body"
            with self.spelling(op):
                self._components[key] = self._component(op, value, name)
        return self._components[key]

    def _component(self, op: BrecciaOp, value: SSAValue, name: str) -> SSAValue:
        if isinstance(op, AssembleOp):
            names = [n for n, _ in component_types(scaled_type(value))]
            return self._unstore(value, name, op.args[names.index(name)])
        if isinstance(op, ConvertLayoutOp):
            return self.component(op.args[0], name)
        if isinstance(op, TransposeOp):
            return self._permute(self.component(op.args[0], name), op, self.cuts.dropped(value))
        if isinstance(op, QuantizeOp):
            self._encode(op)
            return self._components[value, name]
        raise UnsupportedError(
            f"{op.short_name} of {op.args[0].type} inside a kernel; dequantize it first, or keep it at function level"
        )

    def _unstore(self, value: SSAValue, name: str, argument: SSAValue) -> SSAValue:
        t, shape = scaled_type(value), self.cuts.component_shape(value, name)
        tile, order = self.fetch(argument, self.cuts.component_window(value, name)), order_of(scaled_type(value), name)
        hint = tile.name_hint
        if order in PACKING:
            whole = dict(component_types(t))[name]
            size, of = DimsAttr(shape[-1:]), DimsAttr(whole.shape[-1:])
            return self.add(UnpackOp.make(tile, order=StringAttr(order), size=size, of=of, dtype=whole.dtype), hint)
        if order == "mn_major":
            return self.swap(tile)
        if order == "swizzle_128x4":
            return self.add(UnswizzleOp.make(tile, order=StringAttr(order), shape=DimsAttr(shape)), hint)
        return tile

    def store_component(self, value: SSAValue, name: str) -> SSAValue:
        """A component of a result, in the order in which it is stored."""
        tile, order = self.component(value, name), order_of(scaled_type(value), name)
        if order in PACKING:
            return self.add(PackOp.make(tile, order=StringAttr(order)), tile.name_hint)
        if order == "mn_major":
            return self.swap(tile)
        if order != "row_major":
            raise UnsupportedError(
                f"storing {name} of {value.type} as {order} from inside a kernel is not supported; store it row_major"
            )
        return tile

    def decode(self, value: SSAValue, levels: set[int] | None = None) -> SSAValue:
        """The decoded tile in f32, with the scales of `levels` applied (all of them by default), innermost first."""
        t = scaled_type(value)
        x = self.convert(self.component(value, "elements"), builtin.f32)
        if t.recipe.zero_point is not None:
            x = self.binary("sub", x, self._spread(value, "zero_point"))
        for level in reversed(range(len(t.recipe.levels))):
            if levels is None or level in levels:
                x = self.binary("mul", x, self._spread(value, f"scale{level}"))
        if t.recipe.offset is not None:
            x = self.binary("add", x, self._spread(value, "offset"))
        return x

    def _scales(self, op: ScalesOp) -> SSAValue:
        """What each element of the tile is multiplied by, in f32, innermost level first."""
        value, shape = op.args[0], self.cuts.tile_shape(op.out)
        inner, *outer = [self.factor(value, i) for i in reversed(range(len(scaled_type(value).recipe.levels)))]
        for other in outer:
            inner = self.binary("mul", inner, other)
        return inner if shape_of(inner.type) == shape else self.add(BroadcastOp.make(inner, shape=DimsAttr(shape)))

    def factor(self, value: SSAValue, level: int) -> SSAValue:
        """The scales of a level in f32, expanded over every axis where a tile holds several blocks."""
        return self._spread(value, f"scale{level}")

    def _spread(self, value: SSAValue, name: str) -> SSAValue:
        out = self.convert(self.component(value, name), builtin.f32)
        dropped = self.cuts.dropped(value)
        elements = self.cuts.component_parts(value, "elements")[dropped:]
        for axis, (part, whole) in enumerate(
            zip(self.cuts.component_parts(value, name)[dropped:], elements, strict=True)
        ):
            if part.block in (1, whole.block):
                continue
            g = self._granularity(value, name, axis + dropped)
            by, to = DimsAttr((g,)), DimsAttr((whole.block,))
            out = self.add(ExpandOp.make(out, axis=IntAttr(axis), by=by, to=to), out.name_hint)
        return out

    def _granularity(self, value: SSAValue, name: str, axis: int) -> int:
        t = scaled_type(value)
        blocks = t.recipe.blocks(t.rank)
        g = (blocks[int(name.removeprefix("scale"))] if name.startswith("scale") else blocks[-1])[axis]
        assert g is not None, "a scale that spans an axis has one entry"
        return g

    def _encode(self, op: QuantizeOp) -> None:
        value, t = op.out, scaled_type(op.out)
        given: tuple[int, ...] = op.properties["given"].data if "given" in op.properties else ()  # type: ignore[attr-defined]
        properties = dict(op.properties)
        if op.properties["policy"].data.rounding == "stochastic":  # type: ignore[attr-defined]
            cuts = [self.cuts.of(value, i) for i in range(t.rank)]
            properties["origin"] = DimsAttr(tuple(0 if c is None else c.origin for c in cuts))
            properties["extent"] = DimsAttr(t.shape)
        args = [self.tile(op.args[0])]
        for level, scale in zip(given, op.args[1:], strict=False):
            args.append(self._given(value, t, level, scale))
        args += [self.tile(seed) for seed in op.args[1 + len(given) :]]
        encode = EncodeOp.make(*args, **properties)
        self.add(encode)
        names = [n for n, _ in component_types(t) if n not in {f"scale{level}" for level in given}]
        for name, out in zip(names, encode.outs, strict=True):
            out.name_hint = f"{value.name_hint}_{name}" if value.name_hint else name
            self._components[value, name] = out
        for level, tile in zip(given, args[1:], strict=False):
            self._components[value, f"scale{level}"] = tile

    def _given(self, value: SSAValue, t: ScaledType, level: int, scale: SSAValue) -> SSAValue:
        """A given scale: of an operand, the entries that belong to the tile; of a computed one, its tile."""
        if not isinstance(scale, BlockArgument):
            return self.tile(scale)
        parts = self.cuts.scale_parts(value, t.recipe.blocks(t.rank)[level])
        return self.fetch(scale, Window(tuple(p.block for p in parts), tuple(p.index for p in parts)))


def is_codes(value: SSAValue) -> bool:
    """True for a tile of element codes, which a dot takes as they are."""
    fmt = format_of(value.type.dtype)  # type: ignore[attr-defined]
    return fmt is not None and fmt.bits <= 8 and fmt not in (formats.float32, formats.bfloat16, formats.float16)
