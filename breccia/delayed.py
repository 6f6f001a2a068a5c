"""Delayed scaling: scales from the amax of past steps, as state that functions take and return."""

from __future__ import annotations

from typing import Any

import numpy as np

from breccia.arrays import foreign, namespace, whole
from breccia.functions import apply_operation
from breccia.numerics.delayed import check_delayed
from breccia.recipes import Recipe


@whole
def delayed_init(recipe: Recipe, like: Any = None) -> tuple[Any, Any]:
    """The state before the first step: a history of zeros [recipe.policy.history], and a scale [] of 1; both float32.

    like: an array of the library and device that the state is wanted on; by default NumPy.

    Raises RecipeError for a recipe without delayed scaling, or with more than one scale.

    >>> from breccia.scaling import DelayedScaling
    >>> history, scale = delayed_init(DelayedScaling(amax_history_len=4))
    >>> history.tolist(), float(scale)
    ([0.0, 0.0, 0.0, 0.0], 1.0)
    """
    check_delayed(recipe)
    like = like if foreign(like) else np.zeros(())
    xp = namespace(like)
    ones = xp.full((), 1.0, "float32", like)
    return xp.full((recipe.policy.history,), 0.0, "float32", like), ones


@whole
def delayed_update(history: Any, scale: Any, amax: Any, recipe: Recipe) -> tuple[Any, Any]:
    """History and scale one step on, after a step whose largest absolute value was `amax`.

    history: float32 [recipe.policy.history], newest last. scale: float32 [], which decodes what the step encoded.
    amax: float32 [], such as `breccia.amax(x)`; where several devices share a scale, the largest of theirs.

    Pass the scale to the next `cast(x, recipe, scale=scale)`. It is made from the largest amax of the history, the new
    one included, or the newest (`Policy.history_rule`), times 2**`Policy.margin`. Where that amax is 0 or not finite,
    the old scale stays. This is TransformerEngine's rule; its `amax_history` holds the same values, but for a 0 in the
    place of the oldest. Nothing is written in place: the function can be compiled, jitted and scanned.

    Raises RecipeError for a recipe without delayed scaling, ShapeError for a history of another length.

    >>> from breccia.scaling import DelayedScaling
    >>> recipe = DelayedScaling(amax_history_len=2)
    >>> history, scale = delayed_init(recipe)
    >>> for amax in (896.0, 448.0, 448.0):
    ...     history, scale = delayed_update(history, scale, np.float32(amax), recipe)
    ...     print(float(scale))
    2.0
    2.0
    1.0
    """
    check_delayed(recipe)
    return apply_operation("breccia.frontend.delayed", "update", (history, scale, amax), recipe=recipe)
