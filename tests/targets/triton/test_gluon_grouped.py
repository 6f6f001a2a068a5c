"""Grouped products for Hopper, interpreted on the CPU: each row times its group's matrix, whatever the groups are.

Bugs are planted as in test_gluon.py, whose bugs of barriers and loads are planted here too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
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
from tests.targets.triton import gluon, programs  # noqa: E402
from tests.targets.triton.gluon import MisuseError  # noqa: E402
from tests.targets.triton.test_gluon import ANY, SEEDS, WALKING, Change, agree, changed, scaled  # noqa: E402

ROWS, MATRICES = 300, 5
FORMS = {
    "2x1x1": Shape(2, 1, 1), "2x2x1": Shape(2, 2, 1), "2x1x2": Shape(2, 1, 2), "3x1x1": Shape(3, 1, 1),
    "1x1x2": Shape(1, 1, 2), "of 64 columns": Shape(2, 1, 1, 64),
}  # fmt: skip
OFFSETS = {
    "of all sizes": [0, 70, 70, 200, 201, 300],
    "with rows before and after": [5, 5, 130, 258, 259, 290],
    "all in the last": [0, 0, 0, 0, 0, 300],
    "none": [7, 7, 7, 7, 7, 7],
}
"""An empty group, one of a single row, one of whole tiles; rows that no group has."""
PAIRS = [
    ("float8_1x128", "float8_128x128"), ("float8_row", "float8_row"), ("float8_tensor", "float8_tensor"),
    ("float8_1x128", "float8_1x128"),
]  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A grouped product. Invariant: the same program has the same numbers."""

    form: str = "2x1x1"
    left: str = "float8_1x128"
    right: str = "float8_128x128"
    n: int = 264
    k: int = 640
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        return f"{self.left} {self.right} {self.n}x{self.k} {self.form}"


def multiply(dtype: str) -> Callable[..., Any]:
    def multiply(x: Any, w: Any, offsets: Any) -> Any:
        return breccia.grouped_matmul(x, breccia.transpose(w, (0, 2, 1)), offsets, out_dtype=dtype)

    return multiply


def matrices(name: str, count: int, n: int, k: int) -> ScaledTensor:
    """A matrix for each group, each of another magnitude."""
    parts = [scaled("float8_1x128", n, k).dequantize("float32") * 2.0**e for e in range(count)]
    return breccia.cast(torch.stack(parts).bfloat16(), recipes.find(name))


def emitted(function: Callable[..., Any], form: str, *args: Any) -> str:
    """The text for Hopper, in one of the forms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRECCIA_CACHE", "0")
        patch.setattr(lower, "_CODE", {})  # remembers text by what it is made from, of which the form is no part
        patch.setattr(_group_tiles, "WITHIN_GROUPS", (FORMS[form],))
        source = breccia.compile(function, target="triton:sm_90").lower(*args).source()
    assert "gl.warp_specialize" in source, source
    return source


def arrays(*args: Any) -> list[Any]:
    """What a kernel is given for arguments: a tensor's only scale has an entry for each axis."""
    found: list[Any] = []
    for arg in args:
        parts = flatten(arg)[0] if isinstance(arg, ScaledTensor) else [arg]
        found += [p if p.dim() else p.reshape((1,) * len(arg.shape)) for p in parts]
    return found


@cache
def prepared(program: Program) -> tuple[str, ScaledTensor, ScaledTensor]:
    """The emitted text, rows and matrices."""
    torch.manual_seed(0)
    x = scaled(program.left, ROWS, program.k)
    w = matrices(program.right, MATRICES, program.n, program.k)
    return emitted(multiply(program.dtype), program.form, x, w, table(OFFSETS["none"])), x, w


def table(offsets: list[int], dtype: Any = torch.int32) -> Any:
    return torch.tensor(offsets, dtype=dtype)


