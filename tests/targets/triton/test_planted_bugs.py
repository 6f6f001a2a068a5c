"""The checks that the benchmarks make before they time anything find bugs planted in emitted kernels.

Each bug is a change of the emitted text; the kernel is run in Triton's interpreter, on odd shapes, through
`benchmarks._gpu`. Kernels without a bug pass.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import breccia  # noqa: E402
from benchmarks import _gpu, gemm, quantize  # noqa: E402
from benchmarks._gpu import MismatchError  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.frontend import lower  # noqa: E402
from breccia.passes import _tile_sizes  # noqa: E402
from breccia.targets.triton import launch  # noqa: E402
from breccia.tensor import ScaledTensor, flatten, unflatten  # noqa: E402
from tests.targets.triton import interpreter  # noqa: E402

pytestmark = [
    interpreter.needed(),
    pytest.mark.filterwarnings("ignore::breccia.frontend.compile.FallbackWarning"),  # sizes that become numbers
]

TARGET = "triton:sm_90"
GIVEN = _gpu.Options("cpu", quick=True, full=False, only=(), seconds=60.0, runs=1, target=TARGET)
M, N, K = 29, 72, 200
ROOM = 1 << 16
"""Bytes behind every array, which a kernel with a bug may read and write without harm."""

Change = tuple[str, str]
"""A pattern in emitted text, which must be found, and what takes its place."""
Make = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture(autouse=True)
def plain_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hopper's FP8 kernels are in Gluon otherwise: see test_gluon."""
    monkeypatch.setattr(lower, "_CODE", {})
    monkeypatch.setattr(_tile_sizes, "group_tiles", lambda *_: None)


@pytest.fixture(autouse=True)
def room_behind_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs lie where NaN was, and no bug writes into what is not its own."""

    def empty(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
        size = torch.Size(shape).numel() * dtype.itemsize
        return torch.full((size + ROOM,), 255, dtype=torch.uint8)[:size].view(dtype).view(shape)

    monkeypatch.setattr(launch, "empty", empty)
    monkeypatch.setenv("BRECCIA_CACHE", "0")


def roomy(value: Any) -> Any:
    """The same array or ScaledTensor with other numbers behind it."""
    if isinstance(value, ScaledTensor):
        arrays, static = flatten(value)
        return unflatten(static, [roomy(a) for a in arrays])
    size = value.numel() * value.element_size()
    held = torch.full((size + ROOM,), 0x3C, dtype=torch.uint8)
    held[:size] = value.contiguous().reshape(-1).view(torch.uint8)
    return held[:size].view(value.dtype).view(value.shape)


def normal(*shape: int) -> Any:
    return torch.randn(shape).bfloat16()


def scaled(name: str, *shape: int) -> Any:
    """Each block of 16 numbers has another magnitude, so that no two scales are alike."""
    magnitudes = torch.randint(-2, 3, (*shape[:-1], -(-shape[-1] // 16))).float().exp2()
    x = torch.randn(shape) * magnitudes.repeat_interleave(16, -1)[..., : shape[-1]]
    return roomy(breccia.cast(x.bfloat16(), recipes.find(name)))


def mutated(*changes: Change) -> Make:
    """A compiler for Triton that changes what it emits."""

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        made: dict[Any, Any] = {}

        def call(*args: Any) -> Any:
            key = tuple(a.shape for a in args)
            if key not in made:
                lowered = breccia.compile(function, target=TARGET).lower(*args)
                source = lowered.source()
                for pattern, new in changes:
                    source, count = re.subn(pattern, new, source)
                    assert count, f"nothing in the emitted text is like {pattern!r}:\n{lowered.source()}"
                vars(lowered)["_code"] = {**lowered._code, "source": source}
                made[key] = lowered.compile()
            with np.errstate(all="ignore"):  # a GPU does not warn
                return made[key](*args)

        return call

    return compiled


# -- programs, each with the check that a benchmark makes of its like --------------------------------------------------


def multiply(a: Any, w: Any) -> Any:
    return breccia.matmul(a, breccia.transpose(w), out_dtype=torch.bfloat16)


def product_gate(left: str, right: str) -> Callable[[Make], None]:
    """What `benchmarks.gemm` asks of a pair of recipes: the relative error, and sums that are exact."""

    def gate(make: Make) -> None:
        a = scaled(left, M, K) if left != "bf16" else roomy(normal(M, K))
        w = scaled(right, N, K)
        found = make(multiply)
        wanted = gemm.values(a) @ gemm.values(w).t()
        _gpu.check(_gpu.poisoned(lambda: found(a, w)), wanted, gemm.BAR, f"{left} x {right}")
        straight = make(lambda a, w: breccia.matmul(a, w, out_dtype=torch.bfloat16))
        gemm.exact_sums(GIVEN, gemm.pair(left, right), lambda a, w: straight(roomy(a), roomy(w)), 7)

    return gate


def layer_gate(make: Make) -> None:
    """What `benchmarks.quantize` asks of a fused function: the values that NumPy's target gives, nearly."""

    def layer(a: Any, w: Any, bias: Any) -> Any:
        y = breccia.silu(breccia.matmul(a, breccia.transpose(w)) + bias)
        return breccia.cast(y, recipes.mxfp8_e4m3)

    args = scaled("float8_1x128", M, K), scaled("float8_128x128", N, K), roomy(torch.randn(N) * 8)
    wanted = breccia.compile(layer, target="numpy")(*args).dequantize("float32")
    found = make(layer)
    result = _gpu.poisoned(lambda: found(*args))
    _gpu.check(result.dequantize("float32"), wanted, quantize.FUSED_TOLERANCE, "layer")


