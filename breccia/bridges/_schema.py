"""Recipes and layouts as JSON, as files hold them. The published form is schemas/safetensors-1.json.

Formats that have a name in `breccia.formats` are written by it, others by all their fields, so that a reader needs to
know nothing but the schema.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Any, cast, get_args

from breccia import formats, scaling
from breccia.errors import BrecciaError, FormatError
from breccia.formats import Format, Kind, NanCode
from breccia.layouts import BlockLayout, PerBlock, PerBlockK, PerBlockMN, PerChannel, PerTensor
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint, check_block

Json = dict[str, Any]

_LAYOUTS: dict[str, type[BlockLayout]] = {
    kind.name: kind for kind in (PerTensor, PerBlockK, PerChannel, PerBlockMN, PerBlock)
}
_CLASSES: dict[str, Callable[..., scaling.ScalingRecipe]] = {
    kind.name: kind
    for kind in (
        scaling.DelayedScaling, scaling.Float8CurrentScaling, scaling.Float8BlockScaling, scaling.MXFP8BlockScaling,
        scaling.NVFP4BlockScaling, scaling.INT4Scaling,
    )
}  # fmt: skip


_FORMAT_TYPES: dict[str, type] = {
    "name": str, "mlir": str, "kind": str, "bits": int, "signed": bool, "exponent_bits": int, "mantissa_bits": int,
    "bias": int, "nan": str, "infinity": bool, "zero": bool, "fraction_bits": int, "codebook": list,
}  # fmt: skip


# -- recipes -----------------------------------------------------------------------------------------------------------


def recipe_to_json(recipe: Recipe) -> Json:
    """A recipe: how to decode, how it was encoded where that is no default, and its name."""
    default = Policy()
    policy = {f.name: getattr(recipe.policy, f.name) for f in fields(Policy)}
    made: Json = {
        "element": _format_to_json(recipe.element),
        "levels": [
            {"dtype": _format_to_json(level.dtype), "block": None if level.block is None else list(level.block)}
            for level in recipe.levels
        ],
        "zero_point": recipe.zero_point and _format_to_json(recipe.zero_point.dtype),
        "offset": recipe.offset and _format_to_json(recipe.offset.dtype),
        "policy": {key: value for key, value in policy.items() if value != getattr(default, key)},
        "name": recipe.name,
    }
    if isinstance(recipe, scaling.ScalingRecipe):
        made["class"] = {"name": type(recipe).name, "parameters": recipe.parameters}
    return made


def recipe_from_json(said: Any) -> Recipe:
    """The recipe of its JSON; raises FormatError, or RecipeError where the parts do not fit together."""
    exactly(said, "a recipe", {"element", "levels", "zero_point", "offset", "policy", "name"}, {"class"})
    levels = said["levels"]
    if not isinstance(levels, list):
        raise FormatError("a recipe's levels must be a list")
    zero_point, offset, policy = said["zero_point"], said["offset"], said["policy"]
    exactly(policy, "a policy", set(), {f.name for f in fields(Policy)})
    if not isinstance(said["name"], str):
        raise FormatError("a recipe's name must be text")
    if policy.get("history_rule", "max") not in ("max", "most_recent"):
        raise FormatError(f"a policy's history_rule cannot be {policy['history_rule']!r}")
    recipe = Recipe(
        _format_from_json(said["element"]),
        tuple(_level_from_json(level) for level in cast(list[Any], levels)),
        None if zero_point is None else ZeroPoint(_format_from_json(zero_point)),
        None if offset is None else Offset(_format_from_json(offset)),
        made_of(Policy, policy, "a policy"),
        said["name"],
    )
    return _of_class(recipe, said["class"]) if "class" in said else recipe


def recipe_of_class(name: Any, parameters: Any) -> scaling.ScalingRecipe:
    """One of 0.1's recipes by the name of its class."""
    kind = _CLASSES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FormatError(f"unknown recipe {name!r}; known: {', '.join(_CLASSES)}")
    return made_of(kind, parameters, f"the recipe {name!r}")


