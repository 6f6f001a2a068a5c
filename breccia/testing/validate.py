"""Translation validation: a pass is held to its contract by interpreting the module before and after it.

For pass authors:

    from breccia.testing.validate import validate_pipeline
    lowered = validate_pipeline(module, [Partition(), Tile()])        # raises PassError on the first violation

`translation_check()` is the same as a `check` of `Pipeline`. What each contract means here:

    exact          bit-equal results in f32, NaN being equal to NaN, on inputs of every kind
    value_exact    decoded results are equal
    reassociates   in f64 on exact inputs: bit-equal if only short numbers are summed, else equal to 2**-36 of the
                   largest; in f32: within what errors of gamma(K) in every sum can do to each result
    changes_value  nothing but a verified module
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from breccia.errors import BrecciaError, PassError
from breccia.ir import dims
from breccia.ir.capabilities import TARGET_KEY, CapabilitiesAttr
from breccia.ir.dialect import parse_module
from breccia.ir.forms import verify_form
from breccia.ir.interpreter import PREPARE, interpret
from breccia.ir.interpreter.scaled import dequantize, parts
from breccia.ir.interpreter.values import Array, Mode, ScaledValue, Value
from breccia.ir.pipeline import BrecciaPass, Check, Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions
from breccia.ir.storage import canonical_layout
from breccia.ir.types import ScaledType, TensorType
from breccia.testing.inputs import KINDS, Kind, call_types, make_arguments

FORM_AFTER = {
    "split-quantize": "traced",
    "partition": "partitioned",
    "hoist-prepare": "laid_out",
    "tile": "tiled",
    "coarsen": "tiled",
    "split-decode": "tiled",
    "swap-operands": "tiled",
    "legalize-windows": "tiled",
    "insert-masks": "tiled",
}
"""The form that a pass leaves behind."""
PADDED = ("insert-masks",)
"""Passes after which full tiles with anything outside must give what smaller tiles give."""
REASSOCIATES_KINDS: tuple[Kind, ...] = ("normal", "ties", "zeros", "nan")
INEXACT = (
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "tanh",
    "sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "erf",
    "sin",
    "cos",
)
WIDE_TOLERANCE = 2.0**-36
EPSILON = 2.0**-24
"""Unit roundoff of f32."""
OUTLIERS = 0.01
"""Share of a result's entries that may differ by as much as the most sensitive entry does."""
WIDE_EPSILON = 2.0**-48
"""Some ulps of f64."""


@dataclass(frozen=True)
class Case:
    """One run: the kind of its inputs, and what symbols stand for."""

    kind: Kind
    sizes: Mapping[str, int]
    seed: int

    def show(self) -> str:
        sizes = ", ".join(f"{k} = {v}" for k, v in self.sizes.items())
        return f"{self.kind} inputs" + (f", {sizes}" if sizes else "")

    def arguments(self, func: FuncOp) -> list[Value]:
        return make_arguments(func, self.sizes, self.kind, np.random.default_rng(self.seed))


@dataclass
class TranslationCheck:
    """A `Check`. sizes: values of symbols, several sets; kinds: of inputs; see this module's docstring."""

    kinds: Sequence[Kind] = KINDS
    sizes: Sequence[Mapping[str, int]] | None = None
    seed: int = 0
    round_trip: bool = True
    _seen: tuple[str, dict[Any, list[Array]]] = field(default_factory=lambda: ("", {}))

    def __call__(self, step: BrecciaPass, before: ModuleOp, after: ModuleOp) -> None:
        try:
            self._structure(step, after)
        except BrecciaError as error:
            raise PassError(f"pass {step.name}: {error}") from error
        text = print_module(before)
        if self._seen[0] != text:
            self._seen = (text, {})
        results: dict[Any, list[Array]] = {}
        for func in _public(before):
            new = next((f for f in _public(after) if f.sym_name.data == func.sym_name.data), None)
            if new is None:
                raise PassError(f"pass {step.name} dropped the function @{func.sym_name.data}")
            _Comparison(self, step, (before, func), (after, new), self._seen[1], results).run()
        # Inputs are drawn for a function's argument types, so results are only good for as long as those stay.
        kept = [_argument_types(f) for f in _public(before)] == [_argument_types(f) for f in _public(after)]
        self._seen = (print_module(after), results if kept else {})

    def _structure(self, step: BrecciaPass, after: ModuleOp) -> None:
        if self.round_trip:
            check_round_trip(after)
        form = FORM_AFTER.get(step.name)
        if form is not None:
            verify_form(after, form)

    def cases(self, func: FuncOp) -> Iterator[Case]:
        """Normal and exact inputs at all sizes; the other kinds at one size each."""
        sizes = list(self.sizes) if self.sizes is not None else default_sizes(func)
        for i, chosen in enumerate(sizes):
            for kind in self.kinds:
                if kind in ("normal", "exact") or i == len(sizes) // 2:
                    yield Case(kind, chosen, self.seed + i)


