"""Weights of 4 bits with few rows for Hopper, interpreted on the CPU: every code, odd shapes, and planted bugs.

Each bug is a change of the emitted text. It is found where the interpreter raises or the result is another one, for one
of the orders in which parts of a program may take turns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, by whichever module does so
torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import formats, recipes  # noqa: E402
from breccia.passes import _weight_tiles  # noqa: E402
from breccia.passes._weight_tiles import Shape  # noqa: E402
from breccia.targets.triton import _gluon_decode  # noqa: E402
from breccia.targets.triton._casts import Library  # noqa: E402
from breccia.targets.triton._gluon import HEADER  # noqa: E402
from breccia.targets.triton._swapped import Decode  # noqa: E402
from breccia.targets.triton.emit import HEADER as WHOLE  # noqa: E402
from breccia.tensor import ScaledTensor, flatten  # noqa: E402
from tests.targets.triton import gluon, programs  # noqa: E402
from tests.targets.triton.gluon import MisuseError  # noqa: E402
from tests.targets.triton.test_gluon import changed  # noqa: E402

SEEDS = (None, *range(6))
HALVES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}

# -- decoding ----------------------------------------------------------------------------------------------------------

BYTES = np.arange(256, dtype=np.uint8).reshape(1, 256)
UNSIGNED, SIGNED, E2M1, E8M0, E4M3 = (
    formats.uint4, formats.int4, formats.float4_e2m1fn, formats.float8_e8m0fnu, formats.float8_e4m3fn,
)  # fmt: skip


def decoded(decode: Decode, fmt: Any = None, numbers: Any = None) -> Any:
    """What emitted functions make of all bytes, for each of the numbers: [numbers, 512]."""
    library = Library(frozenset({"f8E4M3FN"}))
    helper, pairs = _gluon_decode.helper(library, decode), library.add("_pairs", _gluon_decode.PAIRS)
    more = "" if fmt is None else f", gl.expand_dims({_gluon_decode.number(library, decode, fmt)}(numbers), 1)"
    entry = f"def entry(packed, numbers):\n    return {helper}({pairs}(packed, None){more})\n"
    source = "\n".join([WHOLE.format(*HEADER), *library.texts, entry])
    packed = np.broadcast_to(BYTES, (1 if numbers is None else len(numbers), 256))
    return np.asarray(gluon.run(source, gluon.tensor(packed), gluon.tensor(numbers)))


def codes() -> Any:
    """The codes of all bytes, the low one first."""
    return np.stack([BYTES & 15, BYTES >> 4], -1).reshape(1, 512)


def values(fmt: Any) -> Any:
    return np.array([fmt.decode_code(int(c)) for c in codes()[0]], np.float64).reshape(1, 512)


def equal(found: Any, wanted: Any, computed: str) -> bool:
    """True for the same bits, NaN apart, and no value that was rounded."""
    exact = wanted.astype(HALVES[computed])
    assert np.array_equal(exact.astype(np.float64), wanted, equal_nan=True), "the dtype holds every value"
    assert found.dtype == exact.dtype
    same = found.view(np.uint16) == exact.view(np.uint16)
    return bool((same | (np.isnan(found.astype(np.float32)) & np.isnan(wanted))).all())


@pytest.mark.parametrize("computed", ["bf16", "f16"])
@pytest.mark.parametrize("fmt", [SIGNED, UNSIGNED], ids=str)
def test_every_integer_code(fmt: Any, computed: str) -> None:
    assert equal(decoded(Decode(fmt, computed)), values(fmt), computed)


def test_every_code_of_e2m1() -> None:
    assert equal(decoded(Decode(E2M1, "bf16")), values(E2M1), "bf16")


@pytest.mark.parametrize("computed", ["bf16", "f16"])
def test_every_code_and_every_zero_point(computed: str) -> None:
    zeros = np.arange(16, dtype=np.uint8)
    found = decoded(Decode(UNSIGNED, computed, zero=1), UNSIGNED, zeros)
    assert equal(found, values(UNSIGNED) - zeros[:, None].astype(np.float64), computed)


def test_every_code_of_e2m1_and_every_scale_of_mx() -> None:
    scales = np.arange(256, dtype=np.uint8)
    found = decoded(Decode(E2M1, "bf16", scale=1, block=32), E8M0, scales)
    factors = np.array([E8M0.decode_code(int(c)) for c in scales], np.float64)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = (values(E2M1) * factors).astype(np.float32).astype(np.float64)  # too large for float32 is infinite
    assert equal(found, wanted, "bf16")


def test_every_code_of_e2m1_and_every_scale_of_nvfp4() -> None:
    scales = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    found = decoded(Decode(E2M1, "bf16", scale=1, block=16), E4M3, scales)
    wanted = values(E2M1) * scales.astype(np.float64)[:, None]
    assert equal(found, wanted, "bf16")


# -- programs ----------------------------------------------------------------------------------------------------------

FORMS = {
    "16": Shape(16, 2, 4), "64": Shape(64, 2, 2), "32, 3 turns": Shape(32, 3, 1), "16, 4 turns": Shape(16, 4, 2),
    "64, shared": Shape(64, 1, 2, 2), "16, shared": Shape(16, 1, 1, 4),
}  # fmt: skip
"""Rows of the activation in a tile, groups that take turns, steps of a stage, and groups that share the activation."""
NAMES = ("int4_g128_f16", "uint4_g128_f16", "mxfp4", "nvfp4")
ODD = [(5, 300, 576), (33, 130, 1184), (1, 136, 4000), (70, 72, 160)]
"""M, N, K. The third walks around rings; the last has more rows than a tile."""


@dataclass(frozen=True)
class Program:
    """A product in one of the forms. Invariant: the same program has the same numbers."""

    form: str
    name: str = "int4_g128_f16"
    size: tuple[int, int, int] = (5, 300, 576)
    bias: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.size))} {self.form}{' bias' if self.bias else ''}"


PROGRAMS = [
    *(Program(form, name, size) for form in ("16", "64") for name in NAMES for size in ODD),
    *(Program(form, name, ODD[2]) for form in FORMS for name in NAMES[1:3]),
    *(Program(form, name, ODD[1], bias=True) for form in ("16", "64") for name in NAMES),
    *(Program(form, "uint4_g128_f16", (3, 200, 128)) for form in FORMS),
    *(Program(form, name, (5, 48, 576)) for form in ("16", "64") for name in NAMES[:3]),  # less than one tile
    *(
        Program(form, name, (3, 192, 256)) for form in FORMS for name in NAMES[:3]
    ),  # the last tiles of groups are outside
    *(Program("16", name, ODD[0]) for name in ("int4_g128_bf16", "int4_g128_f32", "uint4_g128_f32")),
    *(
        Program(form, name, size)
        for form in ("16", "64", "64, shared")
        for name in ("int4_g64_f16", "uint4_g32_f16", "int4_g32_bf16")
        for size in ODD[:2]
    ),
]


def emitted(program: Program) -> str:
    """The text for Hopper, in one of the forms."""
    _, n, k = program.size
    shape = FORMS[program.form]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SHAPES", "SCALED_SHAPES"):
            patch.setattr(_weight_tiles, name, (shape,))
        text = programs.gemm("", program.name, n=n, k=k, bias=program.bias, typical=shape.rows)
        source = programs.source(text, "sm_90")
    assert "gl.warp_specialize" in source, source
    workers = ["4"] * (shape.turns * shape.groups - 1) + ["1"]
    assert f"], [{', '.join(workers)}]," in re.sub(r"\s+", " ", source)
    return source


def weight(name: str, n: int, k: int) -> ScaledTensor:
    """Rows and every 16 numbers of a row have other magnitudes, so that no two scales are alike."""
    magnitudes = torch.randint(-2, 3, (n, -(-k // 16))).float().exp2()
    w = torch.randn(n, k) * magnitudes.repeat_interleave(16, 1)[:, :k]
    return breccia.cast(w.bfloat16(), recipes.find(name))


def arrays(w: ScaledTensor) -> list[Any]:
    """The components as tiled kernels take them: matrices."""
    return [a.reshape(1, 1) if a.ndim == 0 else a for a in flatten(w)[0]]


@cache
def prepared(program: Program) -> tuple[str, list[Any], Any]:
    """The emitted text, its tensors, and what is to come out in float64."""
    torch.manual_seed(0)
    m, n, k = program.size
    w, x = weight(program.name, n, k), torch.randn(m, k).bfloat16()
    wanted = x.double() @ w.dequantize("float32").double().t()
    tensors = [x, *arrays(w)]
    if program.bias:
        tensors.append(torch.randn(1, n))
        wanted = torch.nn.functional.silu(wanted + tensors[-1].double())
    return emitted(program), tensors, wanted


def agree(found: Any, wanted: Any) -> bool:
    """Nearly the same: all in all, and none far off. NaN agrees with nothing."""
    off = (found.double() - wanted).abs()
    typical = wanted.square().mean().sqrt()
    return bool(off.norm() <= 2e-3 * wanted.norm()) and bool((off <= wanted.abs() / 8 + typical / 100).all())


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_results_are_those_of_float64(program: Program) -> None:
    source, tensors, wanted = prepared(program)
    for count, seed in [(2, None), (3, 0)]:
        assert agree(gluon.run(source, *tensors, programs=count, seed=seed), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_neither_number_of_programs_nor_order_changes_a_bit(form: str) -> None:
    source, tensors, _ = prepared(Program(form, size=(33, 130, 1184)))
    first = gluon.run(source, *tensors)
    assert not first.isnan().any()
    for count, seed in [(1, None), (2, 0), (3, 1), (100, 2)]:
        found = gluon.run(source, *tensors, programs=count, seed=seed)
        assert torch.equal(found.view(torch.int16), first.view(torch.int16)), (count, seed)


def test_forms_are_what_they_are_asked_to_be() -> None:
    assert len({prepared(Program(form))[0] for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("form", FORMS)
def test_exact_sums_are_equal(name: str, form: str) -> None:
    m, n, k = 7, 72, 576
    torch.manual_seed(0)
    recipe = recipes.find(name)
    top = {"int4_g128_f16": 7.5, "uint4_g128_f16": 13.0, "mxfp4": 6.0}[name]
    w = torch.randint(-2, 3, (n, k)).float()
    w[:, 0::32], w[:, 1::32] = top, -2.0  # every block has the same range, and so a scale that is a power of two
    w = breccia.cast((w * torch.randint(-1, 2, (n, 1)).float().exp2()).bfloat16(), recipe)
    x = torch.randint(-2, 3, (m, k)).float()
    x[:, 0::32] = 0.0
    wanted = (x.double() @ w.dequantize("float32").double().t()).float().bfloat16()
    found = gluon.run(emitted(Program(form, name, (m, n, k))), x.bfloat16(), *arrays(w), programs=2)
    assert torch.equal(found, wanted)


def test_scales_that_lie_in_columns_are_read_as_well() -> None:
    source, tensors, wanted = prepared(Program("16"))
    turned = [*tensors[:2], tensors[2].t().contiguous().t()]
    assert agree(gluon.run(source, *turned, programs=2), wanted)


# -- bugs --------------------------------------------------------------------------------------------------------------

Change = tuple[str, Any]
"""A pattern in emitted text, which must be found, and what takes its place."""
LOADER, MATH = r"(def _gemm_0_load\((?s:.*?))", r"(def _gemm_0_math\((?s:.*?))"


def shifted(by: int) -> Callable[[re.Match[str]], str]:
    """What stands before a number, and that number and `by`."""
    return lambda found: f"{found[1]}{int(found[2]) + by}"


ANY: dict[str, tuple[Change, ...]] = {
    "loader begins in the other phase": ((r"phase = 1\b", "phase = 0"),),
    "groups begin in the other phase": ((r"phase = 0\b", "phase = 1"),),
    "one release too many awaited": ((r"(init\(empty\.index\(i\), count=)(\d)", shifted(1)),),
    "rings of the activation too short": ((r"(allocate_shared_memory\(x\.dtype, \[)(\d+)", shifted(-1)),),
    "rings of the weight too short": ((r"(allocate_shared_memory\(w_elements\.dtype, \[)(\d+)", shifted(-1)),),
    "loader goes around a shorter ring": ((LOADER + r"(?<=stage == )(\d+)", shifted(-1)),),
    "loader stays in a phase": ((LOADER + r"phase \^= 1", r"\1pass"),),
    "groups stay in a phase": ((MATH + r"phase \^= 1", r"\1pass"),),
    "stages are not released": ((r"\n +mbarrier\.arrive\(empty[^\n]*", ""),),
    "stages are released before they are read": (
        (r"( +)(mbarrier\.wait\(full[^\n]*\n)", r"\1\2\1mbarrier.arrive(empty.index(stage), count=1)\n"),
        (r"\n +mbarrier\.arrive\(empty[^\n]*(\n +stage \+=)", r"\1"),
    ),
    "loader does not wait": ((r"mbarrier\.wait\(empty[^\n]*", "pass"),),
    "groups do not wait": ((r"mbarrier\.wait\(full[^\n]*", "pass"),),
    "sums are read too early": ((r"\n +part0, values0 = warpgroup_mma_wait[^\n]*", ""),),
    "values are not kept": ((r"part0, values0 = (warpgroup_mma_wait\(0, deps=\[part0), values0", r"part0 = \1"),),
    "values of the step before": ((r"warpgroup_mma\(values1, ", "warpgroup_mma(values0, "),),
    "bytes of the step before": ((r"(packed1 = w_elements_tiles\.index\(stage\)\.slice\()64", r"\g<1>0"),),
    "activation of the step before": ((r"(x_tiles\.index\(stage\)\.slice\()128", r"\g<1>0"),),
    "sums of the last step alone": ((r"(acc = _add_scaled\(part1, [^\n]*), acc\)", r"\1, nothing)"),),
    "bytes too few": ((r"(expect\(arrived, )(\d+)", shifted(-128)),),
    "a load left out": ((r"\n +async_load\(w_elements[^\n]*(?=\n +async_load\(x)", ""),),
    "activation of another stage": ((r"(async_load\(x, \[[^\n]*?)turn \* ", r"\1(turn + 1) * "),),
    "a stage left out by all": ((r"(for turn in range\((?:group, )?)(\d+)", shifted(-1)),),
    "scales of another stage": ((r"\(turn \+ (\d)\)", r"(turn + \1 + 1)"),),
    "scales of the first stage for all": ((r"(first_2 = )[^\n]*", r"\g<1>group"),),
    "scales of all rows read": ((r"(gl\.load\(w_scale0_ptrs[^\n]*), mask=\(rows\w* < \d+\), other=0\.0\)", r"\1)"),),
    "scales of the next row": ((r"(w_scale0_ptrs = w_scale0 \+ )rows(\w*)", r"\1(rows\2 + 1)"),),
    "strides swapped": ((r"(rows\w*\.to\(gl\.int64\) \* w_scale0_stride)0", r"\g<1>1"),),
    "another scale": ((r"_add_scaled\(part1, w_scale0_now1", "_add_scaled(part1, w_scale0_now0"),),
    "codes not biased": ((r"0x43084308", "0x43004300"),),
    "codes the other way around": ((r"mad\.lo\.u32 t, \$1, 4096, \$1;", "mul.lo.u32 t, $1, 4096;"),),
    "sums of the other group too early": ((r" +mbarrier\.wait\(summed\.index\(0\), handed\)\n", ""),),
    "sums said to be there too early": (
        (r"( +partial[^\n]*\.store\(acc\)\n)( +mbarrier\.arrive\(summed[^\n]*\n)", r"\2\1"),
    ),
    "sums of one group alone": ((r"acc \+ partial\.index\(0\)\.load\(LAYOUT\)", "acc"),),
    "hand-over stays in a phase": ((r"handed \^= 1", "pass"),),
    "groups have the same stages": ((r"range\(group, ", "range(0, "),),
    "groups begin with the same stage": ((r"stage = gl\.to_tensor\(group\)", "stage = 0"),),
    "stages left out": ((r"stage \+= 2", "stage += 3"),),
    "tiles of a program overlap": ((r", gl\.num_programs\(0\)\)", ", gl.num_programs(0) + 1)"),),
    "columns outside are written": ((r"(mask=\(rows < M\)) & \(columns < \d+\)", r"\1"),),
    "rows outside are written": ((r"mask=\(rows < M\) & ", "mask="),),
    "rows are a bit longer": ((r"(rows\.to\(gl\.int64\) \* )(\d+)(?= \+ columns)", shifted(1)),),
    "result not turned": ((r"gl\.permute\(acc, \(1, 0\)\)", "acc"),),
}  # fmt: skip
OVERTAKING: dict[str, tuple[Change, ...]] = {
    "sums stored over those of the tile before": ((r" +mbarrier\.wait\(taken[^\n]*\n", ""),),
    "sums said to be taken too early": (
        (r"( +acc = acc \+ partial[^\n]*\n)( +mbarrier\.arrive\(taken[^\n]*\n)", r"\2\1"),
    ),
}
"""Bugs that show where a group has the next tile ready before the other one has taken the sums of this one."""
ZERO: dict[str, tuple[Change, ...]] = {
    "zero points of another step": ((r"w_zero_point_now1, 1", "w_zero_point_now0, 1"),),
    "zero points left out": ((r"sub\.rn\.bf16x2 \$0, t, \$3;", "sub.rn.bf16x2 $0, t, c;"),),
    "zero points of the first half alone": ((r"\) \* 0x10001", ")"),),
}
SCALED: dict[str, tuple[Change, ...]] = {
    "scales of another step": ((r"w_scale0_now1, 32", "w_scale0_now0, 32"),),
    "scales of the row's first block": ((r"(w_scale0_ptrs = [^\n]*) \+ gl\.expand_dims\(columns\w*, 0\)", r"\1 + 0"),),
    "scales beyond the last read": ((r" & \(gl\.expand_dims\(columns\w*, 0\) < [^\n]*?\)(, other)", r"\1"),),
    "exponents off by one": ((r"0x00800080", "0x01000100"),),
    "signs left out": ((r"0x80008000", "0x00000000"),),
    "halves too small": ((r"0x7e807e80", "0x7e007e00"),),
}
SHARED: dict[str, tuple[Change, ...]] = {
    "one release too few awaited": ((r"(init\(empty\.index\(i\), count=)(\d)", shifted(-1)),),
    "groups decode the same rows": ((r"slice\(group \* 64, 64\)", "slice(0, 64)"),),
    "groups store the same rows": ((r"n \* 2 \+ group", "n * 2"),),
    "groups have the scales of the next tile": ((r"n \* 2 \+ group", "n * 2 + 1 - group"),),
    "stages are not released": ((r"\n +mbarrier\.arrive\(empty[^\n]*", ""),),
    "scales of all rows read": ((r"(gl\.load\(w_scale0_ptrs[^\n]*), mask=\(rows\w* < \d+\), other=0\.0\)", r"\1)"),),
    "half of the rows loaded": ((r"(async_load\(w_elements, \[n \* )128", r"\g<1>64"),),
}
"""Bugs where groups have rows of their own."""
KINDS: dict[Program, dict[str, tuple[Change, ...]]] = {
    Program("16", size=(5, 300, 1700)): ANY,
    Program("16", size=(5, 900, 1000)): OVERTAKING,
    Program("16", "uint4_g128_f16", (5, 130, 1184)): ZERO,
    Program("64", "mxfp4", (5, 130, 1184)): SCALED,
    Program("64, shared", size=(5, 300, 1700)): SHARED,
}
BUGS = [(name, program, changes) for program, kind in KINDS.items() for name, changes in kind.items()]


def complaint(source: str, tensors: list[Any], wanted: Any, seed: int | None) -> str:
    """What is wrong with a kernel, if anything is."""
    try:
        found = gluon.run(source, *tensors, programs=2, seed=seed)
    except MisuseError as error:
        return str(error)
    except ValueError as error:  # shapes that do not meet, which a compiler would say
        return str(error)
    return "" if agree(found, wanted) else "another result"


@pytest.mark.parametrize("program", KINDS, ids=str)
def test_there_are_no_complaints_without_a_bug(program: Program) -> None:
    assert not any(complaint(*prepared(program), seed) for seed in SEEDS)


@pytest.mark.parametrize(("name", "program", "changes"), BUGS, ids=[f"{p.name}: {name}" for name, p, _ in BUGS])
def test_a_planted_bug_is_found(name: str, program: Program, changes: tuple[Change, ...]) -> None:
    source, tensors, wanted = prepared(program)
    source = changed(source, changes)
    assert any(complaint(source, tensors, wanted, seed) for seed in SEEDS)
