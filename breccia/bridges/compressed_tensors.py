"""compressed-tensors 0.20: the tensors of one weight in its formats, with the `weights` arguments of its config.

theirs -> ours: weight_scale multiplies, in the order of our blocks. weight_global_scale (NVFP4) divides: the outer
scale is its inverse, rounded to float32. Integers in weight_packed are a stream of bits along the last axis, lowest
first, in int32 words, each code plus half of the range (so that they are unsigned); weight_zero_point of such weights
is packed alike, but along the first axis. FP4 has two codes a byte, low nibble first; FP6 four codes in three bytes, as
we have. E8M0 scales are uint8. Axes are ours.

Symmetric integers become signed elements, asymmetric ones unsigned with zero points: the same values.
Source: compressed-tensors 0.20, compressors/*/base.py and helpers.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._bits import octets_of, pack_stream, unpack_stream
from breccia.bridges._common import (
    HostArray,
    Parts,
    Shape,
    Tensors,
    as_bytes,
    cannot_hold,
    check_shape,
    dividing,
    effective,
    entries,
    flag,
    float_format,
    given_back,
    host,
    integer,
    inverse,
    level_dtypes,
    native_view,
    recipe_of,
    requantize_to,
    same_blocks,
)
from breccia.errors import FormatError, UnsupportedError
from breccia.numerics import decode
from breccia.recipes import Block, Recipe, grid_shape
from breccia.tensor import ScaledTensor

PEER = "compressed-tensors"
_IGNORED = ("bias", "input_scale", "input_zero_point", "input_global_scale", "output_scale", "k_scale", "v_scale")
_E8M0, _E4M3, _FP4 = formats.float8_e8m0fnu, formats.float8_e4m3fn, formats.float4_e2m1fn


def from_compressed_tensors(tensors: Tensors, weights: Any, *, dtype: Any = None) -> ScaledTensor:
    """The weight of its tensors.

    tensors: by the last part of their names: `weight` or `weight_packed`, `weight_scale`, and what belongs to them.
    weights: the arguments of the weights in the config (`config_groups.*.weights`): a mapping or `QuantizationArgs`,
    of which num_bits, type, symmetric, strategy, group_size and block_structure are read. dtype: logical dtype; by
    default that of the scales if float16 or bfloat16, else float32.

    Raises FormatError for tensors that are missing, unknown or of another shape; UnsupportedError for activation
    order, or a scheme that has no place here.

    >>> packed, scale = np.full((2, 4), 0x76543210, np.int32), np.ones((2, 1), np.float32)
    >>> weight = {"weight_packed": packed, "weight_scale": scale, "weight_shape": np.array([2, 32])}
    >>> args = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    >>> st = from_compressed_tensors(weight, args)
    >>> st.recipe, st.numpy()[0, :4].tolist()
    (<recipe int4_g32_f32>, [-8.0, -7.0, -6.0, -5.0])
    """
    parts = Parts(PEER, tensors, _IGNORED)
    bits, kind = int(flag(weights, "num_bits", 8)), str(flag(weights, "type", "int"))
    if bits not in range(1, 9) or kind not in ("int", "float"):
        raise UnsupportedError(f"{PEER}: weights of type {kind!r} with {bits} bits; allowed: int or float, 1 to 8 bits")
    read = _read_floats if kind == "float" else _read_integers
    st = read(parts, bits, weights, dtype)
    parts.done()
    return st


def to_compressed_tensors(
    st: ScaledTensor, *, global_scale: Array | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """(tensors, scheme): the tensors of a weight, and `{"format": ..., "weights": ...}` for its config.

    Integers of up to 8 bits per tensor, row or group are `pack-quantized`; FP8 with float scales per tensor, row, group
    or block `float-quantized`; NVFP4, MXFP4, MXFP6 (E2M3) and MXFP8 (E4M3) have formats of their own.

    global_scale: the weight_global_scale that the tensor came with, to have the very same bits back; its inverse must
    be the outer scale. Raises UnsupportedError for other recipes and for partial groups, saying how to go on.

    >>> from breccia import cast, recipes
    >>> tensors, scheme = to_compressed_tensors(cast(np.ones((2, 64), np.float32), recipes.int4_g32_f16))
    >>> sorted(tensors), scheme["format"], scheme["weights"].get("group_size")
    (['weight_packed', 'weight_scale', 'weight_shape'], 'pack-quantized', 32)
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    if st.recipe.offset is None and st.ndim >= 2:
        if element == _FP4 and dtypes == (formats.float32, _E4M3) and _groups(st, None, (1, 16)):
            return _write_nvfp4(st, global_scale)
        if dtypes == (_E8M0,) and element in _MX and _groups(st, (1, 32)):
            return _write_mx(st)
        if element in (_E4M3, formats.float8_e5m2) and len(dtypes) == 1 and dtypes[0].bits > 8:
            return _write_float8(st)
        if element.kind == "int" and not element.fraction_bits and len(dtypes) == 1 and dtypes[0].bits > 8:
            return _write_integers(st)
    raise cannot_hold(
        PEER, st, "integers with float scales per tensor, row or group, FP8 with float scales, NVFP4, MXFP4, MXFP6 "
        "(E2M3) and MXFP8 (E4M3), groups along the last axis", requantize_to("nvfp4"),
    )  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


