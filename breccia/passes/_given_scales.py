"""When a scale that a `quantize` is given comes back as it went in, so that a kernel need not give it again."""

from __future__ import annotations

from breccia.ir.ops import QuantizeOp
from breccia.passes.split_quantize import OWN_AMAX


def comes_back(op: QuantizeOp, level: int) -> bool:
    """True where the scale of a given level is the same in the result, whatever the values.

    It is where the element has a code for NaN, and for a level outside a computed one. Else (INT8, say) a NaN in a
    block turns the block's own scale into NaN, unless it is the scale of the very values that are quantized: that one
    is NaN already.
    """
    recipe = op.recipe.data
    return recipe.element.has_nan or level < len(recipe.levels) - 1 or OWN_AMAX in op.attributes
