"""The conformance kit: programs over formats, shapes and placements that a target claims, compared with the
interpreter.

    from breccia.testing.conformance import conform
    table = conform("numpy")
    print(table)
    assert not table.failures

A target from another package is held to the same: a claim in its capabilities that fails is a failing test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from breccia.arrays import transfer
from breccia.errors import UnsupportedError
from breccia.ir.attributes import PolicyAttr
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.dims import Sym
from breccia.ir.interpreter import interpret, public_function
from breccia.ir.interpreter.values import Mode, Value, array_dtype, scaled_value
from breccia.ir.ops import MatmulOp
from breccia.ir.types import ScaledType, TensorType, component_types, scaled
from breccia.passes import default_pipeline
from breccia.recipes import Recipe, all_recipes
from breccia.target import Target, find
from breccia.testing.inputs import make_arguments
from breccia.testing.validate import EPSILON, _nudge, flatten_value, same, within

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, int, int]
Call = Callable[[Sequence[Array]], list[Array]]
SHAPES: tuple[Shape, ...] = ((1, 64, 48), (5, 160, 24), (33, 96, 7))
"""(M, K, N): none of them a multiple of a usual tile, and K of partial blocks among them."""
KINDS = ("coarse", "normal", "zeros")
"""Inputs: values whose sums are exact in float32, normally distributed ones, and mostly zeros."""


@dataclass(frozen=True)
class Program:
    """One generated program. `text` is IR in traced form; `placement` limits where scales may be applied."""

    name: str
    recipe: str
    shape: Shape
    placement: str
    text: str


@dataclass(frozen=True)
class Row:
    """What became of a program: `equal`, `close` (within rounding of its sums), `refused`, or `FAILED`."""

    program: Program
    outcome: str
    detail: str = ""

    def __str__(self) -> str:
        p = self.program
        shape = "x".join(map(str, p.shape))
        return f"{p.name:14}{p.recipe:24}{shape:14}{p.placement:10}{self.outcome:8}{self.detail}".rstrip()


@dataclass
class Table:
    """All rows of one target."""

    target: str
    rows: list[Row] = field(default_factory=list[Row])

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.outcome == "FAILED"]

    @property
    def refused(self) -> list[Row]:
        return [row for row in self.rows if row.outcome == "refused"]

    def __str__(self) -> str:
        head = f"{'program':14}{'recipe':24}{'shape':14}{'placement':10}outcome"
        count = {
            name: sum(row.outcome == name for row in self.rows) for name in ("equal", "close", "refused", "FAILED")
        }
        summary = ", ".join(f"{n} {name}" for name, n in count.items())
        return "\n".join([f"conformance of {self.target}: {summary}", head, *map(str, self.rows)])


def conform(
    target: Target | str,
    *,
    recipes: Mapping[str, Recipe] | None = None,
    shapes: Sequence[Shape] = SHAPES,
    seed: int = 0,
    device: Any = None,
) -> Table:
    """Lower, emit and run every program that `target`'s capabilities claim, and compare with the interpreter.

    recipes: the named ones by default. Decoding and encoding must give equal bits, and so must products of coarse
    values, whose sums do not round; other products may differ by what rounding in the sums can do. A target that does
    not emit has its lowered IR interpreted. device: where its array library is to put arrays.
    """
    chosen = find(target) if isinstance(target, str) else target
    table = Table(chosen.full_name)
    for program in programs(chosen.capabilities, recipes if recipes is not None else all_recipes(), shapes):
        row = run(program, chosen, seed, device)
        if row is not None:
            table.rows.append(row)
    return table


def programs(capabilities: Capabilities, recipes: Mapping[str, Recipe], shapes: Sequence[Shape]) -> Iterator[Program]:
    """Decoding, encoding, and products with one and two scaled sides, with each placement that is claimed."""
    for name, recipe in recipes.items():
        for shape in shapes:
            yield Program("dequantize", name, shape, "", _dequantize(recipe, shape))
            yield Program("quantize", name, shape, "", _quantize(recipe, shape))
            for placement in capabilities.placements:
                yield Program("weight", name, shape, placement, _weight_only(recipe, shape))
                yield Program("product", name, shape, placement, _product(recipe, shape))


def run(program: Program, target: Target, seed: int = 0, device: Any = None) -> Row | None:
    """The row of one program; None where its placement is not legal for it, so that another program covers it."""
    try:
        source = parse_module(program.text)
        lowered, placed = lower(source, target, program.placement)
        if program.placement and program.placement not in placed:
            return None
        call = callable_for(lowered, target, device)
    except UnsupportedError as error:
        return Row(program, "refused", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a target raises is a failed claim
        return Row(program, "FAILED", f"{type(error).__name__}: {error}")
    outcome = "equal"
    epsilon = _unit(all_recipes().get(program.recipe), target.capabilities) if program.name == "product" else EPSILON
    for kind in KINDS:
        strict = kind == "coarse" or program.name in ("dequantize", "quantize")
        try:
            found, detail = compare(
                source, call, {"M": program.shape[0]}, kind, strict=strict, seed=seed, epsilon=epsilon
            )
        except Exception as error:  # noqa: BLE001 - whatever a target's code raises is a failed claim
            found, detail = "FAILED", f"{type(error).__name__}: {error}"
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
    epsilon: float = EPSILON,
) -> tuple[str, str]:  # fmt: skip
    """(`equal`, `close` or `FAILED`, the first difference) of a module's results and those of `call`.

    call: takes and gives stored components. kind: `coarse`, or a kind of `breccia.testing.inputs`. strict: only equal
    bits will do; else results may differ by what errors of gamma(K) in every sum can do to them, of unit `epsilon`.
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


