"""torchao 0.18: Float8Tensor, Int8Tensor, IntxUnpackedToInt8Tensor, MXTensor, NVFP4Tensor; and from Int4Tensor.

theirs -> ours: scales multiply; `zero_point` is subtracted before (of Int4Tensor: added after, an offset, and scales
are (K / group, N), so turned). Axes are ours. FP4 is packed two a byte, low nibble first; FP6 and integers of fewer
than 8 bits lie one in a byte. E8M0 and E4M3 scales are row-major, or in 128x4 order where `is_swizzled_scales`. A
per-tensor scale of NVFP4 is the outer level: torchao multiplies the two scales first, so that its values may differ by
an ulp.

Source: torchao 0.18, quantize_/workflows and prototype/mx_formats; Int4Tensor: mslk's int4_row_quantize_zp.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from breccia import formats
from breccia.bridges._common import (
    Shape,
    cannot_hold,
    check_shape,
    effective,
    expected,
    float_format,
    given_back,
    host,
    integer,
    level_dtypes,
    native_view,
    recipe_of,
    requantize_to,
    same_blocks,
    unpadded,
)
from breccia.errors import FormatError, UnsupportedError
from breccia.formats import Format
from breccia.numerics import decode
from breccia.recipes import Block, Recipe, grid_shape
from breccia.tensor import ScaledTensor

PEER = "torchao"
_SIX = {"fp6_e2m3": formats.float6_e2m3fn, "fp6_e3m2": formats.float6_e3m2fn}
_E8M0, _E4M3 = formats.float8_e8m0fnu, formats.float8_e4m3fn


def from_torchao(tensor: Any, recipe: Recipe | None = None) -> ScaledTensor:
    """The ScaledTensor of one of torchao's tensors; element buffers are shared wherever they are packed alike.

    recipe: what it should be, or None. Raises UnsupportedError for another class, or one whose activations are scaled
    before the product (`act_pre_scale`), RecipeError where it is not of `recipe`.

    Needs no torchao: what is read are the tensor's attributes.
    """
    for cls in type(tensor).__mro__:
        reader = _READERS.get(cls.__name__) if cls.__module__.partition(".")[0] == "torchao" else None
        if reader is not None:
            if getattr(tensor, "act_pre_scale", None) is not None:
                raise UnsupportedError(
                    f"torchao: this {cls.__name__} has an act_pre_scale, which multiplies activations and has no place "
                    "in a ScaledTensor; multiply the activations by it yourself, and set it to None"
                )
            return expected(reader(tensor), recipe, PEER)
    raise UnsupportedError(
        f"torchao: cannot read a {type(tensor).__module__}.{type(tensor).__name__}; readable: {', '.join(_READERS)}. "
        "AffineQuantizedTensor is gone from torchao 0.18: load such checkpoints with the torchao that wrote them, and "
        "dequantize; so are Int4TilePackedTo4dTensor and Int4PlainInt32Tensor, which lie as one device wants them"
    )


def to_torchao(scaled: ScaledTensor) -> Any:
    """Torchao's tensor of the same bits: of the class that holds the recipe.

    Float8Tensor: FP8 with float32 scales per tensor, row or block. Int8Tensor: INT8 with float scales, per tensor, row
    or block. IntxUnpackedToInt8Tensor: integers of up to 8 bits with groups along rows; unsigned ones are shifted to
    signed ones together with their zero points. MXTensor: any MX format. NVFP4Tensor: NVFP4 with one or two levels.

    Raises UnsupportedError for other recipes and for partial blocks, saying how to go on.
    """
    st = scaled.to("torch") if scaled.library != "torch" else scaled
    element, dtypes = st.recipe.element, level_dtypes(st)
    if st.recipe.offset is None and st.ndim >= 2:
        if st.ndim == 2 and dtypes[-1].bits == 8 and st.recipe.blocks(2)[-1] in ((16, 1), (32, 1)):
            return to_torchao(st.T).t()  # torchao has columns as a view of rows
        if element == formats.float4_e2m1fn and dtypes[-1] == _E4M3 and _along_rows(st, 16):
            return _to_nvfp4(st)
        if dtypes == (_E8M0,) and _along_rows(st, 32) and element.kind == "float":
            return _to_mx(st)
        if dtypes == (formats.float32,) and element.kind == "float" and element.bits == 8 and st.ndim == 2:
            return _to_float8(st)
        if len(dtypes) == 1 and element.kind == "int" and not element.fraction_bits and dtypes[0].bits >= 16:
            return _to_int(st)
    raise cannot_hold(
        PEER, st, "FP8 with float32 scales, integers with float scales, MX formats and NVFP4, blocks along rows",
        f"{requantize_to('mxfp8_e4m3')}; or st.dequantize()",
    )  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


def _float8(t: Any) -> ScaledTensor:
    shape, element = tuple(t.qdata.shape), float_format(t.qdata, "qdata")
    block = _block(shape, t.block_size)
    return _made(t, t.qdata, t.scale, recipe_of(element, (float_format(t.scale, "scale"), block)), shape)


def _int8(t: Any) -> ScaledTensor:
    return _integers(t, formats.int8)


def _intx(t: Any) -> ScaledTensor:
    name = str(t.target_dtype).rpartition(".")[2]
    return _integers(t, integer(int(name.removeprefix("int")), signed=True))


def _integers(t: Any, element: Format) -> ScaledTensor:
    """A tensor that has zero points: all 0 where it was quantized symmetrically, and left out then."""
    import torch

    shape = tuple(t.qdata.shape)
    zero = None if t.zero_point is None else host(t.zero_point)
    if zero is None or not zero.any():
        zero = None
    elif zero.dtype.kind == "f" and (zero != np.round(zero)).any():
        raise UnsupportedError("torchao: zero points that are no integers have no place here; dequantize the tensor")
    elif zero.min() < int(element.min) or zero.max() > int(element.max):
        raise FormatError(f"torchao: zero points run from {zero.min()} to {zero.max()}, beyond {element.name}")
    if t.qdata.numel() and not element.min <= t.qdata.min() <= t.qdata.max() <= element.max:
        raise FormatError(f"torchao: elements run from {t.qdata.min()} to {t.qdata.max()}, beyond {element.name}")
    level = float_format(t.scale, "scale"), _block(shape, t.block_size)
    recipe = recipe_of(element, level, zero_point=None if zero is None else element)
    if zero is not None:
        mask = (1 << element.bits) - 1
        zero = given_back((zero.astype(np.int32) & mask).astype(np.uint8), t.scale)
    data = t.qdata if element.bits == 8 else (t.qdata & (1 << element.bits) - 1).view(torch.uint8)
    return _made(t, data, t.scale, recipe, shape, zero)


def _mx(t: Any) -> ScaledTensor:
    if t.qdata.stride(-2) < t.qdata.stride(-1):
        return _read_mx(t, t.qdata.transpose(-2, -1), t.scale.transpose(-2, -1)).transpose(*_turned(t.ndim))
    return _read_mx(t, t.qdata, t.scale)


def _read_mx(t: Any, data: Any, scale: Any) -> ScaledTensor:
    name = str(t.elem_dtype).rpartition(".")[2]
    element = _SIX.get(name) or formats.find(name.removesuffix("_x2"))
    shape = (*data.shape[:-1], data.shape[-1] * (2 if element.bits == 4 else 1))
    recipe = recipe_of(element, (_E8M0, (1, t.block_size)))
    return _made(t, data, _rows_of_scales(t, scale, shape), recipe, shape)


def _nvfp4(t: Any) -> ScaledTensor:
    if t.qdata.stride(-2) < t.qdata.stride(-1):
        return _read_nvfp4(t, t.qdata.transpose(-2, -1), t.scale.transpose(-2, -1)).transpose(*_turned(t.ndim))
    return _read_nvfp4(t, t.qdata, t.scale)


def _read_nvfp4(t: Any, data: Any, scale: Any) -> ScaledTensor:
    shape = (*data.shape[:-1], 2 * data.shape[-1])
    inner = (_E4M3, (1, t.block_size))
    scale = _rows_of_scales(t, scale, shape)
    outer = t.per_tensor_scale
    if outer is None:
        recipe = recipe_of(formats.float4_e2m1fn, inner)
        return _made(t, data, scale, recipe, shape)
    recipe = recipe_of(formats.float4_e2m1fn, (formats.float32, None), inner)
    return ScaledTensor(data, recipe=recipe, shape=shape, scales=(outer.reshape(()).float(), scale), dtype=t.dtype)


def _int4(t: Any) -> ScaledTensor:
    shape, group = tuple(t.shape), t.block_size[-1]
    turned = [
        given_back(np.ascontiguousarray(np.swapaxes(host(x), -1, -2)), x)
        for x in (t.scale, t.zero_point)
    ]  # fmt: skip
    grid = (*shape[:-1], -(-shape[-1] // group))
    for x in turned:
        check_shape(tuple(x.shape), grid, "scale and zero_point (turned)", PEER)
    kind = float_format(t.scale, "scale")
    if not host(t.zero_point).any():
        return _made(t, t.qdata, turned[0], recipe_of(formats.int4, (kind, (1, group))), shape)
    recipe = recipe_of(formats.int4, (kind, (1, group)), offset=float_format(t.zero_point, "zero_point"))
    return ScaledTensor(t.qdata, turned[0], recipe, shape=shape, dtype=t.dtype, offset=turned[1])


_READERS: dict[str, Callable[[Any], ScaledTensor]] = {
    "Float8Tensor": _float8, "Int8Tensor": _int8, "IntxUnpackedToInt8Tensor": _intx, "MXTensor": _mx,
    "NVFP4Tensor": _nvfp4, "Int4Tensor": _int4,
}  # fmt: skip


def _made(t: Any, data: Any, scale: Any, recipe: Recipe, shape: Shape, zero_point: Any = None) -> ScaledTensor:
    block = recipe.innermost
    grid = () if block.block is None else grid_shape(shape, block.resolve(len(shape)))
    if scale.numel() != int(np.prod(grid)):
        raise FormatError(f"{PEER}: scales of a {shape} tensor must have shape {grid}, got {tuple(scale.shape)}")
    zero_point = None if zero_point is None else zero_point.reshape(grid)
    return ScaledTensor(data, scale.reshape(grid), recipe, zero_point=zero_point, shape=shape, dtype=t.dtype)


def _block(shape: Shape, block_size: Any) -> Block | None:
    """The block of theirs; None for a whole axis, or for the tensor."""
    if block_size is None or len(block_size) != len(shape):
        raise FormatError(f"{PEER}: block_size is {block_size}; a {shape} tensor needs one size for each axis")
    block = tuple(None if b == n else int(b) for b, n in zip(block_size, shape, strict=True))
    return None if not any(block) else block


def _rows_of_scales(t: Any, scale: Any, shape: Shape) -> Any:
    columns = -(-shape[-1] // t.block_size)
    if not getattr(t, "is_swizzled_scales", False):
        return scale
    import torch

    rows = int(np.prod(shape[:-1]))
    octets = unpadded(scale.contiguous().view(torch.uint8), (rows, columns), True, "scales", PEER)
    return octets.reshape(*shape[:-1], columns)


def _turned(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


# -- writing -----------------------------------------------------------------------------------------------------------


def _along_rows(st: ScaledTensor, size: int) -> bool:
    inner = same_blocks(st, (1, size)) if len(st.scales) == 1 else same_blocks(st, None, (1, size))
    return inner and st.shape[-1] % size == 0


def _whole_blocks(st: ScaledTensor) -> list[int]:
    block = effective(st.recipe.blocks(st.ndim)[-1], st.shape)
    if any(n % b for n, b in zip(st.shape, block, strict=True)):
        raise cannot_hold(
            PEER, st, "whole blocks alone", "pad the last block with zeros before casting; or st.dequantize()"
        )
    return list(block)


def _to_float8(st: ScaledTensor) -> Any:
    block = _whole_blocks(st)
    scale = st.scale.reshape([n // b for n, b in zip(st.shape, block, strict=True)])
    cls = import_module("torchao.quantization").Float8Tensor
    return cls(native_view(st.data, st.recipe.element), scale, block, dtype=_torch_dtype(st))


def _to_int(st: ScaledTensor) -> Any:
    """Codes one a byte; unsigned ones, and their zero points, less half of their range, which changes no value."""
    import torch

    element, block = st.recipe.element, _whole_blocks(st)
    scale = st.scale.reshape([n // b for n, b in zip(st.shape, block, strict=True)])
    half = 0 if element.signed else 1 << element.bits - 1
    values = (decode(st.codes(), element) - half).to(torch.int8)
    zero = torch.full_like(scale, -half, dtype=torch.int8)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        zero = (decode(st.zero_point, st.recipe.zero_point.dtype) - half).to(torch.int8).reshape(scale.shape)
    if element == formats.int8:
        zero_point = None if st.zero_point is None else zero
        cls = import_module("torchao.quantization").Int8Tensor
        return cls(values, scale, block, _torch_dtype(st), zero_point=zero_point)
    cls = import_module("torchao.quantization").IntxUnpackedToInt8Tensor
    kind = getattr(torch, f"int{element.bits}")
    return cls(values, scale, zero, kind, tuple(block), _torch_dtype(st), None)


def _to_mx(st: ScaledTensor) -> Any:
    import torch

    cls = import_module("torchao.prototype.mx_formats.mx_tensor").MXTensor
    preference = import_module("torchao.quantization.quantize_.common.kernel_preference").KernelPreference.AUTO
    element = st.recipe.element
    six = {fmt: name for name, fmt in _SIX.items()}
    kind = six.get(element) or getattr(torch, element.name + "_x2" * (element.bits == 4))
    data = st.codes() if element.bits == 6 else native_view(st.data, element)
    return cls(data, native_view(st.scale, _E8M0), kind, 32, _torch_dtype(st), preference, None, False)


def _to_nvfp4(st: ScaledTensor) -> Any:
    cls = import_module("torchao.prototype.mx_formats.nvfp4_tensor").NVFP4Tensor
    outer = st.scales[0] if len(st.scales) == 2 else None
    return cls(st.data, native_view(st.scale, _E4M3), 16, _torch_dtype(st), per_tensor_scale=outer)


def _torch_dtype(st: ScaledTensor) -> Any:
    import torch

    return getattr(torch, st.dtype.name)
