"""Every recipe on every library gives the bits that NumPy gives, which give those of the oracle.

What was found is kept in tests/golden/matrix/test_bit_exact, one file a place (library and device) and one line a
recipe, from which docs/generate_tables.py makes the published table. `pytest tests/matrix --update-golden` writes the
lines of the places there are; lines of other places stay.
"""

from __future__ import annotations

import fcntl
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import breccia
from breccia.arrays import primitives_of
from breccia.errors import BrecciaError, FormatError
from breccia.recipes import Recipe
from tests.matrix.inputs import DTYPES, inputs, rows
from tests.numerics import oracle

RECIPES = breccia.all_recipes()
KEPT = Path(__file__).parents[1] / "golden" / "matrix" / "test_bit_exact"
PLACES = ["numpy-cpu", "torch-cpu", "torch-cuda", "jax-cpu", "jax-gpu", "mlx-cpu", "mlx-gpu"]
GROUPS = {"int4_g128_f16", "uint4_g32_bf16", "uint4_g128_f32"}
SEED = 9


@cache
def has(place: str) -> bool:
    library, device = place.split("-")
    if library == "torch":
        torch = pytest.importorskip("torch")
        return device == "cpu" or torch.cuda.is_available()
    if library == "jax":
        jax = pytest.importorskip("jax")
        return jax.default_backend() == device
    if library == "mlx":
        mx = pytest.importorskip("mlx.core")
        return device == "cpu" or mx.metal.is_available()
    return True


def put(x: np.ndarray, place: str) -> Any:
    """`x` there, with its strides where the library has them."""
    library, device = place.split("-")
    xp = primitives_of(library)
    if library == "jax":
        return xp.from_numpy(x)
    if library == "mlx":
        import mlx.core as mx

        mx.set_default_device(mx.Device(mx.gpu if device == "gpu" else mx.cpu))
        return xp.from_numpy(x)
    moved = xp.from_numpy(x)
    return moved.to(device) if library == "torch" else moved


def outcome(function: Any) -> Any:
    try:
        return function()
    except BrecciaError as error:
        return type(error)


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Arrays bit for bit, but for the payload of NaN."""
    found = primitives_of(breccia.arrays.library(found)).to_numpy(found)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), what
    words = f"u{expected.dtype.itemsize}"
    same = np.ascontiguousarray(found).view(words) == np.ascontiguousarray(expected).view(words)
    if expected.dtype.kind not in "iub":
        wide = expected.astype(np.float32)
        same |= np.isnan(wide) & np.isnan(found.astype(np.float32))
    assert same.all(), f"{what}: {np.count_nonzero(~same)} of {same.size} differ"


def scale_of(recipe: Recipe) -> np.float32 | None:
    return np.float32(0.25) if recipe.policy.amax == "static" else None


def compare(x: np.ndarray, recipe: Recipe, place: str, what: str) -> int:
    """Cast on NumPy and there, and compare every component and what it decodes to; the values compared."""

    def cast(array: Any) -> Any:
        return outcome(lambda: breccia.cast(array, recipe, seed=SEED, scale=scale_of(recipe)))

    expected, found = cast(x), cast(put(x, place))
    if isinstance(expected, type):
        assert found is expected, what
        return x.size
    assert not isinstance(found, type), f"{what}: {found}"
    for a, b in zip(found._arrays(), expected._arrays(), strict=True):
        assert_same(a, b, what)
    for dtype in {"float32", found.dtype.name} if not place.startswith("jax") else {found.dtype.name}:
        assert_same(found.dequantize(dtype), expected.dequantize(dtype), f"{what}, decoded to {dtype}")
    return x.size


def compare_operations(recipe: Recipe, place: str) -> int:
    """Slicing, transposing and encoding again."""
    x = rows(False)[:, :256].copy()
    expected, found = (breccia.cast(a, recipe, seed=SEED, scale=scale_of(recipe)) for a in (x, put(x, place)))
    for what, operation in {
        "slice": lambda st: st[2:5],
        "block": lambda st: st[:, 128:],
        "transpose": lambda st: st.T,
        "requantize": lambda st: breccia.requantize(st, breccia.recipes.mxfp8_e4m3, axis=0),
    }.items():
        a, b = outcome(lambda o=operation: o(found)), outcome(lambda o=operation: o(expected))
        if isinstance(b, type):
            assert a is b, what
            continue
        for mine, right in zip(a._arrays(), b._arrays(), strict=True):
            assert_same(mine, right, what)
    return x.size


def compare_oracle(recipe: Recipe) -> int:
    """NumPy against exact fractions."""
    if recipe.policy.rounding == "stochastic" or recipe.policy.amax == "static":
        pytest.skip("the oracle computes its own scales, and draws nothing")
    x = rows(True)[:, :160]
    try:
        found = breccia.cast(x, recipe)
    except FormatError:
        x = rows(False)[:, :160]
        found = breccia.cast(x, recipe)
    right = oracle.quantize(x, recipe)
    codes = np.array([right.codes[index] for index in np.ndindex(*x.shape)]).reshape(x.shape)
    assert np.all((codes < 0) | (codes == found.codes())), "oracle"  # below 0: blocks of NaN scales
    values = found.dequantize("float64")
    largest = np.finfo(np.float32).max  # the oracle has no infinity: 4 * 2**126 is beyond float32
    values = np.where(np.isinf(values), np.copysign(largest, values), values)
    np.testing.assert_array_equal(values, oracle.dequantize(right, recipe, x.shape))
    return x.size


def case(place: str, name: str) -> Any:
    """A place and a recipe. JAX compiles each step of each recipe; of integers in groups, some stand for all by day."""
    slow = place.startswith("jax") and re.match(r"u?int4_g", name) and name not in GROUPS
    return pytest.param(place, name, marks=pytest.mark.exhaustive) if slow else (place, name)


@pytest.mark.parametrize(("place", "name"), [case(place, name) for place in PLACES for name in RECIPES])
def test_bits_are_equal(place: str, name: str, golden: Any, request: pytest.FixtureRequest) -> None:
    if not has(place):
        pytest.skip(f"no {place} here")
    recipe, count = RECIPES[name], 0
    if place == "numpy-cpu":
        count = compare_oracle(recipe)
    else:
        for dtype in DTYPES:
            for what, x in inputs(dtype, brief=place.startswith("jax")):
                count += compare(x, recipe, place, f"{name}, {dtype}, {what}")
        count += compare_operations(recipe, place)
    keep(place, name, f"equal on {count} values", update=request.config.getoption("--update-golden"))


def keep(place: str, name: str, text: str, *, update: bool) -> None:
    """Compare the line of a recipe with what is kept, or write it."""
    file = KEPT / f"{place}.txt"
    if not update:
        assert lines(file).get(name) == text, f"{file} is stale: pytest tests/matrix --update-golden"
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        known = lines(file) | {name: text}
        handle.truncate(0)
        handle.write("".join(f"{n}: {known[n]}\n" for n in RECIPES if n in known))


def lines(file: Path) -> dict[str, str]:
    """What is kept of a place, by recipe."""
    if not file.exists():
        return {}
    return dict(line.split(": ", 1) for line in file.read_text(encoding="utf-8").splitlines())


def test_what_is_kept_is_about_recipes_there_are() -> None:
    for file in KEPT.glob("*.txt"):
        assert file.stem in PLACES
        assert set(lines(file)) <= set(RECIPES), file
