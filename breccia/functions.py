"""Public functions: on traced arrays they add to the trace, on arrays they run.

Run eagerly, a function is a program of one operation, traced, compiled and cached like any other, so there is one
meaning. Only what moves no rounding goes straight to NumPy: `cast`, `dequantize`, `requantize` through the numerics
that the interpreter uses too, and `reshape`, `transpose`, `broadcast_to`, `concat`, which copy bits.

Values follow PyTorch: bfloat16 and float16 are computed in float32 and rounded once per function, and Python numbers do
not widen arrays. A `ScaledTensor` is accepted where a function says so; elsewhere, decode it with `dequantize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from breccia import tensor
from breccia.arrays import foreign, namespace, numpy_dtype, whole
from breccia.arrays.namespaces import array_functions
from breccia.errors import DTypeError, ShapeError
from breccia.frontend.choice import runs_kernels
from breccia.frontend.compile import CompiledFunction
from breccia.frontend.keys import one_library, traced
from breccia.recipes import Recipe, of_token
from breccia.tensor import ScaledTensor

_ELEMENTWISE, _SHAPES = "breccia.frontend.elementwise", "breccia.frontend.shapes"
_SCALED, _NORMALIZATION = "breccia.frontend.scaled", "breccia.frontend.normalization"


# -- casting -----------------------------------------------------------------------------------------------------------


@whole
def cast(x: Any, recipe: Recipe, axis: int = -1, dtype: Any = None, seed: Any = None, scale: Any = None) -> Any:
    """`x` encoded by a recipe, as a `ScaledTensor`.

    x: array of rank 1 or more. axis: where the recipe's last axis lies: blocks run along it, so a weight [K, N] that is
    multiplied from the right is cast with axis=0. dtype: what it decodes to; by default x's float16 or bfloat16, else
    float32. seed: for stochastic rounding. scale: known scales, for static and delayed scaling: the innermost ones, or
    a tuple of all levels, outermost first, where None for the innermost has them computed (NVFP4 with a static scale of
    the tensor), and None for another one stands for 1.

    Raises DTypeError for what is no recipe or no real array, ShapeError for rank 0 or a bad axis, RecipeError where a
    static recipe gets no scale.

    >>> from breccia import recipes
    >>> cast(np.ones((256, 64), np.float32), recipes.mxfp8_e4m3, axis=0).scale.shape
    (8, 64)
    """
    if traced(x, seed, scale):
        return _call(_SCALED, "cast", x, recipe, axis, dtype, seed, scale)
    if runs_kernels(x) and _has_kernel(recipe, x, seed, scale):
        words = namespace(x).full((), seed, "int64", x) if isinstance(seed, int) else seed
        return _cast_program("cast", recipe.token, axis, dtype if dtype is None else _dtype(dtype))(x, words, scale)
    return tensor.cast_array(x, recipe, axis, dtype, seed, scale)


@whole
def dequantize(st: Any, dtype: Any = None) -> Any:
    """The values of a `ScaledTensor`, decoded in float32 and rounded to `dtype` (by default its own).

    >>> from breccia import recipes
    >>> dequantize(cast([[1.0, 2.0]], recipes.mxfp4)).tolist()
    [[1.0, 2.0]]
    """
    if traced(st):
        return _call(_SCALED, "dequantize", st, dtype)
    if isinstance(st, ScaledTensor) and runs_kernels(st):
        return _run(_SCALED, "dequantize", (st,), dtype=None if dtype is None else _dtype(dtype))
    return _scaled(st, "dequantize").dequantize(dtype)


@whole
def requantize(st: Any, recipe: Recipe, axis: int = -1, seed: Any = None) -> Any:
    """The values of a `ScaledTensor` encoded by another recipe; the logical dtype stays.

    >>> from breccia import recipes
    >>> requantize(cast([[1.0, 2.0]], recipes.mxfp8_e4m3), recipes.mxfp4).bits_per_value > 4
    True
    """
    if traced(st, seed):
        return _call(_SCALED, "requantize", st, recipe, axis, seed)
    if isinstance(st, ScaledTensor) and runs_kernels(st) and seed is None and _encodes(recipe):
        return _cast_program("requantize", recipe.token, axis, None)(st, None, None)
    return tensor.requantize(_scaled(st, "requantize"), recipe, axis, seed)


# -- products ----------------------------------------------------------------------------------------------------------


@whole
def matmul(a: Any, b: Any, out_dtype: Any = np.float32, accuracy: str | None = None) -> Any:
    """The product of matrices a [..., M, K] and b [..., K, N], arrays or `ScaledTensor`s; leading axes broadcast.

    Sums are float32, rounded to `out_dtype` (float32, bfloat16 or float16); arrays that are no floats, or float64, are
    rounded to float32 first. Scales are applied where the blocks allow it: `breccia.compile(breccia.matmul).lower(a,
    b).explain()` says where, and what would be better. accuracy: "exact", or "bounded", which may fold the exponents of
    MXFP8 into its elements (see `breccia.compile`); None for what the function around it is compiled with, or exact.

    Raises ShapeError ("shape mismatch") where shapes do not fit, DTypeError for FP8 of the fn and fnuz families.

    >>> from breccia import recipes
    >>> w = cast(np.eye(64, dtype=np.float32), recipes.mxfp8_e4m3, axis=0)
    >>> matmul(np.ones((2, 64), np.float32), w)[0, :3].tolist()
    [1.0, 1.0, 1.0]
    """
    if traced(a, b):
        return _call(_SCALED, "matmul", _narrowed(a), _narrowed(b), out_dtype, accuracy)
    left, right = _narrowed(_operand(a)), _narrowed(_operand(b))
    said = {} if accuracy is None else {"accuracy": accuracy}
    if isinstance(right, ScaledTensor) and _is_turned(right, 2):
        return _run(_SCALED, "matmul_transposed", (left, right.T), out_dtype=_dtype(out_dtype), **said)
    return _run(_SCALED, "matmul", (left, right), out_dtype=_dtype(out_dtype), **said)


def _is_turned(st: ScaledTensor, rank: int) -> bool:
    """True for a view `w.T` of weights on a GPU: instructions take their rows as they lie, if they are told."""
    data = st.data
    eight = st.recipe.element.bits == 8 and data.ndim == rank
    return eight and runs_kernels(st) and data.stride(-2) == 1 < data.stride(-1)


@whole
def grouped_matmul(x: Any, w: Any, offsets: Any, out_dtype: Any = np.float32) -> Any:
    """Rows offsets[e] to offsets[e + 1] of x [T, K] times w[e] of w [E, K, N]; rows of no group give 0.

    offsets: E + 1 integers (int32 or int64), not falling. For x [E, M, K] they are E counts of 0 to M instead: of x[e],
    the first offsets[e] rows are multiplied by w[e], and the result is [E, M, N].

    >>> x, w = np.ones((3, 2), np.float32), np.ones((2, 2, 1), np.float32)
    >>> grouped_matmul(x, w, np.array([0, 1, 3])).tolist()
    [[2.0], [2.0], [2.0]]
    >>> grouped_matmul(np.ones((2, 3, 2), np.float32), w, np.array([1, 2])).tolist()
    [[[2.0], [0.0], [0.0]], [[2.0], [2.0], [0.0]]]
    """
    if traced(x, w, offsets):
        return _call(_SCALED, "grouped_matmul", _narrowed(x), _narrowed(w), offsets, out_dtype)
    left, right, table = _narrowed(_operand(x)), _narrowed(_operand(w)), _array(offsets)
    if isinstance(right, ScaledTensor) and _is_turned(right, 3):
        turned = (left, right.transpose(0, 2, 1), table)
        return _run(_SCALED, "grouped_matmul_transposed", turned, out_dtype=_dtype(out_dtype))
    return _run(_SCALED, "grouped_matmul", (left, right, table), out_dtype=_dtype(out_dtype))


# -- elementwise -------------------------------------------------------------------------------------------------------


@whole
def silu(x: Any) -> Any:
    """X * sigmoid(x).

    >>> silu(np.zeros(2, np.float32)).tolist()
    [0.0, 0.0]
    """
    return _unary("silu", x)


@whole
def gelu(x: Any, approximate: str = "none") -> Any:
    """The Gaussian error linear unit, by erf; with approximate="tanh" the tanh formula.

    >>> gelu(np.zeros(2, np.float32)).tolist()
    [0.0, 0.0]
    """
    if approximate not in ("none", "tanh"):
        raise DTypeError(f"gelu: approximate is {approximate!r}; allowed: 'none', 'tanh'")
    return _unary("gelu" if approximate == "none" else "gelu_tanh", x)


@whole
def relu(x: Any) -> Any:
    """The larger of x and 0.

    >>> relu(np.array([-1.0, 2.0], np.float32)).tolist()
    [0.0, 2.0]
    """
    return _unary("relu", x)


@whole
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)).

    >>> sigmoid(np.zeros(1, np.float32)).tolist()
    [0.5]
    """
    return _unary("sigmoid", x)


