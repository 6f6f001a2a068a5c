"""Text of the small `@triton.jit` functions that decode and encode tiles.

The text needs `triton` and `triton.language as tl` where it is put; this module needs neither. What the functions
compute is defined by `breccia.numerics`, and equal to it bit for bit. Kernels that use them are to be compiled with
`enable_fp_fusion=False`; where a helper could be fused wrongly, an integer operation stands between.
"""

from __future__ import annotations

from fractions import Fraction
from textwrap import indent

from breccia.errors import RecipeError, UnsupportedError
from breccia.formats import Format
from breccia.numerics import bits as f32
from breccia.numerics.bit_encode import _sortable, _thresholds
from breccia.recipes import Overflow, Rounding

_TYPED = {
    "f8E4M3FN": "float8e4nv", "f8E5M2": "float8e5", "f8E4M3FNUZ": "float8e4b8", "f8E5M2FNUZ": "float8e5b16",
    "i8": "int8",
}  # fmt: skip
_WIDE = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_MANTISSA_AND_RANGE = {"f32": (24, -149, 128), "bf16": (8, -133, 128), "f16": (11, -24, 16)}


class Library:
    """The helper functions that one emitted file needs, each once, dependencies first."""

    def __init__(
        self,
        native: frozenset[str] = frozenset(),
        exact_conversions: frozenset[str] = frozenset(),
        fused_division: bool = True,
        ptx: bool = False,
    ) -> None:
        self.native = native
        """MLIR names of element formats whose tiles are typed in Triton; all others are uint8 tiles of codes."""
        self.exact_conversions = exact_conversions
        """MLIR names of formats to which `.to` rounds float32 to nearest even and saturates, in hardware."""
        self.fused_division = fused_division
        """Whether elements are divided by their scales with fused multiply-adds; else by a full division each."""
        self.ptx = ptx
        """Whether instructions of NVIDIA's may stand in the text."""
        self._texts: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        return list(self._texts.values())

    def add(self, name: str, text: str) -> str:
        """Register a function's text under its name, and return the name; one name has one text."""
        if self._texts.setdefault(name, text) != text:
            raise UnsupportedError(f"two different helper functions would be called {name}")
        return name

    def define(self, name: str, parameters: str, doc: str, body: str) -> str:
        """Register a function from its parts; where `name` stands for another function already, a number follows."""
        for attempt in range(1, 1000):
            tried = name if attempt == 1 else f"{name}_{attempt}"
            lines = indent(body.strip("\n"), "    ")
            text = f'@triton.jit\ndef {tried}({parameters}):\n    """{doc}"""\n{lines}\n'
            if self._texts.get(tried, text) == text:
                return self.add(tried, text)
        raise UnsupportedError(f"too many helper functions are called {name}")


def triton_type(fmt: Format, native: frozenset[str]) -> str:
    """The tl dtype of a tile of that format: typed where the architecture multiplies it, else codes."""
    if fmt.mlir in _WIDE:
        return _WIDE[fmt.mlir]
    if fmt.bits > 8:
        raise UnsupportedError(f"Triton tiles hold no {fmt.name}; use float32, bfloat16, float16 or at most 8 bits")
    return _TYPED[fmt.mlir] if fmt.mlir in native and fmt.mlir in _TYPED else "uint8"


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(library: Library, fmt: Format, to: str = "f32") -> str:
    """The name of a function from a tile of `fmt` to its values in `to` (f32, bf16 or f16), exactly.

    Raises UnsupportedError where `to` cannot hold every value of the format.
    """
    if to not in _WIDE:
        raise UnsupportedError(f"cannot decode {fmt.name} into {to!r}; use f32, bf16 or f16")
    kind = triton_type(fmt, library.native)
    if not _holds(fmt, to):
        raise UnsupportedError(f"{to} cannot hold every value of {fmt.name}; decode it into f32")
    suffix = "" if to == "f32" else f"_to_{to}"
    doc = f"The {_WIDE[to]} values of a tile of {fmt.name}."
    if kind != "uint8" or fmt.mlir in library.exact_conversions & _TYPED.keys():
        typed = "codes" if kind != "uint8" else f"codes.to(tl.{_TYPED[fmt.mlir]}, bitcast=True)"
        cast = f"{typed}.to(tl.float32)" + ("" if to == "f32" else f".to(tl.{_WIDE[to]})")
        return library.define(f"_decode_{fmt.name}{suffix}", "codes", doc, f"return {cast}")
    body = _decode_body(fmt)
    if to != "f32":
        body = body.replace("return ", "values = ") + f"\nreturn values.to(tl.{_WIDE[to]})  # exact"
    return library.define(f"_decode_{fmt.name}{suffix}", "codes", doc, body)


