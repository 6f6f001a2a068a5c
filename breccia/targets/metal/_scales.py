"""Functions from the amax of a block to its scale: `numerics.scale_rules` in Metal's terms."""

from __future__ import annotations

from dataclasses import replace

from breccia.errors import UnsupportedError
from breccia.formats import Format
from breccia.numerics import bits as f32
from breccia.numerics.scale_rules import _code_of, _code_of_one, _number_bits, _zero_code, level_targets
from breccia.recipes import Policy, Recipe, ScaleRule
from breccia.targets.metal._casts import encode
from breccia.targets.metal._library import Library, from_bits


def scale_from_amax(library: Library, recipe: Recipe, policy: Policy, level: int) -> str:
    """The name of a function from the bits of an amax (uint) to the code of a scale (uint).

    It takes the product of the outer scales (float) as well, for all levels but the outermost.
    """
    recipe = replace(recipe, policy=policy)
    if level == len(recipe.levels) - 1:
        return _scale(library, recipe, level, policy.max or recipe.element.max, policy.scale)
    rule: ScaleRule = "floor" if recipe.levels[level].dtype.is_power_of_two else "exact"
    return _scale(library, recipe, level, level_targets(recipe)[level], rule)


def span_scales(library: Library, recipe: Recipe, share: float = 1.0) -> str:
    """The same for an asymmetric recipe: from the bits of largest - smallest, or of half of it."""
    steps = share * ((1 << recipe.element.bits) - 1)
    return _scale(library, recipe, len(recipe.levels) - 1, steps, recipe.policy.scale)


def _scale(library: Library, recipe: Recipe, level: int, top: float, rule: ScaleRule) -> str:
    dtype, policy = recipe.levels[level].dtype, recipe.policy
    inner, outer = level == len(recipe.levels) - 1, level > 0
    check_scale_format(dtype, recipe)
    lines = ["uint bits = given;"]
    if inner and policy.amax_min is not None:
        lines.append(f"bits = max(bits, {hex(f32.float32_bits(policy.amax_min))}u);")
    lines.append("float amax = as_type<float>(bits < 0x7F800000u ? bits : 0u);")
    margin = policy.margin if inner and policy.amax == "delayed" else 0
    if rule == "exact":
        lines += _exact(library, policy, dtype, top, margin, outer)
    else:
        lines += _power_of_two(library, recipe, dtype, rule, top, margin, outer)
    least = policy.scale_min if inner and policy.scale_min is not None else dtype.smallest_positive
    zero = _zero_code(dtype, policy) if inner else _code_of_one(dtype)
    lines += [
        f"code = max(code, {hex(_code_of(least, dtype))}u);",
        f"code = bits == 0 ? {hex(zero)}u : code;",
        f"return given >= 0x7F800000u ? {hex(dtype.nan_code or 0)}u : code;",
    ]
    name = recipe.name.replace(" ", "_") or recipe.element.name
    place = "" if len(recipe.levels) == 1 else f"_level{level}"
    doc = f"The {dtype.name} scale ({rule}) that maps amax to {top!r}" + (" of the outer scales." if outer else ".")
    parameters = "uint given, float outer" if outer else "uint given"
    return library.define("uint", f"scale_{name}{place}", parameters, doc, "\n".join(lines))


def check_scale_format(dtype: Format, recipe: Recipe) -> None:
    """Raise UnsupportedError for scales that cannot say NaN, which a block with NaN needs."""
    if dtype.nan_code is None or dtype.bits > 32 or dtype.kind != "float":
        raise UnsupportedError(
            f"metal: scales of {dtype.name} cannot be written for {recipe!r}, as they cannot say NaN; use a float "
            "scale format with a NaN, or the numpy target"
        )


def _constant(value: float, power: int = 0, inverse: bool = False) -> str:
    return from_bits(_number_bits(value, power, inverse))


def _exact(library: Library, policy: Policy, dtype: Format, top: float, margin: int, outer: bool) -> list[str]:
    if policy.division == "inverse":
        lines = [
            f"uint factor = as_type<uint>({_constant(top, -margin)} / amax) & 0x7FFFFFFFu;",
            "float scale = 1.0f / as_type<float>(min(factor, 0x7F7FFFFFu));",
        ]
    elif policy.division == "reciprocal":
        lines = [f"float scale = amax * {_constant(top, inverse=True)};"]
    else:
        lines = [f"float scale = amax / {_constant(top)};"]
    if outer:
        lines.append("scale = scale / outer;")
    if margin and policy.division != "inverse":
        lines.append(f"scale = scale * {_constant(1.0, margin)};")
    return [*lines, _code(library, dtype)]


def _code(library: Library, dtype: Format) -> str:
    """The line from `scale` to `code`."""
    if dtype.bits == 32:
        return "uint code = min(as_type<uint>(scale), 0x7F7FFFFFu);"
    return f"uint code = {encode(library, dtype)}(scale);"


def _power_of_two(
    library: Library, recipe: Recipe, dtype: Format, rule: ScaleRule, top: float, margin: int, outer: bool
) -> list[str]:
    element, top_bits = recipe.element, f32.float32_bits(top)
    shift = margin - ((top_bits >> 23) - 127)
    lines = ["amax = amax / outer;"] if outer else []
    lines += [
        "uint power = as_type<uint>(amax), fraction = power & 0x007FFFFFu;",
        f"int exponent = int(power >> 23) - {127 - shift};",
        "if (power < 0x00800000u) {  // a subnormal number is an integer times 2**-149",
        "    int place = 31 - int(clz(max(fraction, 1u)));",
        f"    exponent = place - {149 - shift};",
        "    fraction = (max(fraction, 1u) << (23 - place)) & 0x007FFFFFu;",
        "}",
    ]
    if rule == "ceil":
        lines.append(f"exponent += int(fraction > {hex(top_bits & f32.FRACTION)}u);")
    elif rule == "even":
        mantissa = element.mantissa_bits if element.kind == "float" else element.bits - 1 - element.signed
        lines.append(f"exponent += int((fraction + {hex(f32.HIDDEN + (1 << (22 - mantissa)))}u) >> 24);")
    if dtype.is_power_of_two:
        return [*lines, f"uint code = uint(clamp(exponent + {dtype.bias}, 0, {dtype.max_code}));"]
    return [
        *lines,
        "exponent = clamp(exponent, -149, 127);",
        "uint value = exponent < -126 ? 1u << (exponent + 149) : uint(exponent + 127) << 23;",
        "float scale = as_type<float>(value);",
        _code(library, dtype),
    ]
