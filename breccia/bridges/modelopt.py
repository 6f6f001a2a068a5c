"""NVIDIA ModelOpt: the tensors of one weight in a checkpoint that it exported.

theirs -> ours: weight_scale multiplies, weight_scale_2 (NVFP4) is the outer scale and multiplies too. FP4 has two codes
a byte, low nibble first; scales are row-major, in the order of our blocks; E8M0 ones are uint8. Axes are ours. Scales
of rows come as (out,).

Source: modelopt 0.47, torch/export/quant_utils.py and torch/quantization/qtensor.
"""

from __future__ import annotations

from typing import Any

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._common import (
    Parts,
    Shape,
    Tensors,
    as_bytes,
    cannot_hold,
    entries,
    float_format,
    level_dtypes,
    native_view,
    recipe_of,
    requantize_to,
    same_blocks,
)
from breccia.errors import FormatError, UnsupportedError
from breccia.recipes import Block, grid_shape
from breccia.tensor import ScaledTensor

PEER = "ModelOpt"
_IGNORED = ("bias", "input_scale", "k_scale", "v_scale", "output_scale")
_E8M0, _E4M3, _FP4 = formats.float8_e8m0fnu, formats.float8_e4m3fn, formats.float4_e2m1fn


def from_modelopt(tensors: Tensors, *, block_size: int = 128, dtype: Any = "bfloat16") -> ScaledTensor:
    """The weight of its tensors; element buffers are kept.

    tensors: `weight` and `weight_scale`, and of NVFP4 `weight_scale_2`, by the last part of their names. What they are
    follows from their dtypes: uint8 weights with E4M3 scales are NVFP4, with uint8 scales MXFP4; E4M3 weights with
    uint8 scales are MXFP8, with float ones FP8 per tensor, row or block of `block_size` x `block_size`; int8 weights
    with float scales INT8 per row. dtype: logical dtype of the values.

    Raises FormatError for tensors that are missing, unknown (such as `pre_quant_scale`, which would have to be applied
    to the activations) or do not fit; UnsupportedError for INT4 as ModelOpt packs it.

    >>> import numpy as np
    >>> tensors = {"weight": np.full((2, 16), 0x22, np.uint8), "weight_scale": np.full((2, 1), 128, np.uint8)}
    >>> st = from_modelopt(tensors)
    >>> st.recipe, st.shape, float(st.numpy()[0, 0])
    (<recipe mxfp4>, (2, 32), 2.0)
    """
    parts = Parts(PEER, tensors, _IGNORED)
    data, scale = parts.take("weight"), parts.take("weight_scale")
    xp = namespace(data)
    outer = parts.maybe("weight_scale_2")
    parts.done()
    kind, scales = xp.dtype_name(data), namespace(scale).dtype_name(scale)
    codes = scales in ("uint8", "float8_e8m0fnu")
    if kind == "uint8" and scales == "float8_e4m3fn":
        return _nvfp4(data, scale, outer, dtype)
    if outer is not None:
        raise FormatError(f"{PEER}: weight_scale_2 belongs to NVFP4; weight is {kind}, weight_scale {scales}")
    if kind == "uint8" and codes:
        shape = (*xp.shape(data)[:-1], 2 * xp.shape(data)[-1])
        recipe = recipe_of(_FP4, (_E8M0, (1, 32)))
        return ScaledTensor(data, as_bytes(scale, "weight_scale", "float8_e8m0fnu"), recipe, shape=shape, dtype=dtype)
    if kind in ("float8_e4m3fn", "float8_e5m2") and codes:
        recipe = recipe_of(float_format(data, "weight"), (_E8M0, (1, 32)))
        return ScaledTensor(data, as_bytes(scale, "weight_scale", "float8_e8m0fnu"), recipe, dtype=dtype)
    if kind in ("float8_e4m3fn", "float8_e5m2", "int8"):
        element = formats.int8 if kind == "int8" else float_format(data, "weight")
        block, grid = _block(xp.shape(data), namespace(scale).shape(scale), block_size)
        recipe = recipe_of(element, (float_format(scale, "weight_scale"), block))
        return ScaledTensor(data, namespace(scale).reshape(scale, grid), recipe, dtype=dtype)
    raise UnsupportedError(
        f"{PEER}: a weight of {kind} with scales of {scales} cannot be read; readable: NVFP4, MXFP4, MXFP8, FP8 per "
        "tensor, row and block, and INT8 per row. Export INT4 as GPTQ or AWQ, or to compressed-tensors"
    )


