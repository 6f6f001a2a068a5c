"""Text of the `@triton.jit` functions from the amax of blocks to scales: `numerics.scale_rules` in Triton's terms."""

from __future__ import annotations

import struct
from dataclasses import replace

from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.numerics import bits as f32
from breccia.numerics.scale_rules import _code_of, _code_of_one, _number_bits, _zero_code, level_targets
from breccia.recipes import Policy, Recipe, ScaleRule
from breccia.targets.triton._casts import Library, encode, encode_number


def scale_from_amax(library: Library, recipe: Recipe, policy: Policy, level: int, *, narrow: bool = False) -> str:
    """The name of a function from amax (float32) to the stored scales of a level, outermost level 0.

    `f(amax)`, or `f(amax, outer)` for all levels but the outermost, where `outer` is the product of the scales of the
    levels outside, in float32. Scales come as float32, float16 or bfloat16 tiles, or as uint8 codes. narrow: every amax
    is the value of a bfloat16 or float16, which some divisions take fewer steps for.
    """
    recipe = replace(recipe, policy=policy)
    inner = level == len(recipe.levels) - 1
    if inner:
        return _scale(library, recipe, level, recipe.policy.max or recipe.element.max, policy.scale, narrow)
    rule: ScaleRule = "floor" if recipe.levels[level].dtype.is_power_of_two else "exact"
    return _scale(library, recipe, level, level_targets(recipe)[level], rule)


def span_scales(library: Library, recipe: Recipe, share: float = 1.0) -> str:
    """`scale_from_amax` for an asymmetric recipe: from largest - smallest (or half of it, where share is 0.5)."""
    steps = share * ((1 << recipe.element.bits) - 1)
    return _scale(library, recipe, len(recipe.levels) - 1, steps, recipe.policy.scale)


def _scale(
    library: Library, recipe: Recipe, level: int, top: float, rule: ScaleRule, narrow: bool = False
) -> str:  # fmt: skip
    dtype, policy = recipe.levels[level].dtype, recipe.policy
    inner, outer = level == len(recipe.levels) - 1, level > 0
    check_scale_format(dtype, recipe)
    lines = ["given = amax.to(tl.uint32, bitcast=True)"]
    bits = "given"
    if inner and policy.amax_min is not None:
        lines.append(f"bits = tl.maximum(given, {hex(f32.float32_bits(policy.amax_min))})")
        bits = "bits"
    margin = policy.margin if inner and policy.amax == "delayed" else 0
    stepwise = rule == "exact" and policy.division == "divide" and narrow and bits == "given" and in_steps(top)
    if not stepwise:  # else infinity does no harm, and its scale is replaced below
        lines.append(f"amax = tl.where({bits} < 0x7F800000, {bits}, 0).to(tl.float32, bitcast=True)")
    if rule == "exact":
        lines += _exact(library, policy, dtype, top, margin, outer, stepwise)
    else:
        lines += _power_of_two(library, recipe, dtype, rule, top, margin, outer)
    smallest = _smallest_code(recipe) if inner else _code_of(dtype.smallest_positive, dtype)
    zero = _zero_code(dtype, policy) if inner else _code_of_one(dtype)
    if rule == "exact" and dtype.bits <= 8 and dtype.has_negative_zero:
        # Choices between numbers rather than between codes, of which ptxas of CUDA 12.8 gets some wrong. As words,
        # negative scales, of negative outer ones, are the largest.
        least = hex(f32.float32_bits(dtype.decode_code(smallest)))
        lines[-1:] = [
            f"scale = tl.maximum(scale.to(tl.uint32, bitcast=True), {least}).to(tl.float32, bitcast=True)",
            f"scale = tl.where({bits} == 0, {dtype.decode_code(zero)!r}, scale)",
            "scale = tl.where(given >= 0x7F800000, float('nan'), scale)",
            f"return {encode(as_codes(library, hardware=False), dtype)}(scale)",
        ]
    else:
        lines.append(f"codes = tl.maximum(codes, {hex(smallest)})")
        lines.append(f"codes = tl.where({bits} == 0, {hex(zero)}, codes)")
        lines.append(f"codes = tl.where(given >= 0x7F800000, {hex(dtype.nan_code or 0)}, codes)")
        lines.append(f"return {stored('codes', dtype)}")
    name = recipe.name.replace(" ", "_") or recipe.element.name
    place = "" if len(recipe.levels) == 1 else f"_level{level}"
    doc = f"Scales of {dtype.name} ({rule}) that map amax to {top!r}" + (" of the outer scales." if outer else ".")
    return library.define(f"_scale_{name}{place}", "amax, outer" if outer else "amax", doc, "\n".join(lines))


