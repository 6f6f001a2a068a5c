"""Warp-specialized kernels for Hopper, interpreted on the CPU: right results on odd shapes, and planted bugs are found.

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

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, by whichever module does so
torch = pytest.importorskip("torch")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.frontend import lower  # noqa: E402
from breccia.passes import _group_tiles  # noqa: E402
from breccia.passes._group_tiles import Shape  # noqa: E402
from breccia.tensor import ScaledTensor, flatten  # noqa: E402
from tests.targets.triton import gluon  # noqa: E402
from tests.targets.triton.gluon import DeadlockError, MisuseError  # noqa: E402

SEEDS = (None, 0, 1)

# -- programs ----------------------------------------------------------------------------------------------------------


def multiply(x: Any, w: Any) -> Any:
    return breccia.matmul(x, breccia.transpose(w), out_dtype="bfloat16")


def fused(x: Any, w: Any) -> Any:
    return breccia.cast(breccia.silu(breccia.matmul(x, breccia.transpose(w))), recipes.float8_1x128)


FORMS = {
    "2x1x1": Shape(2, 1, 1), "2x2x1": Shape(2, 2, 1), "2x1x2": Shape(2, 1, 2), "3x1x1": Shape(3, 1, 1),
    "2x1x1 of 64": Shape(2, 1, 1, 64), "2x1x3 of 64": Shape(2, 1, 3, 64),
    "turns 16": Shape(1, 1, 1, 16, 2, 4), "turns 128": Shape(1, 1, 1, 128, 2, 2),
}  # fmt: skip
"""Groups by waves along m and n; or groups that take turns along k."""
ODD = [(300, 264, 640), (130, 300, 576), (257, 136, 200), (129, 129, 1100)]
"""M, N, K. Rows of 300 bfloat16 and of 200 and 1100 bytes are no multiples of 16 bytes; the last walks around rings."""

FEW = [(7, 264, 640), (20, 130, 640)]
"""Rows that do not fill one tile of the instruction."""


@dataclass(frozen=True)
class Program:
    """A product in one of the forms. Invariant: the same program has the same numbers."""

    form: str
    left: str = "float8_1x128"
    right: str = "float8_128x128"
    size: tuple[int, int, int] = (300, 264, 640)
    function: Callable[..., Any] = multiply

    def __str__(self) -> str:
        return f"{self.function.__name__} {self.left} {self.right} {'x'.join(map(str, self.size))} {self.form}"


PAIRS = [("float8_1x128", "float8_128x128"), ("float8_row", "float8_row"), ("float8_1x128", "float8_1x128")]
PROGRAMS = [
    *(
        Program(form, *pair, size)
        for form in FORMS
        for pair in PAIRS
        for size in (ODD if form in ("2x1x1", "turns 128") else ODD[2:])
        if pair != PAIRS[2] or form == "2x1x1" or "turns" in form  # scales along k on both sides: nothing wider
    ),
    *(Program(form, size=size) for form in FORMS for size in FEW),
    *(Program(form, size=size, function=fused) for form in ("2x1x1", "2x2x1", "turns 128") for size in ODD[:2]),
]


def scaled(name: str, *shape: int) -> ScaledTensor:
    """Rows and every 16 numbers of a row have other magnitudes, so that no two scales are alike."""
    magnitudes = torch.randint(-2, 3, (shape[0], -(-shape[1] // 16))).float().exp2()
    x = torch.randn(shape) * magnitudes.repeat_interleave(16, 1)[:, : shape[1]]
    return breccia.cast(x.bfloat16(), recipes.find(name))


def emitted(function: Callable[..., Any], form: str, *args: Any) -> str:
    """The text for Hopper, in one of the forms."""
    chosen = (FORMS[form],)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRECCIA_CACHE", "0")
        patch.setattr(lower, "_CODE", {})  # remembers text by what it is made from, of which the form is no part
        patch.setattr(_group_tiles, "SHAPES", chosen)
        patch.setattr(_group_tiles, "FEW", chosen)
        patch.setattr(_group_tiles, "SMALL", chosen)
        patch.setattr(_group_tiles, "TURNS", ())
        source = breccia.compile(function, target="triton:sm_90").lower(*args).source()
    assert "gl.warp_specialize" in source, source
    return source


@cache
def prepared(program: Program) -> tuple[str, list[Any], Any]:
    """The emitted text, its tensors, and what is to come out: by NumPy's target."""
    torch.manual_seed(0)
    m, n, k = program.size
    args = scaled(program.left, m, k), scaled(program.right, n, k)
    source = emitted(program.function, program.form, *args)
    wanted = breccia.compile(program.function, target="numpy")(*args)
    values = wanted.dequantize("float32") if isinstance(wanted, ScaledTensor) else wanted.float()
    return source, [array for arg in args for array in flatten(arg)[0]], values