def translation_check(
    kinds: Sequence[Kind] = KINDS, sizes: Sequence[Mapping[str, int]] | None = None, seed: int = 0
) -> Check:
    """Translation validation as a `check` of `Pipeline`; raises PassError where a pass breaks its contract."""
    return TranslationCheck(kinds, sizes, seed)


def validate_pipeline(
    module: ModuleOp,
    passes: Sequence[BrecciaPass],
    *,
    sizes: Sequence[Mapping[str, int]] | None = None,
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
) -> ModuleOp:
    """`module` after `passes`, each of them validated; the argument itself is not changed.

    sizes: sets of values for the symbols, such as `[{"M": 1}, {"M": 131}]`; by default 1, small odd and one larger.
    Raises PassError naming the pass, the function, the inputs, and the first result that differs.
    """
    out = module.clone()
    out.verify()
    Pipeline(passes, check=translation_check(kinds, sizes, seed)).run(out)
    return out


def check_round_trip(module: ModuleOp) -> None:
    """Raise PassError unless `module` prints to text that reads back, pretty and generic."""
    for generic in (False, True):
        text = print_module(module, generic=generic)
        try:
            again = parse_module(text)
        except Exception as error:
            raise PassError(f"the {'generic ' if generic else ''}text does not read back: {error}\n{text}") from error
        if not module.is_structurally_equivalent(again):
            raise PassError(f"the {'generic ' if generic else ''}text reads back as another module:\n{text}")


def default_sizes(func: FuncOp) -> list[dict[str, int]]:
    """Three sets of values for the symbols in a function's argument types: all 1, distinct odd ones, larger ones."""
    names: list[str] = []
    for arg in func.body.block.args:
        for dim in getattr(arg.type, "shape", ()):
            names += sorted(n for n in dims.symbols(dim) if n not in names)
    if not names:
        return [{}]
    odd, large = (5, 7, 3, 11, 9, 13), (131, 67, 35, 37, 33, 41)
    return [
        dict.fromkeys(names, 1),
        {n: odd[i % len(odd)] for i, n in enumerate(names)},
        {n: large[i % len(large)] for i, n in enumerate(names)},
    ]


def flatten_value(type_: Attribute, value: Value) -> list[Array]:
    """Components as `explode` passes them: a scaled tensor's in canonical storage, a plain array by itself."""
    if isinstance(type_, ScaledType) and isinstance(value, ScaledValue):
        return [np.asarray(p) for p in parts(type_.with_layout(canonical_layout(type_)), value)]
    return [np.asarray(value)]


def _public(module: ModuleOp) -> list[FuncOp]:
    return [f for f in functions(module) if f.sym_name.data != PREPARE]


def _argument_types(func: FuncOp) -> list[Attribute]:
    return call_types(func)


# -- one function before and after one pass ----------------------------------------------------------------------------


