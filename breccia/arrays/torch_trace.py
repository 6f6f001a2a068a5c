"""How breccia's functions look to `torch.compile`: calls that Dynamo leaves alone and AOTAutograd traces through.

So a cast inside a compiled function is no graph break and no opaque kernel: its tensor operations are in the graph, for
Inductor to fuse. Loaded when Dynamo meets one of breccia's functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from breccia.arrays import CONTAINERS, WHOLE
from breccia.arrays.torch import register_container
from breccia.recipes import Recipe, of_token

for _container in CONTAINERS:
    register_container(*_container)

# Dynamo would read the table of recipes once, and miss those that a call adds: it asks instead.
of_token._dynamo_marked_constant = True  # type: ignore[attr-defined]

_MARK = "breccia:"


def spelled(x: Any) -> Any:
    """An argument in the types that Dynamo lets into a graph: what is none of them is spelled out in text."""
    if isinstance(x, tuple):
        return tuple([spelled(item) for item in x])
    if isinstance(x, list):
        return [spelled(item) for item in x]
    if isinstance(x, dict):
        return {key: spelled(value) for key, value in x.items()}
    if x is None or x is Ellipsis:
        return f"{_MARK}{x}"
    if isinstance(x, slice):
        return (f"{_MARK}slice", spelled(x.start), spelled(x.stop), spelled(x.step))
    if isinstance(x, Recipe):
        return f"{_MARK}recipe:{x.token}"
    if isinstance(x, torch.dtype):
        return f"{_MARK}dtype:{x}"
    if isinstance(x, type):
        return f"{_MARK}dtype:{x.__name__}"
    if isinstance(x, np.dtype):
        return f"{_MARK}dtype:{x.name}"
    return x


def read(x: Any) -> Any:
    """What `spelled` spelled."""
    if isinstance(x, tuple):
        if len(x) == 4 and isinstance(x[0], str) and x[0] == f"{_MARK}slice":
            return slice(*(read(item) for item in x[1:]))
        return tuple(read(item) for item in x)
    if isinstance(x, list):
        return [read(item) for item in x]
    if isinstance(x, dict):
        return {key: read(value) for key, value in x.items()}
    if not isinstance(x, str) or not x.startswith(_MARK):
        return x
    word = x.removeprefix(_MARK)
    if word.startswith("recipe:"):
        return of_token(int(word.rpartition(":")[2]))
    if word.startswith("dtype:"):
        return word.rpartition(":")[2].rpartition(".")[2]
    return {"None": None, "Ellipsis": Ellipsis}[word]


@torch._dynamo.nonstrict_trace
def _graphed(name: str, args: Any, kwargs: Any) -> Any:
    return WHOLE[name](*read(args), **read(kwargs))


def call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function registered under `name`, called in the graph."""
    return _graphed(name, spelled(args), spelled(kwargs))
