"""IEEE float32 product, quotient and sum where the hardware flushes subnormal numbers, on words of 32 bits.

XLA on CPU takes subnormal operands for zero and flushes results, and turns divisions by constants into products; some
programs switch a thread of the host to flushing. The routines here use the hardware where it is right, on normal
numbers, and integers elsewhere. They are written over `Primitives`, need no 64-bit dtype, branch on no value, and
equal `softfloat`, which is NumPy's.

Every result is rounded once, to nearest even. A NaN may have any sign and payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from breccia.arrays import Array

_MAGNITUDE, _INFINITY, _FRACTION, _HIDDEN = 0x7FFFFFFF, 0x7F800000, 0x007FFFFF, 0x00800000
_ONE = 0x3F800000
_UP = 24
"""By how many powers of two `add` lifts its operands: enough to make every subnormal normal."""


class Words(Protocol):
    """The primitives used here."""

    def bitcast(self, x: Array, dtype: str) -> Array: ...
    def convert(self, x: Array, dtype: str) -> Array: ...
    def where(self, condition: Array, a: Any, b: Any) -> Array: ...
    def minimum(self, a: Any, b: Any) -> Array: ...
    def maximum(self, a: Any, b: Any) -> Array: ...


Operation = Callable[[Array, Array], Array]


def _normalized(xp: Words, magnitude: Array) -> tuple[Array, Array]:
    """(the 23 bits after the leading one, exponent of the leading one as int32) of finite non-zero magnitudes."""
    field, fraction = magnitude >> 23, magnitude & _FRACTION
    # An integer below 2**24 converts exactly, to a normal number whose exponent is the place of its leading bit.
    lifted = xp.bitcast(xp.convert(fraction, "float32"), "uint32")
    small = field == 0
    exponent = xp.convert(xp.where(small, lifted >> 23, field), "int32") - 127
    return xp.where(small, lifted & _FRACTION, fraction), xp.where(small, exponent - 149, exponent)


def _unit(xp: Words, fraction: Array) -> Array:
    """1 + fraction * 2**-23 as float32."""
    return xp.bitcast(fraction | _ONE, "float32")


def _rounded(xp: Words, precise: Array, top: int, exponent: Array) -> Array:
    """Magnitude bits of precise * 2**exponent; the leading bit of `precise` is `top` or `top - 1`, and its last bit
    says whether anything below was dropped.
    """
    leading = top - xp.convert(precise < (1 << top), "int32")
    # The last bit kept is worth 2**-149, or stands 23 places below the leading one.
    places = xp.maximum(leading - 23, -149 - exponent)
    field = xp.minimum(exponent + places + 149, 254)
    shift = xp.convert(xp.minimum(places, 31), "uint32")
    kept = precise >> shift
    rest = precise - (kept << shift)
    half = xp.convert(shift * 0 + 1, "uint32") << (shift - 1)
    up = (rest > half) | ((rest == half) & ((kept & 1) == 1))
    # A leading one in its normal place counts as one more exponent, and so does a carry out of rounding.
    return xp.minimum((xp.convert(field, "uint32") << 23) + kept + xp.convert(up, "uint32"), _INFINITY)


def _chosen(xp: Words, a: Array, b: Array, hardware: Operation, magnitude: Array) -> Array:
    """The hardware's result beside 0, infinity and NaN, else the magnitude with the sign of a product."""
    x, y = xp.bitcast(a, "uint32"), xp.bitcast(b, "uint32")
    p, q = x & _MAGNITUDE, y & _MAGNITUDE
    # Beside 0 or infinity a subnormal stands for any number, and the hardware would take it for 0.
    stand_ins = (xp.bitcast(xp.where((m > 0) & (m < _HIDDEN), w | _ONE, w), "float32") for w, m in ((x, p), (y, q)))
    special = (p == 0) | (q == 0) | (p >= _INFINITY) | (q >= _INFINITY)
    sign = (x ^ y) ^ ((x ^ y) & _MAGNITUDE)
    return xp.where(special, hardware(*stand_ins), xp.bitcast(magnitude | sign, "float32"))