def _holds(fmt: Format, to: str) -> bool:
    if fmt.bits > 8:
        return fmt.mlir == to or to == "f32"
    digits, smallest, top = _MANTISSA_AND_RANGE[to]
    for code in range(1 << fmt.bits):
        value = fmt.decode_code(code)
        if value - value != 0:
            continue
        exact = abs(Fraction(value))
        if exact == 0:
            continue
        odd = exact / Fraction(2) ** smallest
        if odd.denominator != 1 or exact >= Fraction(2) ** top:
            return False
        number = odd.numerator
        if number // (number & -number) >= 1 << digits:
            return False
    return True


def _decode_body(fmt: Format) -> str:
    if fmt.kind == "codebook":
        return _decode_codebook(fmt)
    if fmt.kind == "int":
        return _decode_int(fmt)
    if fmt.is_power_of_two:
        return (
            "bits = codes.to(tl.int32) << 23\n"
            "bits = tl.where(codes == 0, 0x00400000, bits)  # 2**-127 is subnormal\n"
            "bits = tl.where(codes == 255, 0x7FC00000, bits)\n"
            "return bits.to(tl.float32, bitcast=True)"
        )
    return _decode_float(fmt)


def _decode_float(fmt: Format) -> str:
    width = fmt.exponent_bits + fmt.mantissa_bits
    lines = [
        "codes = codes.to(tl.int32)",
        f"magnitude = codes & {hex((1 << width) - 1)}",
        f"# Exponent and mantissa in float32's places; the product moves the bias from {fmt.bias} to 127, and makes",
        "# subnormal numbers normal.",
        f"values = (magnitude << {23 - fmt.mantissa_bits}).to(tl.float32, bitcast=True) * {2.0 ** (127 - fmt.bias)!r}",
        f"bits = values.to(tl.int32, bitcast=True) | ((codes >> {fmt.bits - 1}) << 31)",
    ]
    if fmt.infinity_code is not None:
        infinity = hex(fmt.infinity_code)
        lines.append(f"bits = tl.where(magnitude == {infinity}, 0x7F800000 | ((codes >> {fmt.bits - 1}) << 31), bits)")
        lines.append(f"bits = tl.where(magnitude > {infinity}, 0x7FC00000, bits)")
    elif fmt.nan == "negative_zero":
        lines.append(f"bits = tl.where(codes == {hex(fmt.nan_code or 0)}, 0x7FC00000, bits)")
    elif fmt.nan_code is not None:
        lines.append(f"bits = tl.where(magnitude == {hex(fmt.nan_code)}, 0x7FC00000, bits)")
    lines.append("return bits.to(tl.float32, bitcast=True)")
    return "\n".join(lines)


def _decode_int(fmt: Format) -> str:
    sign = 1 << (fmt.bits - 1)
    value = f"((codes.to(tl.int32) ^ {sign}) - {sign})" if fmt.signed else "codes.to(tl.int32)"
    scale = f" * {1 / (1 << fmt.fraction_bits)!r}" if fmt.fraction_bits else ""
    return f"return {value}.to(tl.float32){scale}"


def _decode_codebook(fmt: Format) -> str:
    """A tree of choices, one level for each bit of the code."""
    lines = [f"bit{i} = (codes & {1 << i}) != 0" for i in range(fmt.bits)]
    names = [repr(value) for value in fmt.codebook]
    for i in range(fmt.bits):
        chosen: list[str] = []
        for j in range(0, len(names), 2):
            name = f"v{i}_{j // 2}"
            # The first choice is between two numbers, which alone would not say how wide they are.
            low = f"tl.full(codes.shape, {names[j]}, tl.float32)" if i == 0 else names[j]
            lines.append(f"{name} = tl.where(bit{i}, {names[j + 1]}, {low})")
            chosen.append(name)
        names = chosen
    return "\n".join([*lines, f"return {names[0]}"])


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode(library: Library, fmt: Format, rounding: Rounding = "rne", overflow: Overflow = "saturate") -> str:
    """The name of a function from float32 (and, for stochastic rounding, 32 random bits as uint32) to a tile of `fmt`.

    Formats of at most 8 bits; the tile is of `triton_type`. Equal to `breccia.numerics.encode` for every float32.
    """
    return _encode(library, fmt, rounding, overflow, number=False)


