"""Bit-for-bit comparison with peers: how many scales and elements differ, and a record of it that a change breaks.

A `Case` names inputs on which a peer differs, and why. On all other inputs every bit must be equal; on those named the
exact number of differences is in a golden file, from which the table of docs/peers.md is made.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from breccia import formats
from breccia.recipes import Offset, Policy, Recipe, find
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.inputs import DTYPES, KINDS, given

ROOT = Path(__file__).parents[2]
_MODULES = {"compressed-tensors": "compressed_tensors", "mlx": "mlx.core", "nvidia-modelopt": "modelopt"}

Parts = dict[str, np.ndarray]
"""A quantized tensor by parts, of equal names on both sides: `elements` as unsigned codes, `scales`, and others."""


@dataclass(frozen=True)
class Case:
    """One encoder of a peer and the recipe that equals it.

    Invariant: `differs` names exactly the kinds of input on which some bit differs; kinds that are not in `kinds` or
    dtypes that are not in `dtypes` are refused by the peer.
    """

    name: str
    what: str
    """The peer's encoder, as a user would call it."""
    recipe: Recipe | None
    """None for a cast without scales, which `ours` makes and `note` names."""
    peer: Callable[[np.ndarray], Parts]
    differs: Mapping[str, str] = field(default_factory=dict)
    """Why, by kind of input."""
    dtypes: tuple[str, ...] = tuple(DTYPES)
    kinds: tuple[str, ...] = KINDS
    scales_as_x: bool = False
    """The peer computes scales in the dtype of x: so do we, by a recipe whose scales have that dtype."""
    ours: Callable[[np.ndarray, Any], Parts] | None = None
    """Our side, where it is not the parts of the cast alone."""
    note: str = ""
    """What `ours` does, for the table."""


def need(*distributions: str) -> str:
    """Skip, saying so, unless each distribution can be imported and is the one pinned; the first's name and version."""
    for name in distributions:
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        if installed != _pins()[name]:
            pytest.skip(f"{name} {installed} is installed; what is recorded is of {_pins()[name]} (constraints.txt)")
        try:
            load(_MODULES.get(name, name))
        except ImportError as error:
            pytest.skip(f"{name} cannot be imported: {error}")
    return f"{distributions[0]} {_pins()[distributions[0]]}"


@cache
def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@cache
def load(module: str) -> ModuleType:
    """A peer's module; what it warns of while it is imported is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def check(case: Case, peer: str, golden: Callable[..., None]) -> None:
    """Assert that the case differs on the kinds it names alone, and by the recorded numbers."""
    counts: dict[str, dict[str, str]] = {}
    different: set[str] = set()
    for kind in case.kinds:
        for dtype in case.dtypes:
            found = differences(case, given(kind, dtype))
            counts.setdefault(kind, {})[dtype] = ", ".join(f"{n} of {total} {part}" for part, n, total in found)
            different |= {kind for _, n, _ in found if n}
    assert different == set(case.differs), (
        f"differs on {sorted(different)}, said to on {sorted(case.differs)}: {counts}"
    )
    ours = [] if case.recipe is None else [shown(case.recipe)]
    ours += ["scales in the dtype of x"] * case.scales_as_x + [case.note] * bool(case.note)
    record: dict[str, Any] = {
        "peer": peer,
        "what": case.what,
        "breccia": "; ".join(ours),
        "why": dict(case.differs),
        "differences": counts,
    }
    golden(json.dumps(record, indent=2), f"{case.name}.json")


def differences(case: Case, x: np.ndarray) -> list[tuple[str, int, int]]:
    """(part, how many entries differ, of how many) for each part.

    An element of a block that is NaN on both sides by its scale is not compared: it is NaN whatever it holds.
    """
    with np.errstate(all="ignore"):
        theirs = case.peer(x)
        ours, poisoned = _ours(case, x)
    assert theirs.keys() == ours.keys()
    unequal = {name: ~same(theirs[name].reshape(ours[name].shape), ours[name]) for name in ours}
    for name in ours.keys() - {"elements"}:
        poisoned = poisoned & ~spread(unequal[name], x.shape)
    unequal["elements"] &= ~poisoned
    return [(name, int(mask.sum()), mask.size) for name, mask in unequal.items()]


def _ours(case: Case, x: np.ndarray) -> tuple[Parts, np.ndarray]:
    if case.recipe is None:
        assert case.ours is not None
        return case.ours(x, None), np.zeros(x.shape, bool)
    recipe = scaled_in(case.recipe, str(x.dtype)) if case.scales_as_x else case.recipe
    st = cast_array(x, recipe)
    made = parts(st) if case.ours is None else case.ours(x, recipe)
    return made, np.isnan(st.numpy().astype(np.float32))


def scaled_in(recipe: Recipe, dtype: str) -> Recipe:
    """The recipe with its innermost scales, and offsets, in `dtype`."""
    fmt = formats.find(dtype)
    level = replace(recipe.innermost, dtype=fmt)
    offset = None if recipe.offset is None else Offset(fmt)
    return replace(recipe, levels=(*recipe.levels[:-1], level), offset=offset)


def parts(st: ScaledTensor) -> Parts:
    """The parts of a scaled tensor; the scales of outer levels are `outer scales`."""
    made: Parts = {"scales": widened(st.scales[-1])}
    if len(st.scales) > 1:
        made["outer scales"] = widened(st.scales[0])
    if st.zero_point is not None:
        made["zero points"] = st.zero_point.view(np.uint8)
    if st.offset is not None:
        made["offsets"] = widened(st.offset)
    made["elements"] = st.codes()
    return made


def without_minus_zero(made: Parts) -> Parts:
    """The parts of FP4 elements, with +0 in place of -0."""
    return made | {"elements": np.where(made["elements"] == 8, 0, made["elements"]).astype(np.uint8)}


def because(why: str, *kinds: str) -> dict[str, str]:
    """One reason for several kinds of input."""
    return dict.fromkeys(kinds, why)


def widened(side: np.ndarray) -> np.ndarray:
    """Scales or offsets as float32, which holds float16 and bfloat16 exactly; codes as they are."""
    return side if side.dtype == np.uint8 else side.astype(np.float32)


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays of one dtype hold the same bits, or both NaN."""
    assert a.dtype == b.dtype, f"{a.dtype} on the peer's side, {b.dtype} on ours"
    if a.dtype.kind in "iu":
        return a == b
    word = f"u{a.dtype.itemsize}"
    nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    return (np.ascontiguousarray(a).view(word) == np.ascontiguousarray(b).view(word)) | nan


def spread(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Entries of blocks repeated to one for each element; blocks divide the shape."""
    grid = grid.reshape((1,) * (len(shape) - grid.ndim) + grid.shape)
    for axis, size in enumerate(shape):
        grid = np.repeat(grid, size // grid.shape[axis], axis)
    return grid


def shown(recipe: Recipe) -> str:
    """The recipe's name or parts, and what of its policy is not the default (of that name)."""
    default = Policy()
    if recipe.name:
        default = find(recipe.name).policy
    changes = [f"{name}={value!r}" for name, value in vars(recipe.policy).items() if value != getattr(default, name)]
    label = recipe.name or recipe.describe()
    return f"{label} with {', '.join(changes)}" if changes else label


def identifier(text: str) -> str:
    """A name for a file."""
    return re.sub(r"\W+", "_", text).strip("_").lower()
