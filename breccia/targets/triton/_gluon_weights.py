"""Products of few rows and a weight of 4 bits for Hopper in Gluon: what counts is that memory is never idle.

    _gemm_0        shared memory, barriers, and the start of the parts
    _gemm_0_load   one warp: packed codes and the activation into a ring of stages, for all tiles of the program
    _gemm_0_math   a group of four warps: every other stage, decoded in registers and multiplied; sums joined at the
                   end. Or every stage of 64 rows of the weight, where groups share the activation
    _gemm_0_finish what becomes of the sums of one tile, and where it goes

The weight is the first operand of the matrix instruction, which takes it from registers: a thread reads the bytes whose
codes it multiplies, so that they never go back to shared memory. While the tensor cores work on one step, the group
decodes the next one. The number of stages of a tile is rounded up to whole turns; those beyond k hold zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

from breccia.codegen.lines import docstring, tensor_type
from breccia.ir import dims
from breccia.ir.capabilities import Capabilities
from breccia.ir.kernel import KernelOp
from breccia.targets.triton import _gluon_decode
from breccia.targets.triton._casts import Library
from breccia.targets.triton._gluon import LOADING_REGISTERS, Gluon, Shape
from breccia.targets.triton._gluon_scales import ADD_SCALED
from breccia.targets.triton._region import Region
from breccia.targets.triton._specialized import ROWS
from breccia.targets.triton._swapped import Weights
from breccia.targets.triton._text import head

REGISTERS = {2: 232, 3: 160, 4: 112}
"""Registers of a thread that multiplies, by the number of groups."""
MANY_GROUPS = 4
"""Groups of which others decode while one multiplies, and whose registers hold one step alone."""
# Where the numbers of a step of 128 lie in registers and threads of the instruction's first operand: row, place on k.
_REGISTERS = ((0, 1), (8, 0), (0, 8), (0, 16), (0, 32), (0, 64))
_LANES = ((0, 2), (0, 4), (1, 0), (2, 0), (4, 0))
_WARPS = ((16, 0), (32, 0))


def packed_layout(depth: int) -> str:
    """How threads hold the bytes of a step whose codes are theirs."""
    registers = [(m, k // 2) for m, k in _REGISTERS if k < depth and (m, k) != (0, 1)]
    return _linear(registers, [(m, k // 2) for m, k in _LANES], _WARPS, (ROWS, depth // 2))


def blocked_layout(depth: int, block: int) -> str:
    """How threads hold their numbers of a step, as blocks along k."""
    bases = [basis for basis in _REGISTERS if basis[1] < depth], _LANES, _WARPS
    registers, lanes, warps = ([(m, k // block, k % block) for m, k in part] for part in bases)
    return _linear(registers, lanes, warps, (ROWS, depth // block, block))


def scales_layout(count: int) -> str:
    """How threads load `count` scales along k: those of a row together, as they lie in memory."""
    registers = [(0, 1 << i) for i in range(count.bit_length() - 1)] + [(8, 0)]
    return _linear(registers, [(m, 0) for m, _ in _LANES], _WARPS, (ROWS, count))


def _linear(
    registers: Sequence[Sequence[int]], lanes: Sequence[Sequence[int]], warps: Sequence[Sequence[int]],
    shape: Sequence[int],
) -> str:  # fmt: skip
    bases = ", ".join(str([list(basis) for basis in part]) for part in (registers, lanes, warps))
    return f"gl.DistributedLinearLayout({bases}, [], {list(shape)})"


class DecodedWeights(Gluon):
    """Writes one such kernel. Invariants: the number of stages, in the ring and of a tile, is a multiple of the turns,
    so that a stage keeps its group; groups take turns, or have rows of their own, and not both.
    """

    def __init__(
        self, kernel: KernelOp, weights: Weights, shape: Shape, name: str, library: Library, capabilities: Capabilities
    ) -> None:
        self.decode, self.factors, self.tall = weights.decode, weights.factors, weights.rows
        self.depth = weights.product.depth
        self.count = self.depth // self.decode.block if self.decode.scale is not None else 1
        """Scales of a row in one step."""
        super().__init__(kernel, weights.product, shape, name, library, capabilities)

    def stored_boxed(self, i: int) -> bool:  # noqa: ARG002 - few rows leave by themselves, without a wait at the end
        return False

    def boxes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        steps = self.shape.steps
        return (self.tall, self.depth * steps), (ROWS * self.shape.groups, self.depth // 2 * steps)

    def first_box(self) -> tuple[int, int]:
        return self.boxes()[0]

    def second_box(self) -> tuple[int, int]:
        return self.boxes()[1]

    @property
    def layout(self) -> str:
        return (
            "LAYOUT: gl.constexpr = gl.NVMMADistributedLayout("
            f"version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, {self.tall}, 16])"
        )

    @property
    def finish_layout(self) -> str:
        return "LAYOUT: gl.constexpr = acc.type.layout"

    def rings(self) -> tuple[list[str], str]:
        return [f"{self.operands[self.product.a]}_tiles"], f"{self.operands[self.product.b]}_tiles"

    def shared(self) -> list[str]:
        """What the parts share."""
        (ring,), second = self.rings()
        return [ring, second, "full", "empty"]

    def handing(self) -> list[str]:
        """What groups hand over their sums by."""
        return ["partial", "summed", "taken"] if self.shape.turns > 1 else []

    def math_parameters(self) -> list[str]:
        return [*self.shared(), *self.handing(), *self.finish_parameters()]

    def turns_of_k(self, region: Region) -> str:
        """How many stages of k a tile has, as text: whole turns."""
        turns = self.shape.turns
        whole = dims.ceildiv(self.product.k.extent, self.shape.steps * turns)
        return region.size(dims.mul(whole, turns))

    def tiles(self) -> dims.Dim:
        return dims.mul(self.product.m.extent, dims.ceildiv(self.product.n.extent, self.shape.groups))

    def place(self, region: Region) -> tuple[str, str]:
        """Write the loop over the program's tiles; names of the place of a tile. Tiles of one weight are neighbours."""
        fresh, p = region.names.fresh, self.product
        tile, m, n = fresh("tile"), fresh("m"), fresh("n")
        count = region.size(self.tiles())
        region.line(f"for {tile} in range(gl.program_id(0), {count}, gl.num_programs(0)):")
        region.indent(1)
        tiles = region.size(p.m.extent, 3)
        region.line(f"{m} = {tile} % {tiles}")
        region.line(f"{n} = {tile} // {tiles}")
        return m, n

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(self) -> str:
        x, w = self.operands[self.product.a], self.operands[self.product.b]
        (ring,), second = self.rings()
        given = [x, w, *self.shared(), *self.sizes()]
        region = self.region(self.shared())
        fresh = region.names.fresh
        stage, phase, turn, arrived = fresh("stage"), fresh("phase"), fresh("turn"), fresh("arrived")
        region.line(f"{stage} = 0")
        region.line(f"{phase} = 1")
        m, n = self.place(region)
        (rows, depth), (columns, bytes_) = self.boxes()
        region.line(f"for {turn} in range({self.turns_of_k(region)}):")
        region.indent(1)
        region.line(f"mbarrier.wait(empty.index({stage}), {phase})")
        region.line(f"{arrived} = full.index({stage})")
        region.line(f"mbarrier.expect({arrived}, {rows * depth * 2 + columns * bytes_})")
        region.line(f"async_load({w}, [{n} * {columns}, {turn} * {bytes_}], {arrived}, {second}.index({stage}))")
        region.line(f"async_load({x}, [{m} * {rows}, {turn} * {depth}], {arrived}, {ring}.index({stage}))")
        self.advance(region, stage, phase)
        return self.function("_load", given, "One warp: operands of each stage, as soon as it is free.", region)

    # -- multiplying ---------------------------------------------------------------------------------------------------

    def math(self) -> str:
        s, parameters = self.shape, self.math_parameters()
        region = self.region([*parameters, "group"])
        fresh, line = region.names.fresh, region.line
        line(self.layout)
        line("OPERAND: gl.constexpr = gl.DotOperandLayout(0, LAYOUT, 2)")
        line(f"PACKED: gl.constexpr = {packed_layout(self.depth)}")
        if self.decode.scale is not None:
            line(f"SCALES: gl.constexpr = {scales_layout(self.count)}")
            line(f"BLOCKS: gl.constexpr = {blocked_layout(self.depth, self.decode.block)}")
        nothing, acc = fresh("nothing"), fresh("acc")
        if self.factors:
            line(f"{nothing} = gl.zeros(({ROWS}, {self.tall}), gl.float32, LAYOUT)")
        stage, phase, handed, turn = fresh("stage"), fresh("phase"), fresh("handed"), fresh("turn")
        own = s.turns > 1  # groups have stages of their own, and not rows
        line(f"{stage} = gl.to_tensor(group)" if own else f"{stage} = 0")
        line(f"{phase} = 0")
        if own:
            line(f"{handed} = 0")
        m, n = self.place(region)
        if s.groups > 1:
            place, n = n, fresh("n")
            line(f"{n} = {place} * {s.groups} + group")
        line(f"{acc} = gl.zeros(({ROWS}, {self.tall}), gl.float32, LAYOUT)")
        numbers = Numbers(self, region, n)
        numbers.load("group" if own else "0")
        turns = self.turns_of_k(region)
        line(f"for {turn} in range(group, {turns}, {s.turns}):" if own else f"for {turn} in range({turns}):")
        region.indent(1)
        numbers.use()
        numbers.load(f"{turn} + {s.turns}")
        line(f"mbarrier.wait(full.index({stage}), {phase})")
        self._steps(region, numbers, stage, acc, nothing)
        line(f"mbarrier.arrive(empty.index({stage}), count=1)")
        self.advance(region, stage, phase, s.turns)
        region.indent(-1)
        if own:
            self._join(region, acc, handed, m, n)
        else:
            line(self.finish_call(f"gl.permute({acc}, (1, 0))", m, n))
        given = ["group: gl.constexpr", *parameters]
        return self.function("_math", given, "Four warps: their share of the sums of each tile.", region)

    def _steps(self, region: Region, numbers: Numbers, stage: str, acc: str, nothing: str) -> None:
        """The steps of a stage: while one is multiplied, the next one is decoded, if registers hold both."""
        (ring,), second = self.rings()
        ahead = self.shape.turns * self.shape.groups < MANY_GROUPS
        steps, line = self.shape.steps, region.line
        pairs = self.library.add("_pairs", _gluon_decode.PAIRS)
        helper = _gluon_decode.helper(self.library, self.decode)
        rows = f".slice(group * {ROWS}, {ROWS})" if self.shape.groups > 1 else ""

        def part(of: str, step: int, size: int, rows: str = "") -> str:
            return f"{of}.index({stage}){rows}" + (f".slice({step * size}, {size}, dim=1)" if steps > 1 else "")

        def decode(step: int) -> str:
            packed, values = (region.names.fresh(f"{what}{step}") for what in ("packed", "values"))
            line(f"{packed} = {part(second, step, self.depth // 2, rows)}.load(PACKED)")
            given = [f"{pairs}({packed}, OPERAND)", *numbers.decoding(step)]
            line(f"{values} = {helper}({', '.join(given)})")
            return values

        values = decode(0)
        for step in range(steps):
            right = f"{part(ring, step, self.depth)}.permute((1, 0))"
            sums = region.names.fresh(f"part{step}") if self.factors else acc
            start = f"{nothing}, use_acc=False" if self.factors else acc
            line(f"{sums} = warpgroup_mma({values}, {right}, {start}, is_async=True)")
            following = decode(step + 1) if ahead and step + 1 < steps else ""
            line(f"{sums}, {values} = warpgroup_mma_wait(0, deps=[{sums}, {values}])")
            if self.factors:
                add = self.library.add("_add_scaled", ADD_SCALED)
                line(f"{acc} = {add}({sums}, {numbers.factor(step)}, {acc})")
            values = following or (decode(step + 1) if step + 1 < steps else "")

    def _join(self, region: Region, acc: str, handed: str, m: str, n: str) -> None:
        """The other groups hand their sums to the first, which adds them in order. handed: tiles so far, modulo two."""
        turns, line = self.shape.turns, region.line
        line("if group > 0:")
        line(f"    mbarrier.wait(taken.index(group - 1), {handed} ^ 1)")
        line(f"    partial.index(group - 1).store({acc})")
        line("    mbarrier.arrive(summed.index(group - 1), count=1)")
        line("else:")
        region.indent(1)
        for other in range(turns - 1):
            line(f"mbarrier.wait(summed.index({other}), {handed})")
            line(f"{acc} = {acc} + partial.index({other}).load(LAYOUT)")
            line(f"mbarrier.arrive(taken.index({other}), count=1)")
        line(self.finish_call(f"gl.permute({acc}, (1, 0))", m, n))
        region.indent(-1)
        line(f"{handed} ^= 1")

    # -- the start -----------------------------------------------------------------------------------------------------

    def start(self) -> str:
        kernel, s = self.kernel, self.shape
        x, w = self.operands[self.product.a], self.operands[self.product.b]
        (ring,), second = self.rings()
        region = self.region([*self.shared(), *self.handing()])
        line = region.line
        (rows, depth), (columns, bytes_) = self.boxes()
        line(f"{ring} = gl.allocate_shared_memory({x}.dtype, [{s.stages}, {rows}, {depth}], {x}.layout)")
        line(f"{second} = gl.allocate_shared_memory({w}.dtype, [{s.stages}, {columns}, {bytes_}], {w}.layout)")
        if s.turns > 1:
            line("SUMS: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])")
            line(f"partial = gl.allocate_shared_memory(gl.float32, [{s.turns - 1}, {ROWS}, {self.tall}], SUMS)")
        barriers = [("full", s.stages, 1), ("empty", s.stages, s.groups)]
        barriers += [(name, s.turns - 1, 1) for name in self.handing()[1:]]
        for name, count, _ in barriers:
            line(f"{name} = gl.allocate_shared_memory(gl.int64, [{count}, 1], mbarrier.MBarrierLayout())")
        i = region.names.fresh("i")
        for name, count, arrivals in barriers:
            line(f"for {i} in gl.static_range({count}):")
            line(f"    mbarrier.init({name}.index({i}), count={arrivals})")
        line("fence_async_shared()")
        line("gl.warp_specialize(")
        line("    [")
        groups = s.turns * s.groups
        for group in range(groups):
            line(f"        ({self.name}_math, ({', '.join([str(group), *self.math_parameters()])})),")
        line(f"        ({self.name}_load, ({', '.join([x, w, *self.shared(), *self.sizes()])})),")
        line("    ],")
        workers = ["4"] * (groups - 1) + ["1"]
        registers = [str(REGISTERS[groups])] * (groups - 1) + [str(LOADING_REGISTERS)]
        line(f"    [{', '.join(workers)}],")
        line(f"    [{', '.join(registers)}],")
        line(")")
        doc = docstring(kernel.kernel_name, kernel.args, [o.type for o in kernel.outs])
        given = [*self.operands, *self.results, *self.sizes(), *self.all_strides()]
        return f"@gluon.jit\n{head(self.name, given)}\n{doc}{region.text()}"


