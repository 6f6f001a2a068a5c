"""Random typed programs in traced form: one to twelve steps, one to three quantizes, odd shapes, every recipe.

The same seed gives the same program. `programs()` is the hypothesis strategy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xdsl.dialects import builtin
from xdsl.dialects.builtin import IntAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region, SSAValue

from breccia.ir import ops
from breccia.ir.attributes import IntsAttr, NumberAttr, PolicyAttr
from breccia.ir.base import BrecciaOp
from breccia.ir.dims import Dim, Sym
from breccia.ir.interpreter import CONSTANTS_KEY
from breccia.ir.rewriting import location
from breccia.ir.types import DimsAttr, RecipeAttr, decode_half, scaled, tensor
from breccia.recipes import Recipe, all_recipes

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

f32 = builtin.f32
WIDTHS = (1, 3, 17, 32, 33, 48, 64, 96, 100, 160)
"""Lengths of the last axis; few are multiples of a block."""
UNARY = ("neg", "abs", "tanh", "sigmoid", "silu", "relu", "square", "gelu", "gelu_tanh", "sin", "cos", "exp", "erf")
BINARY = ("add", "sub", "mul", "max", "min")
COMPARE = ("lt", "le", "gt", "ge")
MAX_QUANTIZES = 3


def random_program(seed: int, steps: int | None = None, recipe: Recipe | None = None) -> ModuleOp:
    """A verified module in traced form with one function `@main`.

    steps: how many random steps (1 to 12; a step is one to four ops). recipe: used for every quantize and weight;
    random ones by default.
    """
    rng = random.Random(seed)
    writer = _Writer(rng, recipe)
    for _ in range(steps if steps is not None else rng.randint(1, 12)):
        rng.choice(_STEPS)(writer)
    module = writer.finish()
    module.verify()
    return module


def programs(recipe: Recipe | None = None) -> SearchStrategy[ModuleOp]:
    """Hypothesis strategy: random programs, shrinking to fewer steps and smaller seeds."""
    from hypothesis import strategies as st

    return st.builds(random_program, st.integers(0, 2**32 - 1), st.integers(1, 12), st.just(recipe))


@dataclass
class _Writer:
    """A function under construction. Invariant: `now` is f32 of shape [rows, width]."""

    rng: random.Random
    recipe: Recipe | None
    block: Block = field(default_factory=Block)
    constants: list[int] = field(default_factory=list[int])
    results: list[SSAValue] = field(default_factory=list[SSAValue])
    quantizes: int = 0
    line: int = 0
    rows: Dim = 1
    now: SSAValue = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.rng.choice([Sym("M"), Sym("M"), 5])
        dtype = self.rng.choice([builtin.bf16, builtin.f16, f32])
        self.now = self.argument([self.rows, self.rng.choice(WIDTHS)], dtype, "x")
        self.widen()

    @property
    def width(self) -> int:
        type_: Any = self.now.type
        return int(type_.shape[-1])

    def argument(self, shape: list[Dim], dtype: Attribute, name: str, *, constant: bool = False) -> SSAValue:
        return self._argument(tensor(shape, dtype), name, constant=constant)

    def _argument(self, type_: Attribute, name: str, *, constant: bool) -> SSAValue:
        value = self.block.insert_arg(type_, len(self.block.args))
        value.name_hint = f"{name}{len(self.block.args)}"
        if constant:
            self.constants.append(len(self.block.args) - 1)
        return value

    def add(self, kind: type[BrecciaOp], *args: SSAValue, **props: Attribute) -> SSAValue:
        """Append an op; the new value."""
        op = kind.make(*args, **props)
        self.line += 1
        op.location = location("program.py", self.line)
        self.block.add_op(op)
        return op.outs[0]

    def widen(self) -> None:
        type_: Any = self.now.type
        if type_.dtype != f32:
            self.now = self.add(ops.ConvertOp, self.now, dtype=f32)

    def constant(self, value: float) -> SSAValue:
        return self.add(ops.FullOp, value=NumberAttr(value), shape=DimsAttr((1, 1)), dtype=f32)

    def pick(self) -> Recipe:
        return self.recipe or self.rng.choice(list(all_recipes().values()))

    def quantize(self) -> SSAValue:
        """`now` in a random recipe, its blocks along the last axis or the first."""
        self.quantizes += 1
        recipe = self.pick()
        half = RecipeAttr(decode_half(recipe, 2))
        return self.add(ops.QuantizeOp, self.now, policy=PolicyAttr(recipe.policy), recipe=half)

    def weight(self, columns: int) -> SSAValue:
        """A constant [width, columns]: scaled with blocks along k, along n, or a plain one."""
        kind = self.rng.choice(["k", "k", "k", "n", "plain"])
        if kind == "plain":
            return self.argument([self.width, columns], self.rng.choice([builtin.bf16, f32]), "w", constant=True)
        recipe = self.pick()
        laid = recipe.along(0, 2) if kind == "k" else recipe
        return self._argument(scaled([self.width, columns], builtin.bf16, laid), "w", constant=True)

    def finish(self) -> ModuleOp:
        if not self.quantizes or self.rng.random() < 0.3:
            self.results.append(self.quantize())
        if self.rng.random() < 0.5:
            self.now = self.add(ops.ConvertOp, self.now, dtype=builtin.bf16)
        results = [self.now, *self.results]
        self.block.add_op(ReturnOp(*results))
        types = ([a.type for a in self.block.args], [r.type for r in results])
        func = FuncOp("main", types, Region(self.block))
        if self.constants:
            func.attributes[CONSTANTS_KEY] = IntsAttr(tuple(self.constants))
        return ModuleOp([func])


def _unary(w: _Writer) -> None:
    w.now = w.add(ops.UnaryOp, w.now, fn=StringAttr(w.rng.choice(UNARY)))


def _with_constant(w: _Writer) -> None:
    c = w.constant(w.rng.choice([0.5, 2.0, -1.5, 0.1, 3.0]))
    w.now = w.add(ops.BinaryOp, w.now, c, fn=StringAttr(w.rng.choice(BINARY)))


def _with_row(w: _Writer) -> None:
    row = w.argument([1, w.width], f32, "b", constant=w.rng.random() < 0.5)
    w.now = w.add(ops.BinaryOp, w.now, row, fn=StringAttr(w.rng.choice(BINARY)))


def _with_itself(w: _Writer) -> None:
    """A residual: a function of the value, and the value."""
    other = w.add(ops.UnaryOp, w.now, fn=StringAttr(w.rng.choice(UNARY)))
    w.now = w.add(ops.BinaryOp, w.now, other, fn=StringAttr(w.rng.choice(BINARY)))


def _round(w: _Writer) -> None:
    narrow = w.add(ops.ConvertOp, w.now, dtype=w.rng.choice([builtin.bf16, builtin.f16, builtin.Float8E4M3FNType()]))
    w.now = w.add(ops.ConvertOp, narrow, dtype=f32)


def _normalize(w: _Writer) -> None:
    """Root mean square of rows."""
    square = w.add(ops.UnaryOp, w.now, fn=StringAttr("square"))
    total = w.add(ops.ReduceOp, square, fn=StringAttr("sum"), axes=IntsAttr((1,)))
    mean = w.add(ops.BinaryOp, total, w.constant(float(w.width)), fn=StringAttr("div"))
    safe = w.add(ops.BinaryOp, mean, w.constant(1e-6), fn=StringAttr("add"))
    root = w.add(ops.UnaryOp, safe, fn=StringAttr("rsqrt"))
    w.now = w.add(ops.BinaryOp, w.now, root, fn=StringAttr("mul"))


def _softmax(w: _Writer) -> None:
    top = w.add(ops.ReduceOp, w.now, fn=StringAttr("max"), axes=IntsAttr((1,)))
    power = w.add(ops.UnaryOp, w.add(ops.BinaryOp, w.now, top, fn=StringAttr("sub")), fn=StringAttr("exp"))
    total = w.add(ops.ReduceOp, power, fn=StringAttr("sum"), axes=IntsAttr((1,)))
    w.now = w.add(ops.BinaryOp, power, total, fn=StringAttr("div"))


def _select(w: _Writer) -> None:
    test = w.add(ops.BinaryOp, w.now, w.constant(0.25), fn=StringAttr(w.rng.choice(COMPARE)))
    w.now = w.add(ops.SelectOp, test, w.now, w.constant(w.rng.choice([0.0, -1.0])))


def _columns(w: _Writer) -> None:
    """Some of the columns."""
    if w.width > 1:
        half = DimsAttr((w.width // 2,))
        w.now = w.add(ops.SliceOp, w.now, axis=IntAttr(1), start=DimsAttr((0,)), stop=half)


def _twice(w: _Writer) -> None:
    if w.width <= 100:
        w.now = w.add(ops.ConcatOp, w.now, w.now, axis=IntAttr(1))


def _round_trip(w: _Writer) -> None:
    if w.quantizes < MAX_QUANTIZES:
        w.now = w.add(ops.DequantizeOp, w.quantize())


def _matmul(w: _Writer) -> None:
    columns = w.rng.choice(WIDTHS)
    scaled_input = w.quantizes < MAX_QUANTIZES and w.rng.random() < 0.7
    a = w.quantize() if scaled_input else w.now
    w.now = w.add(ops.MatmulOp, a, w.weight(columns))


def _extra(w: _Writer) -> None:
    """A further result: rows' largest absolute values."""
    if len(w.results) < 2:
        w.results.append(w.add(ops.ReduceOp, w.now, fn=StringAttr("amax"), axes=IntsAttr((1,))))


_STEPS: tuple[Callable[[_Writer], None], ...] = (
    _unary, _with_constant, _with_row, _with_itself, _round, _normalize, _softmax, _select, _columns, _twice,
    _round_trip, _round_trip, _matmul, _matmul, _extra,
)  # fmt: skip