@whole
def exp(x: Any) -> Any:
    """E to the power x.

    >>> exp(np.zeros(1, np.float32)).tolist()
    [1.0]
    """
    return _unary("exp", x)


@whole
def tanh(x: Any) -> Any:
    """The hyperbolic tangent.

    >>> tanh(np.zeros(1, np.float32)).tolist()
    [0.0]
    """
    return _unary("tanh", x)


@whole
def rsqrt(x: Any) -> Any:
    """1 / sqrt(x).

    >>> rsqrt(np.array([4.0], np.float32)).tolist()
    [0.5]
    """
    return _unary("rsqrt", x)


@whole
def sqrt(x: Any) -> Any:
    """The square root.

    >>> sqrt(np.array([4.0], np.float32)).tolist()
    [2.0]
    """
    return _unary("sqrt", x)


@whole
def where(condition: Any, x: Any, y: Any) -> Any:
    """X where the condition holds, else y; all three broadcast.

    >>> where(np.array([True, False]), np.float32(1), np.float32(2)).tolist()
    [1.0, 2.0]
    """
    return apply_operation(_ELEMENTWISE, "where", (condition, x, y))


@whole
def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, element by element.

    >>> maximum(np.array([-1.0, 2.0], np.float32), 0).tolist()
    [0.0, 2.0]
    """
    return _binary("max", a, b)


@whole
def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, element by element.

    >>> minimum(np.array([-1.0, 2.0], np.float32), 0).tolist()
    [-1.0, 0.0]
    """
    return _binary("min", a, b)


