"""GGUF: the blocks of ggml's types, as ScaledTensors.

theirs -> ours: `d` multiplies; `m` of Q4_1 and Q5_1 is added after: an offset. Axes are ours: NumPy's order of a GGUF
tensor, whose own list of sizes is the reverse. In a block of 32, byte j holds code j in its low nibble and code j + 16
in its high one (NVFP4: halves of 16); the fifth bits of Q5 are a word of 32 bits. Signed types store codes plus half of
their range. K-quants have two levels, float16 for 256 values and integers for 16 or 32 of them; what is subtracted
(dmin * m) is an offset in float32, which holds it exactly. NVFP4's outer scale is a tensor of its own, `<name>.scale`.

K-quants are read alone: their files need dmin and m apart. Source: gguf 0.19, quants.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from breccia import formats
from breccia.arrays import Array
from breccia.bridges._common import (
    HostArray,
    as_bytes,
    cannot_hold,
    exactly_in,
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
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

PEER = "GGUF"

iq4_nl = Format(
    "iq4_nl", "iq4_nl", "codebook", 4,
    codebook=tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))),
)  # fmt: skip
"""The codebook of IQ4_NL."""

_F16, _F32 = formats.float16, formats.float32
_E8M0, _E4M3, _FP4 = formats.float8_e8m0fnu, formats.float8_e4m3fn, formats.float4_e2m1fn


class Blocks(NamedTuple):
    """Blocks taken apart: codes (blocks, values), scales of each level outermost first (blocks, scales), offset."""

    codes: HostArray
    scales: tuple[HostArray, ...]
    offset: HostArray | None = None


@dataclass(frozen=True)
class Kind:
    """One of ggml's types: `size` values in `nbytes` bytes."""

    size: int
    nbytes: int
    recipe: Recipe
    read: Callable[[HostArray], Blocks]


class GGUFTensor(NamedTuple):
    """What a file holds: bytes (..., bytes of a row), the name of the type, and NVFP4's outer scale (else None)."""

    data: Array
    kind: str
    scale: Array | None


def from_gguf(data: Array, kind: Any, *, scale: Array | None = None, dtype: Any = "float32") -> ScaledTensor:
    """The tensor of a GGUF file.

    data: uint8 (..., bytes of a row), as `gguf.GGUFReader` gives it. kind: ggml's type: its name, such as "Q4_0", or a
    `gguf.GGMLQuantizationType`. scale: of NVFP4 the content of `<name>.scale`, one float32. dtype: logical dtype.

    Reads Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4, NVFP4 and Q2_K to Q6_K. Raises UnsupportedError for other types,
    which `dequantize_gguf` decodes; FormatError for bytes that are no whole blocks.

    >>> st = from_gguf(np.array([[0, 0x3C] + [0x98] * 16], np.uint8), "Q4_0")
    >>> st.recipe, st.numpy()[0, [0, 16]].tolist()
    (<recipe int4_g32_f16>, [0.0, 1.0])
    """
    name = str(getattr(kind, "name", kind))
    found = KINDS.get(name)
    if found is None:
        raise UnsupportedError(
            f"{PEER}: {name} has no place in a ScaledTensor; readable: {', '.join(KINDS)}. "
            "breccia.bridges.gguf.dequantize_gguf decodes it"
        )
    octets = host(as_bytes(data, "data"))
    if octets.ndim < 1 or octets.shape[-1] % found.nbytes:
        raise FormatError(
            f"{PEER}: rows of {name} are blocks of {found.nbytes} bytes for {found.size} values; got {octets.shape}"
        )
    lead, blocks = octets.shape[:-1], octets.shape[-1] // found.nbytes
    parts = found.read(np.ascontiguousarray(octets).reshape(-1, found.nbytes))

    def grid(x: HostArray) -> Array:
        return given_back(x.reshape(*lead, blocks * x.shape[-1]), data)

    scales = [grid(each) for each in parts.scales]
    recipe = found.recipe
    if scale is not None:
        if name != "NVFP4":
            raise FormatError(f"{PEER}: {name} has no scale of its own; of NVFP4 alone it belongs to the weight")
        recipe = recipe_of(_FP4, (_F32, None), (_E4M3, (1, 16)))
        outer = host(scale).astype(np.float32).reshape(-1)
        if outer.size != 1:
            raise FormatError(f"{PEER}: the scale of an NVFP4 tensor is one number; got {outer.size}")
        scales.insert(0, given_back(outer.reshape(()), data))
    offset = None if parts.offset is None else grid(parts.offset)
    shape = (*lead, blocks * found.size)
    return ScaledTensor(grid(parts.codes), recipe=recipe, shape=shape, scales=scales, offset=offset, dtype=dtype)


