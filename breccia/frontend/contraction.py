"""Sums of products over named axes, as matrix products: what `einsum` and JAX's `dot_general` mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from breccia.errors import ShapeError, TraceError
from breccia.frontend.elementwise import as_value, binary
from breccia.frontend.scaled import matmul
from breccia.frontend.shapes import expand_dims, reduce, reshape_to, transpose
from breccia.frontend.symbols import product
from breccia.frontend.trace import Trace, Value

Axes = Sequence[int]


def contract(
    a: Value, b: Value, contracted: tuple[Axes, Axes], batch: tuple[Axes, Axes] = ((), ()), out_dtype: Any = None
) -> Value:
    """The sum over the axes `contracted`, for each place of the axes `batch`, which a and b share.

    The axes of the result: batch, the others of a, the others of b. Summed in float32, rounded to `out_dtype` (None: as
    the operands promote).
    """
    left = [i for i in range(a.rank) if i not in contracted[0] and i not in batch[0]]
    right = [i for i in range(b.rank) if i not in contracted[1] and i not in batch[1]]
    shape = [a.dims[i] for i in (*batch[0], *left)] + [b.dims[i] for i in right]
    rows, columns = [a.dims[i] for i in left], [b.dims[i] for i in right]
    many = len(batch[0])
    x = transpose(a, [*batch[0], *left, *contracted[0]])
    y = transpose(b, [*batch[1], *contracted[1], *right])
    x = _grouped(x, many if many or len(columns) != 1 else max(len(rows) - 1, 0), len(contracted[0]), last=True)
    y = _grouped(y, many, len(contracted[1]), last=False)
    return reshape_to(matmul(x, y, out_dtype), shape)


def _grouped(x: Value, batch: int, contracted: int, *, last: bool) -> Value:
    """`x` with its contracted axes, which are the last ones or follow the batch, and its free axes as one each."""
    at = x.rank - contracted if last else batch + contracted
    return reshape_to(x, [*x.dims[:batch], product(x.dims[batch:at]), product(x.dims[at:])])


def einsum(trace: Trace, equation: str, operands: Sequence[Any]) -> Value:
    """Einstein summation of traced operands, two by two from the left; no diagonals."""
    values = [as_value(trace, v) for v in operands]
    inputs, output = _labels(trace, equation, values)
    value, labels = values[0], inputs[0]
    for i, (other, names) in enumerate(zip(values[1:], inputs[1:], strict=True), 1):
        keep = {*output, *(name for rest in inputs[i + 1 :] for name in rest)}
        value, labels = _pair((value, labels), (other, names), keep)
    value, labels = _summed(value, labels, set(output))
    return transpose(value, [labels.index(name) for name in output])


Labels = list[str]


def _labels(trace: Trace, equation: str, values: Sequence[Value]) -> tuple[list[Labels], Labels]:
    """The name of every axis of the operands and of the result; axes under `...` get numbers."""
    given, arrow, wanted = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if len(terms) != len(values):
        trace.fail(ShapeError, f"einsum: {equation!r} is about {len(terms)} operands, and {len(values)} are given")
    inputs = [_expanded(trace, term, value, equation) for term, value in zip(terms, values, strict=True)]
    dotted = max((sum(name.isdigit() for name in names) for names in inputs), default=0)
    dots = [str(i) for i in reversed(range(dotted))]
    if arrow:
        before, found, after = wanted.partition("...")
        output = [*before, *(dots if found else []), *after]
    else:
        letters = sorted(name for names in inputs for name in names if not name.isdigit())
        output = [*dots, *(name for name in letters if letters.count(name) == 1)]
    unknown = set(output) - {name for names in inputs for name in names}
    if unknown or len(set(output)) != len(output):
        trace.fail(ShapeError, f"einsum: the result of {equation!r} names an axis twice, or one that no operand has")
    return inputs, output


def _expanded(trace: Trace, term: str, value: Value, equation: str) -> Labels:
    before, dots, after = term.partition("...")
    free = value.rank - len(before) - len(after)
    if free < 0 or (free and not dots):
        trace.fail(ShapeError, f"einsum: {term!r} of {equation!r} does not name the axes of {value.describe()}")
    names = [*before, *(str(i) for i in reversed(range(free))), *after]
    if len(set(names)) != len(names):
        trace.fail(TraceError, f"einsum: {term!r} of {equation!r} takes a diagonal, which is not traced")
    return names


def _summed(value: Value, labels: Labels, keep: set[str]) -> tuple[Value, Labels]:
    """`value` summed over the axes that nobody else names."""
    gone = [i for i, name in enumerate(labels) if name not in keep]
    if not gone:
        return value, labels
    return reduce("sum", value, gone, dtype=value._dtype), [name for name in labels if name in keep]


def _pair(a: tuple[Value, Labels], b: tuple[Value, Labels], keep: set[str]) -> tuple[Value, Labels]:
    x, left = _summed(*a, keep | set(b[1]))
    y, right = _summed(*b, keep | set(left))
    shared = [name for name in left if name in right]
    summed = [name for name in shared if name not in keep]
    batch = [name for name in shared if name in keep]
    labels = [*batch, *(n for n in left if n not in shared), *(n for n in right if n not in shared)]
    if not summed:
        return binary("mul", _spread(x, left, labels), _spread(y, right, labels)), labels
    axes = tuple([names.index(n) for n in summed] for names in (left, right))
    places = tuple([names.index(n) for n in batch] for names in (left, right))
    return contract(x, y, (axes[0], axes[1]), (places[0], places[1])), labels


def _spread(x: Value, names: Labels, labels: Labels) -> Value:
    """`x` with its axes in the order of `labels`, and axes of size 1 for those that it lacks."""
    ordered = transpose(x, [names.index(n) for n in labels if n in names])
    return expand_dims(ordered, [i for i, n in enumerate(labels) if n not in names])
