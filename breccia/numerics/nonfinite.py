"""What a policy does with NaN and infinity before anything is encoded."""

from __future__ import annotations

from breccia.arrays import Array, Primitives
from breccia.errors import FormatError
from breccia.numerics import bits as f32
from breccia.recipes import Recipe


def refuse_nonfinite(xp: Primitives, bad: Array, recipe: Recipe, shape: tuple[int, ...]) -> None:
    """Raise FormatError if the policy forbids NaN and infinity and `bad` has one. Only this policy waits for values."""
    if recipe.policy.nonfinite == "error" and xp.any(bad):
        raise FormatError(
            f"x of shape {shape} holds NaN or infinity, and the policy of {recipe!r} is nonfinite='error'; "
            "clean x, or use nonfinite='poison' or 'saturate'"
        )


def clamp_infinity(xp: Primitives, x: Array) -> Array:
    """X with infinities replaced by the largest finite float32 of the same sign."""
    bits = xp.bitcast(x, "uint32")
    infinite = (bits & f32.MAGNITUDE) == f32.INFINITY
    return xp.bitcast(xp.where(infinite, bits - 1, bits), "float32")