def encode_number(library: Library, fmt: Format, rounding: Rounding = "rne", overflow: Overflow = "saturate") -> str:
    """`encode` for values that are surely no NaN (infinity is allowed): some operations less for each of them."""
    return _encode(library, fmt, rounding, overflow, number=True)


def _encode(library: Library, fmt: Format, rounding: Rounding, overflow: Overflow, number: bool) -> str:
    if fmt.bits > 8:
        raise UnsupportedError(f"emitted Triton code encodes into at most 8 bits, not into {fmt.name}")
    if rounding not in ("rne", "ties_away", "ties_zero", "stochastic"):
        raise RecipeError(f"unknown rounding {rounding!r}")
    parameters = "x, random" if rounding == "stochastic" else "x"
    doc = (
        f"Codes of {fmt.name} nearest to float32 x{_ROUNDED[rounding]}; what is too large {_too_large(fmt, overflow)}."
    )
    name = f"_encode_{fmt.name}" + ("" if rounding == "rne" else f"_{rounding}")
    name += "_or_nan" if overflow == "nan" and fmt.kind == "float" else ""
    name += "_number" if number and not fmt.is_power_of_two else ""
    if rounding == "rne" and overflow == "saturate" and fmt.mlir in library.exact_conversions & _TYPED.keys():
        return library.define(name, parameters, doc, _hardware(library, fmt, number))
    body = _encode_body(library, fmt, rounding, overflow, number)
    kind = triton_type(fmt, library.native)
    cast = "codes.to(tl.uint8)" if kind == "uint8" else f"codes.to(tl.uint8).to(tl.{kind}, bitcast=True)"
    return library.define(name, parameters, doc, f"{body}\nreturn {cast}")


_ROUNDED = {
    "rne": ", ties to even", "ties_away": ", ties away from zero", "ties_zero": ", ties toward zero",
    "stochastic": " below or above, by chance",
}  # fmt: skip


def _too_large(fmt: Format, overflow: Overflow) -> str:
    if overflow == "nan" and fmt.kind == "float" and (fmt.infinity or fmt.has_nan):
        return "becomes infinity" if fmt.infinity else "becomes NaN"
    return "becomes the largest"


def _hardware(library: Library, fmt: Format, number: bool) -> str:
    kind = _TYPED[fmt.mlir]
    native = fmt.mlir in library.native
    convert = f"x.to(tl.{kind})"
    if number or fmt.nan == "all_ones":
        return f"return {convert}" + ("" if native else ".to(tl.uint8, bitcast=True)")
    back = f".to(tl.{kind}, bitcast=True)" if native else ""
    return (
        f"codes = {convert}.to(tl.uint8, bitcast=True)\n"
        f"return tl.where(x == x, codes, {fmt.nan_code}).to(tl.uint8){back}  # the hardware writes another NaN"
    )


def overflow_code(fmt: Format, overflow: Overflow) -> int:
    """What is written for a value beyond the largest."""
    if overflow == "nan" and fmt.infinity_code is not None:
        return fmt.infinity_code
    if overflow == "nan" and fmt.nan_code is not None:
        return fmt.nan_code
    return fmt.max_code


def _encode_body(library: Library, fmt: Format, rounding: Rounding, overflow: Overflow, number: bool) -> str:
    if fmt.kind == "codebook":
        return _encode_codebook(fmt, rounding, number)
    if fmt.kind == "int":
        return _encode_int(library, fmt, rounding, number)
    if fmt.is_power_of_two:
        return _encode_power_of_two(library, fmt, rounding, overflow)
    if rounding == "rne":
        lines = [f"magnitude = tl.minimum(tl.abs(x), {limit(fmt, overflow)!r})"]
        lines.append(f"codes = {round_magnitude(library, fmt)}(magnitude)")
    else:
        lines = _shifted_float(library, fmt, rounding)
    return "\n".join([*lines, *_finish_float(fmt, rounding, overflow, number)])