@whole
def astype(x: Any, dtype: Any) -> Any:
    """`x` in another dtype: rounded to nearest even; what does not fit a format of 8 bits saturates.

    >>> astype(np.array([1.0]), np.float16).dtype
    dtype('float16')
    """
    return apply_operation(_ELEMENTWISE, "astype", (x,), dtype=_dtype(dtype))


# -- reductions and norms ----------------------------------------------------------------------------------------------


@whole
def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The sum over axes (all of them if None), in float32, rounded once; integers are summed as int64.

    >>> sum(np.ones((2, 3), np.float32), axis=1).tolist()
    [3.0, 3.0]
    """
    return apply_operation(_SHAPES, "reduce", (x,), "sum", axis=_axis(axis), keepdims=keepdims)


@whole
def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The mean over axes, in float32, rounded once.

    >>> mean(np.ones((2, 3), np.float32), axis=1).tolist()
    [1.0, 1.0]
    """
    return apply_operation(_SHAPES, "mean", (x,), axis=_axis(axis), keepdims=keepdims)


@whole
def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest value over axes; NaN if there is one.

    >>> max(np.array([[1.0, -3.0]], np.float32), axis=1).tolist()
    [1.0]
    """
    return apply_operation(_SHAPES, "reduce", (x,), "max", axis=_axis(axis), keepdims=keepdims)


@whole
def amax(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest absolute value over axes, from which scales are made.

    >>> amax(np.array([[1.0, -3.0]], np.float32), axis=1).tolist()
    [3.0]
    """
    return apply_operation(_SHAPES, "reduce", (x,), "amax", axis=_axis(axis), keepdims=keepdims)