class Numbers:
    """Writes how scales and zero points are fetched, a stage ahead, and used. n: the place of the tile.

    Invariant: `ahead` names what was loaded for each operand and step, and `now` what steps use of it.
    """

    def __init__(self, writer: DecodedWeights, region: Region, n: str) -> None:
        self.writer, self.region = writer, region
        d = writer.decode
        self.operands = [*writer.factors, *(i for i in (d.zero, d.scale) if i is not None)]
        self.pointers: dict[int, tuple[str, str]] = {}
        """Operand to the pointers of its rows, and the mask of their loads."""
        self.ahead: dict[tuple[int, int], str] = {}
        self.now: dict[tuple[int, int], str] = {}
        for i in self.operands:
            self._place(i, n)

    def _place(self, i: int, n: str) -> None:
        w, fresh = self.writer, self.region.names.fresh
        name, (height, width) = w.operands[i], tensor_type(w.kernel.args[i].type).shape
        layout = {w.decode.zero: "OPERAND", w.decode.scale: "SCALES"}.get(i, "LAYOUT")
        rows, pointers, masks = fresh("rows"), fresh(f"{name}_ptrs"), list[str]()
        self.region.line(f"{rows} = {n} * {ROWS} + gl.arange(0, {ROWS}, gl.SliceLayout(1, {layout}))")
        tall = not isinstance(height, int) or height % (ROWS * w.shape.groups)
        if i == w.decode.scale:
            columns, count = fresh("columns"), w.count
            self.region.line(f"{columns} = gl.arange(0, {count}, gl.SliceLayout(0, {layout}))")
            along, across = f"gl.expand_dims({columns}, 0)", f"gl.expand_dims({rows}, 1)"
            text = f"{across}.to(gl.int64) * {w.strides[i][0]} + {along} * {w.strides[i][1]}"
            masks += [f"({across} < {self.region.size(height)})"] if tall else []
            if not isinstance(width, int) or width % count:
                masks.append(f"({along} < {self.region.size(width)} - {{k}} * {count})")
        else:
            text = f"{rows}.to(gl.int64) * {w.strides[i][0]}"
            masks += [f"({rows} < {self.region.size(height)})"] if tall else []
        self.region.line(f"{pointers} = {name} + {text}")
        self.pointers[i] = pointers, " & ".join(masks)
        for step in range(w.shape.steps):
            self.ahead[i, step] = fresh(f"{name}_ahead{step}")
            self.now[i, step] = fresh(f"{name}_now{step}")

    def load(self, stage: str) -> None:
        """Write the loads for the steps of a stage; the last step stands for all after it."""
        if not self.operands:
            return
        w, region = self.writer, self.region
        last = region.size(dims.sub(w.product.k.extent, 1))
        first = region.names.fresh("first")
        region.line(
            f"{first} = ({stage}) * {w.shape.steps}" if " " in stage else f"{first} = {stage} * {w.shape.steps}"
        )
        for step in range(w.shape.steps):
            k = region.names.fresh(f"k{step}")
            region.line(f"{k} = min({first}{f' + {step}' if step else ''}, {last})")
            region.sizes.grid(w.product.k.name, k)
            for i in self.operands:
                window, (pointers, mask) = w.kernel.tiles.inputs[i], self.pointers[i]
                assert window is not None, "windows were checked"
                count = w.count if i == w.decode.scale else 1
                place = region.size(window.index[1], 3) + (f" * {count}" if count > 1 else "")
                zero = "0.0" if "float" in region.triton_dtype(tensor_type(w.kernel.args[i].type)) else "0"
                masked = f", mask={mask.format(k=k)}, other={zero}" if mask else ""
                region.line(f"{self.ahead[i, step]} = gl.load({pointers} + {place} * {w.strides[i][1]}{masked})")

    def use(self) -> None:
        """Write what becomes of what was loaded, before the next loads take its names."""
        w, region = self.writer, self.region
        for (i, step), loaded in self.ahead.items():
            if i in w.factors:
                text = f"{loaded}.to(gl.float32)"
            else:
                fmt = tensor_type(w.kernel.args[i].type).format
                assert fmt is not None, "zero points and scales were checked"
                if i == w.decode.scale:
                    loaded = f"gl.convert_layout({loaded}, gl.SliceLayout(2, BLOCKS), assert_trivial=True)"
                text = f"{_gluon_decode.number(w.library, w.decode, fmt)}({loaded})"
            region.line(f"{self.now[i, step]} = {text}")

    def factor(self, step: int) -> str:
        """What the sums of a step are multiplied by, for each row."""
        return " * ".join(self.now[i, step] for i in self.writer.factors)

    def decoding(self, step: int) -> list[str]:
        """What `_gluon_decode.helper`'s function takes besides the codes."""
        d = self.writer.decode
        if d.zero is not None:
            return [f"gl.expand_dims({self.now[d.zero, step]}, 1)"]
        if d.scale is None:
            return []
        spread = self.writer.library.add("_spread", _gluon_decode.SPREAD)
        return [f"{spread}({self.now[d.scale, step]}, {d.block}, BLOCKS, OPERAND)"]