def _of_class(recipe: Recipe, said: Any) -> Recipe:
    exactly(said, "a recipe's class", {"name", "parameters"})
    made = recipe_of_class(said["name"], said["parameters"])
    levels = tuple(level.dtype for level in made.levels)
    if made.element != recipe.element or levels != tuple(level.dtype for level in recipe.levels):
        raise FormatError(f"the class {made!r} does not decode as the recipe {recipe.describe()} says")
    return made if made.decode_key == recipe.decode_key else recipe


def _level_from_json(said: Any) -> Level:
    exactly(said, "a level", {"dtype", "block"})
    block = said["block"]
    if block is not None and not isinstance(block, list):
        raise FormatError("a block must be a list, or null for the whole tensor")
    return Level(_format_from_json(said["dtype"]), None if block is None else tuple(cast(list[Any], block)))


def _format_to_json(fmt: Format) -> str | Json:
    if fmt in formats.ALL:
        return fmt.name
    made = {f.name: getattr(fmt, f.name) for f in fields(Format)}
    return made | {"codebook": list(fmt.codebook)}


def _format_from_json(said: Any) -> Format:
    if isinstance(said, str):
        return formats.find(said)
    exactly(said, "a format", {"name", "mlir", "kind", "bits"}, {f.name for f in fields(Format)})
    for key, value in said.items():
        kind = _FORMAT_TYPES[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise FormatError(f"the {key} of a format must be of type {kind.__name__}, not {str(value)[:50]!r}")
    book = cast(list[Any], said.get("codebook", []))
    if not all(type(value) in (int, float) for value in book):
        raise FormatError("a codebook must be a list of numbers")
    if said["kind"] not in get_args(Kind) or said.get("nan", "none") not in get_args(NanCode):
        raise FormatError(f"a format's kind is one of {get_args(Kind)} and its nan one of {get_args(NanCode)}")
    if said["bits"] > 16 or not all(0 <= said.get(key, 0) <= 64 for key in ("exponent_bits", "mantissa_bits", "bias")):
        raise FormatError("a format without a name known here has at most 16 bits")
    return made_of(Format, {**said, "codebook": tuple(float(value) for value in book)}, "a format")


# -- layouts -----------------------------------------------------------------------------------------------------------


def layout_to_json(layout: BlockLayout) -> Json:
    """A layout by its name and fields, as 0.1 wrote it."""
    return {"name": layout.name, "fields": {f.name: getattr(layout, f.name) for f in fields(layout)}}


def layout_from_json(said: Any) -> BlockLayout:
    """The layout of its JSON; raises FormatError."""
    exactly(said, "a layout", {"name", "fields"})
    kind = _LAYOUTS.get(said["name"]) if isinstance(said["name"], str) else None
    if kind is None:
        raise FormatError(f"unknown layout {said['name']!r}; known: {', '.join(_LAYOUTS)}")
    given = said["fields"]
    if isinstance(given, dict) and "sizes" in given:
        sizes = given["sizes"]
        given = {**cast(Json, given), "sizes": tuple(cast(list[Any], sizes)) if isinstance(sizes, list) else sizes}
        check_block(given["sizes"], "PerBlock.sizes")
    return made_of(kind, given, f"the layout {said['name']!r}")


# -- checks ------------------------------------------------------------------------------------------------------------


def exactly(said: Any, what: str, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()) -> None:
    """Raise FormatError unless `said` is an object with these keys, and perhaps those allowed."""
    if not isinstance(said, dict):
        raise FormatError(f"{what} must be an object, not {str(said)[:50]!r}")
    missing, extra = needed - set(said), set(cast(Json, said)) - needed - allowed
    if missing or extra:
        said_of = f"lacks {', '.join(sorted(missing))}" if missing else f"has the unknown {', '.join(sorted(extra))}"
        raise FormatError(f"{what} {said_of}")


def made_of(kind: Callable[..., Any], arguments: Any, what: str) -> Any:
    """`kind(**arguments)`; raises FormatError for arguments it does not take, or values that it cannot use."""
    if not isinstance(arguments, dict):
        raise FormatError(f"the fields of {what} must be an object, not {str(arguments)[:50]!r}")
    try:
        return kind(**arguments)
    except BrecciaError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise FormatError(f"{what} cannot be {str(arguments)[:100]}: {error}") from None