@dataclass
class _Comparison:
    check: TranslationCheck
    step: BrecciaPass
    before: tuple[ModuleOp, FuncOp]
    after: tuple[ModuleOp, FuncOp]
    old_results: dict[Any, list[Array]]
    new_results: dict[Any, list[Array]]

    def run(self) -> None:
        contract = self.step.contract
        for case in self.check.cases(self.before[1]):
            if contract == "reassociates":
                self._reassociates(case)
            elif contract != "changes_value":
                self._equal(case, decode=contract == "value_exact")
            if self.step.name in PADDED:
                self._padded(case)

    def _equal(self, case: Case, *, decode: bool) -> None:
        old, new = self._pair(case, wide=False)
        if decode:
            old, new = self._decoded(self.before, case), self._decoded(self.after, case)
        self._compare(case, old, new, lambda a, b, _: same(a, b))

    def _reassociates(self, case: Case) -> None:
        if case.kind == "exact":
            old, new = self._pair(case, wide=True)
            if sums_are_exact(self.before[1]) and sums_are_exact(self.after[1]):
                self._compare(case, old, new, lambda a, b, _: _same_number(a, b))
                return
            runs = self._nudged(case, wide=True)
            self._compare(case, old, new, lambda a, b, i: _close(a, b) | within(a, b, runs[i], WIDE_TOLERANCE))
        elif case.kind in REASSOCIATES_KINDS:
            old, new = self._pair(case, wide=False)
            runs = self._nudged(case, wide=False)
            self._compare(case, old, new, lambda a, b, i: plausible(a, b, runs[i]))

    def _nudged(self, case: Case, *, wide: bool) -> list[Array]:
        """For each result, what it becomes with errors in every sum: one row for each way to choose their signs."""
        epsilon = WIDE_EPSILON if wide else EPSILON
        runs = [
            self._run(self.before, case, wide=wide, nudge=_nudge(sign, case.seed, epsilon))
            for sign in ("+", "-", "a", "b")
        ]
        return [np.stack([run[i] for run in runs]) for i in range(len(runs[0]))]

    def _padded(self, case: Case) -> None:
        capabilities = self.after[0].attributes.get(TARGET_KEY)
        garbage = isinstance(capabilities, CapabilitiesAttr) and capabilities.data.fetch_pad == "garbage"
        clip = self._run(self.after, case)
        full = self._run(self.after, case, pad="nan" if garbage else "zero")
        self._compare(case, clip, full, lambda a, b, _: same(a, b), "smaller tiles and padded tiles differ")

    def _pair(self, case: Case, *, wide: bool) -> tuple[list[Array], list[Array]]:
        key = (self.before[1].sym_name.data, case.kind, tuple(case.sizes.items()), wide)
        old = self.old_results.get(key)
        if old is None:
            old = self._run(self.before, case, wide=wide)
        new = self._run(self.after, case, wide=wide)
        self.new_results[key] = new
        return old, new

    def _run(self, side: tuple[ModuleOp, FuncOp], case: Case, **options: Any) -> list[Array]:
        values = self._values(side, case, **options)
        types = side[1].function_type.outputs.data
        return [c for t, v in zip(types, values, strict=True) for c in flatten_value(t, v)]

    def _values(self, side: tuple[ModuleOp, FuncOp], case: Case, **options: Any) -> list[Any]:
        module, func = side
        args = case.arguments(self.before[1])
        given = call_types(self.before[1])
        if not _same_kinds(call_types(func), given):
            args = [c for t, v in zip(given, args, strict=True) for c in flatten_value(t, v)]
        try:
            return interpret(module, args, function=func.sym_name.data, **options)
        except BrecciaError as error:
            place = "before" if side is self.before else "after"
            raise PassError(f"{self._where(case)}: the module {place} the pass does not run: {error}") from error

    def _decoded(self, side: tuple[ModuleOp, FuncOp], case: Case) -> list[Array]:
        values, types = self._values(side, case), side[1].function_type.outputs.data
        return [
            dequantize(v, t.recipe, Mode()) if isinstance(t, ScaledType) and isinstance(v, ScaledValue) else v
            for t, v in zip(types, values, strict=True)
        ]

    def _compare(
        self,
        case: Case,
        old: Sequence[Array],
        new: Sequence[Array],
        agree: Callable[[Array, Array, int], Array],
        what: str = "results differ",
    ) -> None:
        if len(old) != len(new):
            raise PassError(f"{self._where(case)}: {len(old)} results before the pass, {len(new)} after it")
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype:
                raise PassError(
                    f"{self._where(case)}: result {i} is {a.dtype} {a.shape} before, {b.dtype} {b.shape} after"
                )
            good = agree(a, b, i)
            if not np.all(good):
                bad = tuple(int(n) for n in np.argwhere(~good)[0])
                raise PassError(
                    f"{self._where(case)}: {what}: {int(np.sum(~good))} of {a.size} entries of result {i}, first at "
                    f"{list(bad)}: {a[bad]!r} before, {b[bad]!r} after"
                )

    def _where(self, case: Case) -> str:
        name = self.before[1].sym_name.data
        return f"pass {self.step.name} breaks its contract `{self.step.contract}` on @{name}, {case.show()}"