@cache
def wanted(program: Program, groups: str) -> Any:
    """What is to come out: by float64, group by group."""
    _, x, w = prepared(program)
    left, right = (v.dequantize("float32").double() for v in (x, w))
    out = torch.zeros(ROWS, program.n, dtype=torch.float64)
    offsets = OFFSETS[groups]
    for e, (start, stop) in enumerate(pairwise(offsets)):
        out[start:stop] = left[start:stop] @ right[e].T
    return out.to(getattr(torch, program.dtype)).float()


PROGRAMS = [
    *(Program(form, *pair) for form in FORMS for pair in PAIRS[:3]),
    Program("of 64 columns", *PAIRS[3]),
    *(
        Program(form, n=n, k=k)
        for form in ("2x2x1", "1x1x2")
        for n, k in [(300, 576), (136, 200), (128, 1100), (72, 512)]
    ),
    Program(dtype="float32"),
]


@pytest.mark.parametrize("groups", OFFSETS)
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_each_row_is_multiplied_by_the_matrix_of_its_group(program: Program, groups: str) -> None:
    source, x, w = prepared(program)
    given, correct = arrays(x, w, table(OFFSETS[groups])), wanted(program, groups)
    first = gluon.run(source, *given, programs=2)
    assert groups == "none" or agree(first.float(), correct)
    assert not first[correct == 0].any(), "rows of no group are not 0"
    again = gluon.run(source, *given, programs=7, seed=0)
    assert torch.equal(again, first), "another number of programs and another order change bits"


def test_forms_are_what_they_are_asked_to_be() -> None:
    assert len({prepared(Program(form))[0] for form in FORMS}) == len(FORMS)


def test_tiles_are_placed_by_the_number_that_is_carried_from_group_to_group() -> None:
    """Triton 3.6 drops what only bounds of inner loops depend on, and a quarter of programs would do all work."""
    source, *_ = prepared(Program("2x2x1"))
    loops = re.findall(r"\n( +)for (number\w*) in range\((before\w*) .*\n +(tile\w*) = (\w+) - (\w+)\n", source)
    assert len(loops) == 3, "the loader, the groups that multiply, and what clears rows"
    assert all(number == used and before == less for _, number, before, _, used, less in loops)


def test_a_row_is_what_it_is_wherever_it_stands() -> None:
    source, x, w = prepared(Program())
    parts = arrays(x, w)
    one = gluon.run(source, *parts, table([0, 300, 300, 300, 300, 300]), programs=3)
    moved = [torch.roll(p, 37, 0) if p.shape[0] == ROWS else p for p in parts]
    other = gluon.run(source, *moved, table([37, 300, 300, 300, 300, 300]), programs=3)
    assert torch.equal(other[37:], one[:-37])


def test_what_no_group_has_is_not_even_multiplied_by_zero() -> None:
    source, x, w = prepared(Program())
    elements, scales, matrix, *rest = arrays(x, w)
    elements, matrix = elements.clone(), matrix.clone()
    for outside in (slice(0, 5), slice(290, 300)):
        elements[outside].view(torch.uint8).fill_(0x7F)  # NaN
    matrix[0].view(torch.uint8).fill_(0x7F)  # of the group that is empty
    groups = "with rows before and after"
    found = gluon.run(source, elements, scales, matrix, *rest, table(OFFSETS[groups]), programs=2)
    assert agree(found.float(), wanted(Program(), groups))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_tables_may_have_gaps_and_either_width(dtype: Any) -> None:
    _, x, w = prepared(Program())
    groups = "of all sizes"
    offsets = table([number for offset in OFFSETS[groups] for number in (offset, 1000)], dtype)[::2]
    source = emitted(multiply("bfloat16"), "2x1x1", x, w, offsets)
    assert agree(gluon.run(source, *arrays(x, w, offsets), programs=3).float(), wanted(Program(), groups))


