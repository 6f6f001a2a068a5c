"""Plans as JSON and back. No xDSL here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ml_dtypes
import numpy as np

from breccia import formats, scaling
from breccia.frontend.program import Plan
from breccia.frontend.results import Result, Tree
from breccia.ir import dims
from breccia.ir.dims import Dim
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint

_BUILD = {
    "add": dims.add, "sub": dims.sub, "mul": dims.mul, "floordiv": dims.floordiv, "ceildiv": dims.ceildiv,
    "min": dims.minimum, "max": dims.maximum,
}  # fmt: skip


class NotStorableError(Exception):
    """A plan holds something that JSON cannot."""


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; raises NotStorableError."""
    return {
        "entry": plan.entry,
        "pinned": plan.pinned,
        "equal": plan.equal,
        "symbols": plan.symbols,
        "tree": _tree_to_json(plan.tree),
        "results": [_result_to_json(r) for r in plan.results],
        "prepare": plan.prepare,
        "notes": plan.notes,
    }


def plan_from_json(data: dict[str, Any]) -> Plan:
    """The plan that `plan_to_json` wrote."""
    return Plan(
        data["entry"],
        tuple((i, size) for i, size in data["pinned"]),
        tuple((i, j) for i, j in data["equal"]),
        tuple((name, i) for name, i in data["symbols"]),
        _tree_from_json(data["tree"]),
        tuple(_result_from_json(r) for r in data["results"]),
        data["prepare"],
        tuple(data["notes"]),
    )


def _tree_to_json(tree: Tree) -> Any:
    if tree.cls is not None:
        raise NotStorableError(f"a named tuple of class {tree.cls.__qualname__}")
    if not all(isinstance(key, str) for key in tree.keys):
        raise NotStorableError("dictionary keys that are no strings")
    return [tree.kind, [_tree_to_json(child) for child in tree.children], tree.keys, tree.value]


def _tree_from_json(data: Any) -> Tree:
    kind, children, names, value = data
    return Tree(kind, tuple(_tree_from_json(child) for child in children), tuple(names), value)


def _result_to_json(result: Result) -> Any:
    recipe = None if result.recipe is None else recipe_to_json(result.recipe)
    return [result.dtype.name, recipe, [_dim_to_json(d) for d in result.shape]]


def _result_from_json(data: Any) -> Result:
    name, recipe, shape = data
    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    return Result(dtype, None if recipe is None else recipe_from_json(recipe), tuple(_dim_from_json(d) for d in shape))


def _dim_to_json(dim: Dim) -> Any:
    if isinstance(dim, dims.Op):
        return [dim.kind, _dim_to_json(dim.left), _dim_to_json(dim.right)]
    if isinstance(dim, dims.Sym):
        return dim.name
    if isinstance(dim, int):
        return dim
    raise NotStorableError(f"the size {dims.show(dim)}")


def _dim_from_json(data: Any) -> Dim:
    if isinstance(data, list):
        kind, left, right = data
        return _BUILD[kind](_dim_from_json(left), _dim_from_json(right))
    return dims.Sym(data) if isinstance(data, str) else int(data)


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe with its policy, name, and the class and parameters of one of breccia 0.1."""
    if isinstance(recipe, scaling.ScalingRecipe):
        if getattr(scaling, type(recipe).__name__, None) is not type(recipe):
            raise NotStorableError(f"a recipe of class {type(recipe).__qualname__}")
        return {"class": type(recipe).__name__, "parameters": recipe.parameters}
    if type(recipe) is not Recipe:
        raise NotStorableError(f"a recipe of class {type(recipe).__qualname__}")
    _check_known(recipe)
    return {
        "element": recipe.element.name,
        "levels": [[level.dtype.name, level.block] for level in recipe.levels],
        "zero_point": recipe.zero_point and recipe.zero_point.dtype.name,
        "offset": recipe.offset and recipe.offset.dtype.name,
        "policy": asdict(recipe.policy),
        "name": recipe.name,
        "equals": recipe.equals,
    }


def _check_known(recipe: Recipe) -> None:
    used = [recipe.element, *(level.dtype for level in recipe.levels)]
    used += [extra.dtype for extra in (recipe.zero_point, recipe.offset) if extra is not None]
    for fmt in used:
        if fmt not in formats.ALL:
            raise NotStorableError(f"the format {fmt.name}, which is not one of breccia's")


def recipe_from_json(data: dict[str, Any]) -> Recipe:
    """The recipe that `recipe_to_json` wrote."""
    if "class" in data:
        made: Recipe = getattr(scaling, data["class"])(**data["parameters"])
        return made
    zero, offset = data["zero_point"], data["offset"]
    return Recipe(
        formats.find(data["element"]),
        tuple(Level(formats.find(f), None if block is None else tuple(block)) for f, block in data["levels"]),
        ZeroPoint(formats.find(zero)) if zero else None,
        Offset(formats.find(offset)) if offset else None,
        Policy(**data["policy"]),
        data["name"],
        data["equals"],
    )
