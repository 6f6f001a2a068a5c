"""PyTorch's layers as functions on traced tensors: products, norms, softmax, attention."""

# ruff: noqa: A006, D103 - parameters are named, and functions documented, as in PyTorch
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from breccia.errors import ShapeError, TraceError
from breccia.frontend import contraction, normalization, shapes
from breccia.frontend.dtypes import bool_, compute_dtype, float32, float64, is_float, promote
from breccia.frontend.elementwise import as_value, astype, binary, trace_of, unary, where, widened
from breccia.frontend.scaled import matmul as product
from breccia.frontend.torch_shapes import below, repeat_interleave
from breccia.frontend.trace import Value, as_dtype, fail, plain

_INFINITY = float("inf")


def matmul(input: Value, other: Value) -> Value:
    """`torch.matmul`, vectors too."""
    left = shapes.expand_dims(input, 0) if input.rank == 1 else input
    right = shapes.expand_dims(other, 1) if other.rank == 1 else other
    made = product(left, right)
    gone = [made.rank - 2] * (input.rank == 1) + [made.rank - 1] * (other.rank == 1)
    return shapes.drop_axes(made, gone)


def linear(input: Value, weight: Value, bias: Value | None = None) -> Value:
    """X @ weight.T + bias, in float32, rounded once; the weight [out, in] may be scaled."""
    x = shapes.expand_dims(input, 0) if input.rank == 1 else input
    out = promote([(v._dtype, 2) for v in (x, weight)])
    made = product(x, shapes.transpose(weight), None if bias is None or out == float64 else float32)
    if bias is not None:
        made = astype(binary("add", made, widened(bias, "linear: bias")), out)
    return shapes.drop_axes(made, [0]) if input.rank == 1 else made


