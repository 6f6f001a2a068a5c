"""Whole casts on PyTorch in a few operations, for ordinary tensors in the host's memory.

What `numerics.quantize` does step by step is done here at once where the amax of every block is finite and far from the
subnormal numbers: no rule for zeros, NaN or saturation can then matter. Blocks are read once, in chunks that stay in
cache. For everything else there is None, and the general way.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch

from breccia.arrays.torch_encode import FLOAT8, native_encode
from breccia.formats import Format
from breccia.recipes import Block, Recipe, grid_shape, of_token

Array = torch.Tensor
CHUNK = 1 << 19
LEAST = 2.0**-60
"""Least amax: elements that are subnormal numbers are then zero, whether or not the host flushes them."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Plan:
    """What does not depend on values, for one recipe and shape.

    Invariants: `split` has two axes for each of the tensor's, the blocks and their elements, or a single axis where the
    tensor is one block and `grid` empty; chunks are pieces of `axis`. Scales are amax / top, or, where `powers` is
    there, powers of two: the exponent of the bits of amax + carry, taken out by a mask or a shift. Codes are written as
    `dtype`: the element's own where PyTorch has it, else bytes. Where amax is mapped to more than the largest element,
    ratios are `clamped`.
    """

    split: tuple[int, ...]
    grid: tuple[int, ...]
    inner: tuple[int, ...]
    axis: int
    step: int
    element: Format
    dtype: torch.dtype
    top: Array
    clamped: bool
    powers: tuple[Array, Array, Array] | None

    @property
    def one_pass(self) -> bool:
        """Whether a chunk holds whole blocks."""
        return self.grid != () and (self.axis % 2 == 0 or self.split[self.axis] <= self.step)


def quantize(x: Array, recipe: Recipe) -> tuple[Array, Array] | None:
    """(codes in x's shape, stored scales), or None where this way does not apply. x is ordinary and in host memory."""
    if x.dtype not in _FLOATS or not x.is_contiguous():
        return None
    plan = _plan(recipe.token, x.shape)
    if plan is None:
        return None
    x = x.detach() if x.requires_grad else x
    if x.numel() <= CHUNK:
        return _encode_whole(plan, x) if not plan.grid else _encode_blocks(plan, x)
    view = x.view(plan.split)
    codes = torch.empty(plan.split, dtype=plan.dtype)
    scales = _in_one_pass(plan, view, codes) if plan.one_pass else _in_two_passes(plan, view, codes)
    return None if scales is None else (codes.view(torch.uint8).view(x.shape), scales.view(plan.grid))


def _in_one_pass(plan: _Plan, x: Array, codes: Array) -> Array | None:
    found: list[Array] = []
    for chunk, goal in zip(x.split(plan.step, plan.axis), codes.split(plan.step, plan.axis), strict=True):
        wide = chunk.float()
        made = _scales(plan, _amax(plan, wide))
        if made is None:
            return None
        found.append(made[0])
        goal.copy_(_codes(plan, wide / made[1]))
    return torch.cat(found, plan.axis)


def _in_two_passes(plan: _Plan, x: Array, codes: Array) -> Array | None:
    made = _scales(plan, _amax(plan, x).float())
    if made is None:
        return None
    chunks, goals = x.split(plan.step, plan.axis), codes.split(plan.step, plan.axis)
    space = torch.empty(chunks[0].shape)
    for chunk, goal in zip(reversed(chunks), reversed(goals), strict=True):  # what amax read last is still in cache
        ratio = torch.div(chunk.float(), made[1], out=space if chunk.shape == space.shape else None)
        goal.copy_(_codes(plan, ratio))
    return made[0]


def _encode_whole(plan: _Plan, x: Array) -> tuple[Array, Array] | None:
    made = _scales(plan, _amax(plan, x).float())
    return made and (_codes(plan, x.float() / made[1]).to(plan.dtype).view(torch.uint8), made[0])


