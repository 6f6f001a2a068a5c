"""Passes, found by file name: `breccia/passes/place_scales.py` holds the pass `place-scales`.

To add a pass, add one file with one `BrecciaPass` subclass; to run it by default, name it in `PIPELINE` too.
"""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from breccia.errors import PassError

if TYPE_CHECKING:
    from breccia.ir.capabilities import Capabilities
    from breccia.ir.pipeline import BrecciaPass

TRACED = (
    "canonicalize", "cse", "dce", "fold-batch", "fold-exponents", "fold-exponents-bounded", "fuse-sibling-quantize",
    "place-scales", "split-quantize",
)  # fmt: skip
"""Passes on the traced form."""
LAID_OUT = ("partition", "sink-guards", "assign-layouts", "hoist-prepare")
"""From traced to laid-out form."""
TILED = ("explode", "schedule", "tile")
"""From laid-out to tiled form."""


@cache
def pass_names() -> tuple[str, ...]:
    """The names of all passes, in alphabetical order.

    >>> "place-scales" in pass_names()
    True
    """
    return tuple(sorted(file.stem.replace("_", "-") for file in Path(__file__).parent.glob("[!_]*.py")))


@cache
def find(name: str) -> type[BrecciaPass]:
    """The pass called `name`; raises PassError listing the known ones.

    >>> find("cse").contract
    'exact'
    """
    from breccia.ir.pipeline import BrecciaPass

    if name not in pass_names():
        raise PassError(f"unknown pass {name!r}; known passes: {', '.join(pass_names())}")
    module = import_module(f"breccia.passes.{name.replace('-', '_')}")
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, BrecciaPass) and member.__module__ == module.__name__
    ]
    if len(found) != 1 or found[0].name != name:
        classes = ", ".join(f"{c.__name__} named {c.name!r}" for c in found) or "none"
        raise PassError(f"{module.__name__} must define one pass named {name!r}; it defines {classes}")
    return found[0]


def pipeline_names(capabilities: Capabilities) -> tuple[str, ...]:
    """The names of the passes of the whole pipeline for a target, in order.

    Targets whose kernels run over whole arrays (NumPy) get `coarsen`; others legal tiles and masks.
    """
    tiles = ("split-decode", "swap-operands", "legalize-windows", "insert-masks")
    last = ("coarsen",) if capabilities.whole_windows else tiles
    return (*TRACED, *LAID_OUT, *TILED, *last)


def default_pipeline(capabilities: Capabilities) -> list[BrecciaPass]:
    """The passes of the whole pipeline for a target, from traced form to what its emitter takes."""
    return [find(name)() for name in pipeline_names(capabilities)]
