"""DeepSeek-V3 and V3.1 weights and activations: FP8 with a scale for each 128x128, or for each 1x128.

theirs -> ours: `weight_scale_inv` is what elements are multiplied by, whatever its name says: the scale, unchanged.
Codes are one a byte, row-major, (out, in). Scales are row-major with ceil(out / 128) x ceil(in / 128) entries (weights)
or rows x ceil(in / 128) (activations); the last block of an axis may be partial. V3.1 ("ue8m0") has scales that are
powers of two: as float32, or as E8M0.

Source: DeepSeek-V3 9b4e978, README_WEIGHTS.md and inference/kernel.py.
"""

from __future__ import annotations

from typing import Any

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._common import (
    cannot_hold,
    level_dtypes,
    native_view,
    power_of_two_codes,
    recipe_of,
    requantize_to,
    same_blocks,
)  # fmt: skip
from breccia.errors import DTypeError, RecipeError, ShapeError
from breccia.numerics import decode
from breccia.recipes import Block, Recipe, grid_shape
from breccia.scaling import Float8BlockScaling
from breccia.tensor import ScaledTensor

_ELEMENTS = {"E4M3": formats.float8_e4m3fn, "E5M2": formats.float8_e5m2}
_SCALES = {"float32": formats.float32, "float8_e8m0fnu": formats.float8_e8m0fnu, "uint8": formats.float8_e8m0fnu}


def from_deepseek_v3(
    data: Array, scale: Array, *, block_k: int = 128, fp8_format: str = "E4M3", ue8m0: bool = False,
    dtype: Any = "float32",
) -> ScaledTensor:  # fmt: skip
    """The weight, or the activations, of DeepSeek-V3's tensors; the buffers are kept.

    data: (..., M, K) of float8, or of uint8 codes. scale: `weight_scale_inv` of float32, or of E8M0 (its own dtype, or
    uint8 codes), for blocks of `block_k` x `block_k` or of 1 x `block_k`; its shape says which. ue8m0: store float32
    scales as E8M0, which they must be powers of two for (V3.1). dtype: logical dtype of the values.

    Raises ShapeError or DTypeError for scales that fit neither, FormatError for ones that are no powers of two.

    >>> import numpy as np
    >>> st = from_deepseek_v3(np.full((192, 576), 56, np.uint8), np.full((2, 5), 0.5, np.float32))
    >>> st.recipe, st.shape, float(st.numpy()[191, 575])
    (<recipe float8_128x128>, (192, 576), 0.5)
    """
    if fp8_format not in _ELEMENTS:
        raise RecipeError(f"fp8_format must be 'E4M3' or 'E5M2', got {fp8_format!r}")
    xp = namespace(data)
    shape, found = xp.shape(data), xp.shape(scale)
    kind = xp.dtype_name(scale)
    if len(shape) < 2:
        raise ShapeError(f"DeepSeek-V3's weights are matrices; got data of shape {shape}")
    if kind not in _SCALES:
        raise DTypeError(f"weight_scale_inv must be float32 or E8M0 (uint8 codes), got {kind}")
    block = _block(shape, found, block_k)
    level = _SCALES[kind]
    if ue8m0 and level == formats.float32:
        scale, level = power_of_two_codes(scale, "weight_scale_inv"), formats.float8_e8m0fnu
    recipe: Recipe = recipe_of(_ELEMENTS[fp8_format], (level, block))
    if block == (1, block_k) and level == formats.float32:
        recipe = Float8BlockScaling(fp8_format, block_k)  # type: ignore[arg-type] # what 0.1 gives
    return ScaledTensor(data, scale, recipe, dtype=dtype)


def to_deepseek_v3(st: ScaledTensor, *, scale_dtype: str | None = None) -> tuple[Array, Array]:
    """(weight, weight_scale_inv) of a tensor with one float32 or E8M0 scale for each 128x128 or 1xN; no bit changes.

    scale_dtype: "float32" gives E8M0 scales as float32, as V3.1 stores them; None keeps their dtype. Elements and E8M0
    scales have their library's own dtype where it has one, else uint8.

    Raises UnsupportedError for any other recipe, saying how to go on.

    >>> from breccia import cast, recipes
    >>> import numpy as np
    >>> weight, scale = to_deepseek_v3(cast(np.ones((192, 576)), recipes.float8_128x128))
    >>> weight.dtype, scale.shape
    (dtype(float8_e4m3fn), (2, 5))
    """
    holds = "float8_e4m3fn or float8_e5m2 with one level of float32 or E8M0 scales per 128x128 or 1x128"
    block = st.recipe.blocks(st.ndim)[-1]
    fits = (
        st.recipe.element in _ELEMENTS.values() and st.recipe.offset is None and len(st.scales) == 1 and st.ndim >= 2
        and level_dtypes(st)[0] in _SCALES.values()
        and (same_blocks(st, (128, 128)) or (block[-1] is not None and same_blocks(st, (1, block[-1]))))
    )  # fmt: skip
    if not fits:
        raise cannot_hold("DeepSeek-V3", st, holds, requantize_to("float8_128x128"))
    if scale_dtype not in (None, "float32"):
        raise DTypeError(f"scale_dtype must be None or 'float32', got {scale_dtype!r}")
    level, scale = st.recipe.innermost.dtype, st.scale
    made = decode(scale, level) if scale_dtype == "float32" and level.bits == 8 else native_view(scale, level)
    return native_view(st.data, st.recipe.element), made


def _block(shape: tuple[int, ...], found: tuple[int, ...], block_k: int) -> Block:
    if isinstance(block_k, bool) or not isinstance(block_k, int) or block_k < 1:
        raise RecipeError(f"block_k must be an integer of at least 1, got {block_k!r}")
    square, row = (block_k, block_k), (1, block_k)
    wanted = {block: grid_shape(shape, (1,) * (len(shape) - 2) + block) for block in (square, row)}
    for block, grid in wanted.items():
        if found == grid:
            return block
    raise ShapeError(
        f"weight_scale_inv of a {shape} tensor must have shape {wanted[square]} (blocks of {block_k}x{block_k}) or "
        f"{wanted[row]} (1x{block_k}), got {found}"
    )