@whole
def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x - max) over its sum, along one axis.

    >>> softmax(np.zeros((1, 4), np.float32)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    return apply_operation(_NORMALIZATION, "softmax", (x,), axis=axis)


@whole
def rms_norm(x: Any, weight: Any = None, eps: float = 1e-6) -> Any:
    """X / sqrt(mean(x**2) + eps) over the last axis, times `weight`, in float32, rounded once to x's dtype.

    >>> rms_norm(np.full((1, 4), 2, np.float32), eps=0.0).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """
    return apply_operation(_NORMALIZATION, "rms_norm", (x, weight), eps=float(eps))


@whole
def layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(variance + eps) over the last axis, times `weight`, plus `bias`, rounded once to x's dtype.

    >>> layer_norm(np.array([[1.0, 3.0]], np.float32), eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    return apply_operation(_NORMALIZATION, "layer_norm", (x, weight, bias), eps=float(eps))


# -- shapes ------------------------------------------------------------------------------------------------------------


@whole
def concat(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Arrays, or `ScaledTensor`s of one recipe that end on block borders, behind each other along an axis.

    >>> concat([np.ones(2), np.zeros(1)]).tolist()
    [1.0, 1.0, 0.0]
    """
    if traced(*arrays):
        return _call(_SHAPES, "concat", list(arrays), axis)
    if all(isinstance(a, ScaledTensor) for a in arrays):
        return tensor.concat(arrays, axis)
    parts = [_array(a) for a in arrays]
    one_library(parts)
    try:
        return namespace(parts[0]).concat(parts, axis)
    except (ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"concat: shapes {', '.join(str(tuple(p.shape)) for p in parts)} along axis {axis}: {error}"
        ) from None


@whole
def reshape(x: Any, *shape: Any) -> Any:
    """`x`, an array or a `ScaledTensor`, in another shape; one size of an array may be -1.

    >>> reshape(np.zeros((2, 3)), (3, -1)).shape
    (3, 2)
    """
    wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    if traced(x, *wanted):
        return _call(_SHAPES, "reshape", x, wanted)
    try:
        return x.reshape(*wanted) if isinstance(x, ScaledTensor) else _array(x).reshape(wanted)
    except ShapeError:
        raise
    except (ValueError, RuntimeError, TypeError) as error:
        raise ShapeError(f"reshape: {error}") from None


@whole
def transpose(x: Any, axes: Any = None) -> Any:
    """`x`, an array or a `ScaledTensor`, with permuted axes; None reverses them.

    >>> transpose(np.zeros((2, 3))).shape
    (3, 2)
    """
    if traced(x):
        return _call(_SHAPES, "transpose", x, axes)
    if isinstance(x, ScaledTensor):
        return x.transpose() if axes is None else x.transpose(*axes)
    x = _array(x)
    order = tuple(reversed(range(len(x.shape)))) if axes is None else tuple(axes)
    try:
        return namespace(x).transpose(x, order)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ShapeError(f"transpose: axes {axes} of shape {tuple(x.shape)}: {error}") from None


@whole
def broadcast_to(x: Any, shape: Sequence[Any]) -> Any:
    """`x` repeated to a shape, by NumPy's rule.

    >>> broadcast_to(np.ones(3), (2, 3)).shape
    (2, 3)
    """
    if traced(x, *shape):
        from breccia.frontend.shapes import as_dim

        sizes = [s if isinstance(s, int) else as_dim(s.trace, s, "broadcast_to") for s in shape]
        return _call(_ELEMENTWISE, "broadcast_to", x, sizes)
    x = _array(x)
    try:
        return array_functions(x).broadcast_to(x, tuple(shape))
    except (ValueError, RuntimeError) as error:
        raise ShapeError(f"broadcast_to: {error}") from None


# -- tracing or running ------------------------------------------------------------------------------------------------


def _call(module: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """A function of the frontend, loaded when it is needed; tracing has begun, or is about to."""
    unwrapped = import_module("breccia.frontend.tracer").unwrapped
    return getattr(import_module(module), name)(*map(unwrapped, args), **kwargs)


@lru_cache(maxsize=1024)
def _program(module: str, name: str, static: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> CompiledFunction:
    """The compiled function of one operation."""

    def operation(*operands: Any) -> Any:
        return _call(module, name, *static, *operands, **dict(options))

    operation.__name__ = operation.__qualname__ = str(static[0]) if static else name
    return CompiledFunction(operation, identity=f"{module}:{name} {static!r} {options!r}")


def _has_kernel(recipe: Any, x: Any, seed: Any, scale: Any) -> bool:
    """True where a kernel can encode `x` by `recipe`; else the array functions do, or say what is wrong."""
    if namespace(x).dtype_name(x) not in ("float32", "bfloat16", "float16") or len(x.shape) == 0:
        return False
    known = scale if isinstance(scale, tuple | list) else () if scale is None else (scale,)
    if not all(s is None or (foreign(s) and namespace(s).dtype_name(s) != "uint8") for s in known) or not (
        seed is None or foreign(seed) or -(2**63) <= seed < 2**63
    ):
        return False  # codes of scales mean what they are only to the array functions
    stochastic = isinstance(recipe, Recipe) and recipe.policy.rounding == "stochastic"
    return _encodes(recipe, static=scale is not None) and stochastic == (seed is not None)


def _encodes(recipe: Any, *, static: bool = False) -> bool:
    """True where a kernel can encode by `recipe`, given scales or not: it cannot look at values and raise."""
    if not isinstance(recipe, Recipe) or recipe.policy.nonfinite == "error":
        return False
    return static or recipe.policy.amax == "current"


@lru_cache(maxsize=1024)
def _cast_program(name: str, token: int, axis: int, dtype: Any) -> CompiledFunction:
    """The compiled `cast` or `requantize` to the recipe that a token stands for: equal recipes may have other names."""
    recipe = of_token(token)

    def operation(x: Any, seed: Any, scale: Any) -> Any:
        if name == "requantize":
            return _call(_SCALED, name, x, recipe, axis)
        return _call(_SCALED, name, x, recipe, axis, dtype, seed, scale)

    operation.__name__ = operation.__qualname__ = name
    return CompiledFunction(operation, identity=f"{_SCALED}:{name} {astuple(recipe)!r} {axis} {dtype}")


def _run(module: str, name: str, operands: tuple[Any, ...], *static: Any, **options: Any) -> Any:
    return _program(module, name, static, tuple(options.items()))(*operands)


def apply_operation(module: str, name: str, operands: tuple[Any, ...], *static: Any, **options: Any) -> Any:
    """One operation, traced if an operand is, else run."""
    if traced(*operands):
        return _call(module, name, *static, *operands, **options)
    return _run(module, name, tuple(None if x is None else _plain(x, name) for x in operands), *static, **options)


def _unary(fn: str, x: Any) -> Any:
    return apply_operation(_ELEMENTWISE, "unary", (x,), fn)


def _binary(fn: str, a: Any, b: Any) -> Any:
    return apply_operation(_ELEMENTWISE, "binary", (a, b), fn)


def _plain(x: Any, what: str) -> Any:
    if isinstance(x, ScaledTensor):
        raise DTypeError(f"{what} takes plain arrays, and was given {x!r}; decode it with .dequantize() first")
    return _array(x)


def _array(x: Any) -> Any:
    """`x` as an array; a Python float alone is float32, and what belongs to another library raises."""
    if isinstance(x, np.ndarray) or foreign(x):
        return x
    if isinstance(x, bool | int | float) and not isinstance(x, np.generic):
        return np.asarray(x, np.float32 if isinstance(x, float) else None)
    namespace(x)
    return np.asarray(x)


def _operand(x: Any) -> Any:
    return x if isinstance(x, ScaledTensor) else _array(x)


def _narrowed(x: Any) -> Any:
    """float64 rounded to float32, which is what products are computed in."""
    if isinstance(x, ScaledTensor):
        return x
    if foreign(x):
        return namespace(x).as_float32(x) if namespace(x).dtype_name(x) == "float64" else x
    return x.astype(np.float32) if getattr(x, "_dtype", getattr(x, "dtype", None)) == np.float64 else x


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _dtype(dtype: Any) -> np.dtype[Any]:
    return numpy_dtype(dtype)


def _scaled(st: Any, what: str) -> ScaledTensor:
    if not isinstance(st, ScaledTensor):
        raise DTypeError(f"{what} takes a ScaledTensor, not {type(st).__name__}; make one with breccia.cast")
    return st