def to_gguf(st: ScaledTensor) -> GGUFTensor:
    """The bytes, the type and (of NVFP4) the outer scale of a tensor with blocks along the last axis; exact.

    Q4_0, Q5_0, Q8_0: INT4, INT5 and INT8 per 32 with float16 scales (wider ones if they are float16 exactly). Q4_1,
    Q5_1: unsigned ones with offsets. IQ4_NL, MXFP4, NVFP4. Raises UnsupportedError for other tensors, saying how to go
    on.

    >>> from breccia import cast, recipes
    >>> made = to_gguf(cast(np.ones((2, 64), np.float32), recipes.int4_g32_f16))
    >>> made.kind, made.data.shape
    ('Q4_0', (2, 36))
    """
    element, dtypes = st.recipe.element, level_dtypes(st)
    if st.ndim < 1 or st.recipe.zero_point is not None:
        raise _refused(st)
    if element == _FP4 and dtypes[-1] == _E4M3 and dtypes[:-1] in ((), (_F32,)) and st.recipe.offset is None:
        return _write_nvfp4(st)
    if len(dtypes) != 1 or not same_blocks(st, (1, 32)) or st.shape[-1] % 32:
        raise _refused(st)
    codes = host(st.codes()).reshape(-1, 32)
    if element == _FP4 and dtypes == (_E8M0,) and st.recipe.offset is None:
        name, sides = "MXFP4", [host(st.scale).reshape(-1, 1)]
    else:
        name = _INTEGERS.get((element, st.recipe.offset is not None), "")
        sides = [_half(st, st.scale, dtypes[0])]
        if st.offset is not None and st.recipe.offset is not None:
            sides.append(_half(st, st.offset, st.recipe.offset.dtype))
    if not name:
        raise _refused(st)
    if element.kind == "int" and element.signed and element.bits < 8:
        codes = codes ^ np.uint8(1 << element.bits - 1)
    if element.bits == 5:
        sides.append(np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little"))
    body = codes if element.bits == 8 else _join(codes & np.uint8(15), 32)
    made = np.concatenate([*sides, body], -1)
    made = made.reshape(*st.shape[:-1], st.shape[-1] // 32 * made.shape[-1])
    return GGUFTensor(given_back(made, st.data), name, None)


def dequantize_gguf(data: Array, kind: Any) -> HostArray:
    """float32 values of a tensor of any of ggml's types, in NumPy: those that no recipe holds by gguf's own decoders.

    Raises UnsupportedError where gguf is needed and not installed, or does not know the type.
    """
    name = str(getattr(kind, "name", kind))
    if name in KINDS:
        return from_gguf(host(data), name).numpy()
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise UnsupportedError(f"decoding {name} needs gguf ({error}); install it: pip install gguf") from error
    try:
        return np.asarray(quants.dequantize(host(data), GGMLQuantizationType[name]), np.float32)
    except (KeyError, NotImplementedError) as error:
        raise UnsupportedError(f"{PEER}: gguf does not decode {name}: {error}") from error


# -- reading -----------------------------------------------------------------------------------------------------------


def _split(octets: HostArray, size: int) -> HostArray:
    """Codes of 4 bits in runs of `size`: low nibbles of size / 2 bytes, then their high ones."""
    blocks, nbytes = octets.shape
    runs = octets.reshape(blocks, 2 * nbytes // size, size // 2)
    return np.concatenate([runs & np.uint8(15), runs >> np.uint8(4)], -1).reshape(blocks, 2 * nbytes)


def _shifted(octets: HostArray, run: int, bits: int) -> HostArray:
    """Codes of `bits` bits: the lowest ones of `run` bytes, then the next ones of the same bytes, and so on."""
    blocks, nbytes = octets.shape
    runs = octets.reshape(blocks, nbytes // run, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, 1)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(blocks, nbytes * 8 // bits)


def _float16(octets: HostArray) -> HostArray:
    return np.ascontiguousarray(octets).view("<f2").astype(np.float16, copy=False)


def _q4_0(b: HostArray) -> Blocks:
    return Blocks(_split(b[:, 2:], 32) ^ np.uint8(8), (_float16(b[:, :2]),))


def _q4_1(b: HostArray) -> Blocks:
    return Blocks(_split(b[:, 4:], 32), (_float16(b[:, :2]),), _float16(b[:, 2:4]))


def _fifth(b: HostArray) -> HostArray:
    return np.unpackbits(b, axis=-1, bitorder="little") << np.uint8(4)


def _q5_0(b: HostArray) -> Blocks:
    return Blocks((_split(b[:, 6:], 32) | _fifth(b[:, 2:6])) ^ np.uint8(16), (_float16(b[:, :2]),))


def _q5_1(b: HostArray) -> Blocks:
    return Blocks(_split(b[:, 8:], 32) | _fifth(b[:, 4:8]), (_float16(b[:, :2]),), _float16(b[:, 2:4]))


def _q8_0(b: HostArray) -> Blocks:
    return Blocks(b[:, 2:], (_float16(b[:, :2]),))


def _iq4_nl(b: HostArray) -> Blocks:
    return Blocks(_split(b[:, 2:], 32), (_float16(b[:, :2]),))


def _mxfp4(b: HostArray) -> Blocks:
    return Blocks(_split(b[:, 1:], 32), (b[:, :1],))


def _nvfp4(b: HostArray) -> Blocks:
    scales = b[:, :4]
    if np.any(scales > 0x7E):
        raise FormatError(
            f"{PEER}: an NVFP4 scale has code {int(scales[scales > 0x7E][0]):#04x}, which ggml does not read as E4M3"
        )
    return Blocks(_split(b[:, 4:], 16), (scales,))


def _q2_k(b: HostArray) -> Blocks:
    d, least = _float16(b[:, 80:82]), _float16(b[:, 82:84])
    return Blocks(_shifted(b[:, 16:80], 32, 2), (d, b[:, :16] & np.uint8(15)), _minus(least, b[:, :16] >> np.uint8(4)))


def _q3_k(b: HostArray) -> Blocks:
    """Codes of 3 bits, less 4 where the third one is 0; scales of 6 bits, less 32: both signed here."""
    low, high = _shifted(b[:, 96:104], 8, 4), _shifted(b[:, 104:108], 4, 2)
    scales = (low | high << np.uint8(4)) ^ np.uint8(32)
    codes = (_shifted(b[:, 32:96], 32, 2) | _shifted(b[:, :32], 32, 1) << np.uint8(2)) ^ np.uint8(4)
    return Blocks(codes, (_float16(b[:, 108:110]), scales))


def _scales_and_mins(b: HostArray) -> tuple[HostArray, HostArray]:
    """Eight scales and eight minima of 6 bits in 12 bytes."""
    first, second, rest = b[:, :4], b[:, 4:8], b[:, 8:12]
    six, four, two = np.uint8(63), np.uint8(15), np.uint8(0x30)
    scales = np.concatenate([first & six, rest & four | first >> np.uint8(2) & two], -1)
    return scales, np.concatenate([second & six, rest >> np.uint8(4) | second >> np.uint8(2) & two], -1)


def _q4_k(b: HostArray) -> Blocks:
    scales, mins = _scales_and_mins(b[:, 4:16])
    return Blocks(_shifted(b[:, 16:], 32, 4), (_float16(b[:, :2]), scales), _minus(_float16(b[:, 2:4]), mins))


def _q5_k(b: HostArray) -> Blocks:
    scales, mins = _scales_and_mins(b[:, 4:16])
    codes = _shifted(b[:, 48:], 32, 4) | _shifted(b[:, 16:48], 32, 1) << np.uint8(4)
    return Blocks(codes, (_float16(b[:, :2]), scales), _minus(_float16(b[:, 2:4]), mins))


def _q6_k(b: HostArray) -> Blocks:
    codes = _shifted(b[:, :128], 64, 4) | _shifted(b[:, 128:192], 32, 2) << np.uint8(4)
    return Blocks(codes ^ np.uint8(32), (_float16(b[:, 208:210]), b[:, 192:208]))


def _minus(least: HostArray, mins: HostArray) -> HostArray:
    """-(dmin * m): 11 bits times at most 6, which float32 holds."""
    return -(least.astype(np.float32) * mins.astype(np.float32))


def _super(element: Format, inner: Format, size: int, offset: bool = False) -> Recipe:
    return recipe_of(element, (_F16, (1, 256)), (inner, (1, size)), offset=_F32 if offset else None)


_PER_32 = (_F16, (1, 32))
KINDS: dict[str, Kind] = {
    "Q4_0": Kind(32, 18, recipe_of(formats.int4, _PER_32), _q4_0),
    "Q4_1": Kind(32, 20, recipe_of(formats.uint4, _PER_32, offset=_F16), _q4_1),
    "Q5_0": Kind(32, 22, recipe_of(integer(5, signed=True), _PER_32), _q5_0),
    "Q5_1": Kind(32, 24, recipe_of(integer(5, signed=False), _PER_32, offset=_F16), _q5_1),
    "Q8_0": Kind(32, 34, recipe_of(formats.int8, _PER_32), _q8_0),
    "IQ4_NL": Kind(32, 18, recipe_of(iq4_nl, _PER_32), _iq4_nl),
    "MXFP4": Kind(32, 17, recipe_of(_FP4, (_E8M0, (1, 32))), _mxfp4),
    "NVFP4": Kind(64, 36, recipe_of(_FP4, (_E4M3, (1, 16))), _nvfp4),
    "Q2_K": Kind(256, 84, _super(integer(2, signed=False), formats.uint4, 16, offset=True), _q2_k),
    "Q3_K": Kind(256, 110, _super(integer(3, signed=True), integer(6, signed=True), 16), _q3_k),
    "Q4_K": Kind(256, 144, _super(formats.uint4, integer(6, signed=False), 32, offset=True), _q4_k),
    "Q5_K": Kind(256, 176, _super(integer(5, signed=False), integer(6, signed=False), 32, offset=True), _q5_k),
    "Q6_K": Kind(256, 210, _super(integer(6, signed=True), formats.int8, 16), _q6_k),
}
"""ggml's types that a recipe holds."""

_INTEGERS = {
    (KINDS[name].recipe.element, KINDS[name].recipe.offset is not None): name
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
}


# -- writing -----------------------------------------------------------------------------------------------------------


def _join(codes: HostArray, size: int) -> HostArray:
    """The inverse of `_split`."""
    blocks, count = codes.shape
    runs = codes.reshape(blocks, count // size, 2, size // 2)
    return (runs[:, :, 0] | runs[:, :, 1] << np.uint8(4)).reshape(blocks, count // 2)


def _half(st: ScaledTensor, x: Array, fmt: Format) -> HostArray:
    """Scales or offsets as the bytes of float16; refused where that would change one."""
    made = exactly_in(x, fmt, _F16)
    if made is None:
        raise _refused(st)
    return np.ascontiguousarray(made.astype("<f2").reshape(-1, 1)).view(np.uint8)


def _write_nvfp4(st: ScaledTensor) -> GGUFTensor:
    blocks = ((1, 16),) if len(st.scales) == 1 else (None, (1, 16))
    if not same_blocks(st, *blocks) or st.shape[-1] % 64 or np.any(host(st.scale) > 0x7E):
        raise cannot_hold(
            PEER, st, "NVFP4 with rows of whole 64 values and scales that are numbers",
            "pad the last axis to a multiple of 64 before casting",
        )  # fmt: skip
    body = _join(host(st.codes()).reshape(-1, 64), 16)
    made = np.concatenate([host(st.scale).reshape(-1, 4), body], -1).reshape(*st.shape[:-1], -1)
    return GGUFTensor(given_back(made, st.data), "NVFP4", st.scales[0] if len(st.scales) == 2 else None)


def _refused(st: ScaledTensor) -> UnsupportedError:
    holds = (
        "INT4, INT5 and INT8 with float16 scales per 32 along the last axis, unsigned ones with float16 offsets, "
        "IQ4_NL, MXFP4 and NVFP4, all with whole blocks"
    )
    return cannot_hold(PEER, st, holds, requantize_to("int4_g32_f16"))
