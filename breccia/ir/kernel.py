"""`breccia.kernel`: one launch.

Partitioned and laid-out forms hold whole tensors in one region:

    %y = breccia.kernel "gemm" in (%a, %w) out (!breccia.tensor<[M, 256], bf16>)
      body (%a, %w) { ... yield %y }

The tiled form has a grid, a window for each operand and result, and up to three regions on tiles:

    %y = breccia.kernel "gemm" grid(m = ceildiv(M, 128), n = 2, k = 5 reduction) schedule<num_warps = 8>
      in (%a window [128, 128] at (m, k), %w window [128, 128] at (k, n))
      out (!breccia.tensor<[M, 256], bf16> window [128, 128] at (m, n))
      init { ... yield %acc }
      step (%acc, %a, %w) { ... yield %acc2 }
      finish (%acc) { ... yield %y }

Regions are isolated: their arguments repeat the names of the kernel's operands. `step` and `finish` take the carried
values first, then the operands they read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, Pure
from xdsl.utils.exceptions import VerifyException

from breccia.ir.attributes import Entries, ScheduleAttr
from breccia.ir.ops import YieldOp
from breccia.ir.tiling import Tiling, TilingAttr, Window, parse_grid, parse_window, show_grid, show_window
from breccia.ir.types import TensorType, tensor

REGIONS = ("body", "init", "step", "finish")


@irdl_op_definition
class KernelOp(IRDLOperation):
    """One launch. Invariants: either `body` alone, or `finish` with a tiling (and `step` only with `init`)."""

    name = "breccia.kernel"
    args = var_operand_def()
    outs = var_result_def()
    sym_name = prop_def(StringAttr)
    tiling = opt_prop_def(TilingAttr)
    schedule = opt_prop_def(ScheduleAttr)
    body = region_def()
    init = region_def()
    step = region_def()
    finish = region_def()
    traits = traits_def(IsolatedFromAbove(), Pure())

    @classmethod
    def make(
        cls,
        name: str,
        args: Sequence[SSAValue],
        results: Sequence[Attribute],
        *,
        body: Region | None = None,
        tiling: Tiling | None = None,
        init: Region | None = None,
        step: Region | None = None,
        finish: Region | None = None,
        schedule: ScheduleAttr | None = None,
    ) -> KernelOp:
        properties: dict[str, Attribute] = {"sym_name": StringAttr(name)}
        if tiling is not None:
            properties["tiling"] = TilingAttr(tiling)
        if schedule is not None:
            properties["schedule"] = schedule
        regions = [body or Region(), init or Region(), step or Region(), finish or Region()]
        return cls(operands=[list(args)], result_types=[list(results)], properties=properties, regions=regions)

    @property
    def kernel_name(self) -> str:
        return self.sym_name.data

    @property
    def is_tiled(self) -> bool:
        return self.tiling is not None

    @property
    def tiles(self) -> Tiling:
        """The tiling of a tiled kernel."""
        assert self.tiling is not None, f"kernel {self.kernel_name} is not tiled"
        return self.tiling.data

    @property
    def entries(self) -> Entries:
        """What its schedule says, by name; nothing where it has none."""
        return {} if self.schedule is None else self.schedule.entries

    def named_regions(self) -> list[tuple[str, Region]]:
        """The regions that are there, in order of execution."""
        return [(n, r) for n in REGIONS for r in [getattr(self, n)] if r.blocks]

    @staticmethod
    def terminator(region: Region) -> YieldOp:
        last = region.block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException("every region of a kernel ends in breccia.yield")
        return last

    # ---- verification ----------------------------------------------------------------------------------------------

    def verify_(self) -> None:
        try:
            if self.tiling is None:
                self._verify_body()
            else:
                self._verify_tiled(self.tiling.data)
        except VerifyException as error:
            raise VerifyException(f"kernel {self.kernel_name}: {error}") from None

    def _verify_body(self) -> None:
        if not self.body.blocks or self.init.blocks or self.step.blocks or self.finish.blocks:
            raise VerifyException("a kernel without a grid has a body and no other region")
        _expect_types("body takes", [a.type for a in self.body.block.args], "operands are", [a.type for a in self.args])
        yields = [v.type for v in self.terminator(self.body).args]
        _expect_types("body yields", yields, "results are", [o.type for o in self.outs])

    def _verify_tiled(self, t: Tiling) -> None:
        if self.body.blocks or not self.finish.blocks:
            raise VerifyException("a tiled kernel has `finish` (and perhaps `init` and `step`), and no body")
        if bool(self.step.blocks) != bool(self.init.blocks):
            raise VerifyException("`init` and `step` come together: init's yields are what step carries")
        if len(t.inputs) != len(self.args) or len(t.outputs) != len(self.outs):
            raise VerifyException("every operand and every result needs a window (or no window, for a table)")
        for name, type_, window in self._windowed():
            self._verify_window(name, type_, window)
        carried = self._verify_regions(t)
        del carried
        from breccia.ir.coverage import check_encodes, check_tiling

        check_tiling(t, [(n, ty) for n, ty, _ in self._windowed()], self.operand_names())
        check_encodes(self.finish.block, t)

    def operand_names(self) -> list[str]:
        return [f"%{a.name_hint}" if a.name_hint else f"operand {i}" for i, a in enumerate(self.args)]

    def _windowed(self) -> list[tuple[str, TensorType, Window]]:
        """Name, type and window of every operand and result that has a window."""
        t, names, out = self.tiles, self.operand_names(), []
        for name, value, window in zip(names, self.args, t.inputs, strict=True):
            if not isinstance(value.type, TensorType):
                raise VerifyException(
                    f"{name} is {value.type}; a tiled kernel takes plain components: explode it first"
                )
            if window is not None:
                out.append((name, value.type, window))
        for i, (value, window) in enumerate(zip(self.outs, t.outputs, strict=True)):
            if not isinstance(value.type, TensorType):
                raise VerifyException(
                    f"result {i} is {value.type}; a tiled kernel gives plain components: explode it first"
                )
            out.append((f"result {i}", value.type, window))
        return out

    def _verify_window(self, name: str, type_: TensorType, window: Window) -> None:
        if not len(window.block) == len(window.index) == type_.rank:
            raise VerifyException(f"{name}: {show_window(window)} on {type_}, which has {type_.rank} axes")
        for block in window.block:
            if isinstance(block, int) and block < 1:
                raise VerifyException(f"{name}: {show_window(window)}: a block has at least one element")
        if window.segment and not 0 <= window.segment.axis < type_.rank:
            raise VerifyException(f"{name}: {show_window(window)}: {type_} has no axis {window.segment.axis}")

    def _verify_regions(self, t: Tiling) -> list[Attribute]:
        tiles = [None if w is None else tile_type(a.type, w) for a, w in zip(self.args, t.inputs, strict=True)]
        carried: list[Attribute] = []
        if self.init.blocks:
            _expect_types("init takes", [a.type for a in self.init.block.args], "it may take", [])
            carried = [v.type for v in self.terminator(self.init).args]
            self._expect_region_args("step", self.step, carried, t.step_uses, tiles)
            _expect_types("step yields", [v.type for v in self.terminator(self.step).args], "init yields", carried)
        self._expect_region_args("finish", self.finish, carried, t.finish_uses, tiles)
        wanted = [tile_type(o.type, w) for o, w in zip(self.outs, t.outputs, strict=True)]
        _expect_types("finish yields", [v.type for v in self.terminator(self.finish).args], "the windows want", wanted)
        return carried

    def _expect_region_args(
        self,
        name: str,
        region: Region,
        carried: list[Attribute],
        uses: Sequence[int],
        tiles: Sequence[Attribute | None],
    ) -> None:
        wanted: list[Attribute] = list(carried)
        for i in uses:
            tile = tiles[i] if 0 <= i < len(tiles) else None
            if tile is None:
                raise VerifyException(f"{name} uses operand {i}, which has no window")
            wanted.append(tile)
        found: list[Attribute] = [a.type for a in region.block.args]
        _expect_types(f"{name} takes", found, "carried values and windows give", wanted)

    # ---- text ------------------------------------------------------------------------------------------------------

    def print(self, printer: Printer) -> None:
        printer.print_string(f' "{self.kernel_name}"')
        names = [printer_name(printer, a) for a in self.args]
        lookup: Callable[[int], str] = lambda i: f"%{names[i]}"  # noqa: E731
        tiling = self.tiling.data if self.tiling else None
        if tiling:
            printer.print_string(" " + show_grid(tiling.grid))
        if self.schedule:
            printer.print_string(" schedule")
            self.schedule.print_parameter(printer)
        with printer.indented():
            printer._print_new_line()  # pyright: ignore[reportPrivateUsage]
            windows: Sequence[Window | None] = tiling.inputs if tiling else [None] * len(self.args)
            ins = [f"%{n}" + (f" {show_window(w, lookup)}" if w else "") for n, w in zip(names, windows, strict=True)]
            printer.print_string("in (" + ", ".join(ins) + ")")
            printer._print_new_line()  # pyright: ignore[reportPrivateUsage]
            self._print_results(printer, tiling, lookup)
            for region_name, region in self.named_regions():
                printer._print_new_line()  # pyright: ignore[reportPrivateUsage]
                self._print_region(printer, region_name, region, names)

    def _print_results(self, printer: Printer, tiling: Tiling | None, lookup: Callable[[int], str]) -> None:
        printer.print_string("out (")
        for i, out in enumerate(self.outs):
            printer.print_string(", " if i else "")
            printer.print_attribute(out.type)
            if tiling:
                printer.print_string(" " + show_window(tiling.outputs[i], lookup))
        printer.print_string(")")

    def _print_region(self, printer: Printer, name: str, region: Region, names: list[str]) -> None:
        uses = self._uses(name)
        carried = len(region.block.args) - len(uses)
        printer._ssa_names.append(dict.fromkeys(names, 1))  # pyright: ignore[reportPrivateUsage]
        for arg, i in zip(region.block.args[carried:], uses, strict=True):
            printer._ssa_values[arg] = names[i]  # pyright: ignore[reportPrivateUsage]
        printer.print_string(f"{name} ")
        if name != "init":
            with printer.in_parens():
                printer.print_list(region.block.args, printer.print_ssa_value)
            printer.print_string(" ")
        printer.print_region(region, print_entry_block_args=False)
        printer._ssa_names.pop()  # pyright: ignore[reportPrivateUsage]

    def _uses(self, region: str) -> Sequence[int]:
        if region == "body":
            return range(len(self.args))
        if self.tiling is None or region == "init":
            return ()
        return self.tiling.data.step_uses if region == "step" else self.tiling.data.finish_uses

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        return _KernelParser(parser).parse()


def printer_name(printer: Printer, value: SSAValue) -> str:
    """The name under which a value that is already printed stands, without `%`."""
    known = printer._ssa_values  # pyright: ignore[reportPrivateUsage]
    if value not in known:  # printed on its own, outside its function
        known[value] = value.name_hint or f"arg{len(known)}"
    return known[value]


def tile_type(type_: Attribute, window: Window) -> TensorType:
    """The type of a full tile of an operand."""
    assert isinstance(type_, TensorType), "windows lie over plain components"
    return tensor(window.tile, type_.dtype)


def _expect_types(a: str, found: Sequence[Attribute], b: str, wanted: Sequence[Attribute]) -> None:
    if list(found) != list(wanted):
        raise VerifyException(f"{a} ({', '.join(map(str, found))}), but {b} ({', '.join(map(str, wanted))})")


class _KernelParser:
    """State while one kernel is parsed: operand names, for look-ups and for region arguments."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.names: dict[str, int] = {}
        self.args: list[SSAValue] = []
        self.windows: list[Window | None] = []

    def parse(self) -> KernelOp:
        p = self.parser
        name = p.parse_str_literal(" naming the kernel")
        grid = parse_grid(p) if self._at("grid") else None
        schedule = ScheduleAttr(ScheduleAttr.parse_parameter(p)) if p.parse_optional_keyword("schedule") else None
        p.parse_keyword("in")
        p.parse_comma_separated_list(p.Delimiter.PAREN, self._operand)
        p.parse_keyword("out")
        results = p.parse_comma_separated_list(p.Delimiter.PAREN, lambda: self._result(grid is not None))
        types = [t for t, _ in results]
        if grid is None:
            body, _ = self._region("body", [])
            return KernelOp.make(name, self.args, types, body=body, schedule=schedule)
        init, _ = self._region("init", []) if self._at("init") else (Region(), ())
        carried = [v.type for v in KernelOp.terminator(init).args] if init.blocks else []
        step, step_uses = self._region("step", carried) if self._at("step") else (Region(), ())
        finish, finish_uses = self._region("finish", carried)
        outputs = tuple(w for _, w in results if w is not None)
        tiling = Tiling(grid, tuple(self.windows), outputs, step_uses, finish_uses)
        return KernelOp.make(
            name, self.args, types, tiling=tiling, init=init, step=step, finish=finish, schedule=schedule
        )

    def _at(self, keyword: str) -> bool:
        return self.parser._current_token.text == keyword  # pyright: ignore[reportPrivateUsage]

    def _operand(self) -> None:
        unresolved = self.parser.parse_unresolved_operand()
        value = self.parser.ssa_values.get(unresolved.operand_name)
        if value is None:
            self.parser.raise_error(f"%{unresolved.operand_name} is not defined before this kernel")
        if unresolved.operand_name in self.names:
            self.parser.raise_error(f"%{unresolved.operand_name} is given twice; a kernel takes each operand once")
        self.names[unresolved.operand_name] = len(self.args)
        self.args.append(value[unresolved.index])
        self.windows.append(parse_window(self.parser, self._index) if self._at("window") else None)

    def _index(self, name: str) -> int:
        if name not in self.names:
            self.parser.raise_error(f"%{name} is no operand of this kernel named so far; tables stand before their use")
        return self.names[name]

    def _result(self, tiled: bool) -> tuple[Attribute, Window | None]:
        type_ = self.parser.parse_type()
        return type_, parse_window(self.parser, self._index) if tiled else None

    def _region(self, name: str, carried: Sequence[Attribute]) -> tuple[Region, tuple[int, ...]]:
        p = self.parser
        p.parse_keyword(name)
        names: list[UnresolvedOperand] = []
        if name != "init":
            names = p.parse_comma_separated_list(p.Delimiter.PAREN, p.parse_unresolved_operand)
        if len(names) < len(carried):
            p.raise_error(f"{name} takes the {len(carried)} carried values first; {len(names)} arguments are named")
        uses = tuple(self._index(n.operand_name) for n in names[len(carried) :])
        types = [*carried, *(self._tile(i) for i in uses)]
        outer, p.ssa_values = p.ssa_values, {}
        arguments = [p.Argument(n.span, t) for n, t in zip(names, types, strict=True)]
        region = p.parse_region(arguments)
        if not region.blocks:
            region.add_block(Block(arg_types=types))
        p.ssa_values = outer
        return region, uses

    def _tile(self, i: int) -> Attribute:
        window, type_ = self.windows[i], self.args[i].type
        return type_ if window is None else tile_type(type_, window)
