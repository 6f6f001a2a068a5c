"""The scales that a warp-specialized product multiplies the sums of each step by: fetched ahead, and combined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.targets.triton._region import Region
from breccia.targets.triton._specialized import ROWS

ADD_SCALED = '''
@gluon.jit
def _add_scaled(sums, scale, acc):
    """acc + sums * scale of each row. Volatile: moved below the next product, it would keep twice the registers."""
    sums, scale = gl.broadcast(sums, gl.expand_dims(scale, 1))
    return gl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [sums, scale, acc], dtype=gl.float32, is_pure=False, pack=1
    )
'''
ADD = '''
@gluon.jit
def _add(sums, acc):
    """acc + sums. Volatile: moved below the next product, it would keep twice the registers."""
    return gl.inline_asm_elementwise(
        "add.rn.f32 $0, $1, $2;", "=f,f,f", [sums, acc], dtype=gl.float32, is_pure=False, pack=1
    )
'''


class Scales:
    """Writes how scales are fetched and used. writer: of the kernel; ms, ns: the places of a group's tiles; steps: how
    many steps of k come together.

    Invariant: `names` has what is fetched for each factor, wave and step.
    """

    def __init__(self, writer: Any, region: Region, ms: Sequence[str], ns: Sequence[str], steps: int = 1) -> None:
        self.writer, self.region, self.ms, self.ns, self.steps = writer, region, ms, ns, steps
        self.names: dict[tuple[int, int, int], str] = {}
        self.next = ""
        self.places: dict[tuple[int, int], tuple[str, str]] = {}
        """Factor and wave to the pointers of the first step, and the mask of their loads."""
        for f, factor in enumerate(writer.product.factors):
            for i, place in enumerate(self._waves(factor)):
                self.places[f, i] = self._pointers(factor, place)
                for step in range(steps):
                    many = len(self._waves(factor)) > 1, steps > 1
                    suffix = (str(i) if many[0] else "") + (f"_{step}" if many[1] else "")
                    self.names[f, i, step] = region.names.fresh(f"{writer.operands[factor.operand]}_now{suffix}")

    def _waves(self, factor: Any) -> Sequence[str]:
        """The places of tiles that a factor differs between."""
        window, m = self.writer.kernel.tiles.inputs[factor.operand], self.writer.product.m.name
        rows = factor.along == "row" or (factor.along == "tile" and m in dims.symbols(window.index[1 - factor.step]))
        return self.ms if rows else self.ns

    def _pointers(self, factor: Any, place: str) -> tuple[str, str]:
        """Write the pointers to a tile's scales of the first step."""
        region, w = self.region, self.writer
        operand, strides = w.operands[factor.operand], w.strides[factor.operand]
        across, stride = 1 - factor.step, strides[1 - factor.step]
        size = region.size(tensor_type(w.kernel.args[factor.operand].type).shape[across], 2)
        pointers = region.names.fresh(f"{operand}_ptrs")
        if factor.along == "tile":
            for d in (w.product.m, w.product.n):
                region.sizes.grid(d.name, place)
            # Tiles outside the tensor read the last scale, and are not stored.
            index = f"min({region.size(w.kernel.tiles.inputs[factor.operand].index[across])}, {size} - 1)"
            region.line(f"{pointers} = {w.start_of(factor.operand)} + {index} * {stride}")
            return pointers, ""
        count = ROWS if factor.along == "row" else w.product.columns
        axis = 1 if factor.along == "row" else 0
        lines = region.names.fresh("rows" if axis else "columns")
        start = w.row(f"{place} * {count}") if axis else f"{place} * {count}"
        region.line(f"{lines} = {start} + gl.arange(0, {count}, gl.SliceLayout({axis}, LAYOUT))")
        region.line(f"{pointers} = {w.start_of(factor.operand)} + {lines} * {stride}")
        return pointers, f", mask={lines} < {size}, other=0.0"

    def fetch(self, k: str) -> None:
        """Write the loads of the scales of step `k`, or of all steps of stage `k`; the last step is all later ones."""
        self._load(k, ("row", "tile", "column"))

    def _load(self, k: str, along: Sequence[str]) -> None:
        last = self.region.size(dims.sub(self.writer.product.k.extent, 1))
        for (f, i), (pointers, mask) in self.places.items():
            factor = self.writer.product.factors[f]
            if factor.along not in along:
                continue
            stride = self.writer.strides[factor.operand][factor.step]
            for step in range(self.steps):
                place = (
                    k if self.steps == 1 else f"min({k} * {self.steps}" + (f" + {step}" if step else "") + f", {last})"
                )
                place = "" if place == "0" else f" + {place} * {stride}"
                self.region.line(f"{self.names[f, i, step]} = gl.load({pointers}{place}{mask})")

    def ahead(self, k: str, by: int = 1) -> None:
        """Write the loads for what comes `by` after `k`: of what `combined` has used already."""
        if not self.places:
            return
        self.next = name = self.region.names.fresh("ahead")
        text = f"{k} + {by}"
        if self.steps == 1:
            text = f"min({text}, {self.region.size(dims.sub(self.writer.product.k.extent, 1))})"
        self.region.line(f"{name} = {text}")
        self._load(name, ("row", "tile"))

    def ahead_columns(self) -> None:
        """Write the loads of columns' scales for what comes next, once this step's sums were multiplied by theirs."""
        if self.places:
            self._load(self.next, ("column",))

    def _parts(self, i: int, j: int, step: int, along: Sequence[str]) -> list[str]:
        found: list[str] = []
        for f, factor in enumerate(self.writer.product.factors):
            if factor.along in along:
                found.append(self.names[f, i if self._waves(factor) is self.ms else j, step])
        return found

    def combined(self, i: int, j: int, step: int = 0) -> str:
        """Write and name what a tile's sums are multiplied by, for each row; empty where there is nothing."""
        if not self.writer.product.factors:
            return ""
        text = " * ".join(self._parts(i, j, step, ("row", "tile"))) or "1.0"
        if not self._parts(i, j, step, ("row",)):
            text = f"gl.full(({ROWS},), {text}, gl.float32, gl.SliceLayout(1, LAYOUT))"
        name = self.region.names.fresh("scale")
        self.region.line(f"{name} = {text}")
        return name

    def added(self, part: str, i: int, j: int, scale: str, acc: str, step: int = 0) -> str:
        """The sums with those of this step."""
        if not scale:
            return f"{self.writer.library.add('_add', ADD)}({part}, {acc})"
        for column in self._parts(i, j, step, ("column",)):
            part = f"{part} * gl.expand_dims({column}, 0)"
        return f"{self.writer.library.add('_add_scaled', ADD_SCALED)}({part}, {scale}, {acc})"
