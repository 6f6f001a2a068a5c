"""FP8 products on one Hopper GPU against cuBLAS: `python -m benchmarks.hopper [--quick] [--full] [--only NAME ...]`.

Sections, whose names `--only` takes (or a shape, as 4096x2112x7168):
  block      scales of 1x128 x 128x128, M >= 4096, against cuBLASLt's kernel for them (torch.nn.functional.scaled_mm)
  small      the same with M <= 128, in CUDA graphs that go through several weights
  fused      a product, silu(h) * h and the cast for the next one: one compiled function against two kernels of ours
  row        one scale a row, against torch._scaled_mm without fast accumulation
  tensor     one scale a tensor, likewise
  sustained  1.5 s of calls back to back, where the power cap sets the clock (with --full)
The peer is measured before and after ours, and `x peer` is to the mean of both, so that a card that warms up favours
neither. `x DeepGEMM` is computed: the ratio to cuBLAS of this run over DeepGEMM's ratio to cuBLAS of an earlier one.
Every product is [M, K] times the transpose of a weight kept as [N, K], with bfloat16 results. Before it is timed it is
within 2e-3 of the float64 product of the decoded operands, and two calls give equal bits; once a section, at odd sizes,
it equals sums that are exact in any order. A wrong result fails the run, a missed speed does not.
See `benchmarks._gpu` for how time is taken.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

import breccia
from benchmarks import _gpu, gemm
from benchmarks._gpu import Options, Table
from breccia import recipes

Shape = tuple[int, int, int]
Tensor = torch.Tensor
Operands = tuple[Tensor, Sequence[Tensor]]
"""An activation, and as many weights [N, K] as the clock needs."""
Prepared = tuple[Sequence[_gpu.Call], float]
"""A call for each weight, and the error of what they give."""
Prepare = Callable[[], Prepared]

DEEPGEMM: dict[Shape, float] = {
    # facts/performance.md A1 (run2), TFLOP/s: "DeepGEMM" over "cuBLASLt 1x128·128x128".
    (4096, 2112, 7168): 1252 / 1062, (4096, 24576, 1536): 1290 / 1168, (4096, 32768, 512): 994 / 823,
    (4096, 7168, 16384): 1367 / 1117, (4096, 4096, 7168): 1392 / 1265, (4096, 7168, 2048): 1255 / 1136,
    (4096, 4096, 4096): 1336 / 1214, (8192, 8192, 8192): 1338 / 1161, (4096, 28672, 8192): 1382 / 1143,
    # facts/performance.md A2 (run2), us of the same columns, so the other way round.
    (64, 2112, 7168): 22.2 / 10.0, (64, 24576, 1536): 19.4 / 17.9, (64, 32768, 512): 10.3 / 10.5,
    (64, 7168, 16384): 50.8 / 46.0, (64, 4096, 7168): 22.8 / 14.0, (64, 7168, 2048): 9.9 / 8.5,
    (128, 2112, 7168): 22.2 / 10.8, (128, 24576, 1536): 20.0 / 19.6, (128, 32768, 512): 10.6 / 12.6,
    (128, 7168, 16384): 51.8 / 46.9, (128, 4096, 7168): 22.5 / 14.5, (128, 7168, 2048): 9.9 / 9.6,
    (16, 8192, 8192): 29.2 / 26.7,
}  # fmt: skip
"""DeepGEMM's speed over that of cuBLAS's block-scaled kernel in one run on an H100."""

LARGE = [shape for shape in DEEPGEMM if shape[0] >= 4096]
SMALL = [shape for shape in DEEPGEMM if shape[0] < 4096]
FEW = [(4096, 4096, 4096), (8192, 8192, 8192), (4096, 2112, 7168), (4096, 7168, 16384), (4096, 24576, 1536)]
"""Shapes for scales of rows and tensors without --full: compiling takes seconds for each."""
FUSED = [(4096, 4096, 7168), (8192, 8192, 8192)]
# e4m3 alone rounds by 2.5e-2, so the bar of a product says nothing here; a wrong scale or tile is off by far more.
FUSED_BAR = 3e-2
SUSTAINED_SECONDS = 1.5
ODD_LARGE, ODD_SMALL = (4099, 130), (7, 1)  # rows of the exact sums; 4099 gets the tiles of large products
TWO_KERNELS = "two kernels of breccia"
COLUMNS = ("us", "TFLOP/s", "x peer", "x bf16", "x DeepGEMM", "error")
BF16: dict[Shape, float] = {}
"""us of torch.matmul in bfloat16 in this run, for the sections after the one that measures it."""


@dataclass(frozen=True)
class Kind:
    """What one section multiplies, and whose kernel it is measured against."""

    name: str
    pair: gemm.Pair
    peer: str
    prepare: gemm.Function
    rotated: bool = False


BLOCKS = gemm.pair("float8_1x128", "float8_128x128")
BLOCK = Kind("block", BLOCKS, "F.scaled_mm", gemm.torch_block)
DECODE = Kind("small", BLOCKS, "F.scaled_mm", gemm.torch_block, rotated=True)
PLAIN = [
    Kind(name, gemm.pair(recipe, recipe), "torch._scaled_mm", gemm.scaled_mm(recipe, False))
    for name, recipe in (("row", "float8_row"), ("tensor", "float8_tensor"))
]


class Section:
    """The rows of one section, each shape's in the order of time: the peer, bfloat16, breccia, and the peer again.

    Invariants: `shapes` are those that `--only` asks for; `ratios` holds our speed over the peer's, if both are right.
    """

    def __init__(self, table: Table, name: str, title: str, shapes: Sequence[Shape], kind: Kind | None = None) -> None:
        self.table, self.name, self.rotated = table, name, kind is not None and kind.rotated
        self.shapes = [shape for shape in shapes if table.wants(self.label(shape))]
        self.over_cublas = kind is not None and kind.pair is BLOCKS  # to which DeepGEMM's ratios are known
        self.ratios: dict[Shape, float] = {}
        if self.shapes:
            table.section(title)

    def label(self, shape: Shape) -> str:
        return f"{self.name} {'x'.join(map(str, shape))}"

    def contest(self, shape: Shape, peer: str, theirs: Prepare, ours: Prepare, bf16: Prepare | None = None) -> None:
        label, times, errors = self.label(shape), [0.0, 0.0], [0.0]
        calls: list[_gpu.Call] = []

        def clock(calls: Sequence[_gpu.Call]) -> float:
            given = self.table.given
            return _gpu.graph_microseconds(calls, given) if self.rotated else _gpu.microseconds(calls[0], given)

        def cells(took: float, error: float, ratio: float | None = None) -> list[object]:
            bf16 = BF16[shape] / took if shape in BF16 else ""
            deep = ratio / DEEPGEMM[shape] if ratio and self.over_cublas and shape in DEEPGEMM else ""
            return [took, 2e-6 * math.prod(shape) / took, ratio or "", bf16, deep, f"{error:.2e}"]

        def first() -> list[object]:
            found, errors[0] = theirs()
            times[0] = clock(found)
            calls.extend(found)
            return cells(times[0], errors[0])

        def plain(prepare: Prepare) -> list[object]:
            found, error = prepare()
            BF16[shape] = clock(found)
            return cells(BF16[shape], error)

        def mine() -> list[object]:
            found, error = ours()
            took = clock(found)
            if not calls:
                return cells(took, error)
            times[1] = clock(calls)
            ratio = self.ratios[shape] = statistics.fmean(times) / took
            return cells(took, error, ratio)

        self.table.row(f"{label} {peer}, first", first, ours=peer == TWO_KERNELS)
        if bf16 is not None:
            self.table.row(f"{label} bf16 torch.matmul", lambda: plain(bf16))
        self.table.row(f"{label} breccia", mine, ours=True)
        if times[1]:
            self.table.row(f"{label} {peer}, last", lambda: cells(times[1], errors[0]), always=True)


def repeatable(call: _gpu.Call, what: str) -> Any:
    """The result over NaN; raises where a second call gives other bits. Compared on the device: results are large."""
    first, second = _gpu.poisoned(call), call()
    for pair in zip(_gpu.parts(first), _gpu.parts(second), strict=True):
        one, other = (array.contiguous().reshape(-1).view(torch.uint8) for array in pair)
        if different := int((one != other).sum()):
            raise _gpu.MismatchError(f"{what}: {different} bytes differ from one call to the next")
    return first


def normals(given: Options, shape: Shape, rotated: bool = False) -> Operands:
    M, N, K = shape
    count = _gpu.rotations(N * K, given) if rotated else 1  # a byte an element
    return gemm.normal(given, M, K), [gemm.normal(given, N, K) for _ in range(count)]


def prepare_ours(multiply: gemm.Function, kind: Kind, operands: Callable[[], Operands]) -> Prepared:
    a, weights = operands()
    left, rights = gemm.cast(a, kind.pair.left), [gemm.cast(w, kind.pair.right) for w in weights]
    found = repeatable(lambda: multiply(left, rights[0]), kind.pair.name)
    error = _gpu.check(found, gemm.values(left) @ gemm.values(rights[0]).t(), gemm.BAR, kind.pair.name)
    return [lambda w=w: multiply(left, w) for w in rights], error


def prepare_peer(kind: Kind, operands: Callable[[], Operands]) -> Prepared:
    a, weights = operands()
    calls: list[_gpu.Call] = []
    worst = 0.0
    for w in weights:
        call, wanted = kind.prepare(a, w)
        worst = max(worst, _gpu.check(call(), wanted, gemm.PEER_BAR, kind.peer))
        calls.append(call)
    return calls, worst


def prepare_bf16(operands: Callable[[], Operands]) -> Prepared:
    a, weights = operands()
    error = _gpu.check(a @ weights[0].t(), gemm.reference(a, weights[0].t()), gemm.PEER_BAR, "bf16")
    return [lambda w=w: a @ w.t() for w in weights], error


def exact(made: Section, kind: Kind, product: gemm.Function) -> None:
    """Sums that are exact in any order, at sizes that fill no tile, by the function that is timed."""
    rows = ODD_SMALL if kind.rotated else ODD_LARGE

    def at(M: int) -> str:
        kept: list[Any] = []

        def multiply(a: Any, w: Any) -> Any:
            # The weight comes as [K, N]. Its values are exact in bfloat16 and its scales are powers of two, so a cast
            # of them as [N, K] gives the same numbers; a view would be another layout than the one that is timed.
            if not kept:
                kept.append(gemm.cast(gemm.values(w).t().contiguous().bfloat16(), kind.pair.right))
            return product(a, kept[0])

        return gemm.exact_sums(made.table.given, kind.pair, multiply, M)

    def case() -> list[object]:
        if (found := {at(M) for M in rows}) != {"equal"}:
            raise _gpu.MismatchError(f"sums that should be exact in float32: {', '.join(found)}")
        return [*[""] * (len(COLUMNS) - 1), "equal"]

    size = f"M = {', '.join(map(str, rows))}, N = {gemm.ODD_N}, K = {gemm.ODD_K}"
    made.table.row(f"{kind.name} exact sums, {size}", case, ours=True, always=True)


def products(table: Table, kind: Kind, shapes: Sequence[Shape], title: str) -> Section:
    """One section: exact sums, then each shape."""
    given, multiply = table.given, table.given.compile(gemm.transposed_product)
    made = Section(table, kind.name, title, shapes, kind)
    if made.shapes:
        exact(made, kind, multiply)
    for shape in made.shapes:
        operands = cache(partial(normals, given, shape, kind.rotated))
        theirs, ours = partial(prepare_peer, kind, operands), partial(prepare_ours, multiply, kind, operands)
        bf16 = partial(prepare_bf16, operands) if kind.pair is BLOCKS else None  # the other sections have its shapes
        made.contest(shape, kind.peer, theirs, ours, bf16)
    return made


def gated(h: Any) -> Any:
    return breccia.cast(breccia.silu(h) * h, recipes.float8_1x128)


def fused(table: Table, shapes: Sequence[Shape]) -> Section:
    """A product, silu(h) * h and the cast for the next product: one compiled function against two."""
    title = "a product of block scales, silu(h) * h, cast to float8_1x128; x peer: two kernels of ours"
    made, compile = Section(table, "fused", title, shapes), table.given.compile
    whole = compile(lambda a, w: gated(gemm.transposed_product(a, w)))
    multiply, rest = compile(gemm.transposed_product), compile(gated)

    def inputs(shape: Shape) -> tuple[Any, Any]:
        a, (w,) = normals(table.given, shape)
        w = w * shape[2] ** -0.5  # products of about N(0, 1), where silu is neither the identity nor zero
        return gemm.cast(a, BLOCKS.left), gemm.cast(w, BLOCKS.right)

    def prepare(function: gemm.Function, operands: Callable[[], tuple[Any, Any]]) -> Prepared:
        a, w = operands()
        h = gemm.values(a) @ gemm.values(w).t()
        found = repeatable(lambda: function(a, w), "fused").dequantize("float32")
        return [lambda: function(a, w)], _gpu.check(found, torch.nn.functional.silu(h) * h, FUSED_BAR, "fused")

    for shape in made.shapes:
        operands = cache(partial(inputs, shape))
        separate = partial(prepare, lambda a, w: rest(multiply(a, w)), operands)
        made.contest(shape, TWO_KERNELS, separate, partial(prepare, whole, operands))
    return made


def clock_rate() -> list[float]:
    """The SM clock in MHz; nothing where NVIDIA's management library or its Python module is missing."""
    try:
        return [float(torch.cuda.clock_rate())]
    except Exception:  # noqa: BLE001 - the module's absence and the library's errors are of many classes
        return []


