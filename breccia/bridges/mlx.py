"""MLX: what `mx.quantize` returns, in its modes affine, mxfp4, mxfp8 and nvfp4.

theirs -> ours: scales multiply, `biases` are added after: an offset, of the affine mode alone (and scales may be
negative). Words of 32 bits are a stream of bits along the last axis, the first code lowest: for 4, 6 and 8 bits our
storage under another dtype. Scales are row-major, E8M0 and E4M3 as uint8. nvfp4's global_scale is the largest
magnitude: the outer scale is global_scale / 2688. Axes are ours.

MLX computes affine values in the dtype of the scales: in float16 and bfloat16 they are rounded twice. Source: mlx
846d176, mlx/ops.cpp and mlx/fast.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia import formats
from breccia.arrays import Array, namespace
from breccia.bridges._bits import octets_of, pack_stream, unpack_stream
from breccia.bridges._common import (
    as_bytes,
    cannot_hold,
    check_shape,
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
from breccia.formats import Format
from breccia.tensor import ScaledTensor

PEER = "MLX"
BITS = (1, 2, 3, 4, 5, 6, 8)
_LARGEST = np.float32(448 * 6)
_E8M0, _E4M3, _FP4 = formats.float8_e8m0fnu, formats.float8_e4m3fn, formats.float4_e2m1fn
_MODES: dict[str, tuple[Format, Format, int]] = {
    "mxfp4": (_FP4, _E8M0, 32), "mxfp8": (_E4M3, _E8M0, 32), "nvfp4": (_FP4, _E4M3, 16),
}  # fmt: skip


def from_mlx(
    w: Array,
    scales: Array,
    biases: Array | None = None,
    *,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str = "affine",
    global_scale: Array | None = None,
    dtype: Any = None,
) -> ScaledTensor:
    """The tensor of `mx.quantize`'s arrays; arguments and defaults are those of `mx.dequantize`.

    w: uint32 (..., words), scales (and biases): (..., groups); of MLX or any other library. dtype: logical dtype; by
    default that of affine scales if float16 or bfloat16, else float32.

    Raises FormatError where shapes do not fit, UnsupportedError for an unknown mode or number of bits.

    >>> w, ones = np.array([[0x76543210] * 4], np.uint32), np.ones((1, 1), np.float32)
    >>> from_mlx(w, ones, ones, group_size=32).numpy()[0, :4].tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    xp = namespace(w)
    if mode != "affine" and mode not in _MODES:
        raise UnsupportedError(f"{PEER}: unknown mode {mode!r}; known: affine, {', '.join(_MODES)}")
    element, inner, size = _MODES.get(mode, (None, None, 64))
    bits = bits or (element.bits if element is not None else 4)
    size = group_size or size
    if bits not in BITS or (element is not None and bits != element.bits):
        raise UnsupportedError(f"{PEER}: {mode} of {bits} bits; affine has {BITS}, the other modes their own")
    words = host(w)
    if words.dtype.name not in ("uint32", "int32") or words.ndim < 1 or words.shape[-1] * 32 % bits:
        found = f"{words.dtype} {words.shape}"
        raise FormatError(f"{PEER}: w must be words of 32 bits that codes of {bits} bits fill, got {found}")
    shape = (*words.shape[:-1], words.shape[-1] * 32 // bits)
    grid = (*shape[:-1], -(-shape[-1] // size))
    check_shape(xp.shape(scales), grid, f"scales of a {shape} tensor in groups of {size}", PEER)
    octets = octets_of(words)
    data = given_back(octets if bits in (4, 6, 8) else unpack_stream(octets, bits, shape[-1]), w)
    if element is None or inner is None:
        if biases is None:
            raise FormatError(f"{PEER}: affine needs biases; without them the mode is {', '.join(_MODES)}")
        check_shape(xp.shape(biases), grid, "biases", PEER)
        kind = float_format(scales, "scales")
        recipe = recipe_of(integer(bits, signed=False), (kind, (1, size)), offset=float_format(biases, "biases"))
        logical = dtype or (kind.name if kind.bits == 16 else "float32")
        return ScaledTensor(data, scales, recipe, shape=shape, offset=biases, dtype=logical)
    if biases is not None:
        raise FormatError(f"{PEER}: {mode} has no biases")
    levels = [as_bytes(scales, "scales", inner.name)]
    recipe = recipe_of(element, (inner, (1, size)))
    if global_scale is not None:
        if inner != _E4M3:
            raise FormatError(f"{PEER}: {mode} has no global_scale; nvfp4 alone has one")
        recipe = recipe_of(element, (formats.float32, None), (inner, (1, size)))
        outer = host(global_scale).astype(np.float32).reshape(()) / _LARGEST
        levels.insert(0, given_back(np.asarray(outer, np.float32), w))
    return ScaledTensor(data, recipe=recipe, shape=shape, scales=levels, dtype=dtype or "float32")


def to_mlx(st: ScaledTensor) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """(arrays, arguments) for `mx.dequantize(*arrays, **arguments)` and `mx.quantized_matmul`, in the library of `st`.

    Integers with float scales become affine: unsigned with offsets as they are, without an offset or with zero points
    by biases that are -zero * scale (for signed ones -half of the range * scale), where MLX's sum of code * scale and
    bias is exact then: scales of 16 bits, stored as float32. MXFP4, MXFP8 of E4M3, NVFP4: modes of their own.

    Raises UnsupportedError for other tensors, and for zero points that no biases hold exactly, saying how to go on.

    >>> from breccia import cast, recipes
    >>> arrays, arguments = to_mlx(cast(np.ones((2, 64), np.float32), recipes.mxfp4))
    >>> [a.shape for a in arrays], arguments
    ([(2, 8), (2, 2)], {'group_size': 32, 'bits': 4, 'mode': 'mxfp4'})
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    if st.ndim < 1 or st.shape[-1] * element.bits % 32:
        raise _refused(st)
    if st.recipe.zero_point is None and st.recipe.offset is None:
        for mode, (own, inner, size) in _MODES.items():
            if (element, dtypes[-1]) == (own, inner) and st.shape[-1] % size == 0:
                arguments = {"group_size": size, "bits": own.bits, "mode": mode}
                if len(dtypes) == 1 and same_blocks(st, (1, size)):
                    return (_words(st), st.scale), arguments
                if inner == _E4M3 and dtypes[0] == formats.float32 and same_blocks(st, None, (1, size)):
                    return (_words(st), st.scale), arguments | {"global_scale": _largest(st)}
    size = st.recipe.blocks(st.ndim)[-1][-1] or st.shape[-1]
    fits = element.kind == "int" and not element.fraction_bits and element.bits in BITS and len(dtypes) == 1
    if not fits or dtypes[0].bits < 16 or not same_blocks(st, (1, size)) or st.shape[-1] % size:
        raise _refused(st)
    biases = st.offset if st.recipe.offset is not None else _biases(st)
    if st.recipe.zero_point is not None and st.recipe.offset is not None:
        raise _refused(st)
    if element.signed and st.recipe.offset is not None:
        raise _refused(st)
    return (_words(st), st.scale, biases), {"group_size": size, "bits": element.bits, "mode": "affine"}


def _words(st: ScaledTensor) -> Array:
    codes = host(st.codes())
    if st.recipe.element.kind == "int" and st.recipe.element.signed:
        codes = codes ^ np.uint8(1 << st.recipe.element.bits - 1)
    return given_back(pack_stream(codes, st.recipe.element.bits, 4).view("<u4").astype(np.uint32, copy=False), st.data)


def _biases(st: ScaledTensor) -> Array:
    """-zero * scale, in the dtype of the scales; refused unless that is exact."""
    element, kind = st.recipe.element, level_dtypes(st)[0]
    scale = host(st.scale)
    zero = np.zeros(scale.shape, np.float64)
    if st.zero_point is not None and st.recipe.zero_point is not None:
        bits, signed = st.recipe.zero_point.dtype.bits, st.recipe.zero_point.dtype.signed
        codes = host(st.zero_point).astype(np.int64)
        zero = np.where(signed & (codes >= 1 << bits - 1), codes - (1 << bits), codes).astype(np.float64)
    if element.signed:
        zero += 1 << element.bits - 1
    exact = -zero * scale.astype(np.float64)
    with np.errstate(all="ignore"):
        made = exact.astype(scale.dtype)
    # MLX rounds code * scale before it adds: the product has to be exact, unless nothing is added.
    # In scales of 16 bits it computes in 16 bits, where it never is.
    mask = np.uint32((1 << element.bits) - 1)
    low = scale.view(np.uint32) & mask if scale.dtype == np.float32 else np.ones(scale.shape)
    if not np.array_equal(made.astype(np.float64), exact, equal_nan=True) or np.any(low * zero):
        raise cannot_hold(
            PEER, st, f"biases in the dtype of the scales, {kind.name}, with which these values are not exact",
            "store scales of 16 bits as float32 (the same values), whose products are exact; or st.dequantize()",
        )  # fmt: skip
    return given_back(made + np.zeros((), scale.dtype), st.scale)


def _largest(st: ScaledTensor) -> Array:
    """The global_scale whose 2688th part, rounded, is the outer scale; refused where there is none."""
    outer = host(st.scales[0]).astype(np.float32)
    near = np.asarray(outer * _LARGEST, np.float32)
    for steps in (0, 1, -1, 2, -2):
        made = np.asarray((near.view(np.int32) + np.int32(steps)).view(np.float32))
        if np.asarray(made / _LARGEST, np.float32).tobytes() == outer.tobytes():
            return given_back(made.reshape(()), st.data)
    raise cannot_hold(
        PEER, st, f"global scales, of which none has {float(outer)!r} as its 2688th part", requantize_to("nvfp4")
    )


def _refused(st: ScaledTensor) -> UnsupportedError:
    holds = (
        f"integers of {BITS} bits with float scales in groups along the last axis, MXFP4, MXFP8 (E4M3) and NVFP4, all "
        "with whole groups that fill words of 32 bits"
    )
    return cannot_hold(PEER, st, holds, requantize_to("mxfp4"))
