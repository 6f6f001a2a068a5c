"""Sums and maxima across threads.

A group of entries is looked through by one simdgroup, or, where there are fewer groups than simdgroups, by all threads
of the program. What was found is handed to one thread, which writes what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Operation, SSAValue

from breccia.codegen.lines import origin, prop, tensor_type
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.ir.types import TensorType, is_float
from breccia.targets.metal import _casts
from breccia.targets.metal._ops import unsupported
from breccia.targets.metal._region import NARROW, SIMD, THREADS, Coords, Region, Scope, scalar_type
from breccia.targets.metal._sizes import below, plus, times

SIMDS = THREADS // SIMD
Block = tuple[Dim, ...]


@dataclass(frozen=True)
class Found:
    """One thing that is looked for: `function` (max, min or sum) of numbers of a C type, from `first` on."""

    name: str
    ctype: str
    function: str
    first: str

    def joined(self, a: str, b: str) -> str:
        return f"{a} + {b}" if self.function == "sum" else f"{self.function}({a}, {b})"


Look = Callable[[Scope, Coords], Sequence[str]]
"""Writes what an entry at a place contributes, a number for each `Found`."""
Finish = Callable[[Scope, Coords, Sequence[str]], None]
"""Writes what one thread does with the results of the group at a place."""


def groups_of(shape: Sequence[Dim], block: Sequence[Dim]) -> tuple[Dim, ...]:
    """How many blocks there are along each axis."""
    return tuple(dims.ceildiv(size, width) for size, width in zip(shape, block, strict=True))


def reduce_blocks(
    region: Region, shape: Sequence[Dim], block: Sequence[Dim], wanted: Sequence[Found], look: Look, finish: Finish
) -> None:
    """Write loops over the blocks of a tile and, in them, over their entries; then a barrier."""
    groups = groups_of(shape, block)
    wanted = [replace(f, name=region.names.fresh(f.name)) for f in wanted]
    few = all(isinstance(g, int) for g in groups) and _product(groups) < SIMDS
    count = region.count(groups)
    if few:
        with region.block(f"for (int group = 0; group < {count}; group++)"):
            _look(region, shape, block, groups, wanted, look, "thread_id", THREADS)
            _across_simdgroups(region, groups, wanted, finish)
    else:
        with region.block(f"for (int group = simdgroup; group < {count}; group += {SIMDS})"):
            _look(region, shape, block, groups, wanted, look, "lane", SIMD)
            with region.block("if (lane == 0)"):
                scope = region.scope()
                finish(scope, _group_coords(scope, region, groups), [f.name for f in wanted])
    region.barrier()


def _product(sizes: Sequence[Dim]) -> int:
    total = 1
    for size in sizes:
        assert isinstance(size, int), "sizes are known here"
        total *= size
    return total


def _group_coords(scope: Scope, region: Region, groups: Sequence[Dim]) -> Coords:
    return scope.split("group", [region.size(g, 3) for g in groups], "group_")


def _look(
    region: Region, shape: Sequence[Dim], block: Sequence[Dim], groups: Sequence[Dim], wanted: Sequence[Found],
    look: Look, first: str, step: int,
) -> None:  # fmt: skip
    """The loop over the entries of one group, and what its simdgroup found together."""
    for f in wanted:
        region.line(f"{f.ctype} {f.name} = {f.first};")
    with region.block(f"for (int e = {first}; e < {region.count(block)}; e += {step})"):
        scope = region.scope()
        corner = _group_coords(scope, region, groups)
        within = scope.split("e", [region.size(b, 3) for b in block], "in_")
        coords: list[str] = []
        for axis, (size, width, count) in enumerate(zip(shape, block, groups, strict=True)):
            place = scope.number(plus(times(corner[axis], region.size(width, 3)), within[axis]))
            coords.append(place)
            if count != 1 and not (isinstance(size, int) and isinstance(width, int) and size % width == 0):
                region.line(f"if (!({below(place, region.size(size, 1))})) {{")
                region.line("    continue;")
                region.line("}")
        for f, text in zip(wanted, look(scope, tuple(coords)), strict=True):
            region.line(f"{f.name} = {f.joined(f.name, text)};")
    for f in wanted:
        region.line(f"{f.name} = simd_{f.function}({f.name});")


def _across_simdgroups(region: Region, groups: Sequence[Dim], wanted: Sequence[Found], finish: Finish) -> None:
    """One thread gathers what the simdgroups found."""
    parts = [region.array(f"{f.name}_parts", f.ctype, (SIMDS,)) for f in wanted]
    with region.block("if (lane == 0)"):
        for f, part in zip(wanted, parts, strict=True):
            region.line(f"{part.name}[simdgroup] = {f.name};")
    region.barrier()
    with region.block("if (thread_id == 0)"):
        with region.block(f"for (int i = 1; i < {SIMDS}; i++)"):
            for f, part in zip(wanted, parts, strict=True):
                region.line(f"{f.name} = {f.joined(f.name, f'{part.name}[i]')};")
        scope = region.scope()
        finish(scope, _group_coords(scope, region, groups), [f.name for f in wanted])
    region.barrier()


# -- the op ------------------------------------------------------------------------------------------------------------


def write_reduce(region: Region, op: Operation, x: SSAValue, fn: str, axes: Sequence[int]) -> None:
    """The lines of `reduce`: one entry for each group, in threadgroup memory."""
    t, out = tensor_type(x.type), op.results[0]
    wanted = Found("found", *_kind(op, t, fn))
    block = tuple(size if axis in axes else 1 for axis, size in enumerate(t.shape))
    result = region.array(out.name_hint or "reduced", scalar_type(t), tensor_type(out.type).shape, what="a reduction")
    keys = is_float(t.dtype) and fn != "sum"

    def look(scope: Scope, coords: Coords) -> list[str]:
        text = scope.value(x, coords)
        if keys:
            return [_key(region, fn, text)]
        return [f"abs({text})" if fn == "amax" and str(t.dtype) == "i32" else f"{wanted.ctype}({text})"]

    def finish(_: Scope, coords: Coords, found: Sequence[str]) -> None:
        text = _from_key(region, fn, found[0]) if keys else found[0]
        if str(t.dtype) in NARROW and fn == "sum":
            text = f"{_casts.round_to(region.library, str(t.dtype))}({text})"
        region.line(f"{result.at(coords)} = {text};", origin(op, result.name))

    reduce_blocks(region, t.shape, block, [wanted], look, finish)
    region.arrays[out] = result


def _kind(op: Operation, t: TensorType, fn: str) -> tuple[str, str, str]:
    """(C type, function, first number) of what a thread looks for."""
    if is_float(t.dtype):
        return {
            "sum": ("float", "sum", "0.0f"), "amax": ("uint", "max", "0"), "max": ("int", "max", "-2147483647 - 1"),
            "min": ("int", "min", "2147483647"),
        }[fn]  # fmt: skip
    if str(t.dtype) not in ("i32", "i1"):
        raise unsupported(op, f"entries of {t.dtype} are not compared across threads; convert them to i32 first")
    if str(t.dtype) == "i1":
        return ("int", "sum", "0") if fn == "sum" else ("int", "min" if fn == "min" else "max", str(int(fn == "min")))
    return {
        "sum": ("int", "sum", "0"), "max": ("int", "max", "-2147483647 - 1"), "min": ("int", "min", "2147483647"),
        "amax": ("int", "max", "0"),
    }[fn]  # fmt: skip


def _key(region: Region, fn: str, x: str) -> str:
    """An integer that orders as floats do; NaN comes out on top."""
    if fn == "amax":
        return f"as_type<uint>({x}) & 0x7FFFFFFFu"
    nan = "2147483647" if fn == "max" else "-2147483647 - 1"
    return f"isnan({x}) ? {nan} : {_casts.sortable(region.library)}(as_type<int>({x}))"


def _from_key(region: Region, fn: str, key: str) -> str:
    if fn == "amax":
        return f"as_type<float>({key})"
    # The keys of NaN are those of NaN with all bits set, of either sign.
    return f"as_type<float>({_casts.sortable(region.library)}({key}))"


def write_reduce_op(region: Region, op: Operation) -> None:
    write_reduce(region, op, op.operands[0], prop(op, "fn"), prop(op, "axes"))