def test_one_group_and_rows_of_unknown_number() -> None:
    text = programs.grouped(n=200, k=640, groups=1, typical=4096)
    source = programs.source(text, "sm_90")
    assert "gl.warp_specialize" in source
    torch.manual_seed(0)
    x, w = scaled("float8_1x128", 150, 640), matrices("float8_128x128", 1, 200, 640)
    correct = torch.zeros(150, 200, dtype=torch.float64)
    correct[3:140] = x.dequantize("float32")[3:140].double() @ w.dequantize("float32")[0].double().T
    assert agree(gluon.run(source, *arrays(x, w, table([3, 140])), programs=2).float(), correct.float())
    none = [v[:0] if v.shape[0] == 150 else v for v in arrays(x, w)]
    assert gluon.run(source, *none, table([0, 0]), programs=2).shape == (0, 200)


# -- groups with room of their own -------------------------------------------------------------------------------------

ROOM = 60
COUNTS = {"of all sizes": [60, 0, 1, 33, 60], "none": [0] * MATRICES, "few": [3, 2, 1, 3, 2]}


def silu_of_counted(x: Any, w: Any, counts: Any) -> Any:
    return breccia.silu(breccia.grouped_matmul(x, breccia.transpose(w, (0, 2, 1)), counts, out_dtype="bfloat16"))


@cache
def prepared_counted(form: str, pair: tuple[str, str]) -> tuple[str, ScaledTensor, ScaledTensor]:
    torch.manual_seed(0)
    x = breccia.cast(scaled("float8_1x128", MATRICES * ROOM, 576).dequantize("float32").reshape(MATRICES, ROOM, 576),
                     recipes.find(pair[0]))  # fmt: skip
    w = matrices(pair[1], MATRICES, 264, 576)
    source = emitted(silu_of_counted, form, x, w, table([0] * MATRICES))
    assert source.count("rt.Kernel(") == 1, source
    return source, x, w


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("pair", PAIRS[:3], ids=" ".join)
@pytest.mark.parametrize("form", ["2x1x2", "1x1x2"])
def test_as_many_rows_of_a_group_are_multiplied_as_are_counted(form: str, pair: tuple[str, str], counts: str) -> None:
    source, x, w = prepared_counted(form, pair)
    left, right = (v.dequantize("float32").double() for v in (x, w))
    correct = torch.zeros(MATRICES, ROOM, 264, dtype=torch.float64)
    for e, count in enumerate(COUNTS[counts]):
        correct[e, :count] = torch.nn.functional.silu((left[e, :count] @ right[e].T).bfloat16().double())
    given = [*arrays(x, w), table(COUNTS[counts])]
    first = gluon.run(source, *given, programs=2)
    assert counts == "none" or agree(first.float(), correct.bfloat16().float())
    assert not first[correct == 0].any(), "rows that do not count are not 0"
    again = gluon.run(source, *given, programs=5, seed=0)
    assert torch.equal(again, first)


# -- bugs --------------------------------------------------------------------------------------------------------------