def _read_floats(parts: Parts, bits: int, weights: Any, dtype: Any) -> ScaledTensor:
    scale = parts.take("weight_scale")
    xp = namespace(scale)
    if bits == 8:
        data = parts.take("weight")
        if xp.dtype_name(scale) in ("uint8", "float8_e8m0fnu"):
            recipe = recipe_of(float_format(data, "weight"), (_E8M0, (1, int(flag(weights, "group_size", 32)))))
            codes = as_bytes(scale, "weight_scale", "float8_e8m0fnu")
            return ScaledTensor(data, codes, recipe, dtype=dtype or "float32")
        return _plain(data, scale, float_format(data, "weight"), weights, dtype)
    if bits not in (4, 6):
        raise UnsupportedError(f"{PEER}: floats of {bits} bits; allowed: 4, 6 and 8")
    data = parts.take("weight_packed")
    group = int(flag(weights, "group_size", 16 if parts.has("weight_global_scale") else 32))
    shape = (*xp.shape(data)[:-1], xp.shape(data)[-1] * 8 // bits)
    logical = dtype or "float32"
    if not parts.has("weight_global_scale"):
        element = _FP4 if bits == 4 else formats.float6_e2m3fn
        codes = as_bytes(scale, "weight_scale", "float8_e8m0fnu")
        return ScaledTensor(data, codes, recipe_of(element, (_E8M0, (1, group))), shape=shape, dtype=logical)
    divisor = inverse(parts.take("weight_global_scale"))
    if divisor.size != 1:
        raise FormatError(f"{PEER}: weight_global_scale must be one number, got shape {divisor.shape}")
    outer = given_back(divisor.reshape(()), scale)
    recipe = recipe_of(_FP4, (formats.float32, None), (_E4M3, (1, group)))
    scales = outer, as_bytes(scale, "weight_scale", "float8_e4m3fn")
    return ScaledTensor(data, recipe=recipe, shape=shape, scales=scales, dtype=logical)


def _read_integers(parts: Parts, bits: int, weights: Any, dtype: Any) -> ScaledTensor:
    scale = parts.take("weight_scale")
    symmetric = bool(flag(weights, "symmetric", True))
    half = 1 << bits - 1
    if parts.has("weight_g_idx"):
        _trivial_order(host(parts.take("weight_g_idx")), int(flag(weights, "group_size", -1)))
    if parts.has("weight"):
        codes = host(parts.take("weight")).view(np.uint8) + np.uint8(half) & np.uint8(2 * half - 1)
    else:
        shape = tuple(int(n) for n in host(parts.take("weight_shape")).reshape(-1))
        packed = host(parts.take("weight_packed"))
        wanted = (*shape[:-1], -(-shape[-1] * bits // 32))
        check_shape(packed.shape, wanted, f"weight_packed of a {shape} weight of {bits} bits", PEER)
        codes = unpack_stream(octets_of(packed), bits, shape[-1])
    zero = None
    if not symmetric:
        zero = _zero_points(host(parts.take("weight_zero_point")), bits, tuple(scale.shape), codes.shape)
    elif parts.has("weight_zero_point") and host(parts.take("weight_zero_point")).any():
        raise FormatError(f"{PEER}: a symmetric weight has a weight_zero_point that is not 0")
    if symmetric:  # signed codes
        codes = codes + np.uint8(half) & np.uint8(2 * half - 1)
    element = integer(bits, signed=symmetric)
    return _plain(given_back(codes, scale), scale, element, weights, dtype, zero)


def _zero_points(x: HostArray, bits: int, grid: Shape, shape: Shape) -> HostArray:
    """Unsigned zero points: packed along the first axis of each matrix, or one signed one a byte."""
    half = 1 << bits - 1
    if x.dtype == np.int8:
        return x.view(np.uint8) + np.uint8(half) & np.uint8(2 * half - 1)
    turned = np.swapaxes(x, -1, -2)
    rows = grid[-2]
    check_shape(x.shape, (*shape[:-2], -(-rows * bits // 32), grid[-1]), "weight_zero_point", PEER)
    return np.swapaxes(unpack_stream(octets_of(turned), bits, rows), -1, -2)


def _trivial_order(order: HostArray, group: int) -> None:
    if (group > 0 and (order == np.arange(order.size) // group).all()) or (order == -1).all():
        return
    raise UnsupportedError(
        f"{PEER}: the columns of this weight lie in activation order (weight_g_idx): groups are no blocks of "
        "neighbours. Decompress it with compressed-tensors, or quantize without act-order"
    )


def _plain(
    data: Array, scale: Array, element: formats.Format, weights: Any, dtype: Any, zero: HostArray | None = None
) -> ScaledTensor:
    """A tensor of one level of float scales, per strategy."""
    shape, kind = tuple(data.shape), float_format(scale, "weight_scale")
    if len(shape) < 2:
        raise FormatError(f"{PEER}: a weight has at least two axes, got shape {shape}")
    block = _block(weights, shape)
    grid = () if block is None else grid_shape(shape, (1,) * (len(shape) - 2) + block)
    if entries(tuple(scale.shape)) != entries(grid):
        raise FormatError(f"{PEER}: weight_scale of a {shape} weight must have shape {grid}, got {tuple(scale.shape)}")
    recipe: Recipe = recipe_of(
        element, (kind, block), zero_point=None if zero is None else integer(element.bits, signed=False)
    )
    xp = namespace(scale)
    if dtype is None:
        dtype = kind.name if kind.bits == 16 else "float32"
    points = None if zero is None else given_back(zero.reshape(grid), scale)
    return ScaledTensor(data, xp.reshape(scale, grid), recipe, zero_point=points, shape=shape, dtype=dtype)


def _block(weights: Any, shape: Shape) -> Block | None:
    strategy = str(flag(weights, "strategy", "tensor"))
    group = int(flag(weights, "group_size", -1))
    if strategy == "tensor":
        return None
    if strategy == "channel" or (strategy == "group" and group <= 0):
        return (1, None)
    if strategy in ("group", "tensor_group"):
        return (1, group)
    if strategy == "block":
        size = flag(weights, "block_structure")
        if isinstance(size, list | tuple) and len(size) == 2:
            return (int(size[0]), int(size[1]))
    raise UnsupportedError(f"{PEER}: weights of strategy {strategy!r} cannot be read, for shape {shape}")


# -- writing -----------------------------------------------------------------------------------------------------------

Written = tuple[dict[str, Array], dict[str, Any]]

_MX = {
    _FP4: ("mxfp4-pack-quantized", "weight_packed"), formats.float6_e2m3fn: ("mxfp6-pack-quantized", "weight_packed"),
    _E4M3: ("mxfp8-quantized", "weight"),
}  # fmt: skip


def _groups(st: ScaledTensor, *blocks: Block | None) -> bool:
    """Whether these are the blocks, and the innermost ones whole: compressed-tensors has no partial groups."""
    inner = blocks[-1]
    return same_blocks(st, *blocks) and inner is not None and st.shape[-1] % (inner[-1] or 1) == 0


def _scheme(name: str, bits: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"format": name, "weights": {"num_bits": bits, "type": kind, "symmetric": True, "dynamic": False} | more}


def _write_nvfp4(st: ScaledTensor, global_scale: Array | None) -> Written:
    if global_scale is None:
        divisor = dividing(st.scales[0], PEER)
    else:
        divisor = host(global_scale).astype(np.float32)
        if np.asarray(inverse(divisor)).tobytes() != host(st.scales[0]).tobytes():
            outer = float(host(st.scales[0]))
            raise FormatError(f"{PEER}: global_scale {divisor!r} is not the inverse of the outer scale, {outer!r}")
    tensors = {
        "weight_packed": st.data, "weight_scale": native_view(st.scale, _E4M3),
        "weight_global_scale": given_back(divisor.reshape(1), st.data),
    }  # fmt: skip
    return tensors, _scheme("nvfp4-pack-quantized", 4, "float", strategy="tensor_group", group_size=16)


def _write_mx(st: ScaledTensor) -> Written:
    name, key = _MX[st.recipe.element]
    data = native_view(st.data, st.recipe.element)
    scheme = _scheme(name, st.recipe.element.bits, "float", strategy="group", group_size=32, scale_dtype="torch.uint8")
    return {key: data, "weight_scale": st.scale}, scheme


def _write_float8(st: ScaledTensor) -> Written:
    strategy, grid = _strategy(st, whole=False)
    if st.recipe.element != _E4M3:
        raise cannot_hold(PEER, st, "FP8 of E4M3 alone", requantize_to("float8_row"))
    tensors = {"weight": native_view(st.data, st.recipe.element), "weight_scale": st.scale.reshape(grid)}
    return tensors, _scheme("float-quantized", 8, "float", **strategy)


def _write_integers(st: ScaledTensor) -> Written:
    strategy, grid = _strategy(st, whole=True)
    element = st.recipe.element
    bits, half = element.bits, 1 << element.bits - 1
    codes, symmetric = host(st.codes()), element.signed and st.zero_point is None
    if element.signed:
        codes = codes + np.uint8(half) & np.uint8(2 * half - 1)
    tensors = {
        "weight_packed": given_back(pack_stream(codes, bits, 4).view("<i4").astype(np.int32), st.data),
        "weight_scale": st.scale.reshape(grid),
        "weight_shape": given_back(np.array(st.shape, np.int64), st.data),
    }
    if not symmetric:
        if strategy["strategy"] == "tensor":
            raise cannot_hold(PEER, st, "asymmetric integers per row or group alone", requantize_to("uint4_g128_f16"))
        tensors["weight_zero_point"] = given_back(_packed_zero_points(st, grid, bits), st.data)
    return tensors, _scheme("pack-quantized", bits, "int", **strategy | {"symmetric": symmetric})


def _packed_zero_points(st: ScaledTensor, grid: Shape, bits: int) -> HostArray:
    """Zero points of unsigned codes, along the first axis; 0 where unsigned elements have none."""
    points = np.zeros(grid, np.uint8)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        values = host(decode(st.zero_point, st.recipe.zero_point.dtype)).astype(np.int32).reshape(grid)
        values += (1 << bits - 1) * st.recipe.element.signed
        if values.min(initial=0) < 0 or values.max(initial=0) >= 1 << bits:
            raise cannot_hold(PEER, st, f"zero points of {bits} bits", requantize_to("uint4_g128_f16"))
        points = values.astype(np.uint8)
    packed = pack_stream(np.ascontiguousarray(np.swapaxes(points, -1, -2)), bits, 4).view("<i4").astype(np.int32)
    return np.swapaxes(packed, -1, -2)


def _strategy(st: ScaledTensor, whole: bool) -> tuple[dict[str, Any], Shape]:
    """(fields of the scheme, shape of weight_scale); `whole` refuses blocks of more than one row."""
    block = st.recipe.blocks(st.ndim)[-1]
    grid = grid_shape(st.shape, block)
    if st.recipe.innermost.block is None:
        return {"strategy": "tensor"}, (1,)
    if all(size == 1 for size in block[:-1]):
        width = block[-1]
        if width is None or width >= st.shape[-1]:
            return {"strategy": "channel"}, grid
        if st.shape[-1] % width:
            raise cannot_hold(
                PEER, st, f"whole groups alone, and {st.shape[-1]} columns are no multiple of {width}",
                "cast with a group that divides the columns; or st.dequantize()",
            )  # fmt: skip
        return {"strategy": "group", "group_size": width}, grid
    if not whole and all(size == 1 for size in block[:-2]) and None not in block:
        return {"strategy": "block", "block_structure": list(effective(block, st.shape)[-2:])}, grid
    raise cannot_hold(PEER, st, "blocks along the last axis", requantize_to("int4_g128_f16"))
