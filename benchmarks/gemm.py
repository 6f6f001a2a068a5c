"""Products of scaled tensors on one GPU against cuBLAS: `python -m benchmarks.gemm [--quick] [--full] [--only ...]`.

Before a pair of recipes is timed, its products at odd shapes (M = 1, 7, 130; N = 300; K = 576) must be within 2e-3 of
the float64 product of the decoded operands, and equal it bit for bit where every sum is exact; every timed product is
checked too. `x bf16` is the time of `torch.matmul` in bfloat16, measured at the top of the same shape and again at its
end, over the row's time. All results are bfloat16.
  W[K,N]        breccia.matmul(a, w), w cast along its first axis
  W[N,K]        the transposed weight, as layers keep it: breccia.compile of a product with breccia.transpose(w)
  W[N,K].T      breccia.matmul(a, w.T): a view for elements of eight bits
  decode, bf16  both operands decoded by compiled functions, then torch.matmul
--full measures every listed shape, and the error of every recipe at each. See `benchmarks._gpu` for how time is taken.
"""

# What the peers annotate is narrower than what they take.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import breccia
from benchmarks import _gpu
from benchmarks._gpu import Options, Table
from breccia import recipes
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

BAR, PEER_BAR = 2e-3, 1e-2
ODD_ROWS, ODD_N, ODD_K = (130, 7, 1), 300, 576
LARGE = [(4096, 4096, 4096), (8192, 8192, 8192)]
LISTED = [
    (4096, 2112, 7168), (4096, 24576, 1536), (4096, 32768, 512), (4096, 7168, 16384), (4096, 4096, 7168),
    (4096, 7168, 2048), (4096, 28672, 8192),
]  # fmt: skip
"""(M, N, K) of --full, besides the large ones; with M = 64 and 128 for the errors."""
SMALL_ROWS = (1, 16, 64)
Tensor = torch.Tensor
Function = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """Recipes of the left and the right operand; None is a bfloat16 array."""

    name: str
    left: Recipe | None
    right: Recipe | None


def pair(left: str, right: str) -> Pair:
    found = (None if name == "bf16" else recipes.find(name) for name in (left, right))
    return Pair(f"{left} x {right}", *found)


TIMED = [
    pair("float8_1x128", "float8_128x128"), pair("float8_row", "float8_row"), pair("mxfp8_e4m3", "mxfp8_e4m3"),
    pair("nvfp4", "nvfp4"), pair("bf16", "mxfp4"),
]  # fmt: skip
SMALL = [pair("bf16", "int4_g128_f16"), pair("bf16", "mxfp4")]
OTHERS = [
    pair("float8_tensor", "float8_tensor"), pair("float8_1x128", "float8_1x128"), pair("mxfp6_e2m3", "mxfp6_e2m3"),
    pair("mxfp4", "mxfp4"), pair("bf16", "uint4_g128_f16"), pair("bf16", "nf4"), pair("int8_row", "int8_row"),
]  # fmt: skip
"""Checked, not timed."""


# -- operands ----------------------------------------------------------------------------------------------------------


def normal(given: Options, *shape: int) -> Tensor:
    return torch.randn(*shape, device=given.device, dtype=torch.float32).bfloat16()


def cast(x: Tensor, recipe: Recipe | None, axis: int = -1) -> Any:
    return x if recipe is None else breccia.cast(x, recipe, axis=axis)


def values(operand: Any) -> Tensor:
    """What an operand stands for, in float64."""
    return (operand.dequantize("float32") if isinstance(operand, ScaledTensor) else operand).double()


def reference(a: Any, w: Any) -> Tensor:
    return values(a) @ values(w)


def product(a: Any, w: Any) -> Tensor:
    return breccia.matmul(a, w, out_dtype=torch.bfloat16)


def transposed_product(a: Any, w: Any) -> Tensor:
    return breccia.matmul(a, breccia.transpose(w), out_dtype=torch.bfloat16)


