"""Delayed scaling: the scale of a tensor from the amax of past steps."""

from __future__ import annotations

from typing import Any

from breccia.arrays import Array, namespace
from breccia.errors import DTypeError, RecipeError
from breccia.numerics.scale_rules import rank_of, scale_from_amax
from breccia.recipes import Recipe


def check_delayed(recipe: Recipe) -> Recipe:
    """`recipe` if its scale can follow a history; else RecipeError, or DTypeError for what is no recipe."""
    if not isinstance(recipe, Recipe):
        raise DTypeError(f"unsupported recipe: {type(recipe).__name__}; give an instance, as breccia.DelayedScaling()")
    if recipe.policy.amax != "delayed":
        raise RecipeError(
            f"{recipe!r} takes scales from amax={recipe.policy.amax!r}; delayed scaling needs "
            'recipe.with_policy(amax="delayed"), or breccia.DelayedScaling()'
        )
    if len(recipe.levels) != 1 or recipe.innermost.block is not None or recipe.zero_point or recipe.offset:
        raise RecipeError(f"{recipe!r} has more than one scale for a tensor; delayed scaling needs exactly one")
    return recipe


def delayed_scale(history: Any, recipe: Recipe) -> Array:
    """The innermost scales of a delayed recipe from the amax values of past steps, newest last along the first axis.

    `Policy.history_rule` says whether the largest or the newest counts; `Policy.margin` widens the scale by 2**margin.

    >>> from breccia.scaling import DelayedScaling
    >>> import numpy as np
    >>> float(delayed_scale(np.float32([1.0, 896.0, 448.0]), DelayedScaling()))
    2.0
    """
    xp = namespace(history)
    history = xp.as_float32(history)
    rank_of(xp, history)
    if recipe.policy.history_rule == "most_recent":
        amax = history[-1:]
    else:
        amax = xp.bitcast(xp.block_amax_bits(history, (None,) + (1,) * (len(xp.shape(history)) - 1)), "float32")
    scale = scale_from_amax(amax, recipe.element, recipe.innermost.dtype, recipe.policy)
    return xp.reshape(scale, xp.shape(history)[1:])


def update_history(history: Any, amax: Any) -> Array:
    """The amax history one step on: the oldest entry (first) leaves, `amax` enters last; a new array."""
    xp = namespace(history)
    history, newest = xp.as_float32(history), xp.as_float32(amax)
    return xp.concat([history[1:], xp.reshape(newest, (1, *xp.shape(history)[1:]))], 0)
