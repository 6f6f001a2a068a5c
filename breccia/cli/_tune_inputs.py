"""What `breccia tune` tunes: a function of a file with the arrays of its calls, or the built-in list of products."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

import breccia
from breccia import recipes
from breccia.arrays import foreign, transfer
from breccia.errors import BrecciaError
from breccia.frontend.keys import rebuild
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

DTYPES = {
    "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16), "f32": np.dtype(np.float32),
    "i32": np.dtype(np.int32), "i64": np.dtype(np.int64),
}  # fmt: skip
INPUTS = "inputs"
"""The function of a file that gives the arguments of its calls."""
_INPUT = re.compile(r"(\w+)=(\w+)\[([\d,\s]*)\](?::(\w+)(?:@(-?\d+))?)?")

LAYERS = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))
"""(N, K) of weights of a large model with experts, each of which is met with few rows and with many."""
PRODUCTS = (
    *((m, n, k) for m in (64, 128, 4096) for n, k in LAYERS),
    (4096, 4096, 4096), (8192, 8192, 8192), (4096, 28672, 8192), (16, 8192, 8192),
)  # fmt: skip
"""(M, N, K) of the list `hopper`."""


class InputError(BrecciaError, ValueError):
    """What was asked to be tuned cannot be found or made."""


@dataclass(frozen=True)
class Input:
    """One array: drawn from a normal distribution (integers: 0), and encoded where a recipe is given."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    recipe: Recipe | None = None
    axis: int = -1

    def make(self, place: Callable[[Any], Any], seed: int) -> Any:
        """The array on the device that `place` moves arrays to."""
        if np.issubdtype(DTYPES[self.dtype], np.integer):
            return place(np.zeros(self.shape, DTYPES[self.dtype]))
        values = np.random.default_rng(seed).standard_normal(self.shape, np.float32).astype(DTYPES[self.dtype])
        array = place(values)
        return array if self.recipe is None else breccia.cast(array, self.recipe, axis=self.axis)


@dataclass(frozen=True)
class Case:
    """One call to tune: its name in the table, the function, and what makes its arguments."""

    name: str
    function: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]


def parse_input(text: str) -> Input:
    """`x=bf16[4096,7168]`, or `x=bf16[4096,7168]:float8_1x128` for an encoded array; `@0` names the axis of blocks.

    Raises InputError, or RecipeError for a recipe that is none.

    >>> parse_input("w=bf16[512,256]:mxfp8_e4m3@0").axis
    0
    """
    found = _INPUT.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--input {text!r} is not of the form NAME=DTYPE[SIZES] or NAME=DTYPE[SIZES]:RECIPE[@AXIS]")
    name, dtype, sizes, recipe, axis = found.groups()
    if dtype not in DTYPES:
        raise InputError(f"--input {text!r}: unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    shape = tuple(int(size) for size in sizes.split(",") if size.strip())
    return Input(name, dtype, shape, recipes.find(recipe) if recipe else None, int(axis) if axis else -1)


def cases(what: str, inputs: Sequence[str], place: Callable[[Any], Any]) -> list[Case]:
    """What to tune: `hopper`, or `path.py:function` with inputs given, or else those that the file's `inputs()` gives.

    Raises InputError.
    """
    if what == "hopper":
        if inputs:
            raise InputError("--input goes with path.py:function; the list hopper has its own")
        return [product_case(shape, place) for shape in PRODUCTS]
    path, colon, name = what.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise InputError(f"{what!r} is neither path.py:function nor the list `hopper`")
    module = _loaded(Path(path))
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{path} defines no function {name!r}")
    if inputs:
        return [Case(name, function, lambda: _ordered(function, list(map(parse_input, inputs)), place))]
    given = getattr(module, INPUTS, None)
    if not callable(given):
        raise InputError(
            f"{path} defines no function {INPUTS}(), which gives a list of argument tuples for {name}; write one, or "
            "give arrays by --input, as in --input x=bf16[4096,7168]:float8_1x128"
        )
    calls = given()
    if not isinstance(calls, Iterable):
        raise InputError(f"{INPUTS}() of {path} gave {type(calls).__name__}; a list of argument tuples is wanted")
    return [
        Case(f"{name} {number}", function, lambda call=call: _moved(call, place)) for number, call in enumerate(calls)
    ]


def product_case(shape: tuple[int, int, int], place: Callable[[Any], Any]) -> Case:
    """A product of blocks of 1x128 and of 128x128, of one of these shapes (M, N, K)."""
    m, n, k = shape
    made = Input("a", "bf16", (m, k), recipes.float8_1x128), Input("w", "bf16", (n, k), recipes.float8_128x128)
    return Case(
        "x".join(map(str, shape)), transposed_product, lambda: tuple(x.make(place, i) for i, x in enumerate(made))
    )


def transposed_product(a: Any, w: Any) -> Any:
    """[M, K] times the transpose of a weight that is kept as [N, K], as layers have it."""
    return breccia.matmul(a, breccia.transpose(w), out_dtype="bfloat16")


def _ordered(function: Callable[..., Any], inputs: Sequence[Input], place: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Arrays in the order of the function's parameters, whose names they have."""
    by_name: Mapping[str, Input] = {one.name: one for one in inputs}
    parameters = list(inspect.signature(function).parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty or p.name in by_name]
    if set(needed) != set(by_name) or len(by_name) != len(inputs):
        given = ", ".join(one.name for one in inputs)
        raise InputError(f"--input gives {given}; the function takes {', '.join(p.name for p in parameters)}")
    return tuple(by_name[name].make(place, seed) for seed, name in enumerate(needed))


def _moved(call: Any, place: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The arguments of a call, with NumPy's arrays on the device."""
    arguments = call if isinstance(call, tuple) else (call,)
    return rebuild(arguments, lambda x: place(x) if _in_numpy(x) else x)


def _in_numpy(x: Any) -> bool:
    return x.library == "numpy" if isinstance(x, ScaledTensor) else not foreign(x)


def on_device(device: str) -> Callable[[Any], Any]:
    """What moves NumPy's arrays and ScaledTensors to a device of PyTorch's."""

    def place(x: Any) -> Any:
        return x.to("torch", device) if isinstance(x, ScaledTensor) else transfer(x, "torch", device)

    return place


def _loaded(path: Path) -> ModuleType:
    """The module in a file; its folder is where it imports from, as if it were run."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a file that ends in .py can be loaded"
    assert spec.loader is not None, "it has a loader then"
    sys.path.insert(0, str(path.resolve().parent))
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
