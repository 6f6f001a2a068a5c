"""Division by scales: text of functions that prepare one for every block, so that elements are multiplied alone."""

from __future__ import annotations

from breccia.targets.triton._casts import Library

QUOTIENT = (
    "x = x * factor",
    "magnitude = tl.minimum(tl.abs(x), LIMITNAN)  # what is too large stays too large",
    "quotient = tl.fma(magnitude, inverse, magnitude * more)",
    "rest = tl.fma(-quotient, divisor, magnitude)",
    "quotient = tl.fma(rest, inverse, quotient)",
)
"""|x| / scale from the parts that `divisor` makes, rounded to nearest, and x with the quotient's sign."""
NARROW_QUOTIENT = QUOTIENT[:3]
"""The same for x of at most 11 bits and the parts of `narrow_divisor`: see there how it is rounded."""


def reciprocal(library: Library, nan: bool) -> str:
    """A function from codes of E8M0 to 1 over their values, as float32: exact.

    nan: whether the code of NaN gives NaN; else some number, for blocks in which nothing is left to divide.
    """
    bits = "bits = (254 - codes.to(tl.int32)) << 23\n"
    bits += f"bits = tl.where(codes {'==' if nan else '>='} 254, 0x00400000, bits)  # 2**-127 is subnormal\n"
    if nan:
        bits += "bits = tl.where(codes == 255, 0x7FC00000, bits)\n"
    body = f"{bits}return bits.to(tl.float32, bitcast=True)"
    name = "_reciprocal_float8_e8m0fnu" + ("" if nan else "_number")
    return library.define(name, "codes", "1 over a power of two, exactly.", body)


def float_reciprocal(library: Library) -> str:
    """A function from float32 powers of two, from 2**-126 on, or NaN, to 1 over them: exact."""
    body = """
bits = 0x7F000000 - scale.to(tl.int32, bitcast=True)
bits = tl.where(bits == 0, 0x00400000, bits)  # 2**-127 is subnormal
return tl.where(scale == scale, bits.to(tl.float32, bitcast=True), scale)"""
    return library.define("_reciprocal_power", "scale", "1 over a power of two, exactly.", body)


def divisor(library: Library, nan: bool) -> str:
    """A function from scales to the parts of a division without a division for each element; nan: scales may be NaN.

    With b the divisor, y = 1/b rounded to float32 and z = (1 - y * b) * y, y + z is 1/b but for 2**-46 of it. So
    q = fma(a, y, a * z) is within one unit of the last place of a / b, rest = a - q * b is a float32 (fma computes it
    exactly), and fma(rest, y, q) is a / b rounded to nearest: Markstein's theorem, which asks for a faithful q and a y
    that is the nearest float32 to 1/b. That holds while nothing over- or underflows: b is in [1, 2) (in [2**-22, 1)
    for subnormal scales below 2**-127), and a is at most a small multiple of b; where a / b is below 2**-60 the last
    bits may be wrong, but all formats round it to 0. An infinite scale has factor 0, so that all quotients are 0.
    """
    name = "_divisor" + ("_or_nan" if nan else "")
    body = f"""{_normalized(nan)}
inverse = tl.div_rn(1.0, divisor)
return factor, divisor, inverse, tl.fma(-inverse, divisor, 1.0) * inverse
"""
    doc = "x / scale is (x * factor) / divisor, divisor in [1, 2), and inverse + more is 1 / divisor to 46 bits."
    return library.define(name, "scale", doc, body)


def _normalized(nan: bool) -> str:
    """Lines from `scale` to `factor` and `divisor`."""
    last = "tl.where(scale == scale, 0, 0x7FC00000)" if nan else "0"
    return f"""
bits = scale.to(tl.int32, bitcast=True)
field = (bits >> 23) & 0xFF
power = tl.maximum((254 - field) << 23, 0x00400000)  # 2**-exponent of the scale; 2**-127 is subnormal
power = tl.where(field == 255, {last}, power)
factor = (power | ((bits >> 31) << 31)).to(tl.float32, bitcast=True)
normal = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
divisor = tl.where(field == 0, scale * factor, normal)"""


def inverse(library: Library) -> str:
    """A function from a float32 b, no zero and no infinity, to y and z, both positive, with y + z = 1 / b but for
    2**-41 of it.

    For an x of at most 11 bits, q = fma(x, y, x * z) rounds to the same code of a float of at most 8 bits as the
    float32 nearest to x / b. For they could differ only if a tie t between two codes, of 5 bits or fewer, or the middle
    between t and a float32 beside it, lay between q's exact value and x / b:

    - Where x / b is t itself, q is too, as t has no neighbour within 2**-41 of it.
    - The middle is t (1 + 2**-24 k) for a small k. With B the 24 bits of b, X and T those of x and t as whole numbers,
      X = T B + r with r as close to T B 2**-24 k as B to 2**20 r. Because X has 17 zeros at its end where T B has 29
      bits, that needs T j + r = 0 modulo 2**17 for B = 2**20 r + j, and so a j of 4000 or more, too far from the
      middle; but for T = r = 16 and j = -1. There x / b is just above the middle, and so is q, as z is too large by
      2**-42 rather than too small.
    """
    body = """
# Three steps of Newton's method, the last of which aims 2**-21 below, so that `more` is positive.
inverse = (0x7EF311C3 - divisor.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)  # within an eighth
inverse = tl.fma(tl.fma(-inverse, divisor, 1.0), inverse, inverse)
inverse = tl.fma(tl.fma(-inverse, divisor, 1.0), inverse, inverse)
inverse = tl.fma(tl.fma(-inverse, divisor, 0.9999995231628418), inverse, inverse)
return inverse, tl.fma(-inverse, divisor, 1.0) * (inverse * 1.0000009536743164)
"""
    doc = "Two numbers whose sum is 1 / divisor to 41 bits."
    return library.define("_inverse", "divisor", doc, body)


def narrow_divisor(library: Library, nan: bool) -> str:
    """`divisor` for x of at most 11 bits: its parts are those of `inverse`, and need no correction of the quotient."""
    body = f"""{_normalized(nan)}
inverse, more = {inverse(library)}(divisor)
return factor, divisor, inverse, more
"""
    doc = "x / scale is (x * factor) / divisor, divisor in [1, 2), and inverse + more is 1 / divisor to 41 bits."
    return library.define("_narrow_divisor" + ("_or_nan" if nan else ""), "scale", doc, body)


def computed_divisor(library: Library) -> str:
    """`narrow_divisor` of scales that are neither 0, nor infinite, nor negative; those that are NaN make all NaN."""
    body = f"""
power = 0x7F000000 - (scale.to(tl.int32, bitcast=True) & 0x7F800000)
factor = tl.maximum(power, 0x00400000).to(tl.float32, bitcast=True)  # 2**-exponent; 2**-127 is subnormal
inverse, more = {inverse(library)}(scale * factor)
return factor, inverse, more
"""
    doc = "x / scale is (x * factor) * (inverse + more) to 41 bits."
    return library.define("_computed_divisor", "scale", doc, body)