def _smallest_code(recipe: Recipe) -> int:
    """The least code of a computed innermost scale, apart from that of blocks of zeros."""
    dtype, least = recipe.innermost.dtype, recipe.policy.scale_min
    return _code_of(dtype.smallest_positive if least is None else least, dtype)


def may_be_zero(recipe: Recipe) -> bool:
    """Whether a computed innermost scale may be 0."""
    return 0 in (_smallest_code(recipe), _zero_code(recipe.innermost.dtype, recipe.policy))


def check_scale_format(dtype: Format, recipe: Recipe) -> None:
    if dtype.nan_code is None or dtype.bits > 32 or dtype.kind != "float":
        raise UnsupportedError(
            f"emitted Triton code cannot write scales of {dtype.name} for {recipe!r}, which cannot say NaN; "
            "use a float scale format with a NaN, or another target"
        )


def stored(codes: str, dtype: Format) -> str:
    if dtype.bits <= 8:
        return f"{codes}.to(tl.uint8)"
    if dtype.bits == 32:
        return f"{codes}.to(tl.float32, bitcast=True)"
    return f"{codes}.to(tl.uint16).to(tl.{dtype.name}, bitcast=True)"


def literal(bits: int) -> str:
    """A float32 as source text. Triton takes a subnormal literal for a float64, so that those are made from bits."""
    if 0 < bits & f32.MAGNITUDE < f32.HIDDEN:
        return f"tl.full((), {hex(bits)}, tl.int32).to(tl.float32, bitcast=True)"
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    return repr(value) if value - value == 0 else f"float('{value}')"


def _number(value: float, power: int = 0, inverse: bool = False) -> str:
    return literal(_number_bits(value, power, inverse))


def in_steps(top: float) -> bool:
    """Whether a bfloat16 or float16 divided by `top` is right after one correction of its product with 1 / top.

    The corrected quotient is a / top, off by less than 2**-20 units of its last place, rounded to float32. With d the
    odd part of `top`, a / top is a float32 or at least 1 / 2d units away from the middle between two: a middle has 25
    bits, and if d divides a, the quotient has no more bits than a. A subnormal quotient is no middle either: there a is
    a multiple of 2**-133, so that it would have to be divided by 2**17 and more.
    """
    return float(top).is_integer() and 1 <= top < 1 << 17


def _exact(
    library: Library, policy: Policy, dtype: Format, top: float, margin: int, outer: bool, stepwise: bool
) -> list[str]:  # fmt: skip
    if policy.division == "inverse":
        lines = [
            f"factor = tl.div_rn({_number(top, -margin)}, amax).to(tl.uint32, bitcast=True) & 0x7FFFFFFF",
            "factor = tl.minimum(factor, 0x7F7FFFFF).to(tl.float32, bitcast=True)",
            "scale = tl.div_rn(1.0, factor)",
        ]
    elif stepwise:
        lines = [
            f"scale = amax * {_number(top, inverse=True)}",
            f"scale = tl.fma(tl.fma(-scale, {top!r}, amax), {_number(top, inverse=True)}, scale)  # amax / {top!r}",
        ]
    elif policy.division == "reciprocal":
        lines = [f"scale = amax * {_number(top, inverse=True)}"]
    else:
        lines = [f"scale = tl.div_rn(amax, {_number(top)})"]
    if outer:
        lines.append("scale = tl.div_rn(scale, outer)")
    if margin and policy.division != "inverse":
        lines.append(f"scale = scale * {_number(1.0, margin)}")
    if stepwise and not outer and not margin and dtype.bits == 32:
        return [*lines, "codes = scale.to(tl.uint32, bitcast=True)"]  # a quotient by a number above 1 is finite
    return [*lines, *_scale_codes(library, dtype, number=not outer)]


