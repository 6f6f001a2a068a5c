"""TransformerEngine 2.x: Float8Tensor, Float8BlockwiseQTensor, MXFP8Tensor and NVFP4Tensor, by their attributes.

theirs -> ours: `_scale_inv`, `_rowwise_scale_inv`, `_columnwise_scale_inv` multiply. Scales are padded: MXFP8 and NVFP4
to 128 x 4, and in 128x4 order where `_with_gemm_swizzled_scales`; FP8 blocks to a multiple of 4 columns, and those of
1x128 are turned: (in / 128, rows). Columnwise data are turned, but for MXFP8's; their blocks run along the first axis.
NVFP4 has two codes a byte, low nibble first, and keeps amax in place of the outer scale, which is
amax * (1 / (6 * 448)), rounded to float32: TE's own kernel multiplies amax by the inner scale first, so that its values
may differ by an ulp.

Source: TransformerEngine d0067d0, pytorch/tensor/*.py and storage/*.py, common/cast/nvfp4/dequantize_nvfp4.cuh.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._common import (
    cannot_hold,
    check_shape,
    entries,
    expected,
    given_back,
    host,
    level_dtypes,
    recipe_of,
    requantize_to,
    same_blocks,
    unpadded,
)
from breccia.errors import FormatError, UnsupportedError
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

PEER = "TransformerEngine"
_ELEMENTS = {
    "kFloat8E4M3": formats.float8_e4m3fn, "kFloat8E5M2": formats.float8_e5m2, "kFloat4E2M1": formats.float4_e2m1fn,
}  # fmt: skip
_E8M0, _E4M3 = formats.float8_e8m0fnu, formats.float8_e4m3fn


def from_transformer_engine(te_tensor: Any, recipe: Recipe | None = None, *, columnwise: bool = False) -> ScaledTensor:
    """The ScaledTensor of one of TransformerEngine's tensors; element buffers are shared where their order is ours.

    recipe: what it should be, or None. columnwise: take the copy whose blocks run along the first axis; it is taken
    anyway where it is the only one. Leading axes of a columnwise copy are joined: it is a matrix.

    Raises UnsupportedError for another class, or a copy that was rotated (RHT); FormatError where parts do not fit.
    """
    for cls in type(te_tensor).__mro__:
        reader = _READERS.get(cls.__name__.removesuffix("Storage").removesuffix("Base"))
        if reader is not None:
            return expected(reader(te_tensor, columnwise), recipe, PEER)
    raise UnsupportedError(
        f"{PEER}: cannot read a {type(te_tensor).__module__}.{type(te_tensor).__name__}; readable: "
        f"{', '.join(_READERS)}. Hybrid and grouped tensors: read their parts"
    )


def to_transformer_engine(scaled: ScaledTensor) -> Any:
    """TransformerEngine's tensor of the same bits, on the device of `scaled`.

    Float8Tensor: FP8 with one float32 scale. Float8BlockwiseQTensor: FP8 with float32 scales per 1x128 or 128x128.
    MXFP8Tensor: MXFP8. NVFP4Tensor: NVFP4. Blocks along the first axis of a matrix become the columnwise copy.

    Raises UnsupportedError for other recipes, or where TransformerEngine is not installed (it needs CUDA to build).
    """
    if scaled.recipe.offset is not None or scaled.recipe.zero_point is not None:
        raise _refused(scaled)
    kind, arguments = _arguments(scaled if scaled.library == "torch" else scaled.to("torch"))
    module = {
        "Float8Tensor": "float8_tensor", "Float8BlockwiseQTensor": "float8_blockwise_tensor",
        "MXFP8Tensor": "mxfp8_tensor", "NVFP4Tensor": "nvfp4_tensor",
    }[kind]  # fmt: skip
    try:
        cls = getattr(import_module(f"transformer_engine.pytorch.tensor.{module}"), kind)
        dtypes = import_module("transformer_engine_torch").DType
    except ImportError as error:
        raise UnsupportedError(
            f"{PEER} is not installed ({error}); it needs Linux and CUDA: "
            "pip install --no-build-isolation transformer_engine[pytorch]"
        ) from error
    code = "fp4_dtype" if kind == "NVFP4Tensor" else "fp8_dtype"
    names = {fmt: name for name, fmt in _ELEMENTS.items()}
    return cls(**arguments, **{code: getattr(dtypes, names[scaled.recipe.element])}, quantizer=None)


# -- reading -----------------------------------------------------------------------------------------------------------


def _float8(t: Any, columnwise: bool) -> ScaledTensor:
    recipe = recipe_of(_element(t._fp8_dtype), (formats.float32, None))
    scale = t._scale_inv.reshape(-1)
    check_shape(tuple(scale.shape), (1,), "_scale_inv", PEER)
    data = t._data
    if data is None or (columnwise and t._transpose is not None):
        if t._transpose is None or t._transpose_invalid:
            raise FormatError(f"{PEER}: this Float8Tensor has neither _data nor a valid _transpose")
        return ScaledTensor(t._transpose, scale.reshape(()), recipe, dtype=_dtype(t)).transpose(
            *range(1, t._transpose.ndim), 0
        )
    return ScaledTensor(data, scale.reshape(()), recipe, dtype=_dtype(t))


def _mxfp8(t: Any, columnwise: bool) -> ScaledTensor:
    data, scale, columnwise = _copy(t, columnwise)
    element, swizzled = _element(t._fp8_dtype), bool(getattr(t, "_with_gemm_swizzled_scales", False))
    shape = tuple(data.shape)
    rows, columns = entries(shape[:-1]), shape[-1]
    if columnwise:
        recipe = recipe_of(element, (_E8M0, (32, 1)))
        grid = (-(-rows // 32), columns)
        if swizzled:  # the order is that of the turned scales
            made = unpadded(scale, grid[::-1], True, "_columnwise_scale_inv", PEER).T
            return ScaledTensor(data.reshape(rows, columns), made.contiguous(), recipe, dtype=_dtype(t))
        made = unpadded(scale, grid, False, "_columnwise_scale_inv", PEER)
        return ScaledTensor(data.reshape(rows, columns), made, recipe, dtype=_dtype(t))
    grid = (rows, -(-columns // 32))
    made = unpadded(scale, grid, swizzled, "_rowwise_scale_inv", PEER).reshape(*shape[:-1], grid[1])
    return ScaledTensor(data, made, recipe_of(element, (_E8M0, (1, 32))), dtype=_dtype(t))


def _nvfp4(t: Any, columnwise: bool) -> ScaledTensor:
    data, scale, columnwise = _copy(t, columnwise)
    amax = t._amax_columnwise if columnwise else t._amax_rowwise
    if columnwise and getattr(t._quantizer, "with_rht", False):
        raise UnsupportedError(
            f"{PEER}: the columnwise copy of this NVFP4Tensor holds rotated values (random Hadamard transform), not "
            "those of the tensor; read the rowwise copy"
        )
    if amax is None:
        raise FormatError(f"{PEER}: this NVFP4Tensor has no amax for its {'column' if columnwise else 'row'}wise copy")
    shape = (*data.shape[:-1], 2 * data.shape[-1])
    if columnwise and len(shape) != 2:
        raise UnsupportedError(f"{PEER}: the columnwise copy of an NVFP4Tensor of rank {len(shape)} cannot be read")
    rows, grid = entries(shape[:-1]), -(-shape[-1] // 16)
    made = unpadded(scale, (rows, grid), bool(getattr(t, "_with_gemm_swizzled_scales", False)), "scale_inv", PEER)
    by_row = bool(getattr(t, "_row_scaled_nvfp4", False))
    outer = given_back(_outer(host(amax), int(getattr(t, "_nvfp4_e4m3_max", 448))), amax)
    outer = outer.reshape((*shape[:-1], 1) if by_row else ())
    recipe = recipe_of(formats.float4_e2m1fn, (formats.float32, (1, None) if by_row else None), (_E4M3, (1, 16)))
    st = ScaledTensor(
        data, recipe=recipe, shape=shape, scales=(outer, made.reshape(*shape[:-1], grid)), dtype=_dtype(t)
    )
    return st.T if columnwise else st


def _blockwise(t: Any, columnwise: bool) -> ScaledTensor:
    data, scale, columnwise = _copy(t, columnwise)
    element, shape = _element(t._fp8_dtype), tuple(data.shape)
    if columnwise:
        data = data.reshape(shape[0], -1)
        shape = tuple(data.shape)
    rows, blocks = entries(shape[:-1]), -(-shape[-1] // 128)
    if t._is_2D_scaled:
        *lead, last = shape[:-1]
        if lead and last % 128:
            raise UnsupportedError(
                f"{PEER}: blocks of 128x128 cross the borders of the leading axes of shape {shape}; view it as a matrix"
            )
        made = unpadded(scale, (-(-rows // 128), blocks), False, "scale_inv", PEER)
        made = made.reshape(*lead, -(-last // 128), blocks)
        st = ScaledTensor(data, made, recipe_of(element, (formats.float32, (128, 128))), dtype=_dtype(t))
    else:
        made = unpadded(scale, (blocks, rows), False, "scale_inv", PEER).T.reshape(*shape[:-1], blocks)
        st = ScaledTensor(data, made, recipe_of(element, (formats.float32, (1, 128))), dtype=_dtype(t))
    return st.T if columnwise else st


_READERS: dict[str, Callable[[Any, bool], ScaledTensor]] = {
    "Float8Tensor": _float8, "Float8BlockwiseQTensor": _blockwise, "MXFP8Tensor": _mxfp8, "NVFP4Tensor": _nvfp4,
}  # fmt: skip


def _copy(t: Any, columnwise: bool) -> tuple[Any, Any, bool]:
    """(data, scales, whether they are columnwise) of the copy asked for, or of the only one."""
    if t._rowwise_data is None or columnwise:
        if t._columnwise_data is None:
            raise FormatError(
                f"{PEER}: this {type(t).__name__} has no {'columnwise' if columnwise else ''} copy of data"
            )
        return t._columnwise_data, t._columnwise_scale_inv, True
    return t._rowwise_data, t._rowwise_scale_inv, False


def _element(code: Any) -> formats.Format:
    name = getattr(code, "name", None) or str(code).rpartition(".")[2]
    if name not in _ELEMENTS:
        raise UnsupportedError(f"{PEER}: unknown element type {code!r}; known: {', '.join(_ELEMENTS)}")
    return _ELEMENTS[name]


def _dtype(t: Any) -> Any:
    return getattr(t, "_dtype", None) or t.dtype


def _outer(amax: Any, largest: int) -> Any:
    return amax.astype(np.float32) * (np.float32(1) / np.float32(6 * largest))


# -- writing -----------------------------------------------------------------------------------------------------------


def _arguments(st: ScaledTensor) -> tuple[str, dict[str, Any]]:
    """(class, what its constructor takes beside the element type and the quantizer)."""
    import torch

    dtypes, element = level_dtypes(st), st.recipe.element
    named = {"shape": st.shape, "dtype": getattr(torch, st.dtype.name), "device": st.device}
    if element.kind == "float" and element.bits == 8 and dtypes == (formats.float32,):
        if st.recipe.innermost.block is None:
            return "Float8Tensor", {**named, "data": st.data, "fp8_scale_inv": st.scale.reshape(1)}
        return "Float8BlockwiseQTensor", {**named, **_blockwise_arguments(st)}
    if element in (formats.float8_e4m3fn, formats.float8_e5m2) and dtypes == (_E8M0,):
        return "MXFP8Tensor", {**named, **_mxfp8_arguments(st), "with_gemm_swizzled_scales": False}
    if element == formats.float4_e2m1fn and dtypes == (formats.float32, _E4M3):
        return "NVFP4Tensor", {**named, **_nvfp4_arguments(st), "with_gemm_swizzled_scales": False}
    raise _refused(st)


def _blockwise_arguments(st: ScaledTensor) -> dict[str, Any]:
    square = same_blocks(st, (128, 128)) and st.ndim >= 2
    if square or (same_blocks(st, (1, 128)) and st.ndim >= 2):
        rows = entries(st.shape[:-1])
        scale = st.scale.reshape(-1, st.scale.shape[-1])
        if square and st.ndim > 2 and st.shape[-2] % 128:
            raise _refused(st)
        made = _padded(scale, (1, 4)) if square else _padded(scale.reshape(rows, -1).T, (1, 4))
        return _one_copy("rowwise", st.data, made) | {"is_2D_scaled": square}
    if st.ndim == 2 and same_blocks(st, (128, 1)):
        turned = st.T
        return _one_copy("columnwise", turned.data, _padded(turned.scale.T, (1, 4))) | {"is_2D_scaled": False}
    raise _refused(st)


def _mxfp8_arguments(st: ScaledTensor) -> dict[str, Any]:
    if st.ndim >= 2 and same_blocks(st, (1, 32)) and st.shape[-1] % 32 == 0:
        return _one_copy("rowwise", st.data, _padded(st.scale.reshape(-1, st.scale.shape[-1]), (128, 4)))
    if st.ndim == 2 and same_blocks(st, (32, 1)) and st.shape[0] % 32 == 0:
        return _one_copy("columnwise", st.data, _padded(st.scale, (4, 128)))
    raise _refused(st)


def _nvfp4_arguments(st: ScaledTensor) -> dict[str, Any]:
    amax = {"amax_rowwise": None, "amax_columnwise": None}
    if st.ndim >= 2 and same_blocks(st, None, (1, 16)) and st.shape[-1] % 16 == 0:
        scale = _padded(st.scale.reshape(-1, st.scale.shape[-1]), (128, 4))
        return _one_copy("rowwise", st.data, scale) | amax | {"amax_rowwise": _amax(st)}
    if st.ndim == 2 and same_blocks(st, None, (16, 1)) and st.shape[0] % 16 == 0:
        turned = st.T
        scale = _padded(turned.scale, (128, 4))
        return _one_copy("columnwise", turned.data, scale) | amax | {"amax_columnwise": _amax(st)}
    raise _refused(st)


def _amax(st: ScaledTensor) -> Any:
    """The amax whose outer scale is that of `st`: the nearest one that gives its very bits."""
    outer = host(st.scales[0]).astype(np.float32)
    near = outer * np.float32(6 * 448)
    for steps in (0, 1, -1, 2, -2):
        amax = (near.view(np.int32) + steps).view(np.float32) if near.size else near
        if _outer(amax, 448).tobytes() == outer.tobytes():
            return given_back(amax.reshape(1), st.scales[0])
    raise UnsupportedError(
        f"{PEER} keeps amax in place of NVFP4's outer scale, and no float32 amax gives {float(outer)!r}. To go on: "
        "breccia.requantize(st, breccia.recipes.nvfp4), which changes values"
    )


def _one_copy(which: str, data: Array, scale: Array) -> dict[str, Any]:
    other = "columnwise" if which == "rowwise" else "rowwise"
    return {
        f"{which}_data": data, f"{which}_scale_inv": scale, f"{other}_data": None, f"{other}_scale_inv": None,
    }  # fmt: skip


def _padded(scale: Any, multiples: tuple[int, int]) -> Any:
    """A matrix of scales with zeros up to these multiples."""
    shape = namespace(scale).shape(scale)
    made = scale.new_zeros([-(-n // m) * m for n, m in zip(shape, multiples, strict=True)])
    made[: shape[0], : shape[1]] = scale
    return made


def _refused(st: ScaledTensor) -> UnsupportedError:
    holds = (
        "FP8 with one float32 scale or float32 scales per 1x128 or 128x128, MXFP8 with whole blocks of 32, and NVFP4 "
        "with whole blocks of 16"
    )
    return cannot_hold(PEER, st, holds, requantize_to("mxfp8_e4m3"))
