"""Products of bfloat16 and a weight of 4 bits: `python -m benchmarks.weight_only [--quick] [--full] [--only NAME ...]`.

Every product is [M, K] times the transpose of a weight kept as [N, K], with few rows: what counts is how quickly the
weight comes out of memory. Rows, whose names `--only` takes (or a part, as 16x8192x8192, int4, plain):
  bf16 torch.matmul   the yardstick of its shape, before and after the others; `x bf16` is to the one before
  RECIPE breccia      the compiled product
  RECIPE plain        the same, by plain Triton: what warp-specialized kernels gain
  int4pack            torch's own product with int4 in groups of 128 (torch.ops.aten._weight_int4pack_mm); it takes a
                      time for each row, so for more than 16 rows with --full alone
`x best` and `x Marlin` are computed: `x bf16` of this run over what the kernel had in an earlier one on an H100, where
Marlin, Machete and Humming were measured beside bfloat16. best: of these three, for the kind of elements.
Times are of CUDA graphs that go through several weights. Before a product is timed it is within 2e-3 of the float64
product of the decoded operands, and two calls give equal bits; at odd sizes it equals sums that are exact in any order.
A wrong result fails the run, a missed speed does not. See `benchmarks._gpu` for how time is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from benchmarks import _gpu, gemm
from benchmarks._gpu import Options, Table
from breccia import recipes
from breccia.ir.capabilities import set_target
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import public_function
from breccia.ir.pipeline import Pipeline
from breccia.passes import default_pipeline
from breccia.recipes import Recipe
from breccia.target import find
from breccia.tensor import ScaledTensor, flatten

Shape = tuple[int, int, int]
Tensor = torch.Tensor

NAMES = ("int4_g128_f16", "int4_g128_bf16", "uint4_g128_f16", "mxfp4")
WEIGHTS = [(8192, 8192), (28672, 8192)]
ROWS = (1, 4, 16, 32, 64)
ODD_ROWS = (1, 7, 33)
COLUMNS = ("us", "GB/s", "x bf16", "x best", "x Marlin", "error")

_BF16 = {
    (1, 8192): 47.1, (16, 8192): 48.0, (64, 8192): 49.0,
    (1, 28672): 191.3, (16, 28672): 163.7, (64, 28672): 170.4,
}  # fmt: skip
_EARLIER: dict[tuple[str, int, int], tuple[float, ...]] = {
    ("int4", 1, 8192): (17.7, 28.5, 18.3), ("int4", 16, 8192): (18.9, 28.5, 19.4),
    ("int4", 64, 8192): (41.8, 27.9, 26.1), ("int4", 1, 28672): (52.2, 54.4, 47.3),
    ("int4", 16, 28672): (55.6, 54.6, 50.2), ("int4", 64, 28672): (90.4, 81.8, 73.6),
    ("float4_e2m1fn", 1, 8192): (18.9, 19.6), ("float4_e2m1fn", 16, 8192): (21.7, 21.2),
    ("float4_e2m1fn", 64, 8192): (44.1, 27.9), ("float4_e2m1fn", 1, 28672): (55.7, 52.7),
    ("float4_e2m1fn", 16, 28672): (63.9, 56.7), ("float4_e2m1fn", 64, 28672): (95.7, 80.7),
}  # fmt: skip
"""facts/performance.md section 4 (run2), us at K = 8192 by M and N. Of bfloat16; of Marlin, Machete (int4 only) and
Humming.
"""


def earlier(recipe: Recipe, shape: Shape) -> tuple[float, float] | None:
    """(best, Marlin): how many times quicker than bfloat16 they were; None where they were not measured."""
    M, N, K = shape
    kind = "int4" if recipe.element.kind == "int" else recipe.element.name
    times = _EARLIER.get((kind, M, N))
    if times is None or K != 8192:
        return None
    return _BF16[M, N] / min(times), _BF16[M, N] / times[0]


def plain(given: Options, function: gemm.Function, *arguments: Any) -> gemm.Function:
    """The function as plain Triton: lowered for an architecture that is told of no warp-specialized kernels.

    It takes arguments like those given; their leading sizes are those that tiles are chosen for.
    """
    lowered: Any = given.compile(function)
    module = parse_module(lowered.lower(*arguments).ir("traced"))
    target = find(given.target or ("triton:sm_90" if given.cuda else "numpy"))
    features = tuple(f for f in target.capabilities.features if f != "warp_specialize")
    capabilities = replace(target.capabilities, features=features)
    set_target(module, capabilities)
    Pipeline(default_pipeline(capabilities)).run(module)
    entry = public_function(module).sym_name.data
    call = target.launch(target.emit(module), entry, "torch")

    def run(*arguments: Any) -> Any:
        return call(*(array for argument in arguments for array in _arrays(argument)))

    return run


def _arrays(argument: Any) -> Sequence[Any]:
    return flatten(argument)[0] if isinstance(argument, ScaledTensor) else [argument]


class Sheet:
    """The rows of one weight's shape and one number of rows.

    Invariant: `weights` gives as many weights of a recipe as the L2 cache cannot hold, made once for all sheets.
    """

    def __init__(
        self, table: Table, shape: Shape, weights: Callable[[str], list[Any]], wrong: Mapping[str, str]
    ) -> None:
        self.table, self.given, self.shape, self.weights = table, table.given, shape, weights
        self.label = "x".join(map(str, shape))
        self.a = gemm.normal(self.given, shape[0], shape[2])
        self.yardstick = 0.0
        self.wrong = wrong
        """Recipe to why it is not timed, if it is not."""
        self.ratios: dict[str, tuple[float, float | None, float | None]] = {}
        """Recipe to what `x bf16`, `x best` and `x Marlin` are."""

    def bf16(self, when: str) -> None:
        def case() -> list[object]:
            weights = self.weights("bf16")
            error = _gpu.check(self.a @ weights[0].t(), gemm.reference(self.a, weights[0].t()), gemm.PEER_BAR, "bf16")
            took = _gpu.graph_microseconds([lambda w=w: self.a @ w.t() for w in weights], self.given)
            self.yardstick = self.yardstick or took
            return [took, _gpu.nbytes(weights[0]) / took * 1e-3, "", "", "", f"{error:.2e}"]

        self.table.row(f"{self.label} bf16 torch.matmul, {when}", case, always=self.table.wants(self.label))

    def timed(self, name: str, calls: Sequence[_gpu.Call], error: float, *, kept: bool = False) -> list[object]:
        recipe, given = recipes.find(name), self.given
        took = _gpu.graph_microseconds(calls, given)
        cells: list[object] = [took, _gpu.nbytes(self.weights(name)[0]) / took * 1e-3, "", "", "", f"{error:.2e}"]
        if not self.yardstick:
            return cells
        ratio = self.yardstick / took
        known = earlier(recipe, self.shape)
        best, marlin = (ratio / known[0], ratio / known[1]) if known else (None, None)
        if kept:
            self.ratios[name] = ratio, best, marlin
        cells[2:5] = [ratio, "" if best is None else best, "" if marlin is None else marlin]
        return cells

    def product(self, name: str, kind: str) -> None:
        """A row of ours; kind: "breccia", or "plain"."""

        def case() -> list[object]:
            if self.wrong[name]:
                raise _gpu.MismatchError(f"not timed: {self.wrong[name]}")
            weights = self.weights(name)
            function = gemm.transposed_product
            multiply = (
                self.given.compile(function) if kind == "breccia" else plain(self.given, function, self.a, weights[0])
            )
            found = repeatable(lambda: multiply(self.a, weights[0]), name)
            wanted = gemm.values(self.a) @ gemm.values(weights[0]).t()
            error = _gpu.check(found, wanted, gemm.BAR, name)
            return self.timed(name, [lambda w=w: multiply(self.a, w) for w in weights], error, kept=kind == "breccia")

        self.table.row(f"{self.label} {name} {kind}", case, ours=True)

    def int4pack(self) -> None:
        name = "int4_g128_bf16"

        def case() -> list[object]:
            made = [gemm.int4pack(w) for w in self.weights(name)]
            error = _gpu.check(made[0][0](self.a), self.a.double() @ made[0][1].t(), gemm.PEER_BAR, "int4pack")
            return self.timed(name, [lambda f=f: f(self.a) for f, _ in made], error)

        self.table.row(f"{self.label} int4pack", case)


def repeatable(call: _gpu.Call, what: str) -> Any:
    """The result over NaN; raises where a second call gives other bits."""
    first, second = _gpu.poisoned(call), call()
    if different := int((first.view(torch.int16) != second.view(torch.int16)).sum()):
        raise _gpu.MismatchError(f"{what}: {different} results differ from one call to the next")
    return first


def exact(given: Options, name: str) -> str:
    """Compare products at odd sizes whose sums are exact in any order; raises where a bit differs."""
    recipe = recipes.find(name)
    multiply = given.compile(gemm.transposed_product)
    w = gemm.cast(gemm.exact_values(given, gemm.ODD_N, recipe, 1).bfloat16(), recipe)
    for rows in ODD_ROWS:
        a = gemm.exact_values(given, rows, None, 0).bfloat16()
        left, right = gemm.values(a), gemm.values(w)
        bits = gemm.exact_bits(right)
        if bits is None or float((left.abs() @ right.t().abs()).max()) * 2**bits >= 2**24:
            raise _gpu.MismatchError(f"the sums at M = {rows} are not exact in float32: nothing to compare")
        wanted = (left @ right.t()).float().bfloat16()
        found = _gpu.poisoned(lambda a=a: multiply(a, w))
        _gpu.check_equal(found, wanted, f"{name}, M = {rows}")
    return "equal"


def gate(table: Table) -> dict[str, str]:
    """A row of exact sums for each recipe; recipe to why it is wrong, or to nothing."""
    table.section(f"sums that are exact in any order: M = {ODD_ROWS}, N = {gemm.ODD_N}, K = {gemm.ODD_K}")
    wrong: dict[str, str] = {}
    for name in NAMES:

        def case(name: str = name) -> list[object]:
            return [*[""] * (len(COLUMNS) - 1), exact(table.given, name)]

        right = table.row(f"{name} exact sums", case, ours=True, always=True)
        wrong[name] = "" if right else "its exact sums are wrong"
    return wrong


def measure(table: Table, N: int, K: int, wrong: Mapping[str, str]) -> list[Sheet]:
    """All rows of one weight's shape."""
    given = table.given

    @cache
    def weights(name: str) -> list[Any]:
        recipe = None if name == "bf16" else recipes.find(name)

        def made() -> Any:
            return gemm.cast(gemm.normal(given, N, K), recipe)

        first = made()
        return [first, *(made() for _ in range(1, _gpu.rotations(_gpu.nbytes(first), given)))]

    sheets: list[Sheet] = []
    for M in given.pick(ROWS, (1, 16, 64), (1, 16, 64)):
        shape = (M, N, K)
        if not any(
            table.wants(f"{'x'.join(map(str, shape))} {name} {kind}") for name in NAMES for kind in ("breccia", "plain")
        ):
            continue
        table.section(f"M x N x K = {M} x {N} x {K}: us in a graph over several weights; GB/s of the weight's bytes")
        sheet = Sheet(table, shape, weights, wrong)
        sheets.append(sheet)
        sheet.bf16("first")
        for name in NAMES:
            sheet.product(name, "breccia")
            if not given.quick:
                sheet.product(name, "plain")
        if M <= 16 or given.full:  # it takes a time for each row
            sheet.int4pack()
        sheet.bf16("last")
    return sheets


