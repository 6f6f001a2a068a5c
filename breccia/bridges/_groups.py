"""What GPTQ and AWQ share: integers in groups along the input axis, with zero points, stored turned."""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array
from breccia.bridges._common import (
    HostArray,
    cannot_hold,
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
from breccia.tensor import ScaledTensor


def assembled_groups(
    codes: HostArray, zeros: HostArray, scales: Array, bits: int, group: int, dtype: Any
) -> ScaledTensor:
    """The tensor (out, in) of unsigned codes (out, in), zero points (groups, out) and scales (groups, out)."""
    kind, element = float_format(scales, "scales"), integer(bits, signed=False)
    recipe = recipe_of(element, (kind, (1, group)), zero_point=element)
    turned = given_back(np.ascontiguousarray(host(scales).T), scales)
    points = given_back(np.ascontiguousarray(zeros.T), scales)
    logical = dtype or (kind.name if kind.bits == 16 else "float32")
    return ScaledTensor(given_back(codes, scales), turned, recipe, zero_point=points, shape=codes.shape, dtype=logical)


def taken_apart(st: ScaledTensor, peer: str, widths: tuple[int, ...]) -> tuple[HostArray, HostArray, HostArray, int]:
    """(codes (out, in), zero points (groups, out), float16 scales (groups, out), group), codes and zeros unsigned.

    Signed elements are shifted by half of their range together with their zero points, which changes no value.
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    holds = f"matrices of integers of {' or '.join(map(str, widths))} bits with float16 scales per group along rows"
    refused = cannot_hold(peer, st, holds, requantize_to("uint4_g128_f16"))
    if st.ndim != 2 or st.recipe.offset is not None or len(dtypes) != 1 or element.fraction_bits:
        raise refused
    group = st.recipe.blocks(2)[-1][-1] or st.shape[-1]
    if element.kind != "int" or element.bits not in widths or dtypes[0].bits < 16 or not same_blocks(st, (1, group)):
        raise refused
    scales = exactly_in(st.scale, dtypes[0], formats.float16)
    if scales is None:
        raise cannot_hold(
            peer, st, "float16 scales, and these are not float16 exactly", requantize_to("uint4_g128_f16")
        )
    half, mask = (1 << element.bits - 1) * element.signed, (1 << element.bits) - 1
    codes = host(st.codes()) + np.uint8(half) & np.uint8(mask)
    zeros = np.zeros(scales.shape, np.int32)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        kind = st.recipe.zero_point.dtype
        zeros = host(st.zero_point).astype(np.int32)
        zeros -= np.where(zeros >= 1 << kind.bits - 1, 1 << kind.bits, 0) * kind.signed
    zeros = zeros + half
    if zeros.min(initial=0) < 0 or zeros.max(initial=0) > mask:
        raise refused
    return codes, np.ascontiguousarray(zeros.T).astype(np.uint8), np.ascontiguousarray(scales.T), group
