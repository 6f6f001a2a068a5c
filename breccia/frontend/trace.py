"""A trace in the making: the block that ops go to, what was captured, and where the user's code stands.

`Value` is a traced array as the operations of this package see it; `Tracer` adds what Python and NumPy call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from xdsl.dialects.builtin import FileLineColLoc
from xdsl.ir import Attribute, Block, SSAValue
from xdsl.utils.exceptions import VerifyException

from breccia.arrays import namespace
from breccia.arrays import numpy_dtype as any_dtype
from breccia.errors import BrecciaError, DTypeError, ShapeError, TraceError
from breccia.frontend.dtypes import ir_dtype, numpy_dtype
from breccia.frontend.symbols import Retrace, Size, Symbols
from breccia.ir import dims
from breccia.ir.base import BrecciaOp, show_shape
from breccia.ir.dims import Dim, Expr, Sym
from breccia.ir.rewriting import location
from breccia.ir.types import ScaledType, TensorType, scaled, tensor
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_HERE = Path(__file__).parent
_MACHINERY = (
    str(_HERE),
    *(str(_HERE.parent / name) for name in ("arrays", "functions.py", "gradients.py", "tensor.py")),
    str(Path(np.__file__).parent),
)
_LIBRARIES = ("torch", "jax")
"""Libraries whose functions call ours, where they are loaded."""
"""Code between the user's line and an op: no location points into it."""


_ESCAPED = "a traced value is used after its function has returned; return it instead of storing it"


class Value:
    """A traced array: an SSA value, and what types do not say.

    Invariants: `_dtype` is the NumPy dtype (of a scaled value: the one it decodes to); `recipe` is there exactly if the
    value is scaled, and its decode half is that of the type.
    """

    __slots__ = ("_dtype", "recipe", "ssa", "trace")

    def __init__(self, trace: Trace, ssa: SSAValue, dtype: np.dtype[Any], recipe: Recipe | None = None) -> None:
        self.trace, self.ssa, self._dtype, self.recipe = trace, ssa, dtype, recipe

    @property
    def ir_type(self) -> TensorType | ScaledType:
        return self.ssa.type  # type: ignore[return-value]

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.ir_type.shape

    @property
    def rank(self) -> int:
        return len(self.ir_type.shape)

    def describe(self) -> str:
        """`[M, 128] of bfloat16`, with the recipe of a scaled value."""
        recipe = f" in {self.recipe!r}" if self.recipe is not None else ""
        return f"{show_shape(self.dims)} of {self._dtype}{recipe}"