def to_modelopt(st: ScaledTensor) -> dict[str, Array]:
    """The tensors of a weight of a recipe that `from_modelopt` reads; no bit changes.

    Raises UnsupportedError for other tensors and partial blocks, saying how to go on.

    >>> import numpy as np
    >>> from breccia import cast, recipes
    >>> sorted(to_modelopt(cast(np.ones((2, 32), np.float32), recipes.nvfp4)))
    ['weight', 'weight_scale', 'weight_scale_2']
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    plain = st.recipe.offset is None and st.recipe.zero_point is None and st.ndim >= 2
    data = native_view(st.data, element)
    if plain and element == _FP4 and dtypes == (formats.float32, _E4M3) and _rows_of(st, None, 16):
        return {"weight": data, "weight_scale": native_view(st.scale, _E4M3), "weight_scale_2": st.scales[0]}
    if plain and dtypes == (_E8M0,) and element in (_FP4, _E4M3) and _rows_of(st, 32):
        return {"weight": data, "weight_scale": st.scale}
    if plain and len(dtypes) == 1 and dtypes[0].bits > 8 and element in (_E4M3, formats.int8):
        whole = st.recipe.innermost.block is None
        row = same_blocks(st, (1, None)) and st.ndim == 2
        square = same_blocks(st, (128, 128)) and element == _E4M3
        if (whole and element == _E4M3) or row or square:
            scale = namespace(st.scale).reshape(st.scale, (st.shape[0],)) if row and not whole else st.scale
            return {"weight": data, "weight_scale": scale}
    raise cannot_hold(
        PEER, st, "NVFP4, MXFP4 and MXFP8 with whole blocks along the last axis, FP8 per tensor, row or 128x128, and "
        "INT8 per row", requantize_to("nvfp4"),
    )  # fmt: skip


def _nvfp4(data: Array, scale: Array, outer: Array | None, dtype: Any) -> ScaledTensor:
    """NVFP4, with one outer scale, or one for each expert."""
    if outer is None:
        raise FormatError(f"{PEER}: NVFP4 needs weight_scale_2, the scale of the tensor; without it values are far off")
    xp = namespace(data)
    shape = (*xp.shape(data)[:-1], 2 * xp.shape(data)[-1])
    found = namespace(outer).shape(outer)
    block: Block | None = None
    if entries(found) != 1:
        block = (1, None, None)
        if len(shape) != 3 or entries(found) != shape[0]:
            raise FormatError(f"{PEER}: weight_scale_2 of a {shape} weight must be one number, or one for each expert")
    grid = () if block is None else (shape[0], 1, 1)
    recipe = recipe_of(_FP4, (formats.float32, block), (_E4M3, (1, 16)))
    scales = namespace(outer).reshape(outer, grid), as_bytes(scale, "weight_scale", "float8_e4m3fn")
    return ScaledTensor(data, recipe=recipe, shape=shape, scales=scales, dtype=dtype)


def _block(shape: Shape, found: Shape, size: int) -> tuple[Block | None, Shape]:
    """(block, shape of the scales) from the shape that the scales came in; axes of 1 between blocks are dropped."""
    if entries(found) == 1:
        return None, ()
    if len(shape) < 2:
        raise FormatError(f"{PEER}: a weight has at least two axes, got shape {shape}")
    rows = (*shape[:-1], 1)
    if found in (shape[:-1], rows):
        return (1, None), rows
    square = grid_shape(shape, (1,) * (len(shape) - 2) + (size, size))
    if tuple(n for n in found if n != 1) == tuple(n for n in square if n != 1):
        return (size, size), square
    raise FormatError(
        f"{PEER}: weight_scale of a {shape} weight must be one number, {shape[:-1]} (rows) or {square} (blocks of "
        f"{size}x{size}), got {found}"
    )


def _rows_of(st: ScaledTensor, *sizes: int | None) -> bool:
    blocks = [None if size is None else (1, size) for size in sizes]
    return same_blocks(st, *blocks) and st.shape[-1] % (sizes[-1] or 1) == 0
