"""ScaledTensor: a block-scaled tensor as one frozen value."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from breccia.errors import DTypeError, RecipeError, ShapeError
from breccia.layouts import BlockLayout, Layout, of_recipe
from breccia.numerics import Components, blocks, pack, unpack
from breccia.numerics import dequantize as dequantize_components
from breccia.numerics import quantize as quantize_array
from breccia.numerics.fast import dequantize_storage
from breccia.numerics.scale_rules import scale_shape
from breccia.numerics.storage import Array, Shape, element_storage, level_storage, storage_dtype
from breccia.recipes import Recipe, normalize_axis

_LOGICAL = ("float32", "bfloat16", "float16", "float64")


class ScaledTensor:
    """A tensor of low-precision elements and the scales they are multiplied by.

    Invariants, checked on construction: `data` is canonical storage (row-major; 4-bit elements two a byte, low nibble
    first along the last axis; 6-bit elements four in three bytes; others one a byte); `scales` has one array for each
    level of `recipe`, outermost first, in the level's storage dtype and shape; `zero_point` and `offset` are there
    exactly if the recipe has them, in the innermost scales' shape; `layout` says the same blocks as `recipe`.
    Frozen. Offsets are 64-bit: more than 2**31 elements are fine.

    data: element buffer: storage, or one code a byte, or an ml_dtypes array of the element format (a view of it).
    scale: innermost scales. recipe: how to decode. layout: 0.1's block descriptor, or None to take it from the recipe.
    shape: logical shape, needed where an odd last axis is packed. dtype: what `dequantize` gives (float32).
    scales: all levels, outermost first, instead of `scale`; outer levels left out are 1.

    Raises ShapeError, DTypeError, RecipeError or FormatError, each naming what is needed.

    >>> from breccia import recipes
    >>> codes = np.array([[0x71, 0x00]], np.uint8)
    >>> ScaledTensor(codes, np.array([[128]], np.uint8), recipes.mxfp4).numpy().tolist()
    [[1.0, 12.0, 0.0, 0.0]]
    """

    __slots__ = ("_frozen", "data", "dtype", "layout", "offset", "recipe", "scales", "shape", "zero_point")

    data: Array
    scales: tuple[Array, ...]
    recipe: Recipe
    layout: Layout
    zero_point: Array | None
    offset: Array | None
    shape: Shape
    dtype: np.dtype[Any]

    def __init__(
        self,
        data: Any,
        scale: Any = None,
        recipe: Recipe | None = None,
        layout: Layout | None = None,
        zero_point: Any = None,
        *,
        shape: Shape | None = None,
        dtype: Any = "float32",
        scales: Sequence[Any] | None = None,
        offset: Any = None,
    ) -> None:
        recipe = _checked_recipe(recipe)
        _array_like(data, "data")
        if data.ndim < 1:
            raise ShapeError(f"data must be at least 1-D, got {data.ndim}-D; reshape it to (1,) first")
        levels = _levels(scale, scales, recipe)
        _check_zero_point(zero_point, levels[-1], recipe)
        storage, logical = element_storage(data, recipe, levels[-1], shape)
        self._set("data", storage)
        self._set("shape", logical)
        self._set("recipe", recipe)
        self._set("dtype", logical_dtype(dtype))
        self._set("scales", _level_arrays(levels, recipe, logical))
        self._set("zero_point", _innermost_array(zero_point, "zero_point", recipe.zero_point, recipe, logical))
        self._set("offset", _innermost_array(offset, "offset", recipe.offset, recipe, logical))
        self._set("layout", _checked_layout(layout, recipe, logical, self.scales[-1]))
        self._set("_frozen", True)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ScaledTensor is frozen: cannot set {name!r}; construct a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ScaledTensor is frozen: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.data, self.scales, self.recipe, self.zero_point, self.offset, self.shape, self.dtype.name)
        return _rebuild, parts

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def scale(self) -> Array:
        """The innermost scales, as stored."""
        return self.scales[-1]

    @property
    def elements(self) -> Array:
        """The element storage: the same array as `data`."""
        return self.data

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values, as a Python integer."""
        total = 1
        for n in self.shape:
            total *= n
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of all components together."""
        extra = [a for a in (self.zero_point, self.offset) if a is not None]
        return int(self.data.nbytes) + sum(int(a.nbytes) for a in (*self.scales, *extra))

    @property
    def bits_per_value(self) -> float:
        """Bits of all components for each value, padding included: 4.5 for a large NVFP4 tensor."""
        return 8 * self.nbytes / self.size if self.size else 0.0

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """The dtype of element storage (0.1's name)."""
        return self.data.dtype

    @property
    def scale_dtype(self) -> np.dtype[Any]:
        """The dtype of the innermost scales (0.1's name)."""
        return self.scale.dtype

    def codes(self) -> Array:
        """Unpacked element codes: unsigned bit patterns in the logical shape."""
        if self.data.dtype == np.int8:
            return self.data.view(np.uint8)
        return self.data if self.recipe.element.bits > 8 else unpack(self.data, self.recipe.element, self.shape[-1])

    def components(self) -> Components:
        """The parts as `numerics` takes them."""
        return Components(self.codes(), self.scales, self.zero_point, self.offset)

    def __repr__(self) -> str:
        scales = ", ".join(f"{s.dtype}{list(s.shape)}" for s in self.scales)
        return (
            f"breccia.ScaledTensor(shape={self.shape}, dtype={self.dtype}, recipe={self.recipe!r}, "
            f"layout={self.layout!r}, data={self.data.dtype}{list(self.data.shape)}, scales=[{scales}], "
            f"{self.bits_per_value:.4g} bits per value)"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        """True where both decode alike by type and hold the same bits; bits, not values: NaN equals the same NaN."""
        if not isinstance(other, ScaledTensor):
            return NotImplemented
        if self._key() != other._key():
            return False
        mine, theirs = self._arrays(), other._arrays()
        return len(mine) == len(theirs) and all(a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        return hash((self._key(), *(zlib.crc32(s.tobytes()) for s in self.scales if s.size)))

    def _key(self) -> tuple[Any, ...]:
        recipe = self.recipe
        kinds = tuple(level.dtype.name for level in recipe.levels)
        whole = tuple(level.block is None for level in recipe.levels)
        points = (recipe.zero_point, recipe.offset)
        return self.shape, self.dtype.name, recipe.element.name, kinds, whole, recipe.blocks(self.ndim), points

    def _arrays(self) -> list[Array]:
        return [self.codes(), *self.scales, *(a for a in (self.zero_point, self.offset) if a is not None)]

    # -- values --------------------------------------------------------------------------------------------------------

    def dequantize(self, dtype: Any = None) -> Array:
        """The values, in `dtype` (this tensor's own if None): computed in float32, then rounded to nearest even."""
        target = self.dtype if dtype is None else logical_dtype(dtype)
        values = dequantize_storage(self.data, self.shape, self.scales, self.recipe)
        if values is None:
            values = dequantize_components(self.components(), self.recipe, self.shape)
        if target == np.float32:
            return values
        with np.errstate(all="ignore"):
            return values.astype(target)

    def numpy(self) -> Array:
        """The values as a NumPy array of this tensor's dtype."""
        return self.dequantize()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a ScaledTensor holds no array of values; np.asarray has to make one (copy=None)")
        values = self.dequantize()
        return values if dtype is None else values.astype(dtype)

    # -- same values, other shape --------------------------------------------------------------------------------------

    @property
    def T(self) -> ScaledTensor:
        """All axes reversed; blocks turn with them."""
        return self.transpose()

    def transpose(self, *axes: Any) -> ScaledTensor:
        """Axes permuted as in NumPy; the recipe's blocks turn with them, so values are the same.

        >>> st = cast_array(np.ones((4, 64), np.float32), __import__("breccia").recipes.mxfp8_e4m3)
        >>> st.T.shape, st.T.scale.shape
        ((64, 4), (2, 4))
        """
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
            axes = tuple(axes[0] or ())
        order = tuple(normalize_axis(a, self.ndim) for a in axes) or tuple(reversed(range(self.ndim)))
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError(f"transpose axes {axes} are no permutation of the {self.ndim} axes of shape {self.shape}")
        return self._like(
            self.codes().transpose(order),
            [a if a.ndim == 0 else a.transpose(order) for a in self._side_arrays()],
            self.recipe.permuted(order),
        )

    def __getitem__(self, key: Any) -> ScaledTensor:
        """A part on block borders: slices of step 1, `...`, and integers on axes whose blocks are one element wide.

        Raises BlockBorderError for a slice that cuts a block, naming the nearest borders; IndexError out of range.
        """
        cut = blocks.cut(key, self.shape, self.recipe)
        side = [
            blocks.cut_grid(a, cut, level) for a, level in zip(self._side_arrays(), self._side_levels(), strict=True)
        ]
        return self._like(self.codes()[cut.key], side, blocks.drop_axes(self.recipe, cut, self.ndim))

    def reshape(self, *shape: Any) -> ScaledTensor:
        """Another shape with the same blocks: axes before the first blocked one may merge and split freely.

        Raises ShapeError where a block would change.
        """
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else tuple(shape)
        plan = blocks.reshape(self.shape, wanted, self.recipe)
        side = [a if a.ndim == 0 else a.reshape(plan.lead + a.shape[plan.kept_from :]) for a in self._side_arrays()]
        return self._like(self.codes().reshape(plan.shape), side, plan.recipe)

    def concat(self, *others: ScaledTensor, axis: int = 0) -> ScaledTensor:
        """This tensor and others behind each other along `axis`; see `concat`."""
        return concat((self, *others), axis)

    def _side_arrays(self) -> list[Array]:
        """Scales of all levels, then zero point and offset where there are any."""
        return [*self.scales, *(a for a in (self.zero_point, self.offset) if a is not None)]

    def _side_levels(self) -> list[Any]:
        extra = [a for a in (self.zero_point, self.offset) if a is not None]
        return [*self.recipe.levels, *(self.recipe.innermost for _ in extra)]

    def _like(self, codes: Array, side: list[Array], recipe: Recipe) -> ScaledTensor:
        count = len(self.scales)
        rest = list(side[count:])
        zero_point = rest.pop(0) if self.zero_point is not None else None
        offset = rest.pop(0) if self.offset is not None else None
        return from_components(Components(codes, tuple(side[:count]), zero_point, offset), recipe, self.dtype)


def _rebuild(
    data: Array, scales: tuple[Array, ...], recipe: Recipe, zero_point: Any, offset: Any, shape: Shape, dtype: str
) -> ScaledTensor:
    return ScaledTensor(data, None, recipe, None, zero_point, shape=shape, dtype=dtype, scales=scales, offset=offset)


def _checked_recipe(recipe: object) -> Recipe:
    if recipe is None:
        raise RecipeError("recipe is required (see breccia.recipes)")
    if not isinstance(recipe, Recipe):
        raise DTypeError(
            f"unsupported recipe: {recipe if isinstance(recipe, type) else type(recipe).__name__}; give an instance, "
            "such as breccia.Float8CurrentScaling() or breccia.recipes.mxfp8_e4m3"
        )
    return recipe


def _array_like(x: object, what: str) -> None:
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise DTypeError(f"{what} must be array-like with .shape and .dtype, got {type(x).__name__}")


def _levels(scale: Any, scales: Sequence[Any] | None, recipe: Recipe) -> tuple[Any, ...]:
    if scales is not None:
        if scale is not None:
            raise RecipeError("give scale (the innermost level) or scales (all levels, outermost first), not both")
        if len(scales) != len(recipe.levels):
            raise RecipeError(f"{recipe!r} has {len(recipe.levels)} levels; got {len(scales)} arrays of scales")
        for array in scales:
            _array_like(array, "scales")
        return tuple(scales)
    _array_like(scale, "scale")
    return (*(None for _ in recipe.levels[1:]), scale)


def _level_arrays(levels: tuple[Any, ...], recipe: Recipe, shape: Shape) -> tuple[Array, ...]:
    arrays: list[Array] = []
    for i, (level, given) in enumerate(zip(recipe.levels, levels, strict=True)):
        what = "scale" if i == len(levels) - 1 else f"scales[{i}]"
        needed = scale_shape(level, shape)
        if given is None:
            given = _ones(level.dtype, needed)
        arrays.append(level_storage(given, level.dtype, needed, f"{what} of a {shape} tensor", recipe))
    return tuple(arrays)


def _ones(dtype: Any, shape: Shape) -> Array:
    if dtype.bits > 8:
        return np.ones(shape, np.dtype(dtype.name))
    return np.full(shape, dtype.bias << dtype.mantissa_bits if dtype.kind == "float" else 1, np.uint8)


def _check_zero_point(zero_point: Any, scale: Any, recipe: Recipe) -> None:
    if zero_point is None:
        return
    if not hasattr(zero_point, "shape"):
        raise DTypeError(f"zero_point must be array-like, got {type(zero_point).__name__}")
    if tuple(zero_point.shape) != tuple(scale.shape):
        raise ShapeError(
            f"zero_point.shape ({tuple(zero_point.shape)}) must match scale.shape ({tuple(scale.shape)}) for {recipe!r}"
        )


def _innermost_array(given: Any, what: str, kind: Any, recipe: Recipe, shape: Shape) -> Array | None:
    if (given is None) != (kind is None):
        need = f"needs a {what}" if kind is not None else f"has no {what}, but one was given"
        raise RecipeError(f"{recipe!r} ({recipe.describe()}) {need}; its shape is that of the scales")
    if kind is None:
        return None
    if what == "zero_point":
        given = _whole_zero_points(np.asarray(given), kind.dtype)
    return level_storage(given, kind.dtype, scale_shape(recipe.innermost, shape), f"{what} of a {shape} tensor", recipe)


def _whole_zero_points(given: Array, dtype: Any) -> Array:
    """0.1 stored zero points in the scales' float dtype; whole numbers in range are taken as codes."""
    if given.dtype.kind == "f" or given.dtype.name == "bfloat16":
        whole = given.astype(np.float64)
        if bool(np.all((whole == np.rint(whole)) & (whole >= dtype.min) & (whole <= dtype.max))):
            return whole.astype(np.int64).astype(np.uint8) & np.uint8((1 << dtype.bits) - 1)
    return given


def _checked_layout(layout: Layout | None, recipe: Recipe, shape: Shape, scale: Array) -> Layout:
    own = getattr(recipe, "layout", None)
    if not isinstance(own, BlockLayout) or len(shape) < 2:
        own = of_recipe(recipe, len(shape))
    if layout is None:
        return own
    if not isinstance(layout, BlockLayout):
        raise DTypeError(
            f"layout must be a breccia layout such as PerBlockK(128), or None, got {type(layout).__name__}"
        )
    if layout.scale_shape(shape) != scale.shape or layout.block(len(shape)) != recipe.blocks(len(shape))[-1]:
        raise ShapeError(
            f"layout {layout!r} does not say the blocks of {recipe!r} on shape {shape}; use {own!r} or None"
        )
    return layout


def logical_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of a logical dtype: float32, bfloat16, float16 or float64; DTypeError for any other.

    >>> logical_dtype("bfloat16").itemsize
    2
    """
    try:
        found = np.dtype(ml_dtypes.bfloat16) if str(dtype) == "bfloat16" else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in _LOGICAL:
        raise DTypeError(f"{dtype!r} cannot be the dtype of decoded values; allowed: {', '.join(_LOGICAL)}")
    return found


def from_components(components: Components, recipe: Recipe, dtype: Any = "float32") -> ScaledTensor:
    """A ScaledTensor from what `numerics.quantize` returns: unpacked codes are packed."""
    codes = np.asarray(components.elements)
    if recipe.element.bits in (4, 6):
        data = pack(codes, recipe.element)
    else:
        data = codes.view(storage_dtype(recipe.element))
    return ScaledTensor(
        data, None, recipe, None, components.zero_point,
        shape=codes.shape, dtype=dtype, scales=components.scales, offset=components.offset,
    )  # fmt: skip


def from_buffer(
    data: Any, scale: Any, recipe: Recipe, layout: Layout | None = None, zero_point: Any = None, **extra: Any
) -> ScaledTensor:
    """The ScaledTensor of existing buffers, without copying where storage is canonical; the constructor under 0.1's
    name.

    >>> from breccia import Float8CurrentScaling
    >>> from_buffer(np.array([[56]], np.uint8), np.float32(2), Float8CurrentScaling()).numpy().tolist()
    [[2.0]]
    """
    return ScaledTensor(data, scale, recipe, layout, zero_point, **extra)


def cast_array(
    x: Any, recipe: Recipe, axis: int = -1, dtype: Any = None, seed: int | None = None, scale: Any = None
) -> ScaledTensor:
    """Encode an array: the eager `cast`.

    x: array of rank 1 or more and any real dtype. axis: where the recipe's last axis lies; it is recorded in the
    recipe of the result. dtype: logical dtype of the result; by default that of x if float16 or bfloat16, else float32.
    seed: for stochastic rounding. scale: known scales (static or delayed scaling): the innermost ones, or a tuple of
    all levels, outermost first.

    Raises ShapeError for rank 0 or a bad axis, DTypeError for complex input or something that is no recipe, RecipeError
    where a static recipe gets no scale.

    >>> from breccia import recipes
    >>> cast_array(np.ones((256, 64), np.float32), recipes.mxfp8_e4m3, axis=0).scale.shape
    (8, 64)
    """
    recipe = _checked_recipe(recipe)
    from breccia.arrays import namespace

    xp = namespace(x)
    rank = len(xp.shape(x))
    if rank == 0:
        raise ShapeError(f"cannot cast an array of rank 0 to {recipe!r}; reshape it to (1,) first")
    recipe = recipe.along(axis, rank)
    if dtype is None:
        name = xp.dtype_name(x)
        dtype = name if name in ("float16", "bfloat16") else "float32"
    given = _given_scales(scale, recipe, tuple(xp.shape(x)))
    return from_components(quantize_array(x, recipe, scales=given, seed=seed), recipe, dtype)


def _given_scales(scale: Any, recipe: Recipe, shape: Shape) -> tuple[Array, ...] | None:
    if scale is None:
        if recipe.policy.amax == "static":
            raise RecipeError(f"{recipe!r} has static scales: pass scale=<the scale to multiply by>")
        return None
    levels = scale if isinstance(scale, tuple) else (*(None for _ in recipe.levels[1:]), scale)
    if len(levels) != len(recipe.levels):
        raise RecipeError(f"{recipe!r} has {len(recipe.levels)} levels; got {len(levels)} arrays of scales")
    arrays = _level_arrays(tuple(None if a is None else np.asarray(a) for a in levels), recipe, shape)
    for level, array in zip(recipe.levels, arrays, strict=True):
        from breccia.numerics import decode

        values = decode(array, level.dtype)
        if bool(np.any(~(values > 0))) or bool(np.any(np.isinf(values))):
            raise RecipeError(
                f"scales given for {recipe!r} must be positive and finite; a scale is what elements are multiplied by"
            )
    return arrays


def requantize(st: ScaledTensor, recipe: Recipe, axis: int = -1, seed: int | None = None) -> ScaledTensor:
    """The values of `st` encoded by another recipe; the logical dtype stays.

    >>> from breccia import recipes
    >>> requantize(cast_array([[1.0, 2.0]], recipes.mxfp8_e4m3), recipes.mxfp4).numpy().tolist()
    [[1.0, 2.0]]
    """
    return cast_array(st.dequantize("float32"), recipe, axis, st.dtype, seed)


def concat(tensors: Sequence[ScaledTensor], axis: int = 0) -> ScaledTensor:
    """Tensors behind each other along `axis`, without decoding.

    Legal where no block is joined across a border: every part but the last ends on a block border of the axis, or,
    where a scale spans the axis, all parts have the same scale. Raises BlockBorderError, ShapeError or RecipeError
    otherwise.

    >>> from breccia import recipes
    >>> st = cast_array([[1.0, 2.0]], recipes.mxfp4)
    >>> concat([st, st]).shape
    (2, 2)
    """
    if not tensors:
        raise ShapeError("concat needs at least one tensor")
    first = tensors[0]
    axis = normalize_axis(axis, first.ndim)
    blocks.check_concat([t.shape for t in tensors], [t.recipe for t in tensors], axis)
    sides = zip(*(t._side_arrays() for t in tensors), strict=True)  # pyright: ignore[reportPrivateUsage]
    levels = first._side_levels()  # pyright: ignore[reportPrivateUsage]
    joined = [
        blocks.join_grids(list(parts), level, first.ndim, axis, first.recipe)
        for parts, level in zip(sides, levels, strict=True)
    ]
    codes = np.concatenate([t.codes() for t in tensors], axis=axis)
    return first._like(codes, joined, first.recipe)  # pyright: ignore[reportPrivateUsage]
