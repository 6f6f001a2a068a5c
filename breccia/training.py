"""How the products of a layer are encoded in training: a recipe for each operand of each of its three products.

    y  = x w          x by `x`,  w by `w`,   both along K
    dx = dy wᵀ        dy by `dy`, w by `w`,  both along N
    dw = xᵀ dy        x and dy by the two of `wgrad`, both along the rows M

Every operand is encoded from its value in high precision, along the axis that its product sums over. An operand that is
encoded along one axis is never transposed into one along another.
"""

from __future__ import annotations

from dataclasses import dataclass

from breccia import recipes
from breccia.errors import RecipeError
from breccia.recipes import Recipe


@dataclass(frozen=True)
class TrainingRecipe:
    """Recipes for the operands of y = x w and of its gradients; None leaves an operand as it is.

    Recipes are given for blocks along the last axis, as always, and laid along the axis of each product. wgrad: for x
    and for dy in the weight's gradient; left out, they are `x` and `dy`.

    Raises RecipeError for what is no recipe, for policies that need more than the values (delayed and static scales,
    stochastic rounding), and for FP8 of the fn and the fnuz family in one product.

    >>> from breccia import recipes
    >>> TrainingRecipe(x=recipes.mxfp8_e4m3, w=recipes.mxfp8_e4m3, dy=recipes.mxfp8_e5m2).weight_gradient[1].name
    'mxfp8_e5m2'
    """

    x: Recipe | None = None
    w: Recipe | None = None
    dy: Recipe | None = None
    wgrad: tuple[Recipe | None, Recipe | None] | None = None

    def __post_init__(self) -> None:
        if self.wgrad is not None and (not isinstance(self.wgrad, tuple) or len(self.wgrad) != 2):
            raise RecipeError(
                f"TrainingRecipe.wgrad is {self.wgrad!r}; give a pair, of x and of dy in the weight's gradient, such "
                "as (recipes.mxfp8_e4m3, None), or leave it out"
            )
        of_x, of_dy = self.weight_gradient
        named = {"x": self.x, "w": self.w, "dy": self.dy, "wgrad[0]": of_x, "wgrad[1]": of_dy}
        for name, recipe in named.items():
            _check(name, recipe)
        for one, other in (("x", "w"), ("dy", "w"), ("wgrad[0]", "wgrad[1]")):
            _check_family(one, named[one], other, named[other])

    @property
    def weight_gradient(self) -> tuple[Recipe | None, Recipe | None]:
        """The recipes of x and of dy in the weight's gradient."""
        return (self.x, self.dy) if self.wgrad is None else self.wgrad


def _check(name: str, recipe: Recipe | None) -> None:
    if recipe is None:
        return
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"TrainingRecipe.{name} is {recipe!r}; give a recipe, such as recipes.mxfp8_e4m3, or None")
    if recipe.policy.amax != "current":
        raise RecipeError(
            f"TrainingRecipe.{name} is {recipe!r} with amax {recipe.policy.amax!r}, whose scales come from elsewhere; "
            "only 'current' is supported yet: use recipe.with_policy(amax='current')"
        )
    if recipe.policy.rounding == "stochastic":
        raise RecipeError(
            f"TrainingRecipe.{name} is {recipe!r} with stochastic rounding, which needs a seed at every step and is "
            "not supported yet: use recipe.with_policy(rounding='rne')"
        )


def _check_family(one: str, a: Recipe | None, other: str, b: Recipe | None) -> None:
    found = [r.element.name for r in (a, b) if r is not None and r.element.name.startswith("float8")]
    if len({name.endswith("fnuz") for name in found}) == 2:
        raise RecipeError(
            f"TrainingRecipe: {one} and {other} are multiplied, and hold {found[0]} and {found[1]}; fn and fnuz are "
            "different families, and no hardware multiplies them"
        )


_E4M3 = recipes.float8_tensor.with_policy(division="inverse")
_E5M2 = recipes.float8_e5m2_tensor.with_policy(division="inverse")
_ROW_128 = recipes.float8_1x128.with_policy(scale="ceil")
_SQUARE_128 = recipes.float8_128x128.with_policy(scale="ceil")

float8_current = TrainingRecipe(x=_E4M3, w=_E4M3, dy=_E5M2)
"""FP8 with one scale a tensor: E4M3 forward, E5M2 for gradients; the choices of TransformerEngine's
`Float8CurrentScaling` with the format HYBRID, which computes scales as 1 / (max / amax)."""
float8_block = TrainingRecipe(x=_ROW_128, w=_SQUARE_128, dy=_ROW_128)
"""E4M3 with scales that are powers of two in float32, for 1x128 elements, of weights for 128x128; the choices of
TransformerEngine's `Float8BlockScaling`."""
mxfp8 = TrainingRecipe(x=recipes.mxfp8_e4m3, w=recipes.mxfp8_e4m3, dy=recipes.mxfp8_e4m3)
"""MXFP8, E4M3 everywhere; the choices of TransformerEngine's `MXFP8BlockScaling`."""


def named() -> dict[str, TrainingRecipe]:
    """Every training recipe of this module by name.

    >>> ", ".join(named())
    'float8_current, float8_block, mxfp8'
    """
    return {name: value for name, value in globals().items() if isinstance(value, TrainingRecipe)}