def notes(sheets: Sequence[Sheet]) -> list[str]:
    """The least ratios beside the issue's bars."""
    best = {f"{s.label} {name}": r[1] for s in sheets for name, r in s.ratios.items() if r[1] is not None}
    marlin = {
        f"{s.label} {name}": r[2]
        for s in sheets
        for name, r in s.ratios.items()
        if r[2] is not None and s.shape[0] == 64
    }
    said: list[str] = []
    for what, found, bar in (("x best", best, 0.95), ("x Marlin at M = 64", marlin, 1.3)):
        if found:
            low = min(found, key=lambda at: found[at])
            verdict = "reached" if found[low] >= bar else "missed"
            mean = statistics.geometric_mean(found.values())
            said.append(
                f"{what}: geometric mean {mean:.3f}, least {found[low]:.3f} ({low}), bar {bar:g} {verdict}; "
                f"{sum(v >= bar for v in found.values())} of {len(found)} reach it"
            )
    return said


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    table = Table(given, COLUMNS)
    wrong = gate(table)
    sheets: list[Sheet] = []
    for N, K in given.pick(WEIGHTS, WEIGHTS[:1], [(256, 512)]):
        sheets += measure(table, N, K, wrong)
    said = [f"bar: relative error at most {gemm.BAR:g} (peers {gemm.PEER_BAR:g})", *notes(sheets)]
    _gpu.finish("weight_only", "weights of 4 bits, bfloat16 activations of few rows, by device time", table, said)


if __name__ == "__main__":
    main()