def _scale_codes(library: Library, dtype: Format, number: bool) -> list[str]:
    """Lines from `scale`, a float32 that is not negative, to `codes`; `number`: it is surely no NaN."""
    if dtype.bits == 32:
        return ["codes = tl.minimum(scale.to(tl.uint32, bitcast=True), 0x7F7FFFFF)"]
    if dtype.bits <= 8:
        # By integers: the ptxas of Triton 3.6 mistakes halves of pairs of FP8 codes that elements are then divided by.
        function = (encode_number if number else encode)(as_codes(library, hardware=False), dtype)
        return [f"codes = {function}(scale).to(tl.int32)"]
    return halves(dtype, number)


def halves(dtype: Format, number: bool) -> list[str]:
    """Lines from `scale` to `codes` of a 16-bit float, saturated; `number`: neither NaN nor negative."""
    largest = hex(f32.float32_bits(dtype.max))
    lines = ["bits = scale.to(tl.uint32, bitcast=True)"]
    lines.append(
        f"magnitude = tl.minimum(bits{'' if number else ' & 0x7FFFFFFF'}, {largest})  # what is too large saturates"
    )
    if dtype.exponent_bits == 8:
        lines.append("codes = (magnitude + 0x7FFF + ((magnitude >> 16) & 1)) >> 16  # to nearest, ties to even")
    else:
        lines.append("halves = magnitude.to(tl.float32, bitcast=True).to(tl.float16)")
        lines.append("codes = halves.to(tl.uint16, bitcast=True).to(tl.uint32)")
    if not number:
        lines.append("codes |= (bits >> 31) << 15")
        lines.append(f"codes = tl.where(scale == scale, codes, {dtype.nan_code})  # NaN")
    return lines


class _Codes(Library):
    """The same library, but every tile is uint8: scales are codes even where elements are typed."""

    def __init__(self, library: Library) -> None:
        super().__init__(frozenset(), library.exact_conversions, library.fused_division)
        self._texts = library._texts


def as_codes(library: Library, *, hardware: bool = True) -> Library:
    """A view of the library in which all tiles of at most 8 bits are codes. hardware: it may convert FP8."""
    view = _Codes(library)
    if not hardware:
        view.exact_conversions = frozenset()
    return view


def _power_of_two(
    library: Library, recipe: Recipe, dtype: Format, rule: ScaleRule, top: float, margin: int, outer: bool
) -> list[str]:
    element, top_bits = recipe.element, f32.float32_bits(top)
    lines = ["scale = tl.div_rn(amax, outer)"] if outer else []
    lines += [
        f"power = {'scale' if outer else 'amax'}.to(tl.uint32, bitcast=True)",
        "field = (power >> 23).to(tl.int32)",
        "fraction = (power & 0x007FFFFF).to(tl.int32)",
    ]
    shift = margin - ((top_bits >> 23) - 127)
    # A subnormal amax is below 2**-126; with a `top` of 4 or more the smallest code comes out whatever its digits are.
    if dtype.is_power_of_two and shift <= -2:
        lines.append(f"exponent = field - {127 - shift}  # subnormal amax ends in the smallest code anyway")
    else:
        lines += [
            "# A subnormal number is an integer times 2**-149, and as a float that integer is normal.",
            "as_float = tl.maximum(fraction, 1).to(tl.float32).to(tl.int32, bitcast=True)",
            "fraction = tl.where(field == 0, as_float & 0x007FFFFF, fraction)",
            f"exponent = tl.where(field == 0, (as_float >> 23) - 149, field) - {127 - shift}",
        ]
    if rule == "ceil":
        lines.append(f"exponent += (fraction > {hex(top_bits & f32.FRACTION)}).to(tl.int32)")
    elif rule == "even":
        mantissa = element.mantissa_bits if element.kind == "float" else element.bits - 1 - element.signed
        lines.append(f"exponent += (fraction + {hex(f32.HIDDEN + (1 << (22 - mantissa)))}) >> 24")
    if dtype.is_power_of_two:
        lines.append(f"codes = tl.minimum(tl.maximum(exponent + {dtype.bias}, 0), {dtype.max_code})")
        return lines
    return [
        *lines,
        "exponent = tl.minimum(tl.maximum(exponent, -149), 127)",
        "small = (exponent * 0 + 1) << tl.minimum(tl.maximum(exponent + 149, 0), 23)",
        "normal = tl.maximum(exponent + 127, 0) << 23",
        "scale = tl.where(exponent < -126, small, normal).to(tl.float32, bitcast=True)",
        *_scale_codes(library, dtype, number=True),
    ]
