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

from breccia.arrays.torch_encode import FLOAT8, native_encode, small_floats_
from breccia.formats import Format
from breccia.recipes import Block, Recipe, grid_shape, of_token

Array = torch.Tensor
CHUNK = 1 << 19
LEAST, MOST = 2.0**-60, 2.0**100
"""Bounds of amax: elements that are subnormal numbers are then zero, whether or not the host flushes them, and powers
of two are in the range of their format."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Plan:
    """What does not depend on values, for one recipe and shape.

    Invariants: `split` has two axes for each of the tensor's, the blocks and their elements, or a single axis where the
    tensor is one block and `grid` empty; chunks are pieces of `axis`. Scales are amax / top, or, where `powers` is
    there, powers of two: the exponent of the bits of amax + carry, taken out by a mask or a shift. Where `outer` is
    there, they are FP8 and divided by a scale of the whole tensor, which is its amax / outer. Codes are written as
    `dtype`: the element's own where PyTorch has it, else bytes. Where amax may be mapped to more than the largest
    element, ratios are `clamped`.
    """

    split: tuple[int, ...]
    grid: tuple[int, ...]
    inner: tuple[int, ...]
    axis: int
    step: int
    element: Format
    dtype: torch.dtype
    top: Array
    outer: Array | None
    clamped: bool
    powers: tuple[Array, Array, Array] | None

    @property
    def one_pass(self) -> bool:
        """Whether a chunk holds whole blocks, whose scales depend on nothing else."""
        return self.outer is None and self.grid != () and self.whole_blocks

    @property
    def whole_blocks(self) -> bool:
        return self.grid != () and (self.axis % 2 == 0 or self.split[self.axis] <= self.step)

    def pieces(self, x: Array) -> tuple[Array, ...]:
        return x.split(self.step, self.axis)


_Scales = tuple[tuple[Array, ...], Array]
"""What is stored, outermost first, and the float32 values that elements are divided by."""


def quantize(x: Array, recipe: Recipe) -> tuple[Array, tuple[Array, ...]] | None:
    """(codes in x's shape, stored scales, outermost first), or None where this way does not apply.

    x: an ordinary tensor in the host's memory.
    """
    if x.dtype not in _FLOATS or x.layout is not torch.strided or not x.is_contiguous():
        return None
    plan = _plan(recipe.token, x.shape)
    if plan is None:
        return None
    x = x.detach() if x.requires_grad else x
    view = x.view(plan.split) if plan.grid else x
    if x.numel() <= CHUNK:
        made = _at_once(plan, view)
    elif plan.one_pass:
        made = _in_one_pass(plan, view)
    else:
        made = _in_two_passes(plan, view if plan.grid else view.view(-1))
    if made is None:
        return None
    codes, scales = made
    return codes.view(torch.uint8).view(x.shape), (*scales[:-1], scales[-1].view(plan.grid))


def _at_once(plan: _Plan, x: Array) -> tuple[Array, tuple[Array, ...]] | None:
    x = x.float()
    made = _scales(plan, _amax(plan, x))
    return made and (_codes(plan, x / made[1]).to(plan.dtype), made[0])


def _in_one_pass(plan: _Plan, x: Array) -> tuple[Array, tuple[Array, ...]] | None:
    codes = torch.empty(plan.split, dtype=plan.dtype)
    found: list[Array] = []
    space: Array | None = None
    for chunk, goal in zip(plan.pieces(x), plan.pieces(codes), strict=True):
        wide = chunk.float()
        space = torch.empty(wide.shape) if space is None or space.shape != wide.shape else space
        made = _scales(plan, _amax(plan, wide, space))
        if made is None:
            return None
        found.append(made[0][0])
        goal.copy_(_codes(plan, torch.div(wide, made[1], out=space)))
    return codes, (torch.cat(found, plan.axis),)


def _in_two_passes(plan: _Plan, x: Array) -> tuple[Array, tuple[Array, ...]] | None:
    chunks = plan.pieces(x)
    space = torch.empty(chunks[0].shape)
    if plan.whole_blocks:
        amax = torch.cat([_amax(plan, c, space) for c in chunks], plan.axis)
    else:
        amax = _amax(plan, x)
    made = _scales(plan, amax)
    if made is None:
        return None
    codes = torch.empty(plan.split, dtype=plan.dtype)
    goals = plan.pieces(codes)
    values = plan.pieces(made[1]) if plan.whole_blocks else (made[1],) * len(chunks)
    # Backwards: what amax read last is still in cache.
    for chunk, goal, value in zip(reversed(chunks), reversed(goals), reversed(values), strict=True):
        ratio = torch.div(chunk.float(), value, out=space if chunk.shape == space.shape else None)
        goal.copy_(_codes(plan, ratio))
    return codes, made[0]


def _codes(plan: _Plan, x: Array) -> Array:
    """What becomes the codes when it is converted to the plan's dtype; writes to x."""
    if plan.dtype is not torch.uint8:
        return x
    if plan.clamped:
        x.clamp_(plan.element.min, plan.element.max)
    if plan.element.kind == "float":
        return small_floats_(x, plan.element)
    codes = native_encode(x, plan.element, "rne", "saturate", tame=True)
    assert codes is not None, "a plan was made for an element without native codes"
    return codes


def _amax(plan: _Plan, x: Array, space: Array | None = None) -> Array:
    """Largest |x| of every block as float32, kept as ones; NaN where there is one. space: for what comes between."""
    if not plan.grid:
        low, high = torch.aminmax(x)
        return torch.maximum(-low, high).float()
    fits = space is not None and space.shape == x.shape
    return torch.abs(x.float(), out=space if fits else None).amax(plan.inner, keepdim=True)


def _scales(plan: _Plan, amax: Array) -> _Scales | None:
    """Scales of blocks; None where an amax is out of bounds."""
    if amax.numel() == 1:
        low = high = float(amax)
    else:
        smallest, largest = torch.aminmax(amax)
        low, high = float(smallest), float(largest)
    if not LEAST <= low <= high <= MOST:
        return None
    if plan.outer is not None:
        outer = torch.tensor(high) / plan.outer
        codes = (amax / plan.top / outer).to(torch.float8_e4m3fn).view(torch.uint8).clamp_(min=1)
        return (outer, codes), codes.view(torch.float8_e4m3fn).float() * outer
    if plan.powers is None:
        scales = amax / plan.top
        return (scales,), scales
    carry, mask, places = plan.powers
    bits = amax.view(torch.int32) + carry
    return ((bits >> places).to(torch.uint8),), (bits & mask).view(torch.float32)


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
    outer = _outer_top(recipe)
    return _Plan(
        split=split,
        grid=() if whole else grid_shape(size, block),
        inner=tuple(range(1, len(split), 2)),
        axis=axis,
        step=max(1, CHUNK * split[axis] // prod(split)),
        element=element,
        dtype=FLOAT8.get(element.name, torch.uint8),
        top=torch.tensor(recipe.policy.max or element.max),
        outer=torch.tensor(outer) if outer else None,
        clamped=recipe.policy.max is not None or outer is not None,
        powers=torch.tensor([carry, 0x7F800000, 23], dtype=torch.int32).unbind() if carry else None,
    )


def _outer_top(recipe: Recipe) -> float | None:
    """What the amax of a tensor is mapped to by the outer level, where there is one."""
    return recipe.element.max * recipe.innermost.dtype.max if len(recipe.levels) == 2 else None


def split_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """The shape in which every axis has become two: whole blocks, and the places in one."""
    return tuple(n for s, w in zip(shape, block, strict=True) for n in ((1, s) if w is None else (s // w, w)))


def _carry(recipe: Recipe) -> int | None:
    """What makes the bits of amax those of its scale; 0 where scales are no powers of two; None for other recipes."""
    policy, element, scale = recipe.policy, recipe.element, recipe.innermost.dtype
    plain = (
        recipe.zero_point is None
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
    if plain and len(recipe.levels) == 2:
        outer = recipe.levels[0]
        two = outer.block is None and outer.dtype.name == "float32" and scale.name == "float8_e4m3fn"
        margin = policy.amax == "current" and policy.max is None
        return 0 if two and margin and policy.scale == "exact" and element.name not in FLOAT8 else None
    if not plain or len(recipe.levels) > 1:
        return None
    if policy.scale == "exact" and scale.name == "float32":
        return 0
    if policy.scale == "ceil" and scale.name == "float8_e8m0fnu":
        top = int(np.float32(policy.max or element.max).view(np.uint32))
        # Rounded up: a fraction above that of top carries into the exponent.
        return (0x7FFFFF - (top & 0x7FFFFF)) - (((top >> 23) - 127) << 23)
    return None
