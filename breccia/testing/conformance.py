"""The conformance kit: programs over formats, shapes, placements and epilogues that a target claims, compared with the
interpreter.

    from breccia.testing import conform
    table = conform("numpy")
    print(table)
    assert table.passed, table
    table.save(Path("mine.json"))

`breccia conform mine` does the same from the command line.

A target from another package is held to the same: a claim in its capabilities that fails is a failing test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from breccia.arrays import transfer
from breccia.errors import UnsupportedError
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import interpret, public_function
from breccia.ir.interpreter.values import Mode, Value, array_dtype, scaled_value
from breccia.ir.ops import MatmulOp
from breccia.ir.types import ScaledType, TensorType, component_types
from breccia.passes import default_pipeline
from breccia.recipes import Recipe, all_recipes
from breccia.target import Target, find
from breccia.testing.claims import EPILOGUES, SHAPES, Program, Shape, programs
from breccia.testing.inputs import make_arguments
from breccia.testing.tables import Row, Table
from breccia.testing.validate import EPSILON, _nudge, flatten_value, same, within

Array = np.ndarray[Any, np.dtype[Any]]
Call = Callable[[Sequence[Array]], list[Array]]
KINDS = ("coarse", "normal", "zeros")
"""Inputs: values whose sums are exact in float32, normally distributed ones, and mostly zeros."""


def conform(
    target: Target | str,
    *,
    recipes: Mapping[str, Recipe] | None = None,
    shapes: Sequence[Shape] = SHAPES,
    epilogues: Sequence[str] = EPILOGUES,
    seed: int = 0,
    device: Any = None,
    place: str = "",
    seen: Callable[[Row], None] | None = None,
) -> Table:
    """Lower, emit and run every program that `target`'s capabilities claim, and compare with the interpreter.

    recipes: the named ones by default. Decoding and encoding must give equal bits, and so must products of coarse
    values, whose sums do not round; other products may differ by what rounding in the sums can do. For a target that
    cannot run here, programs are lowered, emitted where it emits, and what they were lowered to is interpreted: they
    may fail, but never pass. device: where its array library is to put arrays; place: what programs run on, in words;
    seen: called with each row once it is known.

    >>> from breccia import recipes
    >>> table = conform("numpy", recipes={"nvfp4": recipes.find("nvfp4")}, shapes=[(3, 40, 8)])
    >>> table.passed, table.ran == table.claimed
    (True, True)
    """
    chosen = find(target) if isinstance(target, str) else target
    table = Table(chosen.full_name, place=place)
    named = recipes if recipes is not None else all_recipes()
    for program in programs(chosen.capabilities, named, shapes, epilogues):
        row = run(program, chosen, seed, device)
        if row is not None:
            table.rows.append(row)
            if seen is not None:
                seen(row)
    return table


def run(program: Program, target: Target, seed: int = 0, device: Any = None) -> Row | None:
    """The row of one program; None where its placement is not legal for it, so that another program covers it."""
    try:
        source = parse_module(program.text)
        lowered, placed = lower(source, target, program.placement)
        if program.placement and program.placement not in placed:
            return None
        absent = target.unavailable
        if absent and target.emits:
            target.emit(lowered)
        call = _interpreted(lowered, target) if absent else callable_for(lowered, target, device)
    except UnsupportedError as error:
        return Row(program, "refused", _one_line(error))
    except Exception as error:  # noqa: BLE001 - whatever a target raises is a failed claim
        return Row(program, "FAILED", f"{type(error).__name__}: {_one_line(error)}")
    row = _compared(program, source, call, target.capabilities, seed)
    return Row(program, "not run", absent) if absent and row.outcome != "FAILED" else row


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _interpreted(lowered: ModuleOp, target: Target) -> Call:
    """The interpreter on a lowered module, whose tiles are filled up as the target's fetches do it."""
    capabilities = target.capabilities
    pad = None if capabilities.whole_windows else "nan" if capabilities.fetch_pad == "garbage" else "zero"
    return lambda args: [np.asarray(v) for v in interpret(lowered, list(args), pad=pad)]


