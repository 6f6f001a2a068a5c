"""Products of MX operands through FP8 on one GPU against bfloat16: `python -m benchmarks.folded [--only NAME ...]`.

Both operands are cast beforehand; what a row counts is the product alone, with all that a call does to them: folding
exponents, decoding, multiplying. Rows of each recipe:
  exact             accuracy="exact", weight and activation as arguments
  bounded           accuracy="bounded" (MXFP8 alone: MXFP4 folds without a loss)
  .., weight kept   the weight is closed over, so that what is made of it is made once
  .., one row far   one row of the activation has exponents too far apart to be folded: it is computed as it is
  .., all rows far  every row has
`x bf16` is to the mean of torch.matmul in bfloat16 on the unquantized operands, before and after. Every product is
within 2e-3 of the float64 product of the decoded operands, and two calls give equal bits. See `benchmarks._gpu` for how
time is taken.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import breccia
from benchmarks import _gpu, gemm, hopper
from benchmarks._gpu import Options, Table
from breccia import recipes

Shape = tuple[int, int, int]
Tensor = torch.Tensor
COLUMNS = ("us", "TFLOP/s", "x bf16", "error")
SHAPES: list[Shape] = [(4096, 4096, 4096), (8192, 8192, 8192)]
FAR = 3e4
"""How many times as large the values of some channels are that meet weights of zero."""
CHANNELS = 8
BARS = {
    "mxfp8_e4m3 exact": 0.9,
    "mxfp8_e4m3 bounded, weight kept": 1.35,
    "mxfp4 exact": 1.0,
    "mxfp4 exact, weight kept": 1.0,
}


def far_apart(a: Tensor, w: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The operands with large values in a few channels of some rows, and no weight there."""
    step = a.shape[1] // CHANNELS
    a, w = a.clone(), w.clone()
    a[rows, 7::step] *= FAR
    w[:, 7::step] = 0
    return a, w


class Bench:
    """The rows of one shape. Invariant: `times` are those of bfloat16, before and after all others."""

    def __init__(self, table: Table, shape: Shape, ratios: dict[tuple[str, Shape], float]) -> None:
        self.table, self.shape, self.ratios = table, shape, ratios
        M, N, K = shape
        self.a, self.w = gemm.normal(table.given, M, K), gemm.normal(table.given, N, K)
        self.label = "x".join(map(str, shape))
        self.bf16 = 0.0
        self.found: dict[str, float] = {}

    def plain(self) -> list[object]:
        took = _gpu.microseconds(lambda: self.a @ self.w.t(), self.table.given)
        self.bf16 = took if not self.bf16 else statistics.fmean((self.bf16, took))
        return [took, self.flops / took, "", ""]

    @property
    def flops(self) -> float:
        return 2e-6 * math.prod(self.shape)

    def measured(self, name: str, call: Callable[[], Any], x: Any, w: Any) -> list[object]:
        found = hopper.repeatable(call, name)
        error = _gpu.check(found, gemm.values(x) @ gemm.values(w).t(), gemm.BAR, name)
        took = _gpu.microseconds(call, self.table.given)
        self.found[name] = took
        return [took, self.flops / took, self.bf16 / took, f"{error:.2e}"]

    def row(self, name: str, recipe: Any, accuracy: str, rows: slice | None, *, kept: bool) -> None:
        given = self.table.given

        def case() -> list[object]:
            a, b = (self.a, self.w) if rows is None else far_apart(self.a, self.w, rows)
            x, w = gemm.cast(a, recipe), gemm.cast(b, recipe)
            options = {"accuracy": accuracy, "target": given.target}
            if kept:
                known = breccia.compile(lambda x: gemm.transposed_product(x, w), **options)
                return self.measured(name, lambda: known(x), x, w)
            multiply = breccia.compile(gemm.transposed_product, **options)
            return self.measured(name, lambda: multiply(x, w), x, w)

        self.table.row(f"{self.label} {name}", case, ours=True)

    def run(self) -> None:
        self.table.row(f"{self.label} bf16 torch.matmul, first", self.plain, always=True)
        for name, accuracies in (("mxfp8_e4m3", ("exact", "bounded")), ("mxfp4", ("exact",))):
            recipe = recipes.find(name)
            for accuracy in accuracies:
                row = partial(self.row, recipe=recipe, accuracy=accuracy)
                title = f"{name} {accuracy}"
                row(title, rows=None, kept=False)
                row(f"{title}, weight kept", rows=None, kept=True)
                if accuracy == accuracies[-1]:
                    row(f"{title}, weight kept, one row far", rows=slice(5, 6), kept=True)
                    row(f"{title}, weight kept, all rows far", rows=slice(None), kept=True)
        self.table.row(f"{self.label} bf16 torch.matmul, last", self.plain, always=True)
        self.ratios.update({(name, self.shape): self.bf16 / took for name, took in self.found.items()})


def notes(ratios: dict[tuple[str, Shape], float], shapes: Sequence[Shape]) -> list[str]:
    said: list[str] = []
    for name, bar in BARS.items():
        known = {shape: ratios[name, shape] for shape in shapes if (name, shape) in ratios}
        if known:
            low = min(known, key=known.__getitem__)
            least = f"least at {'x'.join(map(str, low))},"
            said.append(f"x bf16, {name}: {hopper.against(least, known[low], bar)}")
    return said


def main() -> None:
    given: Options | None = _gpu.options(__doc__)
    if given is None:
        return
    table = Table(given, COLUMNS)
    shapes = given.pick(SHAPES, SHAPES[:1], [(512, 512, 256)])
    ratios: dict[tuple[str, Shape], float] = {}
    for shape in shapes:
        table.section(f"M x N x K = {' x '.join(map(str, shape))}")
        Bench(table, shape, ratios).run()
    _gpu.finish("folded", "MX products through FP8 against bfloat16, by device time", table, notes(ratios, shapes))


if __name__ == "__main__":
    main()
