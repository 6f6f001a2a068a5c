"""Recipes and policies as module constants of emitted code."""

from __future__ import annotations

from dataclasses import fields

from breccia.codegen.names import quoted
from breccia.recipes import Policy, Recipe


class Constants:
    """The recipes that a module encodes by. Invariant: equal pairs of recipe and policy share one name.

    maker: what stands for `breccia.recipes.spelled` in the emitted code.
    """

    def __init__(self, maker: str) -> None:
        self._maker = maker
        self._known: dict[tuple[object, ...], str] = {}
        self.lines: list[str] = []

    def recipe(self, recipe: Recipe, policy: Policy) -> str:
        """The name of the constant that holds `recipe` with `policy`."""
        key = (*recipe.decode_key, policy)
        if key not in self._known:
            name = f"_RECIPE_{len(self._known)}"
            self._known[key] = name
            self.lines.append(f"{name} = {self._maker}({_text(recipe, policy)})")
        return self._known[key]


def _text(recipe: Recipe, policy: Policy) -> str:
    """The arguments of `breccia.recipes.spelled`."""
    levels = "".join(f"({quoted(level.dtype.name)}, {level.block!r}), " for level in recipe.levels)
    parts = [quoted(recipe.element.name), f"({levels.rstrip()})" if len(recipe.levels) == 1 else f"({levels[:-2]})"]
    if recipe.zero_point is not None:
        parts.append(f"zero_point={quoted(recipe.zero_point.dtype.name)}")
    if recipe.offset is not None:
        parts.append(f"offset={quoted(recipe.offset.dtype.name)}")
    for f in fields(Policy):
        value = getattr(policy, f.name)
        if value != f.default:
            parts.append(f"{f.name}={quoted(value) if isinstance(value, str) else repr(value)}")
    return ", ".join(parts)