def multiply(xp: Words, a: Array, b: Array, hardware: Operation) -> Array:
    """float32 a * b; `hardware` multiplies 0, infinity and NaN."""
    p, q = xp.bitcast(a, "uint32") & _MAGNITUDE, xp.bitcast(b, "uint32") & _MAGNITUDE
    f, i = _normalized(xp, p)
    g, j = _normalized(xp, q)
    m, n = f | _HIDDEN, g | _HIDDEN
    # The 48 bits of m * n from halves of 12 bits: 24 above, 24 below.
    middle = (m >> 12) * (n & 0xFFF) + (m & 0xFFF) * (n >> 12)
    low = (m & 0xFFF) * (n & 0xFFF)
    carry = middle + (low >> 12)
    high = (m >> 12) * (n >> 12) + (carry >> 12)
    below = ((carry & 0xFFF) << 12) | (low & 0xFFF)
    sticky = xp.convert((below & 0x3FFFF) != 0, "uint32")
    precise = (high << 6) | (below >> 18) | sticky  # m * n / 2**18, and m * n counts 2**(i + j - 46)
    return _chosen(xp, a, b, hardware, _rounded(xp, precise, 29, i + j - 28))


def divide(xp: Words, a: Array, b: Array, hardware: Operation) -> Array:
    """float32 a / b; `hardware` divides numbers from 1 to 2 to within two units in the last place.

    XLA multiplies by reciprocals where it divides by a constant or by one number for all; the exact remainder of
    whatever it gives, which fits into 32 bits, makes the quotient right.
    """
    p, q = xp.bitcast(a, "uint32") & _MAGNITUDE, xp.bitcast(b, "uint32") & _MAGNITUDE
    f, i = _normalized(xp, p)
    g, j = _normalized(xp, q)
    m, n = f | _HIDDEN, g | _HIDDEN
    guess = hardware(_unit(xp, f), _unit(xp, g)) * 16777216.0
    quotient = xp.convert(xp.convert(guess, "int32"), "uint32") - 4  # of 2**24 m / n, from below
    rest = (m << 24) - quotient * n  # modulo 2**32; 0 to 8 n
    for step in (4, 2, 1):
        fits = rest >= n * step
        quotient, rest = xp.where(fits, quotient + step, quotient), xp.where(fits, rest - n * step, rest)
    half = (rest << 1) >= n
    quotient = (quotient << 1) + xp.convert(half, "uint32")
    sticky = xp.convert((rest << 1) != xp.where(half, n, n * 0), "uint32")
    precise = (quotient << 1) | sticky  # 2**26 m / n
    return _chosen(xp, a, b, hardware, _rounded(xp, precise, 26, i - j - 26))


def add(xp: Words, a: Array, b: Array, hardware: Operation) -> Array:
    """float32 a + b; `hardware` adds normal numbers.

    Both are lifted by 2**24, where every subnormal is normal, and the sum is brought down again: sums below the normal
    numbers are exact, so that nothing is rounded twice. Beside a number of 2**74 or more, a subnormal is nothing.
    """
    p, q = xp.bitcast(a, "uint32") & _MAGNITUDE, xp.bitcast(b, "uint32") & _MAGNITUDE
    total = xp.bitcast(hardware(_lifted(xp, a, p), _lifted(xp, b, q)), "uint32")
    magnitude = total & _MAGNITUDE
    field = magnitude >> 23
    places = xp.minimum(_UP + 1 - xp.minimum(xp.maximum(field, 1), _UP + 1), 31)
    small = ((magnitude & _FRACTION) | _HIDDEN) >> places
    lowered = xp.where(field > _UP, magnitude - (_UP << 23), xp.where(magnitude == 0, 0, small))
    found = xp.bitcast(lowered | (total ^ magnitude), "float32")
    return xp.where(xp.maximum(p, q) >= (201 << 23), hardware(a, b), found)


def _lifted(xp: Words, x: Array, magnitude: Array) -> Array:
    """`x` times 2**24, for |x| below 2**74."""
    bits = xp.bitcast(x, "uint32")
    count = xp.bitcast(xp.convert(magnitude & _FRACTION, "float32"), "uint32")  # x as a number of 2**-149
    small = xp.where(magnitude == 0, 0, count - ((149 - _UP) << 23))
    lifted = xp.where(magnitude < _HIDDEN, small, xp.minimum(magnitude, 201 << 23) + (_UP << 23))
    return xp.bitcast(lifted | (bits ^ magnitude), "float32")