def cast_gate(make: Make) -> None:
    """What `benchmarks.quantize` asks of a cast: NumPy's bits."""
    found = make(lambda x: breccia.cast(x, recipes.float8_1x128))
    quantize.same_as_numpy(found, roomy(normal(M, K)), recipes.float8_1x128)


def grouped_gate(make: Make) -> None:
    """The relative error of each group's product; one group is empty, and one row has none."""

    def grouped(a: Any, w: Any, offsets: Any) -> Any:
        return breccia.grouped_matmul(a, breccia.transpose(w, (0, 2, 1)), offsets, out_dtype=torch.bfloat16)

    borders = [0, 11, 11, M - 1]
    a, w = scaled("float8_1x128", M, K), scaled("float8_128x128", 3, N, K)
    offsets = roomy(torch.tensor(borders, dtype=torch.int32))
    wanted = torch.zeros(M, N, dtype=torch.float64)
    for e in range(3):
        rows = slice(borders[e], borders[e + 1])
        wanted[rows] = gemm.values(a)[rows] @ gemm.values(w)[e].t()
    found = make(grouped)
    _gpu.check(_gpu.poisoned(lambda: found(a, w, offsets)), wanted, gemm.BAR, "grouped")


GATES: dict[str, Callable[[Make], None]] = {
    "fp8": product_gate("float8_1x128", "float8_128x128"),
    "nvfp4": product_gate("bf16", "nvfp4"),
    "uint4": product_gate("bf16", "uint4_g32_f16"),
    "layer": layer_gate,
    "cast": cast_gate,
    "grouped": grouped_gate,
}


# -- bugs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    name: str
    program: str
    changes: tuple[Change, ...]


# What emitted text looks like, and changes of it that take more than a line.
SUM = r"acc = tl\.fma\(p, (tl\.broadcast_to\(s, .*?\)\)), acc\)"
GROUP = r"(tl\.load\(offsets \+ e \* offsets_stride0\))"
INSIDE_K = r" & \(tl\.arange\(0, \d+\) < \(\d+ - k \* \d+\)\)\[None, :\]"
STORE = r"(tl\.store\((?:out|elements)(?:_ptrs)?\b(?s:.*?)mask=\(tl\.arange\(0, \d+\) < "
INSIDE_N = STORE + r"[^\[]*\)\[:, None\]) & \(tl\.arange\(0, \d+\) < [^\[]*\)\[None, :\]"
FORGOTTEN_TAIL = (r"for k in range\((\d+)\)", r"for k in range(\1 - 1)")
LAST_ROW = (STORE + r")(.*?)\)\[:, None\]", r"\1\2 - 1)[:, None]")
LAST_SCALES = ((SUM, r"acc = acc + p; factor = \1"), (r"acc\.to\(", "(acc * factor).to("))
SCALES_ONE_ON = (r"tl\.store\((scale0\w*)", r"tl.store(\1 + 1")
SWAPPED_STRIDES = (
    (r"\[:, None\] \* w_elements_stride0", "[:, None] * SWAPPED"),
    (r"\[None, :\] \* w_elements_stride1", "[None, :] * w_elements_stride0"),
    ("SWAPPED", "w_elements_stride1"),
)
HALF = (
    r"amax = tl\.max\(bits, axis=2",
    "amax = tl.max(tl.where(tl.arange(0, bits.shape[2])[None, None, :] < bits.shape[2] // 2, bits, 0), axis=2",
)

