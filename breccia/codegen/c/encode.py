"""Quantization: amax of blocks, their scales, elements. By the `exact` rule, or as powers of two by any rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from xdsl.ir import Operation

from breccia import numerics
from breccia.codegen.c.body import Body
from breccia.codegen.c.spelling import number
from breccia.codegen.lines import prop, tensor_type
from breccia.numerics.scale_rules import level_targets
from breccia.recipes import Block, Policy, Recipe

_PRINTED = {
    "division": ("divide",), "rounding": ("rne", "ties_away", "ties_zero"), "nonfinite": ("poison",),
    "amax": ("current", "static"),
}  # fmt: skip


def scale_from_amax(k: Body, op: Operation) -> None:
    """Write scales of a level from the amax of its blocks."""
    writer, level = _Writer(k, op), prop(op, "level")
    (amax,), out = op.operands, op.results[0]
    k.compute(out, lambda place, index: writer.scale(level, f"float a = {k.at(amax, index)};", place))


def encode(k: Body, op: Operation) -> None:
    """Write elements and the scales that are not given; x is 0 where its tile reaches beyond the tensor."""
    writer, (x, *given) = _Writer(k, op), op.operands
    recipe, shape = writer.recipe, k.numbers(tensor_type(x.type).shape)
    blocks = [_whole(block, shape) for block in recipe.blocks(len(shape))]
    scales, inner = list(given), len(recipe.levels) - 1
    k.keep(x)

    def product(count: int, index: Sequence[str]) -> str:
        """The scales of the first levels at an element, multiplied innermost first."""
        factors: list[str] = []
        for level in reversed(range(count)):
            at = [f"({i}) / {n}" for i, n in zip(index, blocks[level], strict=True)]
            text, fmt = k.at(scales[level], at), recipe.levels[level].dtype
            factors.append(k.tables.decode(fmt, text) if fmt.bits <= 8 else text)
        return " * ".join(factors)

    def scale(place: str, index: Sequence[str]) -> str:
        """The scale of an innermost block, from its amax."""
        loops, first = "", [f"{i} * {n}" for i, n in zip(index, blocks[inner], strict=True)]
        for axis, (n, size) in enumerate(zip(blocks[inner], shape, strict=True)):
            loops += f"for (int r{axis} = {first[axis]}; r{axis} < min({first[axis]} + {n}, {size}); ++r{axis}) "
        entry = k.at(x, [f"r{axis}" for axis in range(len(shape))])
        amax = f"float a = 0.0f; {loops}a = larger(a, fabs({entry}));"
        return writer.scale(inner, amax, place, f" / ({product(inner, first)})" if inner else "")

    def element(place: str, index: Sequence[str]) -> str:
        # Where the scale was computed here, NaN and infinity have made it NaN, and all of the block's ratios with it.
        code = k.tables.encode(recipe.element, recipe.policy, "(isfinite(v) ? v / (s == 0.0f ? 1.0f : s) : NAN)")
        return f"float v = {k.at(x, index)}, s = {product(inner + 1, index)}; {place} = {code};"

    if len(scales) == inner:
        scales.append(op.results[1])
        k.compute(scales[inner], scale)
    k.compute(op.results[0], element)


def _whole(block: Block, shape: Sequence[int]) -> list[int]:
    return [size if n is None else n for n, size in zip(block, shape, strict=True)]


class _Writer:
    """Writes scales of one op. Invariant: `recipe` has the op's policy, and is one that is printed."""

    def __init__(self, k: Body, op: Operation) -> None:
        recipe: Recipe = prop(op, "recipe")
        policy: Policy = prop(op, "policy")
        self.k, self.recipe = k, replace(recipe, policy=policy)
        if recipe.zero_point is not None or recipe.offset is not None:
            raise k.unsupported(f"quantizes to {recipe.describe()}; zero points and offsets are not printed")
        for name, printed in _PRINTED.items():
            if getattr(policy, name) not in printed:
                raise k.unsupported(f"quantizes by {name} = {getattr(policy, name)}; printed: {', '.join(printed)}")
        dtype = recipe.innermost.dtype
        if policy.scale != "exact" and not dtype.is_power_of_two:
            raise k.unsupported(f"makes scales of {dtype.name} by the rule {policy.scale}; printed: exact")
        for level in recipe.levels:
            if level.dtype.nan_code is None:
                raise k.unsupported(f"makes scales of {level.dtype.name}; a format with NaN is needed")

    def scale(self, level: int, amax: str, place: str, over: str = "") -> str:
        """Statements that put a stored scale into a place. `amax` declares `a`; `over` divides by outer scales."""
        recipe, fmt = self.recipe, self.recipe.levels[level].dtype
        inner = level == len(recipe.levels) - 1
        # What a policy says of scales is meant for the innermost level; outer ones are plain.
        policy = recipe.policy if inner else Policy(scale="floor" if fmt.is_power_of_two else "exact")
        floor = "" if policy.amax_min is None else f" a = larger(a, {number(policy.amax_min)});"
        least = policy.scale_min or fmt.smallest_positive
        quotient = f"a / {number(level_targets(recipe)[level])}{over}"
        zero, bad = numerics.scale_from_amax(np.array([0, np.nan], np.float32), recipe.element, fmt, policy).tolist()
        if fmt.bits > 8:
            text = self.k.converted(fmt.mlir, f"fmin({quotient}, {number(fmt.max)})")
            text, zero, bad = f"fmax({text}, {number(least)})", number(zero), "NAN"
        elif fmt.is_power_of_two:
            text = self.k.tables.power_of_two_scale(recipe.element, fmt, policy, f"(a{over})")
        else:
            text = f"max((int){self.k.tables.encode(fmt, Policy(), quotient)}, {numerics.encode(least, fmt)})"
        return f"{amax}{floor} {place} = !isfinite(a) ? {bad} : a == 0.0f ? {zero} : {text};"