def limit(fmt: Format, overflow: Overflow) -> float:
    """A bound for magnitudes that changes no code, and keeps what is too large too large."""
    return fmt.max * (1.0 if overflow_code(fmt, overflow) == fmt.max_code else 2.0)


def round_magnitude(library: Library, fmt: Format) -> str:
    """A function from magnitudes (float32, not above `limit`) to the int32 codes nearest to them, ties to even.

    Of formats with two exponent bits, only the lowest 8 bits of the result are the code.
    """
    smallest, places = 128 - fmt.bias, 23 - fmt.mantissa_bits
    unit = 2.0 ** (1 - fmt.bias - fmt.mantissa_bits)
    if fmt.exponent_bits == 2 and fmt.mantissa_bits:
        body = _three_lines(fmt, unit)
    else:
        body = f"""
# Adding 2**{places} units makes float32 round to whole units, ties to even. The unit is the place of the last
# mantissa bit: {unit!r} up to the smallest normal number, and doubled with each power of two after it.
power = magnitude.to(tl.int32, bitcast=True) & 0x7F800000
magic = tl.maximum(power + {hex(places << 23)}, {hex(smallest + places << 23)})
rounded = (magnitude + magic.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True)
return (rounded - magic) + ((magic >> {places}) - {hex(smallest + places << 23 >> places)})
"""
    return library.define(
        f"_round_{fmt.name}", "magnitude", f"The code of the {fmt.name} nearest to magnitude, ties to even.", body
    )


def _three_lines(fmt: Format, unit: float) -> str:
    """Rounding to one of three units. Most of it runs where multiply-adds do, of which GPUs have the most."""
    magic, double = 1.5 * 2.0**23, 2.0 ** (2 - fmt.bias)
    lines = [
        f"line{i} = tl.fma(magnitude, {0.5**i / unit!r}, {magic + (i << fmt.mantissa_bits)!r})"
        ".to(tl.int32, bitcast=True)"
        for i in range(3)
    ]  # fmt: skip
    return f"""
# A code is worth {unit!r} more than the one before, twice that from {double!r} on and four times from {2 * double!r}:
# codes lie on the lowest of three lines. 1.5 * 2**23, whose low bits are 0, makes float32 round to whole ones, ties
# to even.
{lines[0]}
{lines[1]}
{lines[2]}
return tl.minimum(tl.minimum(line0, line1), line2)
"""


def _shifted_float(library: Library, fmt: Format, rounding: Rounding) -> list[str]:
    """Any rounding, on integers: the significand is shifted right until a unit of the format is 1."""
    smallest = 128 - fmt.bias
    random = ", random" if rounding == "stochastic" else ""
    return [
        "bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF",
        "exponent = tl.maximum(bits >> 23, 1)",
        "significand = (bits & 0x007FFFFF) + tl.where(bits >= 0x00800000, 0x00800000, 0)",
        f"shift = tl.maximum({smallest} - exponent, 0) + {23 - fmt.mantissa_bits}",
        f"count = {shift_round(library, rounding)}(significand, shift{random})",
        f"codes = ((tl.maximum(exponent, {smallest}) - {smallest}) << {fmt.mantissa_bits}) + count",
        f"codes = tl.where(bits >= 0x7F800000, {fmt.max_code + 1}, codes)",
    ]


def _finish_float(fmt: Format, rounding: Rounding, overflow: Overflow, number: bool) -> list[str]:
    too_large = overflow_code(fmt, overflow)
    lines: list[str] = []
    if too_large != fmt.max_code:
        lines.append(f"codes = tl.where(codes > {fmt.max_code}, {too_large}, codes)")
    elif rounding != "rne":
        lines.append(f"codes = tl.minimum(codes, {fmt.max_code})")
    sign = f"((x.to(tl.int32, bitcast=True) >> {32 - fmt.bits}) & {1 << (fmt.bits - 1)})" if fmt.signed else "0"
    if fmt.has_negative_zero or not fmt.signed:
        lines.append(f"signed = codes | {sign}")
    else:
        lines.append(f"signed = tl.where(codes == 0, 0, codes | {sign})  # there is no -0")
    if too_large == fmt.nan_code and too_large != fmt.max_code:
        lines.append(f"signed = tl.where(codes == {too_large}, {too_large}, signed)")
    if number:
        lines.append("codes = signed")
    else:
        lines.append(f"codes = tl.where(x == x, signed, {fmt.nan_code or 0})  # NaN")
    return lines