def _encode_blocks(plan: _Plan, x: Array) -> tuple[Array, Array] | None:
    view = x.float().view(plan.split)
    made = _scales(plan, _amax(plan, view))
    if made is None:
        return None
    codes = _codes(plan, view / made[1]).to(plan.dtype)
    return codes.view(torch.uint8).view(x.shape), made[0].view(plan.grid)


def _codes(plan: _Plan, x: Array) -> Array:
    """What becomes the codes when it is converted to the plan's dtype; may write to x."""
    if plan.dtype is not torch.uint8:
        return x
    if plan.clamped:
        x.clamp_(plan.element.min, plan.element.max)
    codes = native_encode(x, plan.element, "rne", "saturate", tame=True)
    assert codes is not None, "a plan was made for an element without native codes"
    return codes


def _amax(plan: _Plan, x: Array) -> Array:
    """Largest |x| of every block, kept as ones; NaN where there is one."""
    if not plan.grid:
        low, high = torch.aminmax(x)
        return torch.maximum(-low, high)
    return x.abs().amax(plan.inner, keepdim=True)


def _scales(plan: _Plan, amax: Array) -> tuple[Array, Array] | None:
    """(stored scales, their values) of blocks; None where an amax is out of bounds."""
    if amax.numel() == 1:
        low = high = float(amax)
    else:
        smallest, largest = torch.aminmax(amax)
        low, high = float(smallest), float(largest)
    if not (low >= LEAST and high < np.inf):
        return None
    if plan.powers is None:
        scales = amax / plan.top
        return scales, scales
    carry, mask, places = plan.powers
    bits = amax.view(torch.int32) + carry
    return (bits >> places).to(torch.uint8), (bits & mask).view(torch.float32)


@lru_cache(maxsize=1024)
def _plan(token: int, shape: Sequence[int]) -> _Plan | None:
    recipe, size = of_token(token), tuple(shape)
    carry = _carry(recipe)
    block = recipe.blocks(len(size))[-1]
    even = all(w is None or n % w == 0 for n, w in zip(size, block, strict=True))
    if carry is None or not even or not all(size):
        return None
    whole, element = recipe.innermost.block is None, recipe.element
    split = (prod(size),) if whole else split_shape(size, block)
    axis = next((i for i, n in enumerate(split) if n > 1), len(split) - 1)
    return _Plan(
        split=split,
        grid=() if whole else grid_shape(size, block),
        inner=tuple(range(1, len(split), 2)),
        axis=axis,
        step=max(1, CHUNK * split[axis] // prod(split)),
        element=element,
        dtype=FLOAT8.get(element.name, torch.uint8),
        top=torch.tensor(recipe.policy.max or element.max),
        clamped=recipe.policy.max is not None,
        powers=torch.tensor([carry, 0x7F800000, 23], dtype=torch.int32).unbind() if carry else None,
    )


def split_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """The shape in which every axis has become two: whole blocks, and the places in one."""
    return tuple(n for s, w in zip(shape, block, strict=True) for n in ((1, s) if w is None else (s // w, w)))


def _carry(recipe: Recipe) -> int | None:
    """What makes the bits of amax those of its scale; 0 where scales are no powers of two; None for other recipes."""
    policy, element, scale = recipe.policy, recipe.element, recipe.innermost.dtype
    plain = (
        len(recipe.levels) == 1
        and recipe.zero_point is None
        and recipe.offset is None
        and element.bits <= 8
        and element.kind in ("float", "int")
        and not element.is_power_of_two
        and (policy.rounding, policy.division, policy.overflow) == ("rne", "divide", "saturate")
        and policy.amax in ("current", "delayed")
        and policy.scale_min is policy.amax_min is None
        and (policy.max is None or element.kind == "int")
        and (policy.margin == 0 or policy.amax != "delayed")
    )
    if plain and policy.scale == "exact" and scale.name == "float32":
        return 0
    if plain and policy.scale == "ceil" and scale.name == "float8_e8m0fnu":
        top = int(np.float32(policy.max or element.max).view(np.uint32))
        # Rounded up: a fraction above that of top carries into the exponent.
        return (0x7FFFFF - (top & 0x7FFFFF)) - (((top >> 23) - 127) << 23)
    return None
