"""The tiling of a kernel: its grid, and one window for each operand and result.

    grid(m = ceildiv(M, 128), n = ceildiv(N, 128), k = 5 reduction)
    in (%a window [128, 128] at (m, k), %w window [one, 128, 128] at (%gid[m], k, n), %gid)
    out (!breccia.tensor<[M, N], bf16> window [128, 128] at (m, n))

A window maps a grid point to a tile of the operand's storage: on each axis the elements
`[base + i * block, min(base + (i + 1) * block, limit, size))`. A partial window *is* a smaller tile;
nothing outside exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from breccia.ir import dims
from breccia.ir.dims import Dim

Kind = Literal["parallel", "reduction", "sequential"]
Combine = Literal["add", "max"]
_KINDS: tuple[Kind, ...] = ("reduction", "sequential", "parallel")


@dataclass(frozen=True)
class GridDim:
    """One dimension of the grid. `extent` may use symbols and *earlier* dimensions.

    parallel: any order, one program a point; reduction: in order inside a program, `step` runs once a point;
    sequential: programs in order (needed only where outputs are combined).
    """

    name: str
    extent: Dim
    kind: Kind = "parallel"


@dataclass(frozen=True)
class Segment:
    """`within a to b` on one axis: element `base`, and the `limit` that the window may not pass."""

    axis: int
    base: Dim
    limit: Dim


@dataclass(frozen=True)
class Window:
    """Which tile of an operand a grid point sees.

    block: size of each axis of the tile; None (`one`) for an axis of size 1 that the tile drops.
    index: block index on each axis, affine in grid dimensions, with `floordiv` and table look-ups.
    combine: outputs only: programs that meet in a window add (or take the maximum) instead of racing.
    partial: inputs only: some blocks of the operand are deliberately never read.
    """

    block: tuple[Dim | None, ...]
    index: tuple[Dim, ...]
    segment: Segment | None = None
    combine: Combine | None = None
    partial: bool = False

    @property
    def tile(self) -> tuple[Dim, ...]:
        """Shape of a full tile."""
        return tuple(b for b in self.block if b is not None)

    @property
    def kept_axes(self) -> tuple[int, ...]:
        """The operand axes that the tile keeps."""
        return tuple(i for i, b in enumerate(self.block) if b is not None)


@dataclass(frozen=True)
class Tiling:
    """Grid and windows of one kernel; `None` stands for an operand that only index maps read.

    `step_uses` and `finish_uses` say which operands the regions take after the carried values.
    """

    grid: tuple[GridDim, ...]
    inputs: tuple[Window | None, ...]
    outputs: tuple[Window, ...]
    step_uses: tuple[int, ...] = ()
    finish_uses: tuple[int, ...] = ()

    def dims(self, kind: Kind) -> tuple[GridDim, ...]:
        return tuple(d for d in self.grid if d.kind == kind)


def show_grid(grid: tuple[GridDim, ...]) -> str:
    """A grid as text that `parse_grid` reads back."""

    def one(d: GridDim) -> str:
        return f"{d.name} = {dims.show(d.extent)}" + ("" if d.kind == "parallel" else f" {d.kind}")

    return "grid(" + ", ".join(map(one, grid)) + ")"


def show_window(window: Window, operand_name: Callable[[int], str] = lambda i: f"table({i})") -> str:
    """A window as text that `parse_window` reads back."""

    def text(d: Dim) -> str:
        return dims.show(d, operand_name)

    blocks = ", ".join("one" if b is None else text(b) for b in window.block)
    out = f"window [{blocks}] at ({', '.join(map(text, window.index))})"
    if window.segment:
        out += f" within axis {window.segment.axis} {text(window.segment.base)} to {text(window.segment.limit)}"
    if window.combine:
        out += f" combine {window.combine}"
    return out + (" partial" if window.partial else "")


def parse_grid(parser: AttrParser) -> tuple[GridDim, ...]:
    """Read `grid(m = ceildiv(M, 128), k = 5 reduction)`."""

    def one() -> GridDim:
        name = parser.parse_identifier(" naming a grid dimension")
        parser.parse_punctuation("=")
        extent = dims.parse(parser)
        kind = parser.parse_optional_keyword_in(_KINDS)
        return GridDim(name, extent, kind or "parallel")  # type: ignore[arg-type]

    parser.parse_keyword("grid")
    return tuple(parser.parse_comma_separated_list(parser.Delimiter.PAREN, one))


def parse_window(parser: AttrParser, operand_index: Callable[[str], int] | None = None) -> Window:
    """Read `window [..] at (..)` and what may follow it. `operand_index` finds a table by its name."""

    def block() -> Dim | None:
        return None if parser.parse_optional_keyword("one") else dims.parse(parser, operand_index)

    def index() -> Dim:
        return dims.parse(parser, operand_index)

    parser.parse_keyword("window")
    blocks = tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, block))
    parser.parse_keyword("at")
    indices = tuple(parser.parse_comma_separated_list(parser.Delimiter.PAREN, index))
    segment = None
    if parser.parse_optional_keyword("within"):
        parser.parse_keyword("axis")
        axis = parser.parse_integer()
        base = index()
        parser.parse_keyword("to")
        segment = Segment(axis, base, index())
    combine = parser.parse_keyword_in(("add", "max")) if parser.parse_optional_keyword("combine") else None
    partial = parser.parse_optional_keyword("partial") is not None
    return Window(blocks, indices, segment, combine, partial)  # type: ignore[arg-type]


def _ints(parser: AttrParser) -> tuple[int, ...]:
    return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer))


@irdl_attr_definition
class TilingAttr(Data[Tiling]):
    """A tiling as a property of `breccia.kernel`; the kernel's pretty syntax spreads it over its own lines."""

    name = "breccia.tiling"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Tiling:
        def optional_window() -> Window | None:
            return None if parser.parse_optional_keyword("none") else parse_window(parser)

        with parser.in_angle_brackets():
            grid = parse_grid(parser)
            parser.parse_keyword("in")
            inputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, optional_window)
            parser.parse_keyword("out")
            outputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, lambda: parse_window(parser))
            parser.parse_keyword("step")
            step = _ints(parser)
            parser.parse_keyword("finish")
            return Tiling(grid, tuple(inputs), tuple(outputs), step, _ints(parser))

    def print_parameter(self, printer: Printer) -> None:
        t = self.data
        inputs = ", ".join("none" if w is None else show_window(w) for w in t.inputs)
        outputs = ", ".join(map(show_window, t.outputs))
        uses = f"step {list(t.step_uses)} finish {list(t.finish_uses)}"
        printer.print_string(f"<{show_grid(t.grid)} in ({inputs}) out ({outputs}) {uses}>")
