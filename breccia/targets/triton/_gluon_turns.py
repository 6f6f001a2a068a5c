"""Products of few rows for Hopper in Gluon: two groups of warps take turns along k, and add up at the end.

There are hardly more tiles than multiprocessors, so what counts is that memory is never idle: stages hold several steps
of k, a program has one tile, and scales are fetched two stages ahead.
"""

from __future__ import annotations

from breccia.codegen.lines import docstring
from breccia.ir import dims
from breccia.targets.triton._gluon import LOADING_REGISTERS, Gluon, slot
from breccia.targets.triton._gluon_scales import Scales
from breccia.targets.triton._region import Region
from breccia.targets.triton._specialized import ROWS, STEP_BYTES
from breccia.targets.triton._text import head

REGISTERS = 232


class Turns(Gluon):
    """Writes one such kernel. Invariant: the number of stages is a multiple of the turns, so that a stage keeps its
    group; otherwise a wait for a phase would pass on the barrier of another round.
    """

    walks = False

    def stored_boxed(self, i: int) -> bool:  # noqa: ARG002 - few rows leave by themselves, without a wait at the end
        return False

    def rings(self) -> tuple[list[str], str]:
        return [f"{self.operands[self.product.a]}_tiles"], f"{self.operands[self.product.b]}_tiles"

    def math_parameters(self) -> list[str]:
        (ring,), second = self.rings()
        return [ring, second, "full", "empty", "partial", "summed", *self.finish_parameters()]

    def place(self, region: Region) -> tuple[str, str]:
        """Write the place of the program's tile."""
        fresh, p = region.names.fresh, self.product
        m, n = fresh("m"), fresh("n")
        tiles = region.size(p.m.extent, 3)
        region.line(f"{m} = gl.program_id(0) % {tiles}")
        region.line(f"{n} = gl.program_id(0) // {tiles}")
        return m, n

    def stages_of_k(self) -> dims.Dim:
        return dims.ceildiv(self.product.k.extent, self.shape.steps)

    def load(self) -> str:
        p, s = self.product, self.shape
        a, b = self.operands[p.a], self.operands[p.b]
        (ring,), second = self.rings()
        given = [a, b, ring, second, "full", "empty", *self.sizes()]
        region = self.region([ring, second, "full", "empty"])
        fresh = region.names.fresh
        m, n = self.place(region)
        stage, phase, turn, arrived = fresh("stage"), fresh("phase"), fresh("turn"), fresh("arrived")
        region.line(f"{stage} = 0")
        region.line(f"{phase} = 1")
        region.line(f"for {turn} in range({region.size(self.stages_of_k())}):")
        region.indent(1)
        region.line(f"mbarrier.wait(empty.index({stage}), {phase})")
        region.line(f"{arrived} = full.index({stage})")
        region.line(f"mbarrier.expect({arrived}, {(ROWS + p.columns) * STEP_BYTES * s.steps})")
        for step in range(s.steps):
            k = f"({slot(turn, step, s.steps)}) * {p.depth}" if s.steps > 1 else f"{turn} * {p.depth}"
            place = slot(stage, step, s.steps)
            begin = self.second_place(f"{n} * {p.columns}", k)
            region.line(f"async_load({b}, {begin}, {arrived}, {second}.index({place}))")
            region.line(f"async_load({a}, [{m} * {ROWS}, {k}], {arrived}, {ring}.index({place}))")
        self.advance(region, stage, phase)
        return self.function("_load", given, "One warp: operands of each stage, as soon as it is free.", region)

    def math(self) -> str:
        p, s = self.product, self.shape
        (ring,), second = self.rings()
        parameters = self.math_parameters()
        region = self.region([*parameters, "group"])
        fresh = region.names.fresh
        region.line(self.layout)
        m, n = self.place(region)
        nothing, acc = fresh("nothing"), fresh("acc")
        region.line(f"{nothing} = gl.zeros(({ROWS}, {p.columns}), gl.float32, LAYOUT)")
        region.line(f"{acc} = gl.zeros(({ROWS}, {p.columns}), gl.float32, LAYOUT)")
        scales = Scales(self, region, [m], [n], s.steps)
        stage, phase, turn = fresh("stage"), fresh("phase"), fresh("turn")
        region.line(f"{stage} = gl.to_tensor(group)")
        region.line(f"{phase} = 0")
        scales.fetch("group" if s.steps > 1 else self._first(region))
        region.line(f"for {turn} in range(group, {region.size(self.stages_of_k())}, {s.turns}):")
        region.indent(1)
        region.line(f"mbarrier.wait(full.index({stage}), {phase})")
        parts = [fresh(f"part{i}" if s.steps > 1 else "part") for i in range(s.steps)]
        for step, part in enumerate(parts):
            place = slot(stage, step, s.steps)
            right = self.second_tile(second, place)
            start = f"{nothing}, use_acc=False, is_async=True"
            region.line(f"{part} = warpgroup_mma({ring}.index({place}), {right}, {start})")
        combined = [scales.combined(0, 0, step) for step in range(s.steps)]
        scales.ahead(turn, s.turns)
        names = ", ".join(parts)
        region.line(f"{names} = warpgroup_mma_wait(0, deps=[{names}])")
        region.line(f"mbarrier.arrive(empty.index({stage}), count=1)")
        for step, part in enumerate(parts):
            region.line(f"{acc} = {scales.added(part, 0, 0, combined[step], acc, step)}")
        scales.ahead_columns()
        self.advance(region, stage, phase, s.turns)
        region.indent(-1)
        region.line("if group == 1:")
        region.line(f"    partial.store({acc})")
        region.line("    mbarrier.arrive(summed, count=1)")
        region.line("else:")
        region.line("    mbarrier.wait(summed, 0)")
        region.line(f"    {acc} = {acc} + partial.load(LAYOUT)")
        region.line(f"    {self.finish_call(acc, m, n)}")
        given = ["group: gl.constexpr", *parameters]
        return self.function("_math", given, "Four warps: the sums of every other stage.", region)

    def _first(self, region: Region) -> str:
        """The first step of a group, where there is one for it."""
        return f"min(group, {region.size(dims.sub(self.product.k.extent, 1))})"

    def start(self) -> str:
        kernel, p, s = self.kernel, self.product, self.shape
        (ring,), second = self.rings()
        region = self.region([ring, second, "full", "empty", "partial", "summed"])
        a, b = self.operands[p.a], self.operands[p.b]
        slots = s.stages * s.steps
        region.line(f"{ring} = gl.allocate_shared_memory({a}.dtype, [{slots}, {ROWS}, {p.depth}], {a}.layout)")
        box = ", ".join(map(str, self.second_box()))
        region.line(f"{second} = gl.allocate_shared_memory({b}.dtype, [{slots}, {box}], {b}.layout)")
        region.line("ROWS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])")
        region.line(f"partial = gl.allocate_shared_memory(gl.float32, [{ROWS}, {p.columns}], ROWS)")
        for name in ("full", "empty"):
            region.line(f"{name} = gl.allocate_shared_memory(gl.int64, [{s.stages}, 1], mbarrier.MBarrierLayout())")
        region.line("summed = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())")
        region.line("mbarrier.init(summed, count=1)")
        i = region.names.fresh("i")
        region.line(f"for {i} in gl.static_range({s.stages}):")
        region.line(f"    mbarrier.init(full.index({i}), count=1)")
        region.line(f"    mbarrier.init(empty.index({i}), count=1)")
        region.line("fence_async_shared()")
        tail = [*self.sizes(), *self.all_strides()]
        shared = ", ".join(self.math_parameters())
        loads = ", ".join([a, b, ring, second, "full", "empty", *self.sizes()])
        region.line("gl.warp_specialize(")
        region.line("    [")
        for group in range(s.turns):
            region.line(f"        ({self.name}_math, ({group}, {shared})),")
        region.line(f"        ({self.name}_load, ({loads})),")
        workers = ["4"] * (s.turns - 1)
        registers = [str(REGISTERS)] * (s.turns - 1)
        region.line("    ],")
        region.line(f"    [{', '.join([*workers, '1'])}],")
        region.line(f"    [{', '.join([*registers, str(LOADING_REGISTERS)])}],")
        region.line(")")
        doc = docstring(kernel.kernel_name, kernel.args, [o.type for o in kernel.outs])
        given = [*self.operands, *self.results, *tail]
        return f"@gluon.jit\n{head(self.name, given)}\n{doc}{region.text()}"