def _compared(program: Program, source: ModuleOp, call: Call, capabilities: Capabilities, seed: int) -> Row:
    """The row of a program that runs, by inputs of all kinds."""
    outcome = "equal"
    epsilon = _unit(all_recipes().get(program.recipe), capabilities) if program.name == "product" else EPSILON
    for kind in KINDS:
        strict = kind == "coarse" or program.name in ("dequantize", "quantize")
        try:
            found, detail = compare(
                source, call, {"M": program.shape[0]}, kind, strict=strict, seed=seed, epsilon=epsilon,
                flips=program.epilogue == "quantize",
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whatever a target's code raises is a failed claim
            found, detail = "FAILED", f"{type(error).__name__}: {_one_line(error)}"
        if found == "FAILED":
            return Row(program, found, f"{kind} inputs: {detail}")
        outcome = "close" if found == "close" else outcome
    return Row(program, outcome)


def _unit(recipe: Recipe | None, capabilities: Capabilities) -> float:
    """The unit roundoff of sums of products of two operands of a recipe: instructions add many products at a time."""
    element = "" if recipe is None else recipe.element.mlir
    if any((row.a, row.b) == (element, element) for row in capabilities.mma):
        return max(EPSILON, 2.0 ** -(capabilities.sum_bits + 3))
    return EPSILON


def lower(source: ModuleOp, target: Target, placement: str = "") -> tuple[ModuleOp, set[str]]:
    """(`source` lowered with no placement but `placement` and `operand`, the placements it got)."""
    capabilities = target.capabilities
    if placement:
        allowed = tuple(p for p in capabilities.placements if p in (placement, "operand"))
        capabilities = replace(capabilities, placements=allowed)
    module = source.clone()
    set_target(module, capabilities)
    placed: set[str] = set()
    from breccia.ir.pipeline import Pipeline

    for step in default_pipeline(capabilities):
        Pipeline([step]).run(module)
        for op in module.walk():
            if isinstance(op, MatmulOp):
                placed |= {p for place in (op.place_a, op.place_b) if place is not None for p in place.data}
    return module, placed


def callable_for(lowered: ModuleOp, target: Target, device: Any = None) -> Call:
    """What runs a lowered module on stored components of NumPy: emitted code, through the target's array library; the
    interpreter where a target does not emit.
    """
    func = public_function(lowered)
    name = func.sym_name.data
    if not target.emits:
        return lambda args: [np.asarray(v) for v in interpret(lowered, list(args))]
    library = target.arrays[0]
    function = target.launch(target.emit(lowered), name, library)

    def call(args: Sequence[Array]) -> list[Array]:
        given = args if library == "numpy" else [transfer(a, library, device) for a in args]
        out = function(*given)
        found = list(out) if isinstance(out, tuple) else [out]
        return found if library == "numpy" else [transfer(v, "numpy") for v in found]

    return call


def compare(
    source: ModuleOp, call: Call, sizes: Mapping[str, int], kind: str, *, strict: bool, seed: int = 0,
    epsilon: float = EPSILON, flips: bool = False,
) -> tuple[str, str]:  # fmt: skip
    """(`equal`, `close` or `FAILED`, the first difference) of a module's results and those of `call`.

    call: takes and gives stored components. kind: `coarse`, or a kind of `breccia.testing.inputs`. strict: only equal
    bits will do; else results may differ by what errors of gamma(K) in every sum can do to them, of unit `epsilon`.
    flips: results were encoded after a sum, so that one entry of each may be rounded the other way at a tie that no
    nudged run came across.
    """
    func = public_function(source)
    arguments = _arguments(func, sizes, kind, np.random.default_rng(seed))
    flat = [c for a, v in zip(func.args, arguments, strict=True) for c in flatten_value(a.type, v)]
    types = func.function_type.outputs.data

    def reference(**options: Any) -> list[Array]:
        values = interpret(source, arguments, **options)
        return [c for t, v in zip(types, values, strict=True) for c in flatten_value(t, v)]

    wanted, found = reference(), call(flat)
    if [(a.shape, a.dtype) for a in wanted] != [(a.shape, a.dtype) for a in found]:
        return "FAILED", f"gives {_kinds(found)}, not {_kinds(wanted)}"
    if all(bool(np.all(same(a, b))) for a, b in zip(wanted, found, strict=True)):
        return "equal", ""
    if strict:
        return "FAILED", _first_difference(wanted, found, [same(a, b) for a, b in zip(wanted, found, strict=True)])
    nudged = [reference(nudge=_nudge(sign, seed, epsilon)) for sign in ("+", "-", "a", "b")]
    allowed = (np.stack([run[i] for run in nudged]) for i in range(len(wanted)))
    good = [within(a, b, n) for a, b, n in zip(wanted, found, allowed, strict=True)]
    if flips:
        good = [g if int(np.sum(~g)) > 1 else np.ones_like(g) for g in good]
    return ("close", "") if all(bool(np.all(g)) for g in good) else ("FAILED", _first_difference(wanted, found, good))


def _kinds(arrays: Sequence[Array]) -> str:
    return ", ".join(f"{a.dtype.name} {a.shape}" for a in arrays)


def _first_difference(wanted: Sequence[Array], found: Sequence[Array], good: Sequence[Array]) -> str:
    for i, (a, b, fine) in enumerate(zip(wanted, found, good, strict=True)):
        if not bool(np.all(fine)):
            at = tuple(int(n) for n in np.argwhere(~fine)[0])
            count = f"{int((~fine).sum())} of {a.size} entries of result {i}"
            return f"{count}, first at {list(at)}: {b[at]!r}, not {a[at]!r}"
    return ""


# -- coarse values -----------------------------------------------------------------------------------------------------


def _arguments(func: FuncOp, sizes: Mapping[str, int], kind: str, rng: np.random.Generator) -> list[Value]:
    if kind != "coarse":
        return make_arguments(func, sizes, kind, rng)  # type: ignore[arg-type]
    return [_coarse(a.type, Mode(sizes), rng) for a in func.args]


def _coarse(type_: Attribute, mode: Mode, rng: np.random.Generator) -> Value:
    """Halves of at most 4 and scales of 1/2, 1 and 2: sums of some thousand products fit float32."""
    if isinstance(type_, ScaledType):
        return scaled_value(type_, [_coarse_component(name, t, mode, rng) for name, t in component_types(type_)])
    assert isinstance(type_, TensorType), "arguments are tensors"
    if str(type_.dtype) != "f32":
        return _coarse_component("elements", type_, mode, rng)
    return rng.integers(-4, 5, mode.shape(type_.shape)).astype(np.float32) / np.float32(2)


def _coarse_component(name: str, type_: TensorType, mode: Mode, rng: np.random.Generator) -> Array:
    shape, fmt = mode.shape(type_.shape), type_.format
    assert fmt is not None, "components have formats"
    if fmt.bits > 8:
        return rng.choice([0.5, 1.0, 2.0], shape).astype(array_dtype(type_.dtype))
    values = [fmt.decode_code(code) for code in range(1 << fmt.bits)]
    wanted = (0.5, 1.0, 2.0) if name.startswith("scale") else tuple(i / 2 for i in range(-8, 9))
    return rng.choice([code for code, value in enumerate(values) if value in wanted], shape).astype(np.uint8)
