"""AMD Quark: the tensors of one weight in a checkpoint that it exported, with the weight's part of the config.

theirs -> ours: weight_scale multiplies; zero points are subtracted before. FP4 and FP6 are packed as ours (two codes a
byte, four in three bytes, lowest first), along the input axis; E8M0 scales are uint8, row-major. INT4 and UINT4 per
group are turned, (in, out / 8): int32 words along the *output* axis, nibble i being column 0, 2, 4, 6, 1, 3, 5, 7 of
eight (with pack_method "reorder") or i; INT4 nibbles stay two's complement. Their scales are (groups, out), their zero
points (groups, out / 8) in words alike. Quark's older "mx" weights have 17 bytes a block: the exponent as int8
*without* bias, and 16 bytes of FP4.

Source: amd-quark 0.13, torch/utils/pack.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._bits import pack_words, unpack_words
from breccia.bridges._common import (
    Parts,
    Tensors,
    as_bytes,
    cannot_hold,
    check_shape,
    entries,
    flag,
    float_format,
    given_back,
    host,
    integer,
    level_dtypes,
    native_view,
    recipe_of,
    requantize_to,
    same_blocks,
)
from breccia.bridges.awq import ORDER
from breccia.errors import FormatError, UnsupportedError
from breccia.numerics import decode
from breccia.recipes import Block, grid_shape
from breccia.tensor import ScaledTensor

PEER = "Quark"
_IGNORED = ("bias", "input_scale", "input_zero_point", "output_scale", "output_zero_point")
_E8M0 = formats.float8_e8m0fnu
_FLOATS = {
    "fp4": formats.float4_e2m1fn, "fp6_e2m3": formats.float6_e2m3fn, "fp6_e3m2": formats.float6_e3m2fn,
    "fp8_e4m3": formats.float8_e4m3fn, "fp8_e5m2": formats.float8_e5m2,
}  # fmt: skip
_SCHEMES = ("per_tensor", "per_channel", "per_group", "per_block")


def from_quark(tensors: Tensors, weight: Any, *, pack_method: str = "reorder", dtype: Any = "bfloat16") -> ScaledTensor:
    """The weight, of shape (out, in), of its tensors.

    tensors: `weight`, `weight_scale` and, if asymmetric, `weight_zero_point`. weight: the config of weights
    (`global_quant_config.weight`): a mapping or object with dtype, qscheme, group_size, block_size and, of "mx",
    mx_element_dtype. pack_method: of the export: "reorder" or "order". dtype: logical dtype of the values.

    Raises FormatError for tensors that are missing, unknown or do not fit, UnsupportedError for other configs.

    >>> tensors = {"weight": np.full((2, 16), 0x22, np.uint8), "weight_scale": np.full((2, 1), 128, np.uint8)}
    >>> from_quark(tensors, {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}).recipe
    <recipe mxfp4>
    """
    parts = Parts(PEER, tensors, _IGNORED)
    name, scheme = str(flag(weight, "dtype", "")), str(flag(weight, "qscheme", "per_group"))
    if pack_method not in ("reorder", "order") or scheme not in _SCHEMES:
        raise UnsupportedError(f"{PEER}: pack_method {pack_method!r} or qscheme {scheme!r}; known: {_SCHEMES}")
    if name == "mx":
        st = _read_mx(parts, weight, dtype)
    elif name in ("int4", "uint4") and scheme == "per_group":
        st = _read_int4(parts, name, weight, pack_method, dtype)
    elif name in _FLOATS or name == "int8":
        st = _read_plain(parts, name, scheme, weight, dtype)
    else:
        raise UnsupportedError(
            f"{PEER}: {scheme} weights of {name!r} cannot be read; readable: {', '.join(_FLOATS)}, int8 in rows, int4 "
            "and uint4 per group, mx of fp4"
        )
    parts.done()
    return st


def to_quark(st: ScaledTensor) -> tuple[dict[str, Array], dict[str, Any]]:
    """(tensors, config of the weight), packed with "reorder"; no bit changes.

    MXFP4, MXFP6 and MXFP8; FP8 with float scales per tensor or row; INT4 and UINT4 with float scales per group, of a
    matrix. Raises UnsupportedError for other tensors and partial groups, saying how to go on.

    >>> from breccia import cast, recipes
    >>> tensors, config = to_quark(cast(np.ones((2, 32), np.float32), recipes.mxfp4))
    >>> tensors["weight"].shape, config["dtype"], config["scale_format"]
    ((2, 16), 'fp4', 'e8m0')
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    names = {fmt: name for name, fmt in _FLOATS.items()}
    if st.recipe.offset is None and len(dtypes) == 1 and st.ndim >= 2:
        if dtypes[0] == _E8M0 and element in names and same_blocks(st, (1, 32)) and st.shape[-1] % 32 == 0:
            config = {"dtype": names[element], "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
            return {"weight": native_view(st.data, element), "weight_scale": st.scale}, config
        if dtypes[0].bits > 8 and element in (formats.float8_e4m3fn, formats.float8_e5m2):
            config = {"dtype": names[element], "scale_format": dtypes[0].name}
            if st.recipe.innermost.block is None:
                tensors = {"weight": native_view(st.data, element), "weight_scale": st.scale}
                return tensors, config | {"qscheme": "per_tensor"}
            if same_blocks(st, (1, None)) and st.ndim == 2:
                scale = namespace(st.scale).reshape(st.scale, (st.shape[0],))
                tensors = {"weight": native_view(st.data, element), "weight_scale": scale}
                return tensors, config | {"qscheme": "per_channel", "ch_axis": 0}
        if dtypes[0].bits > 8 and element in (formats.int4, formats.uint4) and st.ndim == 2 and st.shape[0] % 8 == 0:
            size = st.recipe.blocks(2)[-1][-1] or st.shape[-1]
            if same_blocks(st, (1, size)) and st.shape[-1] % size == 0:
                return _write_int4(st, size)
    raise cannot_hold(
        PEER, st, "MXFP4, MXFP6 and MXFP8, FP8 with float scales per tensor or row, and matrices of INT4 or UINT4 with "
        "float scales per group", requantize_to("mxfp4"),
    )  # fmt: skip


def _read_plain(parts: Parts, name: str, scheme: str, weight: Any, dtype: Any) -> ScaledTensor:
    data, scale = parts.take("weight"), parts.take("weight_scale")
    element = _FLOATS.get(name, formats.int8)
    xp = namespace(data)
    stored = xp.shape(data)
    shape = (*stored[:-1], stored[-1] * 8 // element.bits)
    block: Block | None = None
    if scheme == "per_channel":
        block = (1, None)
    elif scheme == "per_group":
        if name == "int8":
            raise UnsupportedError(f"{PEER}: int8 per group lies turned and cannot be read; rows and tensors can")
        block = (1, int(flag(weight, "group_size", 32)))
    elif scheme == "per_block":
        size = flag(weight, "block_size") or ()
        if len(size) != 2:
            raise FormatError(f"{PEER}: per_block needs a block_size of two numbers, got {size!r}")
        block = (int(size[0]), int(size[1]))
    if parts.has("weight_zero_point") and host(parts.take("weight_zero_point")).any():
        raise UnsupportedError(f"{PEER}: {name} with zero points that are not 0 cannot be read")
    kind = namespace(scale).dtype_name(scale)
    level = _E8M0 if kind in ("uint8", "float8_e8m0fnu") else float_format(scale, "weight_scale")
    grid = () if block is None else grid_shape(shape, (1,) * (len(shape) - 2) + block)
    if entries(tuple(scale.shape)) != entries(grid):
        raise FormatError(f"{PEER}: weight_scale of a {shape} weight must have shape {grid}, got {tuple(scale.shape)}")
    made = as_bytes(scale, "weight_scale", "float8_e8m0fnu") if level == _E8M0 else scale
    made = namespace(made).reshape(made, grid)
    return ScaledTensor(data, made, recipe_of(element, (level, block)), shape=shape, dtype=dtype)


def _read_mx(parts: Parts, weight: Any, dtype: Any) -> ScaledTensor:
    """Blocks of 17 bytes."""
    if str(flag(weight, "mx_element_dtype", "fp4")) != "fp4":
        raise UnsupportedError(f"{PEER}: mx of {flag(weight, 'mx_element_dtype')!r} cannot be read; fp4 can")
    given = parts.take("weight")
    octets = host(as_bytes(given, "weight"))
    if octets.shape[-1] % 17:
        raise FormatError(f"{PEER}: rows of mx weights are blocks of 17 bytes; got {octets.shape}")
    blocks = octets.reshape(*octets.shape[:-1], octets.shape[-1] // 17, 17)
    codes = (blocks[..., 0].view(np.int8).astype(np.int16) + 127) & 255  # -128, which nobody writes, would be NaN
    data = np.ascontiguousarray(blocks[..., 1:]).reshape(*octets.shape[:-1], octets.shape[-1] // 17 * 16)
    shape = (*octets.shape[:-1], octets.shape[-1] // 17 * 32)
    recipe = recipe_of(formats.float4_e2m1fn, (_E8M0, (1, 32)))
    return ScaledTensor(
        given_back(data, given), given_back(codes.astype(np.uint8), given), recipe, shape=shape, dtype=dtype
    )


def _read_int4(parts: Parts, name: str, weight: Any, pack_method: str, dtype: Any) -> ScaledTensor:
    words, scale = host(parts.take("weight")), parts.take("weight_scale")
    group = int(flag(weight, "group_size", 128))
    if words.ndim != 2 or words.dtype != np.int32 or group < 1:
        raise FormatError(f"{PEER}: weight must be an int32 matrix in groups, got {words.dtype} {words.shape}, {group}")
    order = ORDER if pack_method == "reorder" else None
    inputs, out = words.shape[0], words.shape[1] * 8
    count = -(-inputs // group)
    check_shape(tuple(scale.shape), (count, out), "weight_scale", PEER)
    codes = np.ascontiguousarray(unpack_words(words, 4, order).T)
    element = integer(4, signed=name == "int4")
    points = None
    if parts.has("weight_zero_point"):
        packed = host(parts.take("weight_zero_point"))
        check_shape(packed.shape, (count, out // 8), "weight_zero_point", PEER)
        zeros = np.ascontiguousarray(unpack_words(packed, 4, order).T)
        if zeros.any():
            points = given_back(zeros, scale)
    kind = float_format(scale, "weight_scale")
    recipe = recipe_of(element, (kind, (1, group)), zero_point=None if points is None else element)
    turned = given_back(np.ascontiguousarray(host(scale).T), scale)
    return ScaledTensor(given_back(codes, scale), turned, recipe, zero_point=points, shape=(out, inputs), dtype=dtype)


def _write_int4(st: ScaledTensor, size: int) -> tuple[dict[str, Array], dict[str, Any]]:
    element = st.recipe.element
    zeros = np.zeros(st.scale.shape, np.int32)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        zeros = host(decode(st.zero_point, st.recipe.zero_point.dtype)).astype(np.int32)
        if zeros.min(initial=0) < element.min or zeros.max(initial=0) > element.max:
            raise cannot_hold(PEER, st, f"zero points within {element.name}", requantize_to("uint4_g128_f16"))
    turned = np.ascontiguousarray((zeros & 15).astype(np.uint8).T)
    made = {
        "weight": pack_words(np.ascontiguousarray(host(st.codes()).T), 4, ORDER),
        "weight_scale": np.ascontiguousarray(host(st.scale).T), "weight_zero_point": pack_words(turned, 4, ORDER),
    }  # fmt: skip
    config = {
        "dtype": element.name, "qscheme": "per_group", "group_size": size, "ch_axis": 1,
        "symmetric": st.zero_point is None, "scale_format": level_dtypes(st)[0].name,
    }  # fmt: skip
    return {name: given_back(x, st.data) for name, x in made.items()}, config
