"""How codes of 4 bits become pairs of 16-bit floats in registers, in few instructions; all of it is exact.

A thread has a byte, which holds two neighbours along k, and wants both in one register: the low code in its low half.
`mad` puts the high code 16 bits above the low one; a bitwise operation keeps the codes alone, and the rest is
arithmetic on halves:

    integers    the code is the end of the mantissa of 128 (1024 in float16), whose unit is 1; 128 is subtracted, or 136
                where the code was biased by 8 to be positive, or 128 and the zero point
    e2m1        exponent and mantissa in bfloat16's places are a number 2**126 times too small, subnormal ones included;
                one product moves the exponent, another one is by the scale
"""

from __future__ import annotations

from breccia.formats import Format
from breccia.targets.triton import _casts
from breccia.targets.triton._casts import Library
from breccia.targets.triton._swapped import Decode

PAIRS = '''
@gluon.jit
def _pairs(packed, LAYOUT: gl.constexpr):
    """Bytes, each twice: once for each of the codes in it. No thread needs another one's."""
    packed = packed.to(gl.int32)
    twice = gl.reshape(gl.join(packed, packed), (packed.shape[0], packed.shape[1] * 2))
    return gl.convert_layout(twice, LAYOUT, assert_trivial=True)
'''
SPREAD = '''
@gluon.jit
def _spread(scales, BLOCK: gl.constexpr, BLOCKS: gl.constexpr, LAYOUT: gl.constexpr):
    """Each number as often as its block has elements. No thread needs another one's."""
    count: gl.constexpr = scales.shape[1] * BLOCK
    ones = gl.full((scales.shape[0], scales.shape[1], BLOCK), 1, gl.int32, BLOCKS)
    wide = gl.expand_dims(scales, 2) * ones
    return gl.convert_layout(gl.reshape(wide, (scales.shape[0], count)), LAYOUT, assert_trivial=True)
'''
_HELPER = '''
@gluon.jit
def {name}({parameters}):
    """{doc}"""
    return gl.inline_asm_elementwise(
        "{{ .reg .b32 t, c; {text} }}",
        "{constraints}", [{parameters}], dtype=gl.{dtype}, is_pure=True, pack=2,
    )
'''
_POWERS = '''
@gluon.jit
def {name}(codes):
    """{fmt} as bfloat16, in both halves: the exponent in its place, where 0 is subnormal, and infinity becomes NaN."""
    return gl.inline_asm_elementwise(
        "{{ .reg .b32 t, c; mul.lo.u32 t, $1, 0x00800080; mov.b32 c, 0x00400040; max.u16x2 t, t, c; "
        "mov.b32 c, 0; fma.rn.bf16x2 $0, t, c, t; }}",
        "=r,r", [codes.to(gl.int32)], dtype=gl.int32, is_pure=True, pack=1,
    )
'''
_DTYPES = {"bf16": "bfloat16", "f16": "float16"}
_UNITS = {"bf16": 0x4300, "f16": 0x6400}
"""Bits of the smallest power of two whose mantissa counts in ones: 128 and 1024."""
_INTEGERS = "mad.lo.u32 t, $1, 4096, $1; mov.b32 c, {biased}; lop3.b32 t, t, 0x000f000f, c, 0x6a; "
_FLOATS = (
    "mul.lo.u32 t, $1, 262208; mul.lo.u32 c, $1, 16781312; and.b32 t, t, 0x01c001c0; "
    "lop3.b32 t, c, 0x80008000, t, 0xea; mov.b32 c, 0x7e807e80; mul.rn.bf16x2 {to}, t, c;"
)


def helper(library: Library, decode: Decode) -> str:
    """The name of a function from bytes as `_pairs` gives them, and numbers as `pair` gives them, to values."""
    element, more = decode.element, "zero" if decode.zero is not None else "scale" if decode.scale is not None else ""
    name = f"_pairs_of_{element.name}_{'less_zero' if more == 'zero' else 'scaled' if more else 'values'}"
    doc = f"The {_DTYPES[decode.computed]} values of {element.name} codes"
    doc += {"zero": " less a zero point", "scale": " times a scale", "": ""}[more]
    text = _HELPER.format(
        name=f"{name}_{decode.computed}", parameters=f"packed, {more}" if more else "packed", doc=f"{doc}.",
        text=instructions(decode), constraints="=r,r,r,r,r" if more else "=r,r,r", dtype=_DTYPES[decode.computed],
    )  # fmt: skip
    return library.add(f"{name}_{decode.computed}", text)


def instructions(decode: Decode) -> str:
    """PTX: the byte is $1 (and $2), a pair of a number's halves $3 (and $4), the pair of values $0."""
    if decode.element.kind == "float":
        scaled = " mul.rn.bf16x2 $0, t, $3;" if decode.scale is not None else ""
        return _FLOATS.format(to="t" if scaled else "$0") + scaled
    biased = twice(_UNITS[decode.computed] + (8 if decode.element.signed else 0))
    less = "$3" if decode.zero is not None else "c"
    return _INTEGERS.format(biased=hex(biased)) + f"sub.rn.{decode.computed}x2 $0, t, {less};"


def twice(half: int) -> int:
    """A 16-bit number in both halves of 32 bits."""
    return half << 16 | half


def number(library: Library, decode: Decode, fmt: Format) -> str:
    """The name of a function from zero points, or scales of that format, to pairs of halves."""
    if decode.zero is not None:
        unit = _UNITS[decode.computed]
        doc = f"{unit:#x} is {'128' if decode.computed == 'bf16' else '1024'}: what codes are part of, in both halves."
        body = f"return (codes.to(tl.int32) + {unit:#x}) * 0x10001"
        return library.define(f"_pair_of_zero_{decode.computed}", "codes", doc, body)
    if fmt.is_power_of_two:
        return library.add(f"_pair_of_{fmt.name}", _POWERS.format(name=f"_pair_of_{fmt.name}", fmt=fmt.name))
    value = _casts.decode(library, fmt)
    body = (
        f"bits = {value}(codes).to(tl.bfloat16).to(tl.int16, bitcast=True)  # exact\n"
        "return (bits.to(tl.int32) & 0xFFFF) * 0x10001"
    )
    return library.define(f"_pair_of_{fmt.name}", "codes", f"{fmt.name} as bfloat16, in both halves.", body)