def sustain(call: _gpu.Call, given: Options) -> tuple[float, str]:
    """(us of a call among `SUSTAINED_SECONDS` of them back to back, the SM clock meanwhile)."""
    alone = _gpu.microseconds(call, given)
    if not given.cuda:
        return alone, "unknown"
    count = int(SUSTAINED_SECONDS * 1e6 / alone) + 1
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        call()
    end.record()
    clocks: list[float] = []
    while not end.query():  # launching is ahead of the device, so there is time to look
        clocks += clock_rate()
        time.sleep(0.05)
    return 1e3 * start.elapsed_time(end) / count, f"{statistics.median(clocks):.0f} MHz" if clocks else "unknown"


def sustained(table: Table, shapes: Sequence[Shape]) -> None:
    given, multiply = table.given, table.given.compile(gemm.transposed_product)
    made = Section(table, "sustained", f"block scales, {SUSTAINED_SECONDS} s back to back; last: SM clock", shapes)
    for shape in made.shapes:

        def case(prepare: Prepare, flops: float = 2.0 * math.prod(shape)) -> list[object]:
            took, clock = sustain(prepare()[0][0], given)
            return [took, flops / took * 1e-6, "", "", "", clock]

        operands = cache(partial(normals, given, shape))
        theirs, ours = partial(prepare_peer, BLOCK, operands), partial(prepare_ours, multiply, BLOCK, operands)
        made.table.row(f"{made.label(shape)} {BLOCK.peer}", partial(case, theirs))
        made.table.row(f"{made.label(shape)} breccia", partial(case, ours), ours=True)