LOADER, MATH = (rf"(def _gemm_0_{part}\((?s:.*?))" for part in ("load", "math"))
GROUPED: dict[str, tuple[Change, ...]] = {
    "the matrix of another group": ((r"\[e \* 264 \+ n", "[(e ^ 1) * 264 + n"),),
    "the matrix of the first group": ((r"\[e \* 264 \+ n", "[n"),),
    "matrices a bit longer": ((r"\[e \* 264 \+ n", "[e * 272 + n"),),
    "scales of the first group": ((r" \+ e \* w_scale0_stride0", ""),),
    "rows of the next group are written": ((r"\(stored_rows < end\) & ", ""),),
    "the first row of the next group is written": ((r"stored_rows < end", "stored_rows <= end"),),
    "the last row of a group is not written": ((r"stored_rows < end", "stored_rows + 1 < end"),),
    "columns outside are written": ((r" & \(stored_columns < 264\)", ""),),
    "the loader is a group ahead": ((LOADER + r"gl\.load\(offsets \+ e \*", r"\1gl.load(offsets + (e + 1) *"),),
    "the loader begins at the first row": ((r"\[begin \+ m", "[m"),),
    "scales begin at the first row": ((r"rows = begin \+ m", "rows = m"),),
    "results begin at the first row": ((r"stored_rows = begin \+ m", "stored_rows = m"),),
    "the loader sees a tile in an empty group": (
        (LOADER + r"m_tiles = \(end - begin \+ 127\) // 128", r"\1m_tiles = max((end - begin + 127) // 128, 1)"),
    ),
    "groups see a tile in an empty group": (
        (MATH + r"m_tiles = \(end - begin \+ 127\) // 128", r"\1m_tiles = max((end - begin + 127) // 128, 1)"),
    ),
    "partial tiles are left out": ((r"\(end - begin \+ 127\) // 128", "(end - begin) // 128"),),
    "the loader leaves out the last group": ((LOADER + r"for e in range\(5\)", r"\1for e in range(4)"),),
    "the last group is left out": ((r"for e in range\(5\)", "for e in range(4)"),),
    "the loader deals from the first program in each group": ((LOADER + r" - before % gl\.num_programs\(0\)", r"\1"),),
    "the loader counts an earlier group twice": ((LOADER + r"after \+= ", r"\1after += before + "),),
    "tables are read without their stride": ((r"\* offsets_stride0", "* 2"),),
    "rows after the last group are left as they were": ((r"range\(-1, 5, 5\)", "range(-1, 4, 5)"),),
    "rows before the first group are left as they were": ((r"range\(-1, 5, 5\)", "range(4, 5, 5)"),),
    "rows of the first group are cleared": (
        (r"(\n {12}end = min\(gl\.load\(offsets \+ \(e \+ )1", r"\g<1>2"),
    ),
    "the last row is not cleared": ((r"end = 300 \+ 0", "end = 300 - 1"),),
    "one group of warps clears rows": ((r"(\(gl\.program_id\(0\) \* 2) \+ group", r"\1"),),
}  # fmt: skip
WIDE: dict[str, tuple[Change, ...]] = {
    "scales of tiles outside": ((r"min\(n1, 3 - 1\)", "n1"),),
    "the second tile of columns is the first": ((r"(\[e \* 264 \+ n \* 256) \+ 128", r"\1"),),
}
"""Bugs where a group of warps has several tiles of columns."""
SHARED = {
    name: changes
    for name, changes in {**ANY, **WALKING}.items()
    if "store" not in name  # results leave in another way here
}
BUGGY = {Program(k=1152): {**GROUPED, **SHARED}, Program("2x1x2"): WIDE}
BUGS = [(name, program, changes) for program, bugs in BUGGY.items() for name, changes in bugs.items()]


def complaint(source: str, given: list[Any], correct: Any, seed: int | None) -> str:
    """What is wrong with a kernel, if anything is."""
    try:
        found = gluon.run(source, *given, programs=2, seed=seed)
    except MisuseError as error:
        return str(error)
    return "" if agree(found.float(), correct) and not found[correct == 0].any() else "another result"


def complaints(program: Program, source: str) -> bool:
    _, x, w = prepared(program)
    for groups in ("of all sizes", "with rows before and after"):
        given = arrays(x, w, table(OFFSETS[groups]))
        if any(complaint(source, given, wanted(program, groups), seed) for seed in SEEDS):
            return True
    return False


@pytest.mark.parametrize("program", BUGGY, ids=str)
def test_there_are_no_complaints_without_a_bug(program: Program) -> None:
    assert not complaints(program, prepared(program)[0])


@pytest.mark.parametrize(("name", "program", "changes"), BUGS, ids=[name for name, *_ in BUGS])
def test_a_planted_bug_is_found(name: str, program: Program, changes: tuple[Change, ...]) -> None:
    source = prepared(program)[0].replace("_grouped_0", "_gemm_0")
    assert complaints(program, changed(source, changes))
