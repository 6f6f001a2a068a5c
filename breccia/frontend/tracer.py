"""What a decorated function holds while it is traced: an array to Python and NumPy, whose operations become IR."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partialmethod
from typing import Any, NoReturn

import numpy as np

from breccia.errors import TraceError
from breccia.frontend import elementwise, jax_functions, protocols, scaled, shapes, torch_functions
from breccia.frontend.symbols import Size, product
from breccia.frontend.trace import Value, fail, held_by_jax


class TraceAttributeError(TraceError, AttributeError):
    """A traced array has no such attribute."""


def _binary(fn: str, *, swap: bool = False) -> Callable[[Tracer, Any], Any]:
    def operator(self: Tracer, other: Any) -> Any:
        return elementwise.binary(fn, other, self) if swap else elementwise.binary(fn, self, other)

    return operator


def _in_place(symbol: str) -> Callable[[Tracer, Any], NoReturn]:
    def operator(self: Tracer, _: Any) -> NoReturn:
        self.trace.fail(
            TraceError, f"`x {symbol}= y` writes into an array, which is not traced; write `x = x {symbol} y`"
        )

    return operator


class Tracer(Value):
    """A traced array. Arithmetic, comparisons, NumPy's functions and `breccia`'s functions add ops to the trace.

    What needs the values themselves (a branch, a loop over elements, item assignment) raises TraceError, naming the
    line and what to write instead.
    """

    __slots__ = ()
    __array_priority__ = 1000

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes: integers, and symbols for what is unknown."""
        return tuple(self.trace.size(d) for d in self.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def ndim(self) -> int:
        return self.rank

    @property
    def size(self) -> Any:
        return self.trace.size(product(self.dims))

    @property
    def T(self) -> Tracer:
        return shapes.transpose(self)  # type: ignore[return-value]

    @property
    def mT(self) -> Tracer:
        return shapes.swapaxes(self, -1, -2)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<traced {self.describe()}>"

    # -- operators -----------------------------------------------------------------------------------------------------

    __add__, __radd__ = _binary("add"), _binary("add", swap=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", swap=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", swap=True)
    __truediv__, __rtruediv__ = _binary("div"), _binary("div", swap=True)
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = _binary("eq"), _binary("ne")  # type: ignore[assignment]
    __hash__ = object.__hash__  # type: ignore[assignment]
    __iadd__, __isub__, __imul__, __itruediv__ = (_in_place(s) for s in "+-*/")
    __ipow__, __imatmul__, __iand__, __ior__ = (_in_place(s) for s in ("**", "@", "&", "|"))

    def __and__(self, other: Any) -> Any:
        return protocols.bitwise("and", self, other)

    def __or__(self, other: Any) -> Any:
        return protocols.bitwise("or", self, other)

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Any:
        return protocols.invert(self)

    def __neg__(self) -> Any:
        return elementwise.unary("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return elementwise.unary("abs", self)

    def __pow__(self, other: Any) -> Any:
        return elementwise.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return elementwise.power(other, self)

    def __matmul__(self, other: Any) -> Any:
        return scaled.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return scaled.matmul(other, self)

    def __getitem__(self, key: Any) -> Any:
        return shapes.getitem(self, key)

    # -- methods of arrays ---------------------------------------------------------------------------------------------

    def astype(self, dtype: Any) -> Any:
        return elementwise.astype(self, dtype)

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        if order != "C":
            self.trace.fail(TraceError, f"reshape with order={order!r} is not traced; transpose first")
        return shapes.reshape(self, shapes.shape_argument(shape))

    def transpose(self, *axes: Any) -> Any:
        order = shapes.shape_argument(axes)
        return shapes.transpose(self, None if order in ((), (None,)) else order)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        return shapes.swapaxes(self, axis1, axis2)

    def squeeze(self, axis: Any = None) -> Any:
        return shapes.squeeze(self, axis)

    def ravel(self) -> Any:
        return shapes.reshape(self, (-1,))

    flatten = ravel

    def copy(self) -> Any:
        return self

    def _numpy(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return protocols.function(self.trace, getattr(np, name), (self, *args), kwargs)

    sum, mean = partialmethod(_numpy, "sum"), partialmethod(_numpy, "mean")
    var, std = partialmethod(_numpy, "var"), partialmethod(_numpy, "std")
    max, min, clip = partialmethod(_numpy, "max"), partialmethod(_numpy, "min"), partialmethod(_numpy, "clip")

    def dequantize(self, dtype: Any = None) -> Any:
        return scaled.dequantize(self, dtype)

    # -- NumPy ---------------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return protocols.ufunc(elementwise.trace_of(*inputs), function, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return protocols.function(self.trace, function, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        self.trace.fail(
            TraceError,
            f"{self!r} has no values yet, so it cannot become an array (np.asarray, np.array, or a library that calls "
            "them); use np.* or breccia.* functions on it, or do this outside the compiled function",
        )

    # -- what cannot be traced -----------------------------------------------------------------------------------------

    def _no_value(self, what: str, instead: str) -> NoReturn:
        self.trace.fail(
            TraceError, f"{what} needs the values of {self!r}, which are not known while tracing; {instead}"
        )

    def __bool__(self) -> bool:  # noqa: PLE0304 - raises
        self._no_value("a branch (if, while, and, or, not, assert)", "use breccia.where(condition, a, b), or & and |")

    def __int__(self) -> int:
        self._no_value("int()", "use .astype(np.int32)")

    def __index__(self) -> int:  # noqa: PLE0305 - raises
        self._no_value("an index or range()", "pass the number as a Python integer, which is part of the compiled code")

    def __float__(self) -> float:
        self._no_value("float()", "use .astype(np.float32)")

    def __complex__(self) -> complex:
        self._no_value("complex()", "complex numbers are not traced")

    def item(self, *_: Any) -> NoReturn:
        self._no_value(".item()", "return the array and take the item outside the compiled function")

    def tolist(self) -> NoReturn:
        self._no_value(".tolist()", "return the array and convert it outside the compiled function")

    def __len__(self) -> int:
        if not self.rank:
            self.trace.fail(TraceError, "len() of a traced array without axes")
        return self.trace.number(self.dims[0], "len()")

    def __iter__(self) -> Any:
        self.trace.fail(
            TraceError, f"iterating over {self!r}; index it (x[0], x[1] ...), use np.split, or work on the whole array"
        )

    def __contains__(self, item: object) -> bool:
        self._no_value("`in`", "compare, and reduce with np.max")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self.trace.fail(
            TraceError,
            "item assignment writes into an array, which is not traced; build a new one with breccia.where(condition, "
            "new, old) or breccia.concat([...])",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        known = [n for n in dir(type(self)) if not n.startswith("_")]
        near = difflib.get_close_matches(name, known, 2)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        fail(TraceAttributeError, f"a traced array has no attribute {name!r}{hint}. It has: {', '.join(known)}")

    # -- other libraries -----------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch_functions.function(function, args, kwargs or {})

    def __jax_array__(self) -> Any:
        return jax_functions.hand(self)

    def __dlpack__(self, **kwargs: Any) -> NoReturn:
        self._no_value("handing the array to another library", "use NumPy's or breccia's functions")


def traced(*things: object) -> bool:
    """True where one of `things` is a traced array, also in lists and tuples."""
    return any(_traced(t) or (isinstance(t, list | tuple) and any(_traced(u) for u in t)) for t in things)


def _traced(x: object) -> bool:
    return isinstance(x, Tracer | Size) or hasattr(type(x), "breccia_value")


def unwrapped(x: Any) -> Any:
    """`x`, also in a list or tuple, as the frontend's own values where JAX's functions gave it."""
    if type(x) in (list, tuple):
        return type(x)(held_by_jax(item) for item in x)
    return held_by_jax(x)
