"""HQQ: `W_q` and `meta` of `hqq.core.quantize.Quantizer`, groups along rows (axis=1).

theirs -> ours: (code - zero) * scale with a *float* zero; meta["scale"] multiplies. We have the offset -zero * scale in
float32, which is exact for scale and zero of 16 bits, so that values are those of HQQ computed in float32. W is viewed
as (groups, group_size); W_q holds several of its rows in a byte: 4 bits: row i in the *high* nibble, row i + half in
the low one; 2 and 1 bits alike, in quarters and eighths.

Source: hqq 0.2.8, core/quantize.py and core/bitpack.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array
from breccia.bridges._common import (
    HostArray,
    cannot_hold,
    entries,
    exactly_in,
    float_format,
    given_back,
    host,
    integer,
    level_dtypes,
    recipe_of,
    requantize_to,
    same_blocks,
)
from breccia.errors import FormatError, UnsupportedError
from breccia.numerics import decode
from breccia.tensor import ScaledTensor

PEER = "HQQ"
_PACKED = {"8bit_u8": 8, "4bit_u8": 4, "2bit_u8": 2, "1bit_u8": 1}


def from_hqq(w_q: Array, meta: Mapping[str, Any], *, dtype: Any = "float32") -> ScaledTensor:
    """The weight of `W_q` and `meta`: unsigned codes with scales and float32 offsets per group of a row.

    meta: nbits, group_size, shape, scale, zero, axis, packing, and view_as_float. dtype: logical dtype.

    Raises FormatError for what is missing or does not fit; UnsupportedError for groups along columns (axis=0), packing
    of 3 bits, groups that cross rows, and scales of 32 bits whose products with zero are not exact.
    """
    missing = [name for name in ("nbits", "shape", "scale", "zero", "axis", "packing") if name not in meta]
    if missing:
        raise FormatError(f"{PEER}: meta has no {', '.join(missing)}; it has {', '.join(map(str, meta))}")
    packing, bits = meta["packing"], int(meta["nbits"])
    if meta["axis"] != 1:
        raise UnsupportedError(
            f"{PEER}: groups of axis={meta['axis']!r} are strided, no blocks of neighbours. Decode with "
            "Quantizer.dequantize, or quantize with axis=1"
        )
    if _PACKED.get(packing) != bits:
        raise UnsupportedError(f"{PEER}: packing {packing!r} of {bits} bits; readable: {', '.join(_PACKED)}")
    shape = tuple(int(n) for n in meta["shape"])
    group = int(meta.get("group_size") or shape[-1])
    if len(shape) < 1 or group < 1 or shape[-1] % group:
        raise UnsupportedError(
            f"{PEER}: groups of {group} of the flattened weight cross the rows of shape {shape}; decode it with "
            "Quantizer.dequantize"
        )
    grid = (*shape[:-1], shape[-1] // group)
    octets = host(w_q).reshape(-1).view(np.uint8)
    scale, zero = meta["scale"], meta["zero"]
    counts = octets.size * 8 // bits, entries(tuple(scale.shape)), entries(tuple(zero.shape))
    if counts != (entries(shape), entries(grid), entries(grid)):
        raise FormatError(f"{PEER}: a {shape} weight in groups of {group} has {entries(grid)} scales; got {counts}")
    per = 8 // bits
    shifts = (np.arange(per)[::-1] * bits).astype(np.uint8).reshape(-1, 1)
    codes = (octets >> shifts & np.uint8((1 << bits) - 1)).reshape(shape)
    kind = float_format(scale, "scale")
    offset = _offset(host(scale), host(zero)).reshape(grid)
    recipe = recipe_of(integer(bits, signed=False), (kind, (1, group)), offset=formats.float32)
    return ScaledTensor(
        given_back(codes, w_q), given_back(host(scale).reshape(grid), w_q), recipe, shape=shape,
        offset=given_back(offset, w_q), dtype=dtype,
    )  # fmt: skip


def to_hqq(st: ScaledTensor) -> tuple[Array, dict[str, Any]]:
    """(W_q, meta) of a tensor of 1, 2, 4 or 8 bits with float scales per group of a row, for
    `Quantizer.dequantize(W_q, meta)`.

    Zero points are taken as they are, signed elements shifted to unsigned ones, offsets as zero = -offset / scale where
    that quotient is exact in the dtype of the scales. Raises UnsupportedError for other tensors, saying how to go on.
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    holds = "integers of 1, 2, 4 or 8 bits with float scales per whole group of a row, whose zeros are exact floats"
    size = st.recipe.blocks(st.ndim)[-1][-1] or st.shape[-1]
    packing = {bits: name for name, bits in _PACKED.items()}.get(element.bits)
    per = 8 // max(element.bits, 1)
    fits = element.kind == "int" and not element.fraction_bits and packing is not None and len(dtypes) == 1
    if not fits or dtypes[0].bits < 16 or not same_blocks(st, (1, size)) or st.shape[-1] % size:
        raise cannot_hold(PEER, st, holds, requantize_to("uint4_g64_f16"))
    rows = entries(st.shape) // size
    zero = _zeros(st, (1 << element.bits - 1) * element.signed)
    if rows % per or zero is None:
        raise cannot_hold(PEER, st, f"{holds}, and groups in multiples of {per}", requantize_to("uint4_g64_f16"))
    codes = host(st.codes()) ^ np.uint8((1 << element.bits - 1) * element.signed)
    parts = codes.reshape(per, rows // per, size)
    made = np.zeros(parts.shape[1:], np.uint8)
    for i in range(per):
        made |= parts[i] << np.uint8((per - 1 - i) * element.bits)
    scale = host(st.scale).reshape(rows, 1)
    meta = {
        "nbits": element.bits, "group_size": size, "shape": st.shape, "axis": 1, "packing": packing,
        "view_as_float": False, "scale": given_back(scale, st.data), "zero": given_back(zero.reshape(rows, 1), st.data),
    }  # fmt: skip
    return given_back(made, st.data), meta


def _offset(scale: HostArray, zero: HostArray) -> HostArray:
    exact = -(zero.astype(np.float64) * scale.astype(np.float64).reshape(zero.shape))
    made = exact.astype(np.float32)
    # A sum rounds once, as HQQ's product does, where code * scale is exact too: with scales of 16 bits.
    short = scale.dtype.itemsize == 2 or not np.any(scale.astype(np.float32).view(np.uint32) & np.uint32(0xFF))
    if not short or not np.array_equal(made.astype(np.float64), exact, equal_nan=True):
        raise UnsupportedError(
            f"{PEER}: scales of {scale.dtype.name} and zeros have products that float32 does not hold exactly. Round "
            "meta['scale'] and meta['zero'] to float16 or bfloat16, as HQQ stores them, or decode with "
            "Quantizer.dequantize"
        )
    return made


def _zeros(st: ScaledTensor, half: int) -> HostArray | None:
    """Zeros in the dtype of the scales; None where they are not exact."""
    scale = host(st.scale)
    if st.offset is not None and st.recipe.offset is not None:
        if half or st.zero_point is not None:
            return None
        offset = host(decode(st.offset, st.recipe.offset.dtype)).astype(np.float64)
        with np.errstate(all="ignore"):
            zero = (-offset / scale.astype(np.float64)).astype(scale.dtype)
        back = -(zero.astype(np.float64) * scale.astype(np.float64))
        return zero if np.array_equal(back, offset) else None
    values = np.zeros(scale.shape, np.float32)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        values = host(decode(st.zero_point, st.recipe.zero_point.dtype)).astype(np.float32)
    return exactly_in(values + np.float32(half), formats.float32, level_dtypes(st)[0])