def values(result: Any) -> Any:
    """Numbers of what a kernel returned: a matrix, or elements and scales."""
    if not isinstance(result, tuple):
        return result.float()
    elements, scales = result
    wide = scales.repeat_interleave(128, 1)[:, : elements.shape[1]]
    return elements.view(torch.float8_e4m3fn).float() * wide


def agree(found: Any, wanted: Any) -> bool:
    """Nearly the same: all in all, and none far off. NaN agrees with nothing."""
    off = (found - wanted).abs()
    typical = wanted.square().mean().sqrt()
    return bool(off.norm() <= 2e-3 * wanted.norm()) and bool((off <= wanted.abs() / 8 + typical / 100).all())


# -- right results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_results_are_those_of_numpy(program: Program) -> None:
    source, tensors, wanted = prepared(program)
    for programs, seed in [(2, None), (3, 0)]:
        assert agree(values(gluon.run(source, *tensors, programs=programs, seed=seed)), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_neither_number_of_programs_nor_order_changes_a_bit(form: str) -> None:
    source, tensors, _ = prepared(Program(form))
    first = gluon.run(source, *tensors)
    assert not first.isnan().any()
    for programs, seed in [(1, None), (2, 0), (3, 1), (100, 2)]:
        found = gluon.run(source, *tensors, programs=programs, seed=seed)
        assert torch.equal(found.view(torch.int16), first.view(torch.int16)), (programs, seed)


def test_forms_are_what_they_are_asked_to_be() -> None:
    assert len({prepared(Program(form))[0] for form in FORMS}) == len(FORMS)


def test_scales_that_lie_in_columns_are_read_as_well() -> None:
    source, tensors, wanted = prepared(Program("2x1x1"))
    turned = [t.t().contiguous().t() if t.dtype == torch.float32 else t for t in tensors]
    assert agree(values(gluon.run(source, *turned, programs=2)), wanted)


def layer(x: Any, w: Any, bias: Any, residual: Any) -> Any:
    """What a layer does after its product: a vector for all rows, and a matrix."""
    return (breccia.silu(multiply(x, w) + bias) + residual).astype("float32")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [264, 300])
def test_vectors_and_matrices_join_at_the_end(form: str, n: int) -> None:
    torch.manual_seed(0)
    args = scaled("float8_1x128", 300, 640), scaled("float8_128x128", n, 640), torch.randn(n), torch.randn(300, n)
    source = emitted(layer, form, *args)
    arrays = [array for arg in args[:2] for array in flatten(arg)[0]]
    assert agree(gluon.run(source, *arrays, *args[2:], programs=2), breccia.compile(layer, target="numpy")(*args))


# -- bugs --------------------------------------------------------------------------------------------------------------

Change = tuple[str, Any]
"""A pattern in emitted text, which must be found, and what takes its place."""

LOADER = r"(?s:(_load\(.*?))"
FIRST_IN_LOADER = r"(def _gemm_0_load\((?s:.*?))"
WAIT_FOR_PRODUCT = r"( +)((?:part\d*(?:, )?)+ = warpgroup_mma_wait[^\n]*\n)"
RELEASE = r"( +mbarrier\.arrive\(empty[^\n]*\n)"


def shifted(by: int) -> Callable[[re.Match[str]], str]:
    """What stands before a number, and that number and `by`."""
    return lambda found: f"{found[1]}{int(found[2]) + by}"