class Trace:
    """One run of a function over traced arguments.

    Invariants: ops are only added while `open`; `_captured` maps the id of an outside array to its argument, and the
    array is kept alive in `constants`.
    """

    def __init__(self, value_class: type[Value], symbols: Symbols) -> None:
        self.value_class, self.symbols = value_class, symbols
        self.block = Block()
        self.constants: list[Any] = []
        self.constant_values: list[Value] = []
        self.decisions: list[str] = []
        self.open = True
        self.differentiable = False
        """True where arrays belong to a library that has gradients."""
        self.accuracy = "exact"
        """What products may lose, unless they say so themselves: "exact" or "bounded"."""
        self.device: Any = None
        """The device of the arguments; None where their library has but one."""
        self.jax: Any = None
        """Where JAX's functions go, once JAX is loaded."""
        self._captured: dict[int, Value] = {}
        self._hints = symbols.hints()
        self._locations: dict[tuple[str, int], FileLineColLoc] = {}

    # -- values --------------------------------------------------------------------------------------------------------

    def wrap(self, ssa: SSAValue, dtype: np.dtype[Any] | None = None, recipe: Recipe | None = None) -> Value:
        """A value for a result of an op."""
        kind = ssa.type
        if dtype is None:
            assert isinstance(kind, TensorType | ScaledType), "ops of the dialect give tensors"
            dtype = numpy_dtype(kind.dtype)
        return self.value_class(self, ssa, dtype, recipe)

    def argument(self, array: Any, name: str, leading: Dim | None = None) -> Value:
        """A new argument of the function, with the type of `array`; `leading` stands for its leading size."""
        recipe: Recipe | None = None
        kind: Attribute
        self.differentiable |= not isinstance(array.data if isinstance(array, ScaledTensor) else array, np.ndarray)
        if isinstance(array, ScaledTensor):
            dtype, recipe = array.dtype, array.recipe
            kind = scaled(array.shape, ir_dtype(dtype), recipe)
        else:
            dtype, sizes = leaf_dtype(array), tuple(int(n) for n in array.shape)
            shape = sizes if leading is None else (leading, *sizes[1:])
            kind = tensor(shape, ir_dtype(dtype))
        ssa = self.block.insert_arg(kind, len(self.block.args))
        ssa.name_hint = name
        return self.value_class(self, ssa, dtype, recipe)

    def capture(self, array: Any) -> Value:
        """The argument that stands for an array from outside the function; each array has one."""
        known = self._captured.get(id(array))
        if known is None:
            known = self.argument(array, f"constant{len(self.constants)}")
            self._captured[id(array)] = known
            self.constants.append(array)
            self.constant_values.append(known)
        return known

    def emit(self, op: type[BrecciaOp], *operands: SSAValue, **props: Attribute) -> SSAValue:
        """Add an op at the user's line and give its only result; what does not fit is the user's error."""
        if not self.open:
            self.fail(TraceError, _ESCAPED)
        try:
            made = op.make(*operands, **props)
        except VerifyException as error:
            self.fail(TraceError, str(error))
        made.location = self.location()
        self.block.add_op(made)
        return made.outs[0]

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def size(self, dim: Dim) -> int | Size:
        """A size as the user sees it."""
        return Size(self, dim) if isinstance(dim, Expr) else dim

    def hint(self, dim: Dim) -> int:
        """The value of a size in the call that is traced."""
        return int(dims.evaluate(dim, self._hints))

    def hints(self, shape: Sequence[Dim]) -> tuple[int, ...]:
        """The values of all sizes of a shape."""
        return tuple(self.hint(d) for d in shape)

    def number(self, dim: Dim, use: str) -> int:
        """The value of a size; where it is a symbol, the trace is made again with that size in the code."""
        if isinstance(dim, int):
            return dim
        self.symbols.pin(dim, f"{dims.show(dim)} is used as a number by {use} at {self.where()}", number=True)
        raise Retrace

    def unify(self, what: str, a: Dim, b: Dim, *, broadcast: bool) -> Dim | None:
        """The size that both `a` and `b` are; None where they differ. May ask for a new trace under a constraint."""
        if a == b:
            return a
        if broadcast and (a == 1 or b == 1):
            return b if a == 1 else a
        if isinstance(a, int) and isinstance(b, int):
            return None
        found = self.hint(a), self.hint(b)
        reason = f"{what} at {self.where()}"
        if found[0] == found[1]:
            if isinstance(a, Sym) and isinstance(b, Sym):
                self.symbols.merge(a, b, reason)
            else:
                self.symbols.pin(a, reason, number=False)
                self.symbols.pin(b, reason, number=False)
            raise Retrace
        if broadcast and 1 in found:
            self.symbols.pin(a if found[0] == 1 else b, f"size 1 is broadcast by {reason}", number=False)
            raise Retrace
        return None

    def broadcast(self, what: str, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
        """The shape that `shapes` broadcast to, by NumPy's rule; raises ShapeError."""
        rank = max((len(s) for s in shapes), default=0)
        out: list[Dim] = [1] * rank
        for shape in shapes:
            for i, size in enumerate(shape, rank - len(shape)):
                joined = self.unify(what, out[i], size, broadcast=True)
                if joined is None:
                    text = " and ".join(self.show(s) for s in shapes)
                    self.fail(ShapeError, f"{what}: shape mismatch: {text} do not broadcast (axis {i - rank})")
                out[i] = joined
        return tuple(out)

    def show(self, shape: Sequence[Dim]) -> str:
        """A shape for messages: `[M = 40, 128]`."""
        parts = [str(d) if isinstance(d, int) else f"{dims.show(d)} = {self.hint(d)}" for d in shape]
        return "[" + ", ".join(parts) + "]"

    # -- the user's code -----------------------------------------------------------------------------------------------

    def location(self) -> FileLineColLoc:
        """The location attribute of the user's line."""
        place = user_line()
        found = self._locations.get(place)
        if found is None:
            found = self._locations[place] = location(*place)
        return found

    def where(self) -> str:
        """`model.py:12`, the user's line."""
        return "{}:{}".format(*user_line())

    def fail(self, error: type[BrecciaError], message: str) -> NoReturn:
        """Raise `error`, naming the user's line."""
        raise error(f"{message} (at {self.where()})")


@cache
def _machinery(loaded: tuple[str, ...]) -> tuple[str, ...]:
    """`_MACHINERY`, with the folders of the libraries that are loaded."""
    files = [getattr(sys.modules[name], "__file__", None) for name in loaded]
    return (*_MACHINERY, *(str(Path(file).parent) + os.sep for file in files if file))


def user_line() -> tuple[str, int]:
    """File and line of the innermost frame that is the user's."""
    frame: FrameType | None = sys._getframe(1)
    machinery = _machinery(tuple(name for name in _LIBRARIES if name in sys.modules))
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(machinery):
            return file, frame.f_lineno
        frame = frame.f_back
    return "<unknown>", 0


def fail(error: type[BrecciaError], message: str) -> NoReturn:
    """Raise `error`, naming the user's line, where no trace is at hand."""
    raise error("{} (at {}:{})".format(message, *user_line()))


def held_by_jax(thing: Any) -> Any:
    """The traced value behind what JAX's functions gave; everything else as it is."""
    return thing.breccia_value if hasattr(type(thing), "breccia_value") else thing


def plain(value: Value, what: str) -> Value:
    """`value` if it is no scaled tensor; else TypeError with the way out."""
    if value.recipe is not None:
        value.trace.fail(
            DTypeError,
            f"{what} takes plain arrays, and was given {value.describe()}; decode it with .dequantize() first",
        )
    return value


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """A NumPy dtype; raises DTypeError."""
    return any_dtype(dtype)


def leaf_dtype(array: Any) -> np.dtype[Any]:
    """The NumPy dtype of an array of any library."""
    if isinstance(array, np.ndarray):
        return array.dtype.newbyteorder("=")
    return any_dtype(namespace(array).dtype_name(array))
