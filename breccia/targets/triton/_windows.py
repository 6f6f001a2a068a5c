"""Windows as pointers with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import origin, tensor_type
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.tile_ops import UnpackOp
from breccia.ir.tiling import GridDim, Window
from breccia.targets.triton import _functions
from breccia.targets.triton._region import Region, arange, spread
from breccia.targets.triton._text import turned_stride

_INT32 = 1 << 31
SHORT = 1 << 17
"""Strides from here on are 64-bit numbers, by `launch`: 2**14 neighbours of shorter ones stay within 32 bits."""


@dataclass
class _Place:
    """Where the tile of one operand lies: its first pointers, what moves them in the loop, and its masks.

    moves: offsets that change in the loop; masks: as they are in the loop.
    """

    pointers: str
    moves: tuple[str, ...]
    masks: tuple[str, ...]
    six: str | None
    """The stride of the last axis, where it counts bytes of 6-bit codes."""


class Pointers:
    """Pointers of the windows of one kernel. Invariant: `places` holds those of region arguments that were prepared."""

    def __init__(self, region: Region, grid: Sequence[GridDim]) -> None:
        self.region = region
        self.descriptors: dict[SSAValue, tuple[str, tuple[str, ...]]] = {}
        """Arguments that are loaded through a descriptor: its name, and where the tile begins."""
        self.single: dict[str, Dim] = {d.name: 0 for d in grid if d.extent == 1}
        self.places: dict[SSAValue, _Place] = {}
        self.known: dict[str, str] = {}

    @staticmethod
    def stride(operand: str, axis: int) -> str:
        """The name of the parameter that holds a stride."""
        return f"{operand}_stride{axis}"

    # -- loading -------------------------------------------------------------------------------------------------------

    def prepare(self, operand: str, value: SSAValue, window: Window, argument: SSAValue, walked: set[str]) -> None:
        """Write what does not change in the loop: the pointers of the tile at the loop's start, and masks."""
        region, shape = self.region, tensor_type(value.type).shape
        strides = [self.stride(operand, i) for i in range(len(shape))]
        six = any(isinstance(u.operation, UnpackOp) and u.operation.order.data == "packed6" for u in argument.uses)  # type: ignore[attr-defined]
        rank, kept = len(window.kept_axes), window.kept_axes
        fixed, moves, masks = [operand], list[str](), list[str]()
        for axis in range(len(shape)):
            start, limit = self._start(window, axis), self._limit(window, axis, shape)
            at = kept.index(axis) if axis in kept else None
            text = self._offset(start, strides[axis], shape[axis])
            if text:
                (moves if self._moves(start, walked) else fixed).append(text)
            block = window.block[axis]
            if at is None or block == 1:
                continue
            assert isinstance(block, int), "legalize-windows refuses tiles of unknown size"
            if six and axis == len(shape) - 1:
                block = block // 3 * 4
                _, high = self._six(block)
                inside = self._inside(start, window.block[axis], limit, high)
                masks += [f"{inside}{spread(at, rank)}"] if inside else []
                continue
            fixed.append(f"{arange(block)}{spread(at, rank)} * {strides[axis]}")
            inside = self._inside(start, block, limit, arange(block))
            if inside:
                text = f"{inside}{spread(at, rank)}"
                masks.append(text if self._moves(start, walked) else self._named(text, f"{operand}_inside"))
        pointers = region.names.fresh(f"{operand}_ptrs")
        texts = fixed
        if rank and not any("arange" in t for t in fixed):
            ones = ", ".join("1" for _ in range(rank))
            texts = [*fixed, f"tl.zeros(({ones}{',' if rank == 1 else ''}), tl.int32)"]
        region.line(f"{pointers} = {' + '.join(texts)}")
        self.places[argument] = _Place(pointers, tuple(moves), tuple(masks), strides[-1] if six else None)

    def describe(self, operand: str, value: SSAValue, window: Window, argument: SSAValue) -> None:
        """Write a tensor descriptor, through which the hardware fetches tiles, 0 outside."""
        shape = tensor_type(value.type).shape
        name = self._descriptor(operand, shape, window)
        self.descriptors[argument] = name, self._starts(window)

    def _descriptor(self, operand: str, shape: tuple[Dim, ...], window: Window) -> str:
        region = self.region
        name = region.names.fresh(f"{operand}_desc")
        sizes = ", ".join(map(region.size, shape))
        stride, block = region.size(shape[-1]), ", ".join(map(region.size, window.tile))
        region.line(f"{name} = tl.make_tensor_descriptor({operand}, [{sizes}], [{stride}, 1], [{block}])")
        return name

    def _starts(self, window: Window) -> tuple[str, ...]:
        return tuple(self.region.size(self._start(window, axis)) for axis in range(len(window.block)))

    def store_described(self, name: str, shape: tuple[Dim, ...], window: Window, value: SSAValue) -> None:
        """Write the store of a tile through a descriptor."""
        descriptor = self._descriptor(name, shape, window)
        self.region.line(f"{descriptor}.store([{', '.join(self._starts(window))}], {self.region[value]})")

    def load(self, argument: SSAValue, wanted: str, *, once: bool = False) -> None:
        """Write the load of a prepared window; what lies outside is 0. once: nothing reads it again, so that it need
        not stay in the cache.
        """
        region = self.region
        t = tensor_type(argument.type)
        if argument in self.descriptors:
            descriptor, starts = self.descriptors[argument]
            region.line(f"{region.bind(argument, wanted)} = {descriptor}.load([{', '.join(starts)}])")
            return
        place = self.places[argument]
        pointers = " + ".join([place.pointers, *place.moves])
        mask = f", mask={' & '.join(_wrapped(place.masks))}, other=0" if place.masks else ""
        if place.six is None:
            name = region.bind(argument, wanted)
            real = _is_real(t) or region.triton_dtype(t).startswith("float8")
            other = mask.replace("other=0", "other=0.0") if real else mask
            policy = ', eviction_policy="evict_first"' if once else ""
            region.line(f"{name} = tl.load({pointers}{other}{policy})")
            return
        size = t.shape[-1]
        assert isinstance(size, int), "legalize-windows refuses tiles of unknown size"
        names: list[str] = []
        for part, offset in zip(("low", "high"), self._six(size // 3 * 4), strict=True):
            names.append(region.names.fresh(f"{wanted}_{part}"))
            along = f"{offset}{spread(t.rank - 1, t.rank)} * {place.six}"
            region.line(f"{names[-1]} = tl.load({pointers} + {along}{mask})")
        region.name(argument, names[0])
        region.planes[argument] = (names[0], names[1])

    def _six(self, size: int) -> tuple[str, str]:
        """Names of the offsets of the byte in which each 6-bit code begins, and of the one in which it ends."""
        codes = self._named(arange(size), "codes")
        low = self._named(f"{codes} // 4 * 3 + {codes} % 4 * 6 // 8", "begins")
        return low, self._named(f"{codes} // 4 * 3 + ({codes} % 4 * 6 + 5) // 8", "ends")

    # -- storing -------------------------------------------------------------------------------------------------------

    def store(
        self, name: str, shape: tuple[Dim, ...], window: Window, value: SSAValue, combine: str | None, *,
        turned: bool = False,
    ) -> None:  # fmt: skip
        """Write the store of a tile, of what lies inside the result. turned: the rows of the result are neighbours."""
        region = self.region
        pointers, masks = self._output(name, shape, window, 1, turned=turned)
        mask = f", mask={' & '.join(_wrapped(masks))}" if masks else ""
        pointers = self._pointed(name, pointers)
        text = region[value] if window.kept_axes else region.loose(value)
        if combine is None:
            region.line(f"tl.store({pointers}, {text}{mask})")
        else:
            region.line(f'tl.atomic_{combine}({pointers}, {text}{mask}, sem="relaxed")')

    def store_six(self, name: str, shape: tuple[Dim, ...], window: Window, codes: str, about: Operation) -> None:
        """Write the packing of 6-bit codes and the stores of every third byte, or of every third word of four bytes.

        Words need rows that are whole units of three; results are our own, so that they begin where a word may.
        """
        region, bytes_, block = self.region, shape[-1], window.block[-1]
        words = all(isinstance(n, int) and n % 12 == 0 for n in (bytes_, block)) and window.segment is None
        planes = [region.names.fresh(f"{'word' if words else 'byte'}{i}") for i in range(3)]
        packed = f"{_functions.pack6(region.library, words=words)}({codes})"
        region.line(f"{', '.join(planes)} = {packed}", origin(about, ", ".join(planes)))
        if words:
            assert isinstance(bytes_, int) and isinstance(block, int), "words divide known sizes"  # noqa: PT018
            shape, window = (*shape[:-1], bytes_ // 4), replace(window, block=(*window.block[:-1], block // 4))
            whole, name = name, region.names.fresh(f"{name}_words")
            region.line(f"{name} = {whole}.to(tl.pointer_type(tl.uint32))")
        for i, plane in enumerate(planes):
            pointers, masks = self._output(name, shape, window, len(planes), i)
            mask = f", mask={' & '.join(_wrapped(masks))}" if masks else ""
            region.line(f"tl.store({self._pointed(name, pointers)}, {plane}{mask})")

    def _pointed(self, name: str, pointers: str) -> str:
        """The name of a line that computes pointers."""
        found = self.region.names.fresh(f"{name}_ptrs")
        self.region.line(f"{found} = {pointers}")
        return found

    def _output(
        self, name: str, shape: tuple[Dim, ...], window: Window, unit: int, part: int = 0, *, turned: bool = False
    ) -> tuple[str, list[str]]:
        """Pointers and masks of a contiguous or turned result; of one byte in each `unit` of the last axis."""
        region, kept = self.region, window.kept_axes
        rank = len(kept)
        texts, masks, tiled = [name], list[str](), 0
        for axis in range(len(shape)):
            step: Dim = 1
            for size in shape[axis + 1 :]:
                step = dims.mul(step, size)
            if turned:
                step = 1 if axis == 0 else turned_stride(shape[0])
            stride = region.size(step, 3)
            start, limit, block = self._start(window, axis), self._limit(window, axis, shape), window.block[axis]
            text = self._offset(start, stride, shape[axis], step)
            texts += [text] if text else []
            if block is None or block == 1:
                continue
            assert isinstance(block, int), "legalize-windows refuses tiles of unknown size"
            at = kept.index(axis)
            along = arange(block)
            if unit > 1 and axis == len(shape) - 1:
                along = f"({arange(block // unit)} * {unit} + {part})"
            tiled += 1
            wide = "" if isinstance(step, int) and step * block < _INT32 else ".to(tl.int64)"
            texts.append(f"{along}{spread(at, rank)}{wide}" + ("" if stride == "1" else f" * {stride}"))
            inside = self._inside(start, block, limit, along)
            masks += [f"{inside}{spread(at, rank)}"] if inside else []
        if rank and not tiled:
            ones = ", ".join("1" for _ in range(rank))
            texts.append(f"tl.zeros(({ones}{',' if rank == 1 else ''}), tl.int32)")
        return " + ".join(texts), masks

    # -- places along an axis ------------------------------------------------------------------------------------------

    def _start(self, window: Window, axis: int) -> Dim:
        """The first element of a window along an axis."""
        block = window.block[axis]
        start = dims.mul(dims.substitute(window.index[axis], self.single), 1 if block is None else block)
        if window.segment is not None and window.segment.axis == axis:
            return dims.add(window.segment.base, start)
        return start

    @staticmethod
    def _limit(window: Window, axis: int, shape: tuple[Dim, ...]) -> Dim | None:
        """Where the elements of a window end; None where every tile is full."""
        if window.segment is not None and window.segment.axis == axis:
            return window.segment.limit
        block, size = window.block[axis], shape[axis]
        if block is None or block == size or (isinstance(size, int) and isinstance(block, int) and size % block == 0):
            return None
        return size

    @staticmethod
    def _moves(start: Dim, walked: set[str]) -> bool:
        return bool(dims.symbols(start) & walked)

    def _inside(self, start: Dim, block: Dim | None, limit: Dim | None, along: str) -> str:
        """Which elements of a tile lie inside; empty where all do."""
        if limit is None or block in (None, 1):
            return ""
        rest = self.region.size(dims.sub(limit, start), 2)
        return f"({along} < {rest})"

    def _offset(self, start: Dim, stride: str, size: Dim, step: Dim = SHORT) -> str:
        """`start * stride` in elements, in 64 bits where 32 might not do. size: of the axis; step: at most so many
        elements lie between neighbours.
        """
        if start == 0:
            return ""
        reach = dims.mul(size, step)
        if isinstance(start, int) or (isinstance(reach, int) and reach < _INT32):
            text = self.region.size(start, 2)
        else:
            text = f"tl.cast({self.region.size(start)}, tl.int64)"
        return f"{text} * {stride}" if stride != "1" else text

    def _named(self, text: str, wanted: str) -> str:
        """A name for what does not change, written once."""
        if text not in self.known:
            name = self.region.names.fresh(wanted)
            self.known[text] = name
            self.region.line(f"{name} = {text}")
        return self.known[text]


def _wrapped(masks: Sequence[str]) -> list[str]:
    """Masks with one entry each; equal ones once."""
    return list(dict.fromkeys(masks))


def _is_real(t: object) -> bool:
    from breccia.ir.types import TensorType, is_float

    return isinstance(t, TensorType) and is_float(t.dtype) and t.format is not None and t.format.bits > 8
