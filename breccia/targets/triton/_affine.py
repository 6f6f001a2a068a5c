"""The part of quantize functions for integers with a zero point or an offset: `breccia.numerics.affine` in Triton."""

from __future__ import annotations

from breccia.errors import UnsupportedError
from breccia.numerics.affine import _supported
from breccia.targets.triton._casts import encode, round_integer, triton_type
from breccia.targets.triton._quantize_writer import Writer, reduced, reshaped, results
from breccia.targets.triton._scales import as_codes, halves, span_scales, stored


def write(to: Writer) -> None:
    """Append the lines that compute and return elements, scales, and zero points or offsets."""
    recipe, tile = to.recipe, to.tile
    _supported(recipe)
    inner = len(recipe.levels) - 1
    _range(to)
    if to.static:
        to.say(f"scale{inner} = {to.given_grid(inner)}")
    else:
        _scales(to, inner)
    parts = [to.decoded(f"scale{inner}", recipe.innermost.dtype)]
    parts += [to.decoded(to.given_grid(i), recipe.levels[i].dtype) for i in reversed(range(inner))]
    to.say(f"total = {' * '.join(parts)}")
    to.say("total = tl.where(total.to(tl.int32, bitcast=True) == 0, 1.0, total)")
    to.random()
    (_zero_point if recipe.zero_point is not None else _offset)(to)
    out = [reshaped("elements", tile.view, to.shape)]
    for name in results(recipe, len(to.given))[1:]:
        level = int(name[5:]) if name.startswith("scale") else inner
        out.append(to.stored_grid(name, level))
    to.say(f"return {', '.join(out)}")


def _range(to: Writer) -> None:
    to.say(
        f"bad = {reduced('bits', to.tile)} >= 0x7F800000",
        "keys = x.to(tl.int32, bitcast=True)",
        "keys = keys ^ ((keys >> 31) & 0x7FFFFFFF)  # integers that order as the values do",
        f"low = {reduced('keys', to.tile, 'min')}",
        f"high = {reduced('keys', to.tile, 'max')}",
    )
    for name in ("low", "high"):
        to.say(f"{name} = ({name} ^ (({name} >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)")
        to.say(f"{name} = tl.where(bad, 0.0, {name})")
    if to.recipe.zero_point is not None:
        to.say("# The range includes 0, so that 0 is exact.")
        to.say("low = tl.where(low.to(tl.int32, bitcast=True) < 0, low, 0.0)")
        to.say("high = tl.where(high.to(tl.int32, bitcast=True) < 0, 0.0, high)")


def _scales(to: Writer, inner: int) -> None:
    recipe = to.recipe
    to.say("span = (high - low).to(tl.int32, bitcast=True)")
    to.say("overflow = span >= 0x7F800000")
    to.say("span = tl.minimum(span, 0x7F7FFFFF)")
    if inner:
        if not to.given:
            to.say("finite = span")
            for i in range(inner):
                to._outer_level(i)
        outside = [to.decoded(to.given_grid(i), recipe.levels[i].dtype) for i in reversed(range(inner))]
        to.say(f"outer = {' * '.join(outside)}")
    whole = to.scale_call(
        span_scales(to.library, recipe), "tl.where(bad, 0x7FC00000, span).to(tl.float32, bitcast=True)"
    )
    halved = to.scale_call(span_scales(to.library, recipe, 0.5), "(high * 0.5 - low * 0.5)")
    to.say(f"whole = {whole}")
    to.say("# Where the range is beyond float32, half of it over half of the steps is the same.")
    to.say(f"scale{inner} = tl.where(overflow, {halved}, whole)")


def _zero_point(to: Writer) -> None:
    recipe, element, policy = to.recipe, to.element, to.policy
    assert recipe.zero_point is not None, "only recipes with a zero point come here"
    random = ", random" if policy.rounding == "stochastic" else ""
    width = 8 if element.bits <= 6 else 16
    codes = as_codes(to.library)
    function = round_integer(to.library, -(1 << (width - 1)), (1 << (width - 1)) - 1, 0, policy.rounding)
    to.say(f"zero_point = {encode(codes, recipe.zero_point.dtype)}({float(element.min)!r} - tl.div_rn(low, total))")
    to.say("ratio = tl.div_rn(x, total)")
    to.say("ratio = tl.where(ratio == ratio, ratio, 0.0)")
    zero = to.decoded("zero_point", recipe.zero_point.dtype)
    to.say(f"codes = {function}(ratio{random}) + {zero}.to(tl.int32)")
    mask = (1 << element.bits) - 1
    to.say(f"codes = tl.minimum(tl.maximum(codes, {int(element.min)}), {int(element.max)}) & {mask}")
    kind = triton_type(element, to.library.native)
    to.say("elements = codes.to(tl.uint8)" + ("" if kind == "uint8" else f".to(tl.{kind}, bitcast=True)"))


def _offset(to: Writer) -> None:
    recipe, policy = to.recipe, to.policy
    assert recipe.offset is not None, "only recipes with an offset come here"
    dtype = recipe.offset.dtype
    if dtype.bits > 32:
        raise UnsupportedError(f"emitted Triton code cannot write offsets of {dtype.name}; use float32 or narrower")
    random = ", random" if policy.rounding == "stochastic" else ""
    to.say(*_offset_codes(to))
    function = encode(to.library, to.element, policy.rounding, policy.overflow)
    to.say(f"elements = {function}(tl.div_rn(x - {to.decoded('offset', dtype)}, total){random})")


def _offset_codes(to: Writer) -> list[str]:
    """Lines from the smallest value of each block to the stored offset, which may be negative."""
    assert to.recipe.offset is not None, "only recipes with an offset come here"
    dtype = to.recipe.offset.dtype
    if dtype.bits <= 8:
        return [f"offset = {encode(as_codes(to.library), dtype)}(low)"]
    if dtype.bits == 32:
        return ["offset = low"]
    return ["scale = low", *halves(dtype, number=False), f"offset = {stored('codes', dtype)}"]
