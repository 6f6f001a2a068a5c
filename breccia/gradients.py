"""Fake quantization with straight-through gradients: values as stored, gradients as if nothing were rounded."""

from __future__ import annotations

from typing import Any

from breccia import tensor
from breccia.arrays import Array, Primitives, foreign, namespace, whole
from breccia.errors import ShapeError
from breccia.frontend.keys import traced
from breccia.numerics.decode import element_range
from breccia.numerics.storage import storage_dtype
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@whole
def cast_ste(x: Any, recipe: Recipe, axis: int = -1, seed: Any = None) -> Any:
    """`x` encoded and decoded: fake quantization, in x's dtype (float32 for what is no float).

    x: array of rank 1 or more of any library. axis, seed: as in `cast`. The gradient is the identity (straight-through
    estimator, Bengio et al. 2013), of every order, forward and backward, wherever the library has gradients. NumPy has
    none.

    Raises what `cast` raises.

    >>> import numpy as np
    >>> from breccia import recipes
    >>> cast_ste(np.array([[1.0, 1.1]], np.float32), recipes.mxfp4).tolist()
    [[1.0, 1.0]]
    """
    if traced(x, seed):
        from breccia.frontend import scaled

        return scaled.round_trip(x, recipe, axis, seed)
    xp, x = _array(x)
    st = tensor.cast_array(xp.stop_gradient(x), recipe, axis, None, seed)
    return _through(xp, x, st)


@whole
def cast_ste_clipped(
    x: Any,
    recipe: Recipe,
    clip_min: float | None = None,
    clip_max: float | None = None,
    axis: int = -1,
    seed: Any = None,
) -> Any:
    """The values of `cast_ste`; the gradient is 0 where x was clipped, and the identity elsewhere.

    x was clipped where it lies beyond what its element can say with the stored scales of its block, and, where they are
    given, outside clip_min to clip_max. In a block with NaN the gradient is 0.

    Raises what `cast` raises, and ShapeError if clip_min is above clip_max.

    >>> import numpy as np
    >>> from breccia import recipes
    >>> cast_ste_clipped(np.array([[1.0, 1.1]], np.float32), recipes.mxfp4, -2, 2).tolist()
    [[1.0, 1.0]]
    """
    if clip_min is not None and clip_max is not None and clip_min > clip_max:
        raise ShapeError(f"cast_ste_clipped: clip_min {clip_min} is above clip_max {clip_max}")
    if traced(x, seed):
        from breccia.frontend import scaled

        return scaled.round_trip_clipped(x, recipe, clip_min, clip_max, axis, seed)
    xp, x = _array(x)
    still = xp.stop_gradient(x)
    st = tensor.cast_array(still, recipe, axis, None, seed)
    wide = xp.as_float32(still)
    low, high = (limit(st, code) for code in limit_codes(recipe))
    inside = (wide >= low) & (wide <= high)
    if clip_min is not None:
        inside = inside & (wide >= clip_min)
    if clip_max is not None:
        inside = inside & (wide <= clip_max)
    through = _through(xp, x, st)
    return xp.where(inside, through, xp.stop_gradient(through))


def limit_codes(recipe: Recipe) -> tuple[int, int]:
    """The codes of the smallest and of the largest finite element.

    >>> from breccia import recipes
    >>> limit_codes(recipes.mxfp8_e4m3)
    (254, 126)
    """
    values = [recipe.element.decode_code(code) for code in range(1 << recipe.element.bits)]
    smallest, largest = element_range(recipe.element)
    return values.index(smallest), values.index(largest)


def limit(st: ScaledTensor, code: int) -> Array:
    """What every element of `st` would decode to if its code were `code`: float32, in the tensor's shape."""
    xp = namespace(st.data)
    codes = xp.full(st.shape, code, "uint8", st.data)
    data = tensor.pack(codes, st.recipe.element)
    data = xp.bitcast(data, storage_dtype(st.recipe.element))
    whole = tensor.assembled(data, st.scales, st.recipe, st.zero_point, st.offset, st.shape, st.dtype)
    return whole.dequantize("float32")


def _through(xp: Primitives, x: Array, st: ScaledTensor) -> Array:
    value, name = st.dequantize("float32"), xp.dtype_name(x)
    if name not in _FLOATS:
        return value
    return xp.straight_through(x, value if name == "float32" else xp.convert(value, name))


def _array(x: Any) -> tuple[Primitives, Array]:
    import numpy as np

    xp = namespace(x)
    return xp, x if foreign(x) else np.asarray(x)