# -- the programs ------------------------------------------------------------------------------------------------------


def _weight(recipe: Recipe, k: int, n: int) -> ScaledType:
    """A weight whose blocks run along k."""
    from breccia import formats

    return scaled((k, n), formats.bfloat16, recipe.along(0, 2))


def _activation(recipe: Recipe, k: int) -> ScaledType:
    from breccia import formats

    return scaled((Sym("M"), k), formats.float32, recipe)


def _dequantize(recipe: Recipe, shape: Shape) -> str:
    _, k, _ = shape
    return f"""
func.func @f(%q : {_activation(recipe, k)}) -> !breccia.tensor<[M, {k}], f32> {{
  %x = breccia.dequantize %q
  func.return %x : !breccia.tensor<[M, {k}], f32>
}}"""


def _quantize(recipe: Recipe, shape: Shape) -> str:
    _, k, _ = shape
    out = _activation(recipe, k)
    return f"""
func.func @f(%x : !breccia.tensor<[M, {k}], f32>) -> {out} {{
  %q = breccia.quantize %x policy {PolicyAttr(recipe.policy)} to {out.encoding}
  func.return %q : {out}
}}"""


def _weight_only(recipe: Recipe, shape: Shape) -> str:
    _, k, n = shape
    return f"""
func.func @f(%x : !breccia.tensor<[M, {k}], f32>, %w : {_weight(recipe, k, n)}) -> !breccia.tensor<[M, {n}], f32> {{
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, {n}], f32>
}}"""


def _product(recipe: Recipe, shape: Shape) -> str:
    _, k, n = shape
    a = _activation(recipe, k)
    return f"""
func.func @f(%q : {a}, %w : {_weight(recipe, k, n)}, %b : !breccia.tensor<[1, {n}], f32>)
    -> !breccia.tensor<[M, {n}], bf16> {{
  %h = breccia.matmul %q, %w
  %g = breccia.binary add %h, %b
  %y = breccia.convert %g : bf16
  func.return %y : !breccia.tensor<[M, {n}], bf16>
}}"""