ANY: dict[str, tuple[Change, ...]] = {
    "loader begins in the other phase": ((r"phase = 1\b", "phase = 0"),),
    "groups begin in the other phase": ((r"phase = 0\b", "phase = 1"),),
    "one release too many awaited": ((r"(init\(empty\.index\(i\), count=)(\d)", shifted(1)),),
    "rings of the first operand too short": ((r"(allocate_shared_memory\(x_elements\.dtype, \[)(\d+)", shifted(-1)),),
    "rings of the second operand too short": ((r"(allocate_shared_memory\(w_elements\.dtype, \[)(\d+)", shifted(-1)),),
    "barriers too few": ((r"(empty = gl\.allocate_shared_memory\(gl\.int64, \[)(\d+)", shifted(-1)),),
    "barriers not initialized": ((r"(static_range\()(\d+)", shifted(-1)),),
    "loader goes around a shorter ring": ((FIRST_IN_LOADER + r"(?<=stage == )(\d+)", shifted(-1)),),
    "loader stays in a phase": ((FIRST_IN_LOADER + r"phase \^= 1", r"\1pass"),),
    "groups stay in a phase": ((r"(def _gemm_0_math\((?s:.*?))phase \^= 1", r"\1pass"),),
    "stages are not released": ((r"\n" + RELEASE, "\n"),),
    "stages are released before they are read": ((WAIT_FOR_PRODUCT + RELEASE, r"\3\1\2"),),
    "another stage is released": ((r"arrive\(empty\.index\(stage\)", "arrive(empty.index(stage ^ 1)"),),
    "loader does not wait": ((r"mbarrier\.wait\(empty[^\n]*", "pass"),),
    "groups do not wait": ((r"mbarrier\.wait\(full[^\n]*", "pass"),),
    "sums are read too early": ((WAIT_FOR_PRODUCT, ""),),
    "bytes too few": ((r"(expect\(arrived, )(\d+)", shifted(-128)),),
    "bytes too many": ((r"(expect\(arrived, )(\d+)", shifted(128)),),
    "a load left out": ((r"\n +async_load\(w_elements[^\n]*(?=\n +async_load\(x)", ""),),
    "places of a load swapped": (
        (r"async_load\(w_elements, \[(.*?), (.*?)\], ", r"async_load(w_elements, [\2, \1], "),
    ),
    "first operand of another step": ((r"(async_load\(x_elements, \[[^\n]*?) \* 128\]", r"\1 * 128 + 128]"),),
    "steps are as long as half of them": ((r"(async_load\([xw]_elements, \[[^\n]*?) \* 128\]", r"\1 * 64]"),),
    "scales of another step": ((r"ahead = (min\()?(k|turn) \+ (\d)", r"ahead = \1\2 + \3 + 1"),),
    "scales of the first step for all": ((r"ahead \* ", "0 * "),),
    "scales of all rows read": ((r"(gl\.load\(x_scale0_ptrs[^\n]*), mask=rows < \d+, other=0\.0\)", r"\1)"),),
    "scales of the next row": ((r"(x_scale0_ptrs = x_scale0 \+ )rows", r"\1(rows + 1)"),),
    "strides swapped": ((r"(rows \* x_scale0_stride)0", r"\g<1>1"),),
    "scale left out": ((r"scale(\w*) = w_scale0_now\w* \* ", r"scale\1 = "),),
    "sums of the last step alone": ((r"= _add_scaled\((.*), acc\w*\)", r"= _add_scaled(\1, nothing)"),),
}
"""Bugs of every form."""
WALKING: dict[str, tuple[Change, ...]] = {
    "one release too few awaited": ((r"(init\(empty\.index\(i\), count=)(\d)", shifted(-1)),),
    "a step left out by the loader": ((FIRST_IN_LOADER + r"(?<=for k in range\()(\d+)", shifted(-1)),),
    "a step left out by the groups": ((r"(def _gemm_0_math\((?s:.*?)for k in range\()(\d+)", shifted(-1)),),
    "groups have the same rows": ((r"m \* 2 \+ group", "m * 2"), (r"m_2 \* 2 \+ group", "m_2 * 2")),
    "tiles of a program overlap": ((r", gl\.num_programs\(0\)\)", ", gl.num_programs(0) + 1)"),),
    "places of a store swapped": ((r"async_store\(out, \[(.*?), (.*?)\], ", r"async_store(out, [\2, \1], "),),
    "stored over what is leaving": ((r" +store_wait\(0\)\n( +out_tile\.store)", r"\1"),),
    "stored without a fence": ((r"\n +fence_async_shared\(\)(\n +async_store)", r"\1"),),
    "gone before stores are read": ((r"\n    store_wait\(0\)\n\n", "\n\n"),),
}
"""Bugs where programs walk over tiles, and results leave through shared memory."""
PLACED: dict[str, tuple[Change, ...]] = {
    "columns outside are written": ((r"(mask=\(rows < \d+\)) & \(columns < \d+\)", r"\1"),),
    "rows outside are written": ((r"mask=\(rows < \d+\) & ", "mask="),),
    "the last row is not written": ((r"(mask=\(rows < )(\d+)", shifted(-1)),),
    "rows are a bit longer": ((r"(rows\.to\(gl\.int64\) \* )(\d+)", shifted(1)),),
}
"""Bugs where results are stored through pointers."""
WAVES: dict[str, tuple[Change, ...]] = {
    "sums of the tile before": ((r"use_acc=never", "use_acc=True"),),
    "the first tile twice": ((r"\.slice\(64, 64\)", ".slice(0, 64)"),),
    "slices beyond the memory": ((r"\.slice\(64, 64\)", ".slice(65, 64)"),),
}
"""Bugs where a group has several tiles."""
TURNS: dict[str, tuple[Change, ...]] = {
    "sums of the other group too early": ((r" +mbarrier\.wait\(summed, 0\)\n", ""),),
    "sums said to be there too early": (
        (r"( +partial\.store\(acc\)\n)( +mbarrier\.arrive\(summed, count=1\)\n)", r"\2\1"),
    ),
    "sums of one group alone": ((r"acc \+ partial\.load\(LAYOUT\)", "acc"),),
    "groups have the same stages": ((r"range\(group, ", "range(0, "),),
    "groups begin with the same stage": ((r"stage = gl\.to_tensor\(group\)", "stage = 0"),),
    "stages left out": ((r"stage \+= 2", "stage += 3"),),
    "steps of a stage alike": ((r"(async_load\(x_elements, \[[^\n]*?) \+ 1\) \* 128", r"\1) * 128"),),
}
"""Bugs where groups take turns along k."""