def addmm(input: Value, mat1: Value, mat2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    out = promote([(v._dtype, 2) for v in (mat1, mat2)])
    made = product(mat1, mat2, float32)
    made = made if alpha == 1 else binary("mul", made, alpha)
    added = widened(input, "addmm")
    return astype(binary("add", made, added if beta == 1 else binary("mul", added, beta)), out)


def einsum(equation: str, *operands: Any) -> Value:
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    return contraction.einsum(trace_of(*given), equation, given)


def outer(input: Value, vec2: Value) -> Value:
    return binary("mul", shapes.expand_dims(input, 1), vec2)


def softmax(input: Value, dim: int | None = None, *rest: Any, dtype: Any = None, _stacklevel: int = 3) -> Value:
    return normalization.softmax(*_along("softmax", input, dim, rest, dtype))


def log_softmax(input: Value, dim: int | None = None, *rest: Any, dtype: Any = None, _stacklevel: int = 3) -> Value:
    x, axis = _along("log_softmax", input, dim, rest, dtype)
    wide = widened(x, "log_softmax")
    shifted = binary("sub", wide, shapes.reduce("max", wide, axis, keepdims=True))
    total = shapes.reduce("sum", unary("exp", shifted), axis, keepdims=True)
    return astype(binary("sub", shifted, unary("log", total)), x._dtype)


def _along(what: str, x: Value, dim: int | None, rest: Sequence[Any], dtype: Any) -> tuple[Value, int]:
    """The operand and axis of a softmax. The third argument is a dtype, or a number to skip."""
    if dim is None:
        x.trace.fail(TraceError, f"{what} without dim guesses an axis; say dim=-1")
    wanted = dtype if dtype is not None or not rest or isinstance(rest[0], int) else rest[0]
    return (x if wanted is None else astype(x, wanted)), dim


def layer_norm(
    input: Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    return _over(
        "layer_norm", input, normalized_shape, (weight, bias), lambda x, w, b: normalization.layer_norm(x, w, b, eps)
    )


def rms_norm(input: Value, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Value:
    small = float(np.finfo(compute_dtype(input._dtype)).eps) if eps is None else eps
    return _over("rms_norm", input, normalized_shape, (weight,), lambda x, w: normalization.rms_norm(x, w, small))


def _over(what: str, x: Value, shape: Any, parameters: Sequence[Value | None], norm: Callable[..., Value]) -> Value:
    """A norm over the last axes, which are those of `shape`."""
    wanted = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    many = len(wanted)
    sizes = [shapes.as_dim(x.trace, n, what) for n in wanted]
    found = x.dims[x.rank - many :] if many <= x.rank else ()
    if len(found) != many or any(
        x.trace.unify(what, a, b, broadcast=False) is None for a, b in zip(found, sizes, strict=True)
    ):
        x.trace.fail(ShapeError, f"{what}: {x.describe()} does not end in normalized_shape {wanted}")
    if many == 1:
        return norm(x, *parameters)
    flat = shapes.reshape_to(x, [*x.dims[: x.rank - many], shapes.product(found)])
    made = norm(flat, *(None if p is None else shapes.reshape(p, (-1,)) for p in parameters))
    return shapes.reshape_to(made, x.dims)


def dropout(input: Value, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool = True) -> Value:
    if inplace:
        input.trace.fail(
            TraceError, "dropout(inplace=True) writes into a tensor, which is not traced; leave inplace out"
        )
    if training and train and p:
        input.trace.fail(
            TraceError, f"dropout with p={p} draws random numbers, which is not traced; call .eval(), or use p=0"
        )
    return input


def norm(
    input: Value, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, ord: Any = None
) -> Value:  # fmt: skip
    """The root of the sum of squares."""
    order = p if ord is None else ord
    if order not in (2, "fro", None):
        input.trace.fail(TraceError, f"norm of order {order!r} is not traced; allowed: 2")
    x = input if dtype is None else astype(input, dtype)
    total = shapes.reduce("sum", unary("square", widened(x, "norm")), dim, keepdims=keepdim)
    return astype(unary("sqrt", total), x._dtype)


def normalize(input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Value:
    length = norm(input, p, dim, keepdim=True)
    return binary("div", input, binary("max", length, eps))


def attention(
    query: Value, key: Value, value: Value, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    """`scaled_dot_product_attention`: scores and weights in float32, weights rounded to the dtype of `value`."""
    trace = trace_of(query, key, value, attn_mask)
    if dropout_p:
        trace.fail(TraceError, f"attention with dropout_p={dropout_p} draws random numbers; use dropout_p=0")
    if is_causal and attn_mask is not None:
        trace.fail(TraceError, "attention takes attn_mask or is_causal=True, not both; combine them in the mask")
    query, key, value = (plain(as_value(trace, v), "attention") for v in (query, key, value))
    if enable_gqa:
        key, value = _every_head(query, key), _every_head(query, value)
    width = trace.number(query.dims[-1], "attention")
    scores = product(query, shapes.swapaxes(key, -1, -2), float32)
    scores = binary("mul", scores, 1 / math.sqrt(width) if scale is None else scale)
    weights = astype(_weights(scores, attn_mask, is_causal), value._dtype)
    return astype(product(weights, value, float32), promote([(v._dtype, 2) for v in (query, key, value)]))


def _every_head(query: Value, x: Value) -> Value:
    """Keys or values with a head for each head of the query."""
    many, few = (query.trace.number(v.dims[-3], "attention with enable_gqa") for v in (query, x))
    if many % few:
        query.trace.fail(ShapeError, f"attention: {many} heads of the query are no multiple of {few} of key and value")
    return x if many == few else repeat_interleave(x, many // few, -3)


def _weights(scores: Value, mask: Any, causal: bool) -> Value:
    """Softmax of the scores under a mask; a row that is masked wholly gets zeros, as PyTorch has it."""
    if causal:
        inside = below(scores.trace, scores.dims[-2], scores.dims[-1], 0)
        return normalization.softmax(where(inside, scores, -_INFINITY))
    if mask is None:
        return normalization.softmax(scores)
    given = as_value(scores.trace, mask)
    masked = (
        where(given, scores, -_INFINITY) if given._dtype == bool_ else binary("add", scores, astype(given, float32))
    )
    empty = binary("eq", shapes.reduce("max", masked, -1, keepdims=True), -_INFINITY)
    return where(empty, 0.0, normalization.softmax(masked))


def embedding(*_: Any, **__: Any) -> NoReturn:
    fail(TraceError, "torch.nn.functional.embedding gathers rows, which is not traced; look them up before the call")


def gelu(input: Value, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        input.trace.fail(TraceError, f"gelu: approximate is {approximate!r}; allowed: 'none', 'tanh'")
    return unary("gelu" if approximate == "none" else "gelu_tanh", input)


def leaky_relu(input: Value, negative_slope: float = 0.01) -> Value:
    return where(binary("gt", input, 0), input, binary("mul", input, negative_slope))


def glu(input: Value, dim: int = -1) -> Value:
    axis = shapes.normalize_axes(input, dim, "glu")[0]
    first, second = shapes.split(input, 2, axis)
    return binary("mul", first, unary("sigmoid", second))


def is_floating(input: Value) -> bool:
    return is_float(input._dtype) or np.issubdtype(as_dtype(input._dtype), np.floating)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "__matmul__": matmul,
    "__rmatmul__": lambda input, other: matmul(other, input),
    "linear": linear,
    "addmm": addmm,
    "baddbmm": addmm,
    "einsum": einsum,
    "outer": outer,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "dropout": dropout,
    "norm": norm,
    "linalg_norm": norm,
    "linalg_vector_norm": norm,
    "normalize": normalize,
    "scaled_dot_product_attention": attention,
    "embedding": embedding,
    "silu": lambda input: unary("silu", input),
    "gelu": gelu,
    "relu": lambda input: unary("relu", input),
    "leaky_relu": leaky_relu,
    "glu": glu,
    "is_floating_point": is_floating,
}
"""By PyTorch's name. Parameters are named as PyTorch names them, since they may be given by keyword."""
