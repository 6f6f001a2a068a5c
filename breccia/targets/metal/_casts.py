"""Functions that decode and encode one number, by integer operations.

They are `breccia.numerics` in Metal's terms, equal to it bit for bit. Nothing in them depends on how a GPU treats
subnormal numbers: what is decoded is a normal float32 (but for E8M0's code 0), and what is encoded is taken apart as an
integer.
"""

from __future__ import annotations

from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.numerics.bit_encode import _sortable, _thresholds
from breccia.numerics.bits import float32_bits
from breccia.recipes import Overflow, Rounding
from breccia.targets.metal._library import Library, number

_ROUNDED = {
    "rne": ", ties to even", "ties_away": ", ties away from zero", "ties_zero": ", ties toward zero",
    "stochastic": ", up or down by chance",
}  # fmt: skip


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(library: Library, fmt: Format) -> str:
    """The name of a function from a code (uint) to its value (float)."""
    if fmt.bits > 16 or (fmt.bits > 8 and fmt.kind != "float"):
        raise UnsupportedError(f"metal: no codes of {fmt.name} are decoded; use float32, or at most 16 bits")
    if fmt.bits > 8:
        body = (
            "return as_type<float>(code << 16);" if fmt.exponent_bits == 8
            else "return float(as_type<half>(ushort(code)));"
        )  # fmt: skip
    elif fmt.kind == "codebook":
        body = f"return {library.table(f'values_{fmt.name}', fmt.codebook)}[code];"
    elif fmt.kind == "int":
        body = _decode_int(fmt)
    elif fmt.is_power_of_two:
        body = (
            "uint bits = code << 23;\n"
            "bits = code == 0 ? 0x00400000u : bits;  // 2**-127 is subnormal\n"
            "return as_type<float>(code == 255 ? 0x7FC00000u : bits);"
        )
    else:
        body = _decode_float(fmt)
    return library.define("float", f"decode_{fmt.name}", "uint code", f"The value of a code of {fmt.name}.", body)


def _decode_int(fmt: Format) -> str:
    sign = 1 << (fmt.bits - 1)
    value = f"int(code ^ {sign}u) - {sign}" if fmt.signed else "code"
    scale = f" * {number(1 / (1 << fmt.fraction_bits))}" if fmt.fraction_bits else ""
    return f"return float({value}){scale};"


def _decode_float(fmt: Format) -> str:
    width, mantissa = fmt.exponent_bits + fmt.mantissa_bits, fmt.mantissa_bits
    unit = number(2.0 ** (1 - fmt.bias - mantissa))
    lines = [
        f"uint magnitude = code & {hex((1 << width) - 1)}u;",
        f"uint bits = (magnitude << {23 - mantissa}) + {hex((127 - fmt.bias) << 23)}u;",
        f"bits = magnitude < {1 << mantissa}u ? as_type<uint>(float(magnitude) * {unit}) : bits;  // subnormal",
    ]
    if fmt.infinity_code is not None:
        infinity = hex(fmt.infinity_code)
        lines.append(f"bits = magnitude < {infinity}u ? bits : magnitude == {infinity}u ? 0x7F800000u : 0x7FC00000u;")
    elif fmt.nan == "negative_zero":
        lines.append(f"bits = code == {hex(fmt.nan_code or 0)}u ? 0x7FC00000u : bits;")
    elif fmt.nan_code is not None:
        lines.append(f"bits = magnitude == {hex(fmt.nan_code)}u ? 0x7FC00000u : bits;")
    lines.append(f"return as_type<float>(bits | (code >> {fmt.bits - 1} << 31));")
    return "\n".join(lines)


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode(library: Library, fmt: Format, rounding: Rounding = "rne", overflow: Overflow = "saturate") -> str:
    """The name of a function from float (and, for stochastic rounding, 32 random bits) to a code (uint).

    Formats of at most 16 bits. Equal to `breccia.numerics.encode` for every float32.
    """
    if fmt.bits > 16:
        raise UnsupportedError(f"metal: nothing is encoded into {fmt.name}; use at most 16 bits")
    parameters = "float x, uint random" if rounding == "stochastic" else "float x"
    doc = f"The code of {fmt.name} nearest to x{_ROUNDED[rounding]}; what is too large {_too_large(fmt, overflow)}."
    name = f"encode_{fmt.name}" + ("" if rounding == "rne" else f"_{rounding}")
    name += "_or_nan" if overflow == "nan" and fmt.kind == "float" else ""
    if fmt.kind == "codebook":
        body = _encode_codebook(library, fmt, rounding)
    elif fmt.kind == "int":
        body = _encode_int(library, fmt, rounding)
    elif fmt.is_power_of_two:
        body = _encode_power_of_two(library, fmt, rounding, overflow)
    else:
        body = _encode_float(library, fmt, rounding, overflow)
    return library.define("uint", name, parameters, doc, body)