def _same_kinds(wanted: Sequence[Attribute], given: Sequence[Attribute]) -> bool:
    return [type(t) for t in wanted] == [type(t) for t in given]


# -- comparing arrays --------------------------------------------------------------------------------------------------


def same(a: Array, b: Array) -> Array:
    """Where two arrays have equal bits, or both NaN."""
    if a.dtype.kind in "biu":
        return np.asarray(a == b)
    bits = f"u{a.dtype.itemsize}"
    equal = np.ascontiguousarray(a).view(bits).reshape(a.shape) == np.ascontiguousarray(b).view(bits).reshape(b.shape)
    return equal | ((a != a) & (b != b))


def _same_number(a: Array, b: Array) -> Array:
    """As `same`, but zeros are equal whatever their sign, which depends on the order of a sum and of its factors."""
    return same(a, b) | (np.asarray(a == b) if a.dtype.kind == "f" else False)


def _close(a: Array, b: Array) -> Array:
    if a.dtype.kind in "biu":
        return np.asarray(a == b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = x[np.isfinite(x)]
    size = float(np.max(np.abs(finite))) if finite.size else 0.0
    with np.errstate(all="ignore"):
        return same(a, b) | (np.abs(x - y) <= WIDE_TOLERANCE * size)


def within(a: Array, b: Array, nudged: Array, relative: float = 4 * EPSILON) -> Array:
    """Where `b` differs from `a` by no more than the nudged runs do; codes only where those differ, too."""
    if a.dtype.kind in "biu":
        return (a == b) | np.any(nudged != a, axis=0)
    x, y, runs = a.astype(np.float64), b.astype(np.float64), nudged.astype(np.float64)
    with np.errstate(all="ignore"):
        deviation = np.max(np.abs(runs - x), axis=0)
        loose = ~np.isfinite(deviation) & np.isfinite(x)
        return same(a, b) | loose | (np.abs(x - y) <= 2 * deviation + relative * np.abs(x) + 2.0**-140)


def plausible(a: Array, b: Array, nudged: Array) -> Array:
    """As `within`, but for 1 % of the entries the largest deviation of the whole result counts, not their own.

    A rounding that flips feeds later sums: which of many flips happen together, four nudged runs cannot tell. Bugs this
    small are left to exact inputs, where nothing rounds.
    """
    good = within(a, b, nudged)
    bad = ~good
    if not bad.any() or np.mean(bad) > OUTLIERS:
        return good
    x, y, runs = a.astype(np.float64), b.astype(np.float64), nudged.astype(np.float64)
    with np.errstate(all="ignore"):
        deviation = np.abs(runs - x)
        largest = float(np.max(deviation[np.isfinite(deviation)], initial=0))
        return good | (np.abs(x - y) <= 2 * largest)


def _nudge(sign: str, seed: int, epsilon: float = EPSILON) -> Callable[[Array, int], Array]:
    """Errors as large as sums of n products may have, doubled: all up, all down, or of random sign.

    Never nothing, so that a zero may change its sign.
    """
    rng = np.random.default_rng([seed, ord(sign)])

    def error(magnitude: Array, n: int) -> Array:
        size = np.maximum(2 * (n + 8) * epsilon * magnitude, 2.0**-149)
        if sign in "+-":
            return size if sign == "+" else -size
        return size * rng.choice([-1.0, 1.0], magnitude.shape)

    return error


def sums_are_exact(func: FuncOp) -> bool:
    """True where, on exact inputs, every number that reaches a sum has few significant bits.

    Not so after functions like `exp`, divisions, scales of `amax / max`, or elements of a codebook.
    """
    for op in func.walk():
        name = op.name.removeprefix("breccia.")
        fn = getattr(getattr(op, "fn", None), "data", None)
        if (name == "unary" and fn in INEXACT) or (name == "binary" and fn in ("div", "pow")):
            return False
        policy: Any = op.properties.get("policy")
        if policy is not None and policy.data.scale == "exact":
            return False
        for value in (*op.operands, *op.results):
            type_ = value.type
            fmt = type_.recipe.element if isinstance(type_, ScaledType) else None
            fmt = type_.format if isinstance(type_, TensorType) else fmt
            if fmt is not None and fmt.kind == "codebook":
                return False
    return True
