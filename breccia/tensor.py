"""ScaledTensor: a block-scaled tensor as one frozen value, its arrays those of NumPy, PyTorch, JAX or MLX."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np

from breccia.arrays import CONTAINERS, Array, Primitives, library, namespace, primitives_of, transfer, whole
from breccia.errors import DTypeError, RecipeError, ShapeError, UnsupportedError
from breccia.layouts import BlockLayout, Layout, of_recipe
from breccia.numerics import Components, any_given, blocks, decode, pack, unpack
from breccia.numerics import dequantize as dequantize_components
from breccia.numerics import quantize as quantize_array
from breccia.numerics.fast import dequantize_storage
from breccia.numerics.given import Side, array_like, check_zero_point, given_levels, innermost_array, level_arrays
from breccia.numerics.storage import LOGICAL, Shape, element_storage, logical_dtype, storage_dtype
from breccia.recipes import Recipe, normalize_axis


class ScaledTensor:
    """A tensor of low-precision elements and the scales they are multiplied by.

    Invariants, checked on construction: `data` is canonical storage (row-major; 4-bit elements two a byte, low nibble
    first along the last axis; 6-bit elements four in three bytes; others one a byte); `scales` has one array for each
    level of `recipe`, outermost first, in the level's storage dtype and shape; `zero_point` and `offset` are there
    exactly if the recipe has them, in the innermost scales' shape; `layout` says the same blocks as `recipe`; all
    arrays belong to one library and lie on one device. Frozen. Offsets are 64-bit: more than 2**31 elements are fine.

    A pytree where PyTorch or JAX is loaded: its arrays are the leaves, all else is static.

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

    __slots__ = ("_layout", "data", "dtype", "offset", "recipe", "scales", "shape", "zero_point")

    data: Array
    scales: tuple[Array, ...]
    recipe: Recipe
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
        array_like(data, "data")
        if len(data.shape) < 1:
            raise ShapeError(f"data must be at least 1-D, got {len(data.shape)}-D; reshape it to (1,) first")
        xp = namespace(data)
        levels = given_levels(scale, scales, recipe)
        check_zero_point(zero_point, levels[-1], recipe)
        side = Side(xp, data)
        levels = tuple(None if a is None else side.array(a, "scales") for a in levels)
        storage, logical = element_storage(xp, data, recipe, xp.shape(levels[-1]), shape)
        self._fill(
            storage,
            level_arrays(xp, levels, recipe, logical, storage),
            recipe,
            innermost_array(side, zero_point, "zero_point", recipe.zero_point, recipe, logical),
            innermost_array(side, offset, "offset", recipe.offset, recipe, logical),
            logical,
            logical_dtype(dtype),
        )
        object.__setattr__(self, "_layout", _checked_layout(layout, recipe, logical, self.scales[-1]))

    def _fill(
        self, data: Array, scales: tuple[Array, ...], recipe: Recipe, zero_point: Any, offset: Any, shape: Shape,
        dtype: np.dtype[Any],
    ) -> None:  # fmt: skip
        put = object.__setattr__
        put(self, "data", data)
        put(self, "scales", scales)
        put(self, "recipe", recipe)
        put(self, "zero_point", zero_point)
        put(self, "offset", offset)
        put(self, "shape", shape)
        put(self, "dtype", dtype)
        put(self, "_layout", None)
        if len(_KNOWN_TO) < len(_TRANSFORMING) and len(sys.modules) != _loaded_modules:
            _make_known()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ScaledTensor is frozen: cannot set {name!r}; construct a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"ScaledTensor is frozen: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.data, self.scales, self.recipe, self.zero_point, self.offset, self.shape, self.dtype.name)
        return _rebuild, parts

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """How the innermost scales cover the elements, in 0.1's words."""
        if self._layout is None:
            object.__setattr__(self, "_layout", _own_layout(self.recipe, len(self.shape)))
        return cast(Layout, self._layout)

    @property
    def library(self) -> str:
        """The library whose arrays these are: "numpy", "torch", "jax" or "mlx"."""
        return library(self.data)

    @property
    def device(self) -> Any:
        """The device that the arrays lie on, as their library names it; None in NumPy."""
        return namespace(self.data).device(self.data)

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
        xp = namespace(self.data)
        return xp.nbytes(self.data) + sum(xp.nbytes(a) for a in self._side_arrays())

    @property
    def bits_per_value(self) -> float:
        """Bits of all components for each value, padding included: 4.5 for a large NVFP4 tensor."""
        return 8 * self.nbytes / self.size if self.size else 0.0

    @property
    def data_dtype(self) -> Any:
        """The dtype of element storage (0.1's name)."""
        return self.data.dtype

    @property
    def scale_dtype(self) -> Any:
        """The dtype of the innermost scales (0.1's name)."""
        return self.scale.dtype

    @whole
    def codes(self) -> Array:
        """Unpacked element codes: unsigned bit patterns in the logical shape."""
        element = self.recipe.element
        if element.bits > 8:
            return self.data
        if storage_dtype(element) == "int8":
            return namespace(self.data).bitcast(self.data, "uint8")
        return unpack(self.data, element, self.shape[-1])

    def components(self) -> Components:
        """The parts as `numerics` takes them."""
        return Components(self.codes(), self.scales, self.zero_point, self.offset)

    def __repr__(self) -> str:
        leaves = (self.data, *self._side_arrays())
        if not all(hasattr(a, "dtype") for a in leaves):  # a library's transformation put something else there
            return f"breccia.ScaledTensor(shape={self.shape}, recipe={self.recipe!r}, leaves={leaves!r})"
        xp = namespace(self.data)
        scales = ", ".join(f"{xp.dtype_name(s)}{list(xp.shape(s))}" for s in self.scales)
        where = "" if self.library == "numpy" else f"library={self.library}, device={self.device}, "
        return (
            f"breccia.ScaledTensor(shape={self.shape}, dtype={self.dtype}, recipe={self.recipe!r}, "
            f"layout={self.layout!r}, {where}data={xp.dtype_name(self.data)}{list(xp.shape(self.data))}, "
            f"scales=[{scales}], {self.bits_per_value:.4g} bits per value)"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        """True where both decode alike by type and hold the same bits, in whatever libraries; NaN equals the same NaN.

        Waits for the devices of both.
        """
        if not isinstance(other, ScaledTensor):
            return NotImplemented
        if self._key() != other._key():
            return False
        mine, theirs = self._arrays(), other._arrays()
        return len(mine) == len(theirs) and all(a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        xp = namespace(self.data)
        return hash((self._key(), *(zlib.crc32(xp.to_numpy(s).tobytes()) for s in self.scales)))

    def _key(self) -> tuple[Any, ...]:
        recipe = self.recipe
        kinds = tuple(level.dtype.name for level in recipe.levels)
        whole = tuple(level.block is None for level in recipe.levels)
        points = (recipe.zero_point, recipe.offset)
        return self.shape, self.dtype.name, recipe.element.name, kinds, whole, recipe.blocks(self.ndim), points

    def _arrays(self) -> list[Any]:
        xp = namespace(self.data)
        return [xp.to_numpy(a) for a in (self.codes(), *self._side_arrays())]

    # -- values --------------------------------------------------------------------------------------------------------

    @whole
    def dequantize(self, dtype: Any = None) -> Array:
        """The values, in `dtype` (this tensor's own if None): computed in float32, then rounded to nearest even.

        An array of this tensor's library, on its device.
        """
        target = self.dtype if dtype is None else logical_dtype(dtype)
        xp = namespace(self.data)
        values = None
        if isinstance(self.data, np.ndarray):
            values = dequantize_storage(self.data, self.shape, self.scales, self.recipe)
        if values is None:
            arrays, static = flatten(self)
            values = xp.fused(_values, static, arrays)
        return values if target.name == "float32" else xp.convert(values, target.name)

    def numpy(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The values as a NumPy array of this tensor's dtype."""
        values = self.dequantize()
        return namespace(values).to_numpy(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a ScaledTensor holds no array of values; np.asarray has to make one (copy=None)")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype)

    # -- another library or device -------------------------------------------------------------------------------------

    @whole
    def to(self, library: str | None = None, device: Any = None) -> ScaledTensor:
        """The same tensor in another library, or on another device; memory is shared where both libraries can.

        library: "numpy", "torch", "jax" or "mlx"; None for the present one. device: as that library names it, such as
        "cuda:0", a `torch.device` or a `jax.Device`; None for where the arrays lie, if the library reaches it.

        Raises DTypeError for an unknown library, UnsupportedError where it is not installed or has no such device.

        >>> from breccia import recipes
        >>> cast_array(np.ones((2, 64), np.float32), recipes.nvfp4).to("numpy").library
        'numpy'
        """
        name = self.library if library is None else library
        primitives_of(name)
        move = [None if a is None else transfer(a, name, device) for a in (self.zero_point, self.offset)]
        scales = tuple(transfer(s, name, device) for s in self.scales)
        data = transfer(self.data, name, device)
        return assembled(data, scales, self.recipe, move[0], move[1], self.shape, self.dtype)

    # -- same values, other shape --------------------------------------------------------------------------------------

    @property
    def T(self) -> ScaledTensor:
        """All axes reversed; blocks turn with them."""
        return self.transpose()

    @whole
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
        xp = namespace(self.data)
        return self._like(
            xp.transpose(self.codes(), order),
            [xp.transpose(a, order) if xp.shape(a) else a for a in self._side_arrays()],
            self.recipe.permuted(order),
        )

    @whole
    def __getitem__(self, key: Any) -> ScaledTensor:
        """A part on block borders: slices of step 1, `...`, and integers on axes whose blocks are one element wide.

        Raises BlockBorderError for a slice that cuts a block, naming the nearest borders; IndexError out of range.
        """
        cut = blocks.cut(key, self.shape, self.recipe)
        side = [
            blocks.cut_grid(a, cut, level) for a, level in zip(self._side_arrays(), self._side_levels(), strict=True)
        ]
        return self._like(self.codes()[cut.key], side, blocks.drop_axes(self.recipe, cut, self.ndim))

    @whole
    def reshape(self, *shape: Any) -> ScaledTensor:
        """Another shape with the same blocks: axes before the first blocked one may merge and split freely.

        Raises ShapeError where a block would change.
        """
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else tuple(shape)
        plan = blocks.reshape(self.shape, wanted, self.recipe)
        xp = namespace(self.data)
        side = [
            xp.reshape(a, plan.lead + xp.shape(a)[plan.kept_from :]) if xp.shape(a) else a for a in self._side_arrays()
        ]
        return self._like(xp.reshape(self.codes(), plan.shape), side, plan.recipe)

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


def assembled(
    data: Array, scales: tuple[Array, ...], recipe: Recipe, zero_point: Any, offset: Any, shape: Shape,
    dtype: np.dtype[Any],
) -> ScaledTensor:  # fmt: skip
    """A ScaledTensor of components known to fit together: canonical storage, nothing checked."""
    made = object.__new__(ScaledTensor)
    made._fill(data, scales, recipe, zero_point, offset, shape, dtype)  # pyright: ignore[reportPrivateUsage]
    return made


def _rebuild(
    data: Array, scales: tuple[Array, ...], recipe: Recipe, zero_point: Any, offset: Any, shape: Shape, dtype: str
) -> ScaledTensor:
    return ScaledTensor(data, None, recipe, None, zero_point, shape=shape, dtype=dtype, scales=scales, offset=offset)


# -- what libraries' transformations see -------------------------------------------------------------------------------

Static = tuple[Recipe, Shape, str, int, bool, bool]

_TRANSFORMING = ("torch", "jax")
_KNOWN_TO: set[str] = set()
_loaded_modules = 0
"""How many modules there were when this was looked at last."""


def _make_known() -> None:
    """Register ScaledTensor with the libraries that are loaded by now."""
    global _loaded_modules
    _loaded_modules = len(sys.modules)
    for name in _TRANSFORMING:
        if name not in _KNOWN_TO and sys.modules.get(name) is not None:
            _KNOWN_TO.add(name)
            with suppress(UnsupportedError):  # a library that cannot be imported transforms nothing
                for container in CONTAINERS:
                    primitives_of(name).register_container(*container)


def flatten(st: ScaledTensor) -> tuple[tuple[Any, ...], Static]:
    """(arrays, what is static) of a ScaledTensor: elements, scales outermost first, zero point, offset."""
    static = (
        st.recipe, st.shape, st.dtype.name, len(st.scales), st.zero_point is not None, st.offset is not None,
    )  # fmt: skip
    extra = tuple(a for a in (st.zero_point, st.offset) if a is not None)
    return (st.data, *st.scales, *extra), static


def unflatten(static: Static, arrays: Sequence[Any]) -> ScaledTensor:
    """The ScaledTensor of such parts. Transformations put all sorts of things in place of arrays: nothing is
    checked.
    """
    recipe, shape, dtype, levels, has_zero_point, has_offset = static
    rest = list(arrays)
    found = getattr(rest[0], "shape", ())
    if 0 < len(found) != len(shape):  # vmap and scan take a leading axis off all arrays, and put one back
        shape = (*found[:-1], shape[-1])
    data, scales, extra = rest[0], tuple(rest[1 : 1 + levels]), rest[1 + levels :]
    zero_point = extra.pop(0) if has_zero_point else None
    offset = extra.pop(0) if has_offset else None
    return assembled(data, scales, recipe, zero_point, offset, shape, LOGICAL[dtype])


CONTAINERS.append((ScaledTensor, flatten, unflatten))


def _values(static: Static, *arrays: Any) -> Array:
    st = unflatten(static, arrays)
    return dequantize_components(st.components(), st.recipe, st.shape)


# -- checks ------------------------------------------------------------------------------------------------------------


def _checked_recipe(recipe: object) -> Recipe:
    if recipe is None:
        raise RecipeError("recipe is required (see breccia.recipes)")
    if not isinstance(recipe, Recipe):
        raise DTypeError(
            f"unsupported recipe: {recipe if isinstance(recipe, type) else type(recipe).__name__}; give an instance, "
            "such as breccia.Float8CurrentScaling() or breccia.recipes.mxfp8_e4m3"
        )
    return recipe


def _own_layout(recipe: Recipe, rank: int) -> BlockLayout:
    own = getattr(recipe, "layout", None)
    return own if isinstance(own, BlockLayout) and rank >= 2 else of_recipe(recipe, rank)


def _checked_layout(layout: Layout | None, recipe: Recipe, shape: Shape, scale: Array) -> Layout:
    own = _own_layout(recipe, len(shape))
    if layout is None:
        return own
    if not isinstance(layout, BlockLayout):
        raise DTypeError(
            f"layout must be a breccia layout such as PerBlockK(128), or None, got {type(layout).__name__}"
        )
    if layout.scale_shape(shape) != tuple(scale.shape) or layout.block(len(shape)) != recipe.blocks(len(shape))[-1]:
        raise ShapeError(
            f"layout {layout!r} does not say the blocks of {recipe!r} on shape {shape}; use {own!r} or None"
        )
    return layout


def from_components(components: Components, recipe: Recipe, dtype: Any = "float32") -> ScaledTensor:
    """A ScaledTensor from what `numerics.quantize` returns: unpacked codes are packed."""
    codes = components.elements
    xp = namespace(codes)
    data = pack(codes, recipe.element, checked=True)
    kind = storage_dtype(recipe.element)
    if kind != "uint8":
        data = xp.bitcast(data, kind)
    return assembled(
        data, components.scales, recipe, components.zero_point, components.offset, xp.shape(codes),
        logical_dtype(dtype),
    )  # fmt: skip


@whole
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
    x: Any, recipe: Recipe, axis: int = -1, dtype: Any = None, seed: Any = None, scale: Any = None
) -> ScaledTensor:
    """Encode an array: the eager `cast`.

    x: array of rank 1 or more and any real dtype, of any library; the result is of that library, on that device.
    axis: where the recipe's last axis lies; it is recorded in the recipe of the result. dtype: logical dtype of the
    result; by default that of x if float16 or bfloat16, else float32. seed: for stochastic rounding, an integer, or an
    integer array of one entry. scale: known scales (static or delayed scaling): the innermost ones, or a tuple of all
    levels, outermost first, where None for the innermost has them computed, and None for another one stands for 1.

    Raises ShapeError for rank 0 or a bad axis, DTypeError for complex input or something that is no recipe, RecipeError
    where a static recipe gets no scale.

    >>> from breccia import recipes
    >>> cast_array(np.ones((256, 64), np.float32), recipes.mxfp8_e4m3, axis=0).scale.shape
    (8, 64)
    """
    recipe = _checked_recipe(recipe)
    xp = namespace(x)
    rank = len(xp.shape(x))
    if rank == 0:
        raise ShapeError(f"cannot cast an array of rank 0 to {recipe!r}; reshape it to (1,) first")
    recipe = recipe.along(axis, rank)
    if dtype is None:
        name = xp.dtype_name(x)
        name = name if name in ("float16", "bfloat16") else "float32"
    else:
        name = logical_dtype(dtype).name
    given = _given_scales(xp, x, scale, recipe)
    if recipe.policy.nonfinite == "error":  # which has to look at values
        return from_components(quantize_array(x, recipe, scales=given, seed=seed), recipe, name)
    words = () if seed is None else xp.seed_words(seed, x)
    static = recipe, name, len(words)
    return xp.fused(_cast, static, (x, *words, *(given or ())))


def _cast(static: tuple[Recipe, str, int], x: Array, *rest: Array) -> ScaledTensor:
    recipe, dtype, words = static
    made = quantize_array(x, recipe, scales=rest[words:] or None, seed=rest[:words] or None)
    return from_components(made, recipe, dtype)


def _given_scales(xp: Primitives, x: Any, scale: Any, recipe: Recipe) -> tuple[Array, ...] | None:
    if not any_given(scale, recipe):
        if recipe.policy.amax == "static":
            raise RecipeError(f"{recipe!r} has static scales: pass scale=<the scale to multiply by>")
        return None
    levels = scale if isinstance(scale, tuple) else (*(None for _ in recipe.levels[1:]), scale)
    if len(levels) != len(recipe.levels):
        raise RecipeError(f"{recipe!r} has {len(recipe.levels)} levels; got {len(levels)} arrays of scales")
    side = Side(xp, like := xp.as_float32(x))
    levels = levels[:-1] if levels[-1] is None else levels
    made = tuple(None if a is None else side.array(_number(a), "scales") for a in levels)
    arrays = level_arrays(xp, made, recipe, xp.shape(like), like)
    for level, array in zip(recipe.levels, arrays, strict=False):
        values = decode(array, level.dtype)
        if xp.surely_any(~((values > 0) & (values < float("inf")))):
            raise RecipeError(
                f"scales given for {recipe!r} must be positive and finite: elements are multiplied by them"
            )
    return arrays


def _number(given: Any) -> Any:
    return np.asarray(given, np.float32) if isinstance(given, int | float | list) else given


def requantize(st: ScaledTensor, recipe: Recipe, axis: int = -1, seed: Any = None) -> ScaledTensor:
    """The values of `st` encoded by another recipe; the logical dtype stays.

    >>> from breccia import recipes
    >>> requantize(cast_array([[1.0, 2.0]], recipes.mxfp8_e4m3), recipes.mxfp4).numpy().tolist()
    [[1.0, 2.0]]
    """
    return cast_array(st.dequantize("float32"), recipe, axis, st.dtype, seed)


@whole
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
    libraries = sorted({t.library for t in tensors})
    if len(libraries) > 1:
        raise DTypeError(f"concat needs tensors of one library, got {', '.join(libraries)}; move them with .to(...)")
    axis = normalize_axis(axis, first.ndim)
    blocks.check_concat([t.shape for t in tensors], [t.recipe for t in tensors], axis)
    sides = zip(*(t._side_arrays() for t in tensors), strict=True)  # pyright: ignore[reportPrivateUsage]
    levels = first._side_levels()  # pyright: ignore[reportPrivateUsage]
    joined = [
        blocks.join_grids(list(parts), level, first.ndim, axis, first.recipe)
        for parts, level in zip(sides, levels, strict=True)
    ]
    codes = namespace(first.data).concat([t.codes() for t in tensors], axis)
    return first._like(codes, joined, first.recipe)  # pyright: ignore[reportPrivateUsage]