def overflow_code(fmt: Format, overflow: Overflow) -> int:
    """What is written for a value beyond the largest."""
    if overflow == "nan" and fmt.infinity_code is not None:
        return fmt.infinity_code
    if overflow == "nan" and fmt.nan_code is not None:
        return fmt.nan_code
    return fmt.max_code


def _too_large(fmt: Format, overflow: Overflow) -> str:
    code = overflow_code(fmt, overflow)
    return "becomes the largest" if code == fmt.max_code else f"becomes {'infinity' if fmt.infinity else 'NaN'}"


def _shifted(library: Library, rounding: Rounding, shift: str) -> str:
    """The call that rounds `significand` / 2**`shift` to an integer."""
    random = ", random" if rounding == "stochastic" else ""
    return f"{shift_round(library, rounding)}(significand, {shift}{random})"


_TAKEN_APART = """uint bits = as_type<uint>(x), magnitude = bits & 0x7FFFFFFFu;
uint exponent = max(magnitude >> 23, 1u);
uint significand = (magnitude & 0x007FFFFFu) | (magnitude < 0x00800000u ? 0u : 0x00800000u);"""


def _encode_float(library: Library, fmt: Format, rounding: Rounding, overflow: Overflow) -> str:
    smallest = 128 - fmt.bias  # the exponent field that float32 uses for this format's smallest normal number
    too_large, nan = overflow_code(fmt, overflow), fmt.nan_code or 0
    # bfloat16 has float32's exponents: nothing is missing, and the field of its subnormal numbers is 1 as well.
    missing = f"max(exponent, {smallest}u) - exponent + {23 - fmt.mantissa_bits}u"
    lines = [
        *_TAKEN_APART.splitlines(),
        f"uint count = {_shifted(library, rounding, missing)};",
        f"uint code = ((max(exponent, {smallest}u) - {smallest}u) << {fmt.mantissa_bits}) + count;",
        f"code = code > {fmt.max_code}u || magnitude >= 0x7F800000u ? {too_large}u : code;",
    ]
    sign = f"code | (bits >> 31 << {fmt.bits - 1})" if fmt.signed else "code"
    if fmt.signed and not fmt.has_negative_zero:
        sign = f"code == 0 ? 0u : {sign}"
    broken = "magnitude > 0x7F800000u"
    if too_large == nan and too_large != fmt.max_code:
        broken += f" || code == {too_large}u"
    lines.append(f"return {broken} ? {nan}u : {sign};")
    return "\n".join(lines)


def _encode_power_of_two(library: Library, fmt: Format, rounding: Rounding, overflow: Overflow) -> str:
    nan = 255 if fmt.nan_code is None else fmt.nan_code
    too_large = nan if overflow == "nan" else fmt.max_code
    return f"""
uint bits = as_type<uint>(x), magnitude = bits & 0x7FFFFFFFu;
uint field = magnitude >> 23, fraction = magnitude & 0x007FFFFFu;
// 2**-127 is subnormal in float32; one place to the left it has the form of the normal numbers.
uint significand = field > 0 ? fraction | 0x00800000u : fraction << 1;
uint code = significand < 0x00800000u ? 0u : field + {_shifted(library, rounding, "23u")} - 1;
code = code > {fmt.max_code}u || field == 255 ? {too_large}u : code;
// What is not positive has no power of two.
return bits == 0 || bits > 0x7F800000u ? {nan}u : code;
"""


def _encode_int(library: Library, fmt: Format, rounding: Rounding) -> str:
    unit = 150 - fmt.fraction_bits  # at this exponent field the significand is the integer itself
    negative = 1 << (fmt.bits - 1) if fmt.signed else 0
    return f"""
{_TAKEN_APART}
uint count = {_shifted(library, rounding, f"{unit}u - min(exponent, {unit}u)")};
count = exponent > {unit} ? 0x00800000u : count;
uint code = bits >> 31 ? (0u - min(count, {negative}u)) & {hex((1 << fmt.bits) - 1)}u : min(count, {fmt.max_code}u);
return magnitude > 0x7F800000u ? 0u : code;
"""