def shift_round(library: Library, rounding: Rounding) -> str:
    """A function from a significand below 2**24 and a shift to their quotient as an integer, by any rounding."""
    if rounding == "stochastic":
        body = """
# Past 31 places the chance is below 2**-7: keep 31 places and drop the lowest bits.
significand = significand >> tl.minimum(tl.maximum(shift - 31, 0), 31)
shift = tl.minimum(shift, 31)
kept = significand >> shift
rest = significand - (kept << shift)
chance = (random >> 1).to(tl.int32) >> (31 - shift)
return kept + (rest > chance).to(tl.int32)
"""
        return library.define(
            "_shift_stochastic",
            "significand, shift, random",
            "significand / 2**shift, up with chance rest / 2**shift.",
            body,
        )
    test = {"rne": "(twice + (kept & 1)) > whole", "ties_away": "twice >= whole", "ties_zero": "twice > whole"}[
        rounding
    ]
    body = f"""
shift = tl.minimum(shift, 30)  # past 25 places nothing but 0 is left
kept = significand >> shift
twice = (significand - (kept << shift)) << 1
whole = (significand * 0 + 1) << shift
return kept + (({test}) & (shift > 0)).to(tl.int32)
"""
    return library.define(
        f"_shift_{rounding}",
        "significand, shift",
        f"significand / 2**shift to the nearest integer{_ROUNDED[rounding]}.",
        body,
    )


def round_integer(library: Library, low: int, high: int, fraction_bits: int, rounding: Rounding) -> str:
    """A function from float32 x, no NaN, to int32: x in units of 2**-fraction_bits, rounded, from low to high."""
    unit = 1 / (1 << fraction_bits)
    ends = f"{low} to {high}" + (f", in units of {unit!r}" if fraction_bits else "")
    doc = f"x as an integer from {ends}{_ROUNDED[rounding]}."
    name = f"_round_int{'' if rounding == 'rne' else '_' + rounding}"
    if rounding == "rne":
        magic = 1.5 * 2.0 ** (23 - fraction_bits)
        body = f"""
x = tl.minimum(tl.maximum(x, {low * unit!r}), {high * unit!r})
# The sum has whole units alone; float32 has rounded it, ties to even.
return (x + {magic!r}).to(tl.int32, bitcast=True) - {hex(f32.float32_bits(magic))}
"""
        return library.define(name, "x", doc, body)
    random = ", random" if rounding == "stochastic" else ""
    exponent = 150 - fraction_bits
    body = f"""
bits = x.to(tl.int32, bitcast=True)
magnitude = bits & 0x7FFFFFFF
exponent = tl.maximum(magnitude >> 23, 1)
significand = (magnitude & 0x007FFFFF) + tl.where(magnitude >= 0x00800000, 0x00800000, 0)
count = {shift_round(library, rounding)}(significand, tl.maximum({exponent} - exponent, 0){random})
count = tl.where(exponent > {exponent}, 0x00800000, count)
return tl.where(bits < 0, -tl.minimum(count, {-low}), tl.minimum(count, {high}))
"""
    return library.define(name, f"x{random}", doc, body)


def _encode_int(library: Library, fmt: Format, rounding: Rounding, number: bool) -> str:
    low = -(1 << (fmt.bits - 1)) if fmt.signed else 0
    function = round_integer(library, low, fmt.max_code, fmt.fraction_bits, rounding)
    random = ", random" if rounding == "stochastic" else ""
    clean = "" if number else "x = tl.where(x == x, x, 0.0)  # NaN\n"
    mask = f" & {hex((1 << fmt.bits) - 1)}" if fmt.signed else ""
    return f"{clean}codes = {function}(x{random}){mask}"