KINDS: dict[Program, tuple[dict[str, tuple[Change, ...]], ...]] = {
    Program("2x1x1", size=(300, 264, 1152)): (ANY, WALKING),
    Program("2x2x1", size=(300, 264, 1152)): (WAVES,),
    Program("2x1x1", size=(130, 300, 576)): (PLACED,),
    Program("turns 128", size=(130, 300, 1700)): (ANY, PLACED, TURNS),
}
BUGS = [
    (name, program, changes) for program, kinds in KINDS.items() for kind in kinds for name, changes in kind.items()
]


def changed(source: str, changes: tuple[Change, ...]) -> str:
    """Emitted text with a bug; where there are several changes, those that it has a place for."""
    count = 0
    for pattern, new in changes:
        source, made = re.subn(pattern, new, source)
        count += made
    assert count, f"nothing in the emitted text is like {changes}:\n{source}"
    return source


def complaint(source: str, tensors: list[Any], wanted: Any, seed: int | None) -> str:
    """What is wrong with a kernel, if anything is."""
    try:
        found = gluon.run(source, *tensors, programs=2, seed=seed)
    except MisuseError as error:
        return str(error)
    return "" if agree(values(found), wanted) else "another result"


@pytest.mark.parametrize("program", KINDS, ids=str)
def test_there_are_no_complaints_without_a_bug(program: Program) -> None:
    assert not any(complaint(*prepared(program), seed) for seed in SEEDS)


@pytest.mark.parametrize(("name", "program", "changes"), BUGS, ids=[f"{p.form}: {name}" for name, p, _ in BUGS])
def test_a_planted_bug_is_found(name: str, program: Program, changes: tuple[Change, ...]) -> None:
    source, tensors, wanted = prepared(program)
    source = changed(source, changes)
    assert any(complaint(source, tensors, wanted, seed) for seed in SEEDS)


def test_a_deadlock_says_who_waits_for_what() -> None:
    source, tensors, _ = prepared(Program("2x1x1"))
    with pytest.raises(DeadlockError) as found:
        gluon.run(changed(source, ((r"\n +mbarrier\.arrive\(empty[^\n]*", ""),)), *tensors, programs=2)
    assert re.search(r"_gemm_0_load\(\) waits for phase 0 of empty\[0\]: 2 arrivals and 0 bytes", str(found.value))
    assert re.search(r"_gemm_0_math\(0\) waits for phase 1 of full\[0\]: 1 arrivals", str(found.value))