def against(what: str, value: float, bar: float | None) -> str:
    verdict = "" if bar is None else f", bar {bar:g} {'reached' if value >= bar else 'missed'}"
    return f"{what} {value:.3f}{verdict}"


def note(
    what: str, made: Section, mean: float | None, least: float | None = None, deep: float | None = None,
    where: Callable[[Shape], bool] = lambda _: True,
) -> list[str]:  # fmt: skip
    """A section's geometric mean and least ratio beside the issue's bars; `deep`: of `x DeepGEMM`."""
    asked = [shape for shape in made.shapes if where(shape)]
    ratios = {shape: made.ratios[shape] for shape in asked if shape in made.ratios}
    if not ratios:
        return [f"{what}: none of {len(asked)} shapes compared"] if asked else []
    low = min(ratios, key=ratios.__getitem__)
    said = [against("geometric mean", statistics.geometric_mean(ratios.values()), mean)]
    said.append(against(f"least, at {'x'.join(map(str, low))},", ratios[low], least))
    if made.over_cublas and (known := [ratio / DEEPGEMM[at] for at, ratio in ratios.items() if at in DEEPGEMM]):
        said.append(against("x DeepGEMM by its ratio in facts", statistics.geometric_mean(known), deep))
    return [f"{what} ({len(ratios)} of {len(asked)} shapes): {'; '.join(said)}"]


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    table, tiny = Table(given, COLUMNS), [(128, 256, 256)]
    wide, narrow = given.pick(LARGE, FEW[:1], tiny), given.pick(SMALL, SMALL[:1], [(16, 256, 256)])
    block = products(table, BLOCK, wide, "1x128 x 128x128, M >= 4096; x peer: cuBLAS block")
    small = products(table, DECODE, narrow, "1x128 x 128x128, M <= 128, several weights; x peer: cuBLAS block")
    one = fused(table, given.pick(FUSED, FUSED[:1], tiny))
    plain_shapes = given.pick(LARGE if given.full else FEW, FEW[:1], tiny)
    title = "M >= 4096; x peer: torch._scaled_mm without fast accumulation"
    plain = [products(table, kind, plain_shapes, f"one scale a {kind.name}, {title}") for kind in PLAIN]
    if given.full:
        sustained(table, given.pick(FUSED[1:], FUSED[1:], tiny))
    notes = [
        f"bar: relative error at most {gemm.BAR:g} (peers {gemm.PEER_BAR:g}, fused {FUSED_BAR:g})",
        *note("x cuBLAS block, M >= 4096", block, 1.07, least=0.95, deep=0.93),
        *note("x cuBLAS block, M <= 128", small, 1.4, deep=0.97),
        *note("x cuBLAS block, M <= 128, N = 2112", small, 2.0, where=lambda shape: shape[1] == 2112),
        *note("x cuBLAS block, M <= 128, other N", small, None, where=lambda shape: shape[1] != 2112),
        *note("one fused kernel x two kernels", one, 1.15),
        *(line for made in plain for line in note(f"x torch._scaled_mm, {made.name} scales", made, 0.98)),
    ]
    _gpu.finish("hopper", "FP8 products against cuBLAS, by device time", table, notes)


if __name__ == "__main__":
    main()