def _encode_power_of_two(library: Library, fmt: Format, rounding: Rounding, overflow: Overflow) -> str:
    nan = 255 if fmt.nan_code is None else fmt.nan_code
    random = ", random" if rounding == "stochastic" else ""
    return f"""bits = x.to(tl.int32, bitcast=True)
magnitude = bits & 0x7FFFFFFF
field = magnitude >> 23
fraction = magnitude & 0x007FFFFF
# 2**-127 is subnormal in float32; one place to the left it has the form of the normal numbers.
significand = tl.where(field > 0, fraction | 0x00800000, fraction << 1)
count = {shift_round(library, rounding)}(significand, field * 0 + 23{random})
codes = tl.where(significand >= 0x00800000, field + count - 1, 0)
codes = tl.where((codes > {fmt.max_code}) | (field == 255), {nan if overflow == "nan" else fmt.max_code}, codes)
# What is not positive has no power of two, and becomes NaN.
codes = tl.where((bits <= 0) | (bits > 0x7F800000), {nan}, codes)"""


def _encode_codebook(fmt: Format, rounding: Rounding, number: bool) -> str:
    keys, order = _thresholds(fmt, "rne" if rounding == "stochastic" else rounding)
    zero = min(range(len(fmt.codebook)), key=lambda code: abs(fmt.codebook[code]))
    lines = [
        "bits = x.to(tl.int32, bitcast=True)",
        "key = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # orders as the values do",
    ]
    if rounding == "stochastic":
        lines += _stochastic_codebook(fmt)
    else:
        lines.append(f"rank = (key >= {keys[0]}).to(tl.int32)")
        lines += [f"rank += (key >= {key}).to(tl.int32)" for key in keys[1:]]
    if order == tuple(range(len(order))):
        lines.append("codes = rank")
    else:
        lines.append(f"codes = tl.where(rank == 0, {order[0]}, {order[1]})")
        lines += [f"codes = tl.where(rank == {i}, {code}, codes)" for i, code in enumerate(order) if i > 1]
    if not number:
        lines.append(f"codes = tl.where(x == x, codes, {zero})  # NaN")
    return "\n".join(lines)


def _stochastic_codebook(fmt: Format) -> list[str]:
    """Between two neighbours, the upper one with the chance (x - lower) / (upper - lower)."""
    values = sorted(fmt.codebook)
    keys = [_sortable(f32.float32_bits(v)) for v in values]
    lines = [
        f"inside = tl.where(key < {keys[0]}, {values[0]!r}, tl.where(key > {keys[-1]}, {values[-1]!r}, x))",
        "below = key * 0",
        f"low = inside * 0.0 + {values[0]!r}",
        f"width = low * 0.0 + {_difference(values[0], values[1])!r}",
    ]
    for i in range(1, len(values) - 1):
        lines += [
            f"above = key >= {keys[i]}",
            f"below = tl.where(above, {i}, below)",
            f"low = tl.where(above, {values[i]!r}, low)",
            f"width = tl.where(above, {_difference(values[i], values[i + 1])!r}, width)",
        ]
    return [
        *lines,
        "share = tl.div_rn(inside - low, width) * 16777216.0",
        "rank = below + ((random >> 8).to(tl.float32) < share).to(tl.int32)",
    ]


def _difference(low: float, high: float) -> float:
    """High - low, rounded to float32 as the definition does."""
    import struct

    bits = f32.float32_bits(Fraction(high) - Fraction(low))
    return struct.unpack("<f", struct.pack("<I", bits))[0]


# -- packing -----------------------------------------------------------------------------------------------------------


def pack4(library: Library, rank: int = 2) -> str:
    """A function from uint8 codes of 4 bits [..., n] to bytes [..., n // 2], the first code in the low bits."""
    sizes = [f"codes.shape[{i}]" for i in range(rank)]
    shape = ", ".join([*sizes[:-1], f"{sizes[-1]} // 2", "2"])
    body = f"""low, high = tl.split(tl.reshape(codes, ({shape})))
return (low.to(tl.int32) | (high.to(tl.int32) << 4)).to(tl.uint8)  # words of 32 bits take fewer instructions"""
    name = "_pack4" if rank == 2 else f"_pack4_rank{rank}"
    return library.define(name, "codes", "Two codes of 4 bits in each byte, the first one in the low bits.", body)


def unpack4(library: Library) -> str:
    """A function from bytes [..., n] to uint8 codes of 4 bits [..., 2 * n]: the inverse of `pack4`, for any rank."""
    body = "return tl.interleave(packed & 0x0F, packed >> 4)"
    return library.define(
        "_unpack4", "packed", "The codes of 4 bits in each byte, the one in the low bits first.", body
    )