def shift_round(library: Library, rounding: Rounding) -> str:
    """A function from a significand below 2**24 and a shift to their quotient as an integer."""
    if rounding == "stochastic":
        body = """
// Past 31 places the chance is below 2**-7: keep 31 places and drop the lowest bits.
significand >>= min(max(shift, 31u) - 31u, 31u);
shift = min(shift, 31u);
uint kept = significand >> shift, rest = significand - (kept << shift);
return kept + uint(shift > 0 && rest > (random >> 1) >> (31 - shift));
"""
        return library.define(
            "uint", "shift_stochastic", "uint significand, uint shift, uint random",
            "significand / 2**shift, up with the chance rest / 2**shift.", body,
        )  # fmt: skip
    up = {
        "rne": "twice > whole || (twice == whole && (kept & 1))", "ties_away": "twice >= whole",
        "ties_zero": "twice > whole",
    }[rounding]  # fmt: skip
    body = f"""
shift = min(shift, 30u);  // past 25 places nothing but 0 is left
uint kept = significand >> shift, twice = (significand - (kept << shift)) << 1, whole = 1u << shift;
return kept + uint(shift > 0 && ({up}));
"""
    return library.define(
        "uint", f"shift_{rounding}", "uint significand, uint shift",
        f"significand / 2**shift to the nearest integer{_ROUNDED[rounding]}.", body,
    )  # fmt: skip


def sortable(library: Library) -> str:
    """A function from the bits of a float to integers that order as the values do, and back."""
    return library.define(
        "int", "sortable", "int bits", "Integers that order as floats do, -0 below +0; its own inverse.",
        "return bits ^ ((bits >> 31) & 0x7FFFFFFF);",
    )  # fmt: skip


def _encode_codebook(library: Library, fmt: Format, rounding: Rounding) -> str:
    keys, order = _thresholds(fmt, "rne" if rounding == "stochastic" else rounding)
    zero = min(range(len(fmt.codebook)), key=lambda code: abs(fmt.codebook[code]))
    lines = [f"int key = {sortable(library)}(as_type<int>(x));"]
    if rounding == "stochastic":
        lines += _stochastic_codebook(library, fmt)
    else:
        lines.append("uint rank = 0;")
        lines += [f"rank += uint(key >= {key});" for key in keys]
    if order == tuple(range(len(order))):
        lines.append("uint code = rank;")
    else:
        table = library.table(f"codes_{fmt.name}", tuple(float(code) for code in order))
        lines.append(f"uint code = uint({table}[rank]);")
    lines.append(f"return (as_type<uint>(x) & 0x7FFFFFFFu) > 0x7F800000u ? {zero}u : code;")
    return "\n".join(lines)


def _stochastic_codebook(library: Library, fmt: Format) -> list[str]:
    """Between two neighbours, the upper one with the chance (x - lower) / (upper - lower)."""
    values = tuple(sorted(fmt.codebook))
    keys = [_sortable(float32_bits(v)) for v in values]
    table = library.table(f"sorted_{fmt.name}", values)
    last = len(values) - 1
    lines = ["uint below = 0;", *(f"below += uint(key >= {key});" for key in keys[1:-1])]
    lines += [
        f"float inside = key < {keys[0]} ? {table}[0] : key > {keys[last]} ? {table}[{last}] : x;",
        f"float share = (inside - {table}[below]) / ({table}[below + 1] - {table}[below]);",
        "uint rank = below + uint(float(random >> 8) < share * 16777216.0f);",
    ]
    return lines


def random_bits(library: Library) -> str:
    """A function from the two words of a key and an index to 32 random bits, as `numerics.rounding` has it."""
    mix = library.define(
        "uint", "scatter", "uint x", "A bijection of 32-bit words that scatters them.",
        "x ^= x >> 16;\nx *= 0x7FEB352Du;\nx ^= x >> 15;\nx *= 0x846CA68Bu;\nreturn x ^ (x >> 16);",
    )  # fmt: skip
    body = f"""
uint low = uint(index), high = uint(ulong(index) >> 32);
uint state = {mix}(high ^ uint(ulong(seed) >> 32)) + 0x9E3779B9u;
state = {mix}(state ^ uint(seed));
return {mix}({mix}(low ^ state) + (state ^ 0x85EBCA6Bu));
"""
    return library.define("uint", "random_bits", "long seed, long index", "32 bits for an index, by a key.", body)


def round_to(library: Library, dtype: str) -> str:
    """A function from float to the nearest value of bf16 or f16, ties to even, as a float."""
    if dtype == "f16":
        return library.define("float", "round_half", "float x", "x as a half, ties to even.", "return float(half(x));")
    body = """
uint bits = as_type<uint>(x);
uint rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;
return as_type<float>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : rounded);
"""
    return library.define("float", "round_bfloat", "float x", "x as a bfloat, ties to even.", body)
