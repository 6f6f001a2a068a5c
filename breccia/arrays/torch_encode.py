"""Codes of small formats by PyTorch's own casts and by float arithmetic, and their storage below a byte."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import torch

from breccia.formats import Format

Array = torch.Tensor
FLOAT8 = {
    name: getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
}
_MAGNITUDE = 0x7FFFFFFF


def native_encode(x: Array, fmt: Format, rounding: str, overflow: str, tame: bool = False) -> Array | None:
    """Codes of formats of 8 bits or fewer, to nearest even, saturated; None for what else there is."""
    if rounding != "rne" or overflow != "saturate" or fmt.bits > 8 or fmt.is_power_of_two:
        return None
    if fmt.kind == "int":
        return _integers(x, fmt, tame)
    if fmt.kind != "float":
        return None
    return _float8(x, fmt, tame) if fmt.name in FLOAT8 else _small_floats(x, fmt, tame)


def _integers(x: Array, fmt: Format, tame: bool) -> Array:
    unit = float(1 << fmt.fraction_bits)
    scaled = x if unit == 1 else x * unit
    whole = torch.round(scaled) if tame else torch.round(scaled.clamp(fmt.min * unit, fmt.max * unit)).nan_to_num_(0.0)
    codes = whole.to(torch.int8).view(torch.uint8) if fmt.signed else whole.to(torch.uint8)
    return codes if fmt.bits == 8 else codes & ((1 << fmt.bits) - 1)


def _float8(x: Array, fmt: Format, tame: bool) -> Array:
    if tame:
        return x.to(FLOAT8[fmt.name]).view(torch.uint8)
    # Clamped first: whether the cast saturates depends on PyTorch's version, and never does for e5m2 and fnuz.
    codes = x.clamp(-fmt.max, fmt.max).to(FLOAT8[fmt.name]).view(torch.uint8)
    largest, nan = fmt.max_code, fmt.nan_code
    if nan is None or nan > 0x7F:  # one NaN, which every cast gives
        return codes
    return torch.where((codes & 0x7F) > largest, nan, codes)


def _small_floats(x: Array, fmt: Format, tame: bool) -> Array:
    """A sum with 2**23 quanta rounds to a whole number of quanta, ties to even, and leaves it in the low bits."""
    bits = x.view(torch.int32)
    magnitude = (bits & _MAGNITUDE).view(torch.float32)
    if not tame:
        magnitude = magnitude.clamp(max=fmt.max)
    smallest = 128 - fmt.bias
    field = (magnitude.view(torch.int32) >> 23).clamp(min=smallest, max=254)
    anchor = (field + (23 - fmt.mantissa_bits)) << 23
    count = (magnitude + anchor.view(torch.float32)).view(torch.int32) - anchor
    codes = ((field - smallest) << fmt.mantissa_bits) + count
    codes = codes | (((bits >> 31) & 1) << (fmt.bits - 1))
    if tame:
        return codes.to(torch.uint8)
    nan = 0 if fmt.nan_code is None else fmt.nan_code
    return torch.where(torch.isnan(x), nan, codes).to(torch.uint8)


def small_floats_(x: Array, fmt: Format) -> Array:
    """`_small_floats` of finite x that is within the format's range, in place: x is lost; codes as int32."""
    bits, places = x.view(torch.int32), 23 - fmt.mantissa_bits
    sign = (bits >> (32 - fmt.bits)).bitwise_and_(1 << (fmt.bits - 1))
    bits.bitwise_and_(_MAGNITUDE)
    smallest = (128 - fmt.bias) << 23
    anchor = (bits & 0x7F800000).clamp_(min=smallest).add_(places << 23)
    x.add_(anchor.view(torch.float32))
    bits.sub_(anchor)
    anchor.bitwise_right_shift_(places)
    return bits.add_(anchor).add_(sign.sub_((smallest + (places << 23)) >> places))


# -- sub-byte storage --------------------------------------------------------------------------------------------------


def _words(codes: Array, dtype: torch.dtype) -> Array:
    """As many codes as a word has bytes, the first in the lowest; the last word is filled up with code 0."""
    rest = -codes.shape[-1] % dtype.itemsize
    if rest:
        codes = torch.nn.functional.pad(codes, (0, rest))
    return codes.contiguous().view(dtype)


def pack_nibbles(codes: Array) -> Array:
    """Two codes a byte along the last axis, the first in the low nibble; an odd length is padded with code 0."""
    if not codes.numel():
        return codes.new_empty((*codes.shape[:-1], (codes.shape[-1] + 1) // 2))
    pairs = _words(codes, torch.int16)
    return (pairs | (pairs >> 4)).to(torch.uint8)


def unpack_nibbles(packed: Array, length: int) -> Array:
    """Inverse of `pack_nibbles` for a last axis of `length` codes."""
    pairs = torch.stack([packed & 15, packed >> 4], -1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])[..., :length]


def pack_sixes(codes: Array) -> Array:
    """Four codes in three bytes along the last axis: a little-endian word of 24 bits, the first code lowest."""
    count = (codes.shape[-1] + 3) // 4
    if not codes.numel():
        return codes.new_empty((*codes.shape[:-1], 3 * count))
    words = _words(codes, torch.int32)
    words = (words & 0x3F) | ((words >> 2) & 0xFC0) | ((words >> 4) & 0x3F000) | ((words >> 6) & 0xFC0000)
    triples = words.unsqueeze(-1).view(torch.uint8)[..., :3]
    return triples.reshape(*codes.shape[:-1], 3 * count)


def unpack_sixes(packed: Array, length: int) -> Array:
    """Inverse of `pack_sixes` for a last axis of `length` codes."""
    a, b, c = (packed[..., i::3] for i in range(3))
    codes = torch.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], -1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] // 3 * 4)[..., :length]
