"""Grouped FP8 products on one Hopper GPU: `python -m benchmarks.grouped [--quick] [--full] [--only NAME ...]`.

Rows of E experts, each times its expert's weight [N, K], as mixtures of experts multiply them; results are bfloat16.
Sections, whose names `--only` takes (or a part of a label, as E=8 or 4096x7168):
  contiguous  8192 rows, expert after expert, of random numbers of rows; offsets lie on the device
  masked      room for 256 rows an expert, of which 0 to 192 count; counts lie on the device
  row         contiguous, with one scale a row, against torch._scaled_grouped_mm
The first two have scales of 1x128 x 128x128. Peers: a loop over experts of torch.nn.functional.scaled_mm with such
scales, which knows all sizes on the host, pads them to 16 rows, and is launched call by call, so that some of its time
may be the host's; torch._grouped_mm in bfloat16 (masked: torch.bmm of all the room); and a loop of bfloat16 products.
The loop of scaled_mm (row: torch._scaled_grouped_mm) is measured before and after ours, and `x peer` is to the mean of
both. TFLOP/s counts rows that count, GB/s the weights' elements, a byte each.
Before it is timed, each expert's rows are within 2e-3 of the float64 product of the decoded operands, rows of no expert
are 0, and two calls give equal bits. A wrong result fails the run, a missed speed does not.
See `benchmarks._gpu` for how time is taken.
"""

# What the peers annotate is narrower than what they take.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import breccia
from benchmarks import _gpu, gemm
from benchmarks._gpu import Options, Table
from benchmarks.hopper import repeatable
from breccia.tensor import ScaledTensor

Tensor = torch.Tensor
COLUMNS = ("us", "TFLOP/s", "GB/s", "x peer", "error")
WEIGHTS = [(4096, 7168), (7168, 2048)]
"""N and K of DeepSeek-V3's experts: gate and up, and down."""
EXPERTS = (8, 32)
ROWS, ROOM, MOST = 8192, 256, 192
PADDED = 16
"""Rows that the loop of scaled_mm pads each expert's to: cuBLAS wants scales of a column to be aligned."""


@dataclass(frozen=True)
class Case:
    """One product. rows: of all experts, or the room of each where it is masked. Invariant: equal cases, equal data."""

    given: Options
    kind: str
    experts: int
    rows: int
    N: int
    K: int
    recipes: gemm.Pair

    def __str__(self) -> str:
        return f"{self.kind} E={self.experts} {self.rows} rows {self.N}x{self.K}"

    @property
    def masked(self) -> bool:
        return self.kind == "masked"

    @cached_property
    def counts(self) -> list[int]:
        """Rows of each expert that count; one expert has none."""
        draw = torch.Generator().manual_seed(self.experts)
        if self.masked:
            found = torch.randint(0, min(MOST, self.rows) + 1, (self.experts,), generator=draw).tolist()
        else:
            cuts = torch.randint(0, self.rows + 1, (self.experts - 1,), generator=draw).sort().values.tolist()
            found = [b - a for a, b in zip([0, *cuts], [*cuts, self.rows], strict=True)]
            found[0], found[1] = found[0] + found[1], 0
        found[1] = 0
        return found

    @cached_property
    def table(self) -> Tensor:
        """What the device is told of the groups: offsets, or counts."""
        whole = self.counts if self.masked else [0, *torch.tensor(self.counts).cumsum(0).tolist()]
        return torch.tensor(whole, dtype=torch.int32, device=self.given.device)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First row of each expert, and the one after its last, among all rows."""
        starts = [e * self.rows for e in range(self.experts)] if self.masked else self.table.tolist()[:-1]
        return [(start, start + count) for start, count in zip(starts, self.counts, strict=True)]

    @cached_property
    def operands(self) -> tuple[Tensor, Tensor]:
        """Rows [T, K] or [E, M, K], and weights [E, N, K], in bfloat16."""
        shape = (self.experts, self.rows) if self.masked else (self.rows,)
        weights = torch.stack([gemm.normal(self.given, self.N, self.K) for _ in range(self.experts)])
        return gemm.normal(self.given, *shape, self.K), weights

    @cached_property
    def scaled(self) -> tuple[ScaledTensor, ScaledTensor]:
        x, w = self.operands
        return gemm.cast(x, self.recipes.left), gemm.cast(w, self.recipes.right)

    def check(self, found: Tensor, left: Any, right: Any, bar: float, what: str) -> float:
        """The largest error of an expert's rows; other rows have to be 0."""
        if found.shape[-1] != self.N or found.numel() != self.N * self.operands[0].numel() // self.K:
            raise _gpu.MismatchError(f"{what}: shape {tuple(found.shape)}")
        found, worst = found.reshape(-1, self.N), 0.0
        x, w = (v.dequantize("float32") if isinstance(v, ScaledTensor) else v for v in (left, right))
        x, outside = x.reshape(-1, self.K), torch.ones(found.shape[0], dtype=torch.bool, device=found.device)
        for e, (start, stop) in enumerate(self.spans):
            outside[start:stop] = False
            if stop > start:
                wanted = x[start:stop].double() @ w[e].double().t()
                worst = max(worst, _gpu.check(found[start:stop], wanted, bar, f"{what}, expert {e}"))
        if bool(found[outside].ne(0).any()):
            raise _gpu.MismatchError(f"{what}: rows of no expert are not 0")
        return worst