def exact_values(given: Options, rows: int, recipe: Recipe | None, place: int) -> Tensor:
    """[rows, K] of -2 to 2 times powers of two, whose blocks have power-of-two scales under `recipe`.

    Each block along K holds its largest value at `place`; the other operand is 0 there.
    """
    x = torch.randint(-2, 3, (rows, ODD_K), device=given.device).float()
    if recipe is None:
        return x
    innermost = recipe.innermost
    tall, wide = (1, 1) if innermost.block is None else innermost.block
    height, width = (rows if tall is None else tall), (ODD_K if wide is None or innermost.block is None else wide)
    height = rows if innermost.block is None else height
    top = recipe.policy.max or float(recipe.element.max)
    x[:, 1 - place :: width] = 0.0
    x[:, place::width] = top
    if recipe.zero_point is not None:  # a range of 15: from -2 to 13
        x[:, place::width], x[:, 2::width] = 13.0, -2.0
    grid = (-(-rows // height), -(-ODD_K // width))
    scales = torch.randint(-1, 2, grid, device=given.device).float().exp2()
    x = x * scales.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :ODD_K]
    if len(recipe.levels) > 1:  # an outer scale of 1: its block holds nothing else that counts
        x[0, place] = top * float(recipe.innermost.dtype.max)
    return x


def exact_bits(x: Tensor) -> int | None:
    """How many bits after the point the values need, or None for more than 12."""
    return next((bits for bits in range(13) if torch.equal(x * 2**bits, (x * 2**bits).round())), None)


def exact_sums(given: Options, one: Pair, multiply: Function, rows: int) -> str:
    """Compare a product whose sums are exact in float32 whatever their order; raises where a bit differs."""
    a = cast(exact_values(given, rows, one.left, 0).bfloat16(), one.left)
    w = cast(exact_values(given, ODD_N, one.right, 1).bfloat16().t().contiguous(), one.right, 0)
    left, right = values(a), values(w)
    bits = (exact_bits(left), exact_bits(right))
    if bits[0] is None or bits[1] is None:
        return "not exact"
    largest = float((left.abs() @ right.abs()).max()) * 2 ** (bits[0] + bits[1])
    if largest >= 2**24:
        return "not exact"
    wanted = (left @ right).float().bfloat16()
    _gpu.check_equal(_gpu.poisoned(lambda: multiply(a, w)), wanted, f"exact sums, M = {rows}")
    return "equal"


# -- errors ------------------------------------------------------------------------------------------------------------


def error_at(given: Options, one: Pair, shape: tuple[int, int, int]) -> float:
    """The relative error of breccia.matmul at one shape; raises where it exceeds the bar."""
    M, N, K = shape
    a, w = cast(normal(given, M, K), one.left), cast(normal(given, K, N), one.right, 0)
    return _gpu.check(_gpu.poisoned(lambda: product(a, w)), reference(a, w), BAR, f"{M}x{N}x{K}")


def gate(table: Table, one: Pair) -> bool:
    """One row of errors; False where the pair is wrong."""
    given = table.given

    def case() -> list[object]:
        rows = ODD_ROWS[:2] if given.quick else ODD_ROWS
        worst = max(error_at(given, one, (M, ODD_N, ODD_K)) for M in rows)
        exact = [exact_sums(given, one, product, M) for M in rows]
        return [f"{worst:.2e}", exact[0]]

    return table.row(one.name, case, ours=True)


def listed_errors(table: Table) -> None:
    """Every recipe on both sides, and on the right of bfloat16, at every listed shape."""
    given = table.given
    shapes = given.pick([*LISTED, *LARGE], LARGE[:1], [(64, 128, 256)])
    shapes += [(M, N, K) for M in (64, 128) for _, N, K in given.pick(LISTED, [], [])]
    table.section("relative error of every recipe: the largest of the listed shapes")
    for name in recipes.all_recipes():
        for one in (pair(name, name), pair("bf16", name)):

            def case(one: Pair = one) -> list[object]:
                return [f"{max(error_at(given, one, shape) for shape in shapes):.2e}", f"{len(shapes)} shapes"]

            table.row(f"{one.name}, listed", case, ours=True)


# -- peers for FP8 -----------------------------------------------------------------------------------------------------


def fp8_codes(st: ScaledTensor) -> Tensor:
    return st.data.view(torch.float8_e4m3fn)


def scaled_mm(recipe: str, fast: bool) -> Function:
    """(a, transposed w) to (the call of torch._scaled_mm, what it should give)."""

    def prepare(a: Tensor, wt: Tensor) -> tuple[_gpu.Call, Tensor]:
        left, right = (breccia.cast(x, recipes.find(recipe)) for x in (a, wt))
        scales = left.scale, (right.scale.t() if right.scale.ndim else right.scale)
        A, B = fp8_codes(left), fp8_codes(right).t()
        kinds = {"scale_a": scales[0], "scale_b": scales[1], "out_dtype": torch.bfloat16, "use_fast_accum": fast}
        multiply = getattr(torch, "_scaled_mm")  # noqa: B009 - not in torch's annotations
        return lambda: multiply(A, B, **kinds), values(left) @ values(right).t()

    return prepare


def block_operands(a: Tensor, wt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes and scales for 1x128 x 128x128, scales of a column-major, and the wanted product."""
    left, right = breccia.cast(a, recipes.float8_1x128), breccia.cast(wt, recipes.float8_128x128)
    scales = left.scale.t().contiguous().t()
    return fp8_codes(left), fp8_codes(right).t(), scales, right.scale, values(left) @ values(right).t()


def torch_block(a: Tensor, wt: Tensor) -> tuple[_gpu.Call, Tensor]:
    """cuBLASLt's, by torch.nn.functional.scaled_mm; it wants the weight's scales padded to fours along K."""
    F: Any = torch.nn.functional
    A, B, left, right, wanted = block_operands(a, wt)
    padded = right.new_zeros(right.shape[0], -(-right.shape[1] // 4) * 4)
    padded[:, : right.shape[1]] = right
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128

    def run() -> Tensor:
        return F.scaled_mm(A, B, left, kinds[0], padded.t(), kinds[1], output_dtype=torch.bfloat16)

    return run, wanted


def torchao_block(a: Tensor, wt: Tensor) -> tuple[_gpu.Call, Tensor]:
    from torchao.prototype.blockwise_fp8_training.kernels import triton_fp8_gemm_1x128_128x128 as gemm

    A, B, left, right, wanted = block_operands(a, wt)
    return lambda: gemm(A, B, left, right.t(), out_dtype=torch.bfloat16), wanted


PEERS: list[tuple[str, Function]] = [
    ("torch._scaled_mm tensor, fast", scaled_mm("float8_tensor", True)),
    ("torch._scaled_mm tensor", scaled_mm("float8_tensor", False)),
    ("torch._scaled_mm row, fast", scaled_mm("float8_row", True)),
    ("torch._scaled_mm row", scaled_mm("float8_row", False)),
    ("F.scaled_mm 1x128 x 128x128", torch_block),
    ("torchao 1x128 x 128x128", torchao_block),
]


# -- large products ----------------------------------------------------------------------------------------------------


class Sheet:
    """The rows of one shape."""

    def __init__(self, table: Table, shape: tuple[int, int, int]) -> None:
        self.table, self.given, self.shape = table, table.given, shape
        M, N, K = shape
        self.label = "x".join(map(str, shape))
        self.flops = 2.0 * M * N * K
        self.a, self.w = normal(self.given, M, K), normal(self.given, K, N)
        self.yardstick = 0.0

    def timed(self, call: _gpu.Call, error: float) -> list[object]:
        took = _gpu.microseconds(call, self.given)
        ratio = self.yardstick / took if self.yardstick else 1.0
        return [took, self.flops / took * 1e-6, ratio, f"{error:.2e}"]

    def bf16(self, when: str) -> None:
        def case() -> list[object]:
            error = _gpu.check(self.a @ self.w, reference(self.a, self.w), PEER_BAR, "bf16")
            cells = self.timed(lambda: self.a @ self.w, error)
            self.yardstick = self.yardstick or float(str(cells[0]))
            return cells

        self.table.row(f"{self.label} bf16 torch.matmul, {when}", case, always=True)

    def ours(self, one: Pair, form: str) -> None:
        def case() -> list[object]:
            a = cast(self.a, one.left)
            if form == "W[K,N]":
                w, wanted_w, multiply = cast(self.w, one.right, 0), None, product
            else:
                w = cast(self.w.t().contiguous(), one.right)
                wanted_w = w.T
                w, multiply = (w.T, product) if form.endswith(".T") else (w, self.given.compile(transposed_product))
            wanted = reference(a, w if wanted_w is None else wanted_w)
            error = _gpu.check(_gpu.poisoned(lambda: multiply(a, w)), wanted, BAR, one.name)
            del wanted
            return self.timed(lambda: multiply(a, w), error)

        self.table.row(f"{self.label} {one.name} {form}", case, ours=True)

    def decoded(self, one: Pair) -> None:
        """What one would do without kernels for a recipe."""

        def case() -> list[object]:
            decode = self.given.compile(breccia.dequantize)
            a, w = cast(self.a, one.left), cast(self.w, one.right, 0)

            def run() -> Tensor:
                left, right = (decode(x) if isinstance(x, ScaledTensor) else x for x in (a, w))
                return left @ right

            return self.timed(run, _gpu.check(run(), reference(a, w), PEER_BAR, one.name))

        self.table.row(f"{self.label} {one.name} decode, bf16", case)

    def peer(self, name: str, prepare: Function) -> None:
        def case() -> list[object]:
            call, wanted = prepare(self.a, self.w.t().contiguous())
            error = _gpu.check(call(), wanted, PEER_BAR, name)
            del wanted
            return self.timed(call, error)

        self.table.row(f"{self.label} {name}", case)


def large(table: Table, shape: tuple[int, int, int], good: set[str], forms: bool) -> None:
    """All rows of one shape; `forms`: also transposed weights by a compiled function, and decoding first."""
    table.section(f"M x N x K = {' x '.join(map(str, shape))}")
    sheet, quick = Sheet(table, shape), table.given.quick
    right = measurable(table, sheet.label, TIMED, good)
    sheet.bf16("first")
    for one in right:
        sheet.ours(one, "W[K,N]")
        if one.right is not None and one.right.element.bits == 8:
            sheet.ours(one, "W[N,K].T")
        if forms:
            sheet.ours(one, "W[N,K]")
    for name, prepare in PEERS[::2] if quick else PEERS:
        sheet.peer(name, prepare)
    for one in right if forms else []:
        sheet.decoded(one)
    sheet.bf16("last")


def measurable(table: Table, label: str, pairs: Sequence[Pair], good: set[str]) -> list[Pair]:
    """The pairs that are right; the others get a row that says why it is empty."""
    for one in pairs:
        if one.name not in good:
            table.say(f"{label} {one.name}", "not timed: wrong at odd shapes, see below")
    return [one for one in pairs if one.name in good]


# -- small products ----------------------------------------------------------------------------------------------------


def int4pack(w: ScaledTensor) -> tuple[Function, Tensor]:
    """Torch's own int4 product for the weight [N, K] `w`, and the values it stands for there: scales in bfloat16."""
    ops: Any = torch.ops.aten
    signed = w.codes().to(torch.int16)
    codes = torch.where(signed > 7, signed - 16, signed) + 8
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    packed = ops._convert_weight_to_int4pack(pairs, 8)
    scale = w.scale.bfloat16()
    scales_and_zeros = torch.stack([scale.t(), torch.zeros_like(scale.t())], -1).contiguous()
    meant = (codes - 8).double() * scale.double().repeat_interleave(128, 1)
    return lambda a: ops._weight_int4pack_mm(a, packed, 128, scales_and_zeros), meant


class SmallSheet:
    """The rows of one weight and one number of rows: CUDA graphs that go through several weights."""

    def __init__(self, table: Table, M: int, N: int, K: int) -> None:
        self.table, self.given = table, table.given
        self.label, self.shape = f"{M}x{N}x{K}", (M, N, K)
        self.a = normal(self.given, M, K)
        self.yardstick = 0.0

    def timed(self, function: Function, weights: Sequence[Any], error: float) -> list[object]:
        took = _gpu.graph_microseconds([lambda w=w: function(self.a, w) for w in weights], self.given)
        self.yardstick = self.yardstick or took
        bytes_read = _gpu.nbytes(weights[0])
        return [took, bytes_read / took * 1e-3, self.yardstick / took, f"{error:.2e}"]

    def weights(self, recipe: Recipe | None, axis: int) -> list[Any]:
        _, N, K = self.shape
        shape = (K, N) if axis == 0 else (N, K)
        first = cast(normal(self.given, *shape), recipe, axis)
        others = range(1, _gpu.rotations(_gpu.nbytes(first), self.given))
        return [first, *(cast(normal(self.given, *shape), recipe, axis) for _ in others)]

    def bf16(self, when: str) -> None:
        def case() -> list[object]:
            weights = self.weights(None, 0)
            error = _gpu.check(self.a @ weights[0], reference(self.a, weights[0]), PEER_BAR, "bf16")
            return self.timed(torch.matmul, weights, error)

        self.table.row(f"{self.label} bf16 torch.matmul, {when}", case, always=True)

    def ours(self, one: Pair, form: str) -> None:
        def case() -> list[object]:
            weights = self.weights(one.right, 0 if form == "W[K,N]" else -1)
            first = weights[0] if form == "W[K,N]" else weights[0].T
            multiply = product if form == "W[K,N]" else self.given.compile(transposed_product)
            found = _gpu.poisoned(lambda: multiply(self.a, weights[0]))
            error = _gpu.check(found, reference(self.a, first), BAR, one.name)
            return self.timed(multiply, weights, error)

        self.table.row(f"{self.label} {one.name} {form}", case, ours=True)

    def int4pack(self) -> None:
        def case() -> list[object]:
            weights = self.weights(recipes.int4_g128_f16, -1)
            made = [int4pack(w) for w in weights]
            error = _gpu.check(made[0][0](self.a), self.a.double() @ made[0][1].t(), PEER_BAR, "int4pack")
            calls = [lambda f=function: f(self.a) for function, _ in made]
            took = _gpu.graph_microseconds(calls, self.given)
            return [took, _gpu.nbytes(weights[0]) / took * 1e-3, self.yardstick / took, f"{error:.2e}"]

        self.table.row(f"{self.label} torch _weight_int4pack_mm", case)


def small(table: Table, N: int, K: int, good: set[str]) -> None:
    for M in SMALL_ROWS:
        table.section(f"M x N x K = {M} x {N} x {K}: us in a graph over several weights; GB/s of the weight's bytes")
        sheet = SmallSheet(table, M, N, K)
        sheet.bf16("first")
        for one in measurable(table, sheet.label, SMALL, good):
            for form in ("W[N,K]",) if table.given.quick else ("W[K,N]", "W[N,K]"):
                sheet.ours(one, form)
        sheet.int4pack()
        if not table.given.quick:
            sheet.bf16("last")


# -- a fused layer -----------------------------------------------------------------------------------------------------


def gated(x: Any, gate: Any, up: Any) -> Any:
    """The first half of a gated MLP: two products, silu, and the cast for the next one."""
    left, right = (breccia.matmul(x, w, out_dtype=torch.bfloat16) for w in (gate, up))
    return breccia.cast(breccia.silu(left) * right, recipes.float8_1x128)


def fused(table: Table, shape: tuple[int, int, int]) -> None:
    """One compiled function against its steps, each a kernel of its own."""
    given, (M, N, K) = table.given, shape
    table.section(f"swiglu and cast after two products, 1x128 x 128x128, M x N x K = {M} x {N} x {K}, W[K,N]")
    flops, separate = 4.0 * M * N * K, [0.0]

    @cache
    def inputs() -> tuple[tuple[ScaledTensor, ...], Tensor]:
        """(the activation and both weights, the values before the cast)."""
        x = breccia.cast(normal(given, M, K), recipes.float8_1x128)
        weights = [breccia.cast(normal(given, K, N), recipes.float8_128x128, axis=0) for _ in range(2)]
        left, right = (reference(x, w) for w in weights)
        return (x, *weights), torch.nn.functional.silu(left) * right

    def timed(function: Function) -> list[object]:
        arguments, wanted = inputs()
        # An e4m3 rounding alone is 2.6e-2.
        error = _gpu.check(_gpu.poisoned(lambda: function(*arguments)).dequantize("float32"), wanted, 0.05, "gated")
        took = _gpu.microseconds(lambda: function(*arguments), given)
        separate[0] = separate[0] or took
        return [took, flops / took * 1e-6, separate[0] / took, f"{error:.2e}"]

    def steps() -> list[object]:
        activation = given.compile(lambda a, b: breccia.cast(breccia.silu(a) * b, recipes.float8_1x128))
        return timed(lambda x, gate, up: activation(product(x, gate), product(x, up)))

    def whole() -> list[object]:
        return timed(given.compile(gated))

    table.row("fused: separate kernels (x: 1)", steps, ours=True)
    table.row("fused: one compiled function (x separate)", whole, ours=True)


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    errors = Table(given, ("error", "exact sums"))
    errors.section(f"relative error to float64 of the decoded: the largest of M = {ODD_ROWS}, N = {ODD_N}, K = {ODD_K}")
    good = {one.name for one in dict.fromkeys((*TIMED, *SMALL)) if gate(errors, one)}
    table = Table(given, ("us", "TFLOP/s", "x bf16", "error"))
    shapes = given.pick([*LARGE, *(LISTED if given.full else [])], LARGE[:1], [(128, 256, 256)])
    for shape in shapes:
        large(table, shape, good, given.full or (shape == shapes[0] and not given.quick))
    weights = Table(given, ("us", "GB/s", "x bf16", "error"))
    for N, K in given.pick([(8192, 8192), *([(28672, 8192)] if given.full else [])], [(8192, 8192)], [(256, 256)]):
        small(weights, N, K, good)
    fused(table, given.pick((4096, 4096, 4096), (4096, 4096, 4096), (128, 128, 256)))
    errors.section("pairs that are not timed")
    for one in [] if given.quick else OTHERS:
        gate(errors, one)
    if given.full:
        listed_errors(errors)
    table.lines = [*table.lines, *weights.lines, *errors.lines]
    table.failures += [*weights.failures, *errors.failures]
    notes = [
        f"bar: relative error at most {BAR:g} (peers {PEER_BAR:g}); x bf16 of `fused` is over the separate kernels"
    ]
    _gpu.finish("gemm", "products, bfloat16 results, by device time", table, notes)


if __name__ == "__main__":
    main()