BUGS = [
    Bug("scale of every second block along K", "fp8", ((r" k \* a_scale0_stride", " (k // 2) * a_scale0_stride"),)),
    Bug("scale of the next block along K", "fp8", ((r" k \* w_scale0_stride", " (k + 1) * w_scale0_stride"),)),
    Bug("K tail dropped", "fp8", (FORGOTTEN_TAIL,)),
    Bug("K edge reads the next row", "fp8", ((INSIDE_K, ""),)),
    Bug("strides of the weight swapped", "fp8", SWAPPED_STRIDES),
    Bug("scales of the last block for all blocks", "fp8", LAST_SCALES),
    Bug("sum of the last block alone", "fp8", ((SUM, r"acc = p * \1"),)),
    Bug("scale of the activation left out", "fp8", ((r"s = w_scale0_tile \* a_scale0_tile", "s = w_scale0_tile"),)),
    Bug("N edge writes the next row", "fp8", ((INSIDE_N, r"\1"),)),
    Bug("last row not written", "fp8", (LAST_ROW,)),
    Bug("K tail dropped", "nvfp4", (FORGOTTEN_TAIL,)),
    Bug("nibbles swapped", "nvfp4", ((r"tl\.interleave\((.*?), (.*?)\)", r"tl.interleave(\2, \1)"),)),
    Bug("accumulator not carried", "nvfp4", ((r"tl\.dot\((.*), acc\)", r"tl.dot(\1)"),)),
    Bug("scales a step behind", "nvfp4", ((r" k \* (\d+) \* w_scale1_stride", r" (k // 2) * \1 * w_scale1_stride"),)),
    Bug("outer scale left out", "nvfp4", ((r"acc \* w_scale0_tile", "acc"),)),
    Bug("zero point not subtracted", "uint4", ((r"w_elements_3 - w_zero_point_2", "w_elements_3"),)),
    Bug("zero point of another block", "uint4", ((r" k \* w_zero_point_stride", " (k // 2) * w_zero_point_stride"),)),
    Bug("K tail dropped", "uint4", (FORGOTTEN_TAIL,)),
    Bug("the largest bias for all", "layer", ((r"acc \+ bias_tile", "acc + tl.max(bias_tile, 0)"),)),
    Bug("bias of the first columns for all", "layer", ((r"= bias \+ n \* \d+ \* bias_stride0", "= bias"),)),
    Bug("rounded before the bias", "layer", ((r"acc \+ bias_tile", "acc.to(tl.bfloat16).to(tl.float32) + bias_tile"),)),
    Bug("amax of half a block", "layer", (HALF,)),
    Bug("scales written one place on", "layer", (SCALES_ONE_ON,)),
    Bug("amax of half a block", "cast", (HALF,)),
    Bug("scales written one place on", "cast", (SCALES_ONE_ON,)),
    Bug("amax of the next row too", "cast", ((r"(mask=x_inside) & x_inside_2", r"\1"),)),
    Bug("last row not written", "cast", (LAST_ROW,)),
    Bug("rows of a group one off", "grouped", ((GROUP + r" \* a_elements_stride0", r"(\1 + 1) * a_elements_stride0"),)),
    Bug("scales of another group", "grouped", ((r"e \* w_scale0_stride0", "(e // 2) * w_scale0_stride0"),)),
    Bug("last row of each group not written", "grouped", (LAST_ROW,)),
]


@pytest.mark.parametrize("program", GATES)
def test_kernels_without_a_bug_pass(program: str) -> None:
    torch.manual_seed(0)
    GATES[program](mutated())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.program}: {bug.name}")
def test_a_planted_bug_is_found(bug: Bug) -> None:
    torch.manual_seed(0)
    with pytest.raises(MismatchError) as found:
        GATES[bug.program](mutated(*bug.changes))
    print(found.value)