# -- who multiplies ----------------------------------------------------------------------------------------------------

Prepared = tuple[_gpu.Call, float]
Prepare = Callable[[Case], Prepared]


def multiply(x: Any, w: Any, table: Any) -> Any:
    return breccia.grouped_matmul(x, breccia.transpose(w, (0, 2, 1)), table, out_dtype=torch.bfloat16)


def ours(case: Case) -> Prepared:
    left, right = case.scaled
    function = case.given.compile(multiply)
    found = repeatable(lambda: function(left, right, case.table), str(case))
    return lambda: function(left, right, case.table), case.check(found, left, right, gemm.BAR, str(case))


def joined(case: Case, parts: Sequence[Tensor]) -> Tensor:
    """Results of experts, of all rows that they have, in the places of a whole result."""
    whole = torch.zeros(case.operands[0].numel() // case.K, case.N, dtype=torch.bfloat16, device=case.given.device)
    for (start, stop), part in zip(case.spans, parts, strict=True):
        whole[start:stop] = part[: stop - start]
    return whole


def loop(case: Case, calls: Sequence[_gpu.Call]) -> tuple[_gpu.Call, Tensor]:
    """One call of all experts' calls, and its results as a whole; experts without rows have none."""

    def run() -> list[Tensor]:
        return [call() for call in calls]

    results, empty = iter(run()), torch.zeros(0, case.N, device=case.given.device)
    return run, joined(case, [next(results) if stop > start else empty for start, stop in case.spans])


def scaled_mm_loop(case: Case) -> Prepared:
    x, w = case.operands
    x, calls = x.reshape(-1, case.K), list[_gpu.Call]()
    for e, (start, stop) in enumerate(case.spans):
        if stop > start:
            rows = x.new_zeros(-(-(stop - start) // PADDED) * PADDED, case.K)
            rows[: stop - start] = x[start:stop]
            calls.append(gemm.torch_block(rows, w[e])[0])
    call, found = loop(case, calls)
    return call, case.check(found, *case.scaled, gemm.PEER_BAR, "F.scaled_mm")


def bf16_loop(case: Case) -> Prepared:
    x, w = case.operands
    flat = x.reshape(-1, case.K)
    parts = [(flat[start:stop], w[e].t()) for e, (start, stop) in enumerate(case.spans) if stop > start]
    call, found = loop(case, [lambda a=a, b=b: a @ b for a, b in parts])
    return call, case.check(found, x, w, gemm.PEER_BAR, "bf16 loop")


def bf16_at_once(case: Case) -> Prepared:
    x, w = case.operands
    turned = w.transpose(1, 2)
    if case.masked:
        found = joined(case, torch.bmm(x, turned))
        return lambda: torch.bmm(x, turned), case.check(found, x, w, gemm.PEER_BAR, "torch.bmm")
    grouped, ends = getattr(torch, "_grouped_mm"), case.table[1:]  # noqa: B009 - not in torch's annotations
    return lambda: grouped(x, turned, offs=ends), case.check(
        grouped(x, turned, offs=ends), x, w, gemm.PEER_BAR, "torch._grouped_mm"
    )


def scaled_grouped_mm(case: Case) -> Prepared:
    left, right = case.scaled
    A, B = gemm.fp8_codes(left), gemm.fp8_codes(right).transpose(1, 2)
    scales, ends = (left.scale.reshape(-1), right.scale.reshape(case.experts, case.N)), case.table[1:]
    grouped = getattr(torch, "_scaled_grouped_mm")  # noqa: B009 - not in torch's annotations

    def run() -> Tensor:
        return grouped(A, B, *scales, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=False)

    return run, case.check(run(), left, right, gemm.PEER_BAR, "torch._scaled_grouped_mm")


# -- sections ----------------------------------------------------------------------------------------------------------


def contest(table: Table, case: Case, peer: tuple[str, Prepare], others: Sequence[tuple[str, Prepare]]) -> float | None:
    """The rows of one case, in the order of time: the peer, others, breccia, and the peer again; ours over the peer."""
    kept: list[tuple[_gpu.Call, float, float]] = []
    ratios: list[float] = []

    def clock(call: _gpu.Call) -> float:
        return _gpu.microseconds(call, table.given)

    def cells(took: float, error: float, ratio: float | str = "") -> list[object]:
        products, weights = 2.0 * sum(case.counts) * case.N * case.K, float(case.experts * case.N * case.K)
        return [took, 1e-6 * products / took, 1e-3 * weights / took, ratio, f"{error:.2e}"]

    def first() -> list[object]:
        call, error = peer[1](case)
        kept.append((call, clock(call), error))
        return cells(*kept[0][1:])

    def other(prepare: Prepare) -> list[object]:
        call, error = prepare(case)
        return cells(clock(call), error)

    def mine() -> list[object]:
        call, error = ours(case)
        took = clock(call)
        if not kept:
            return cells(took, error)
        kept.append((kept[0][0], clock(kept[0][0]), kept[0][2]))
        ratios.append(statistics.fmean(time for _, time, _ in kept) / took)
        return cells(took, error, ratios[0])

    table.row(f"{case} {peer[0]}, first", first)
    for name, prepare in others:
        table.row(f"{case} {name}", lambda prepare=prepare: other(prepare))
    table.row(f"{case} breccia", mine, ours=True)
    if len(kept) > 1:
        table.row(f"{case} {peer[0]}, last", lambda: cells(*kept[1][1:]), always=True)
    return ratios[0] if ratios else None


def cases(given: Options, kind: str, recipes: gemm.Pair) -> list[Case]:
    rows = (ROOM if kind == "masked" else ROWS) if given.cuda else 48
    weights = given.pick(WEIGHTS, WEIGHTS[:1], [(136, 256)])
    return [
        Case(given, kind, experts, rows, N, K, recipes)
        for N, K in weights
        for experts in given.pick(EXPERTS, EXPERTS[:1], (4,))
    ]


def section(
    table: Table, kind: str, title: str, recipes: gemm.Pair, peer: tuple[str, Prepare],
    others: Sequence[tuple[str, Prepare]] = (),
) -> list[str]:  # fmt: skip
    """Measure a section; a line about its ratios."""
    made = [case for case in cases(table.given, kind, recipes) if table.wants(str(case))]
    if not made:
        return []
    table.section(title)
    ratios = [ratio for case in made if (ratio := contest(table, case, peer, others)) is not None]
    if not ratios:
        return [f"{kind}, x {peer[0]}: none of {len(made)} compared"]
    mean, least = statistics.geometric_mean(ratios), min(ratios)
    return [f"{kind}, x {peer[0]} ({len(ratios)} of {len(made)}): geometric mean {mean:.3f}; least {least:.3f}"]


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    table, blocks = Table(given, COLUMNS), gemm.pair("float8_1x128", "float8_128x128")
    by_loop, rows = ("loop of F.scaled_mm", scaled_mm_loop), gemm.pair("float8_row", "float8_row")
    bf16 = ("bf16 loop", bf16_loop)
    title = "1x128 x 128x128; x peer: a loop of F.scaled_mm"
    notes = [
        f"bar: relative error of each expert at most {gemm.BAR:g} (peers {gemm.PEER_BAR:g})",
        *section(
            table, "contiguous", f"rows one after the other, {title}", blocks, by_loop,
            [("bf16 torch._grouped_mm", bf16_at_once), bf16],
        ),
        *section(
            table, "masked", f"room for {ROOM} rows an expert, {title}", blocks, by_loop,
            [("bf16 torch.bmm of all rows", bf16_at_once), bf16],
        ),
        *section(
            table, "row", "one scale a row, rows one after the other; x peer: torch._scaled_grouped_mm", rows,
            ("torch._scaled_grouped_mm", scaled_grouped_mm),
        ),
    ]  # fmt: skip
    _gpu.finish("grouped", "Grouped FP8 products, by device time", table, notes)


if __name__ == "__main__":
    main()
