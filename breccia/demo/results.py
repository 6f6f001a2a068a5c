"""What the demo found, before anyone prints it: the terminal report and the page are two views of one `Results`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from breccia.demo.measure import NeighbourRow, WeightTable
    from breccia.recipes import Recipe

_LIBRARIES = ("numpy", "ml_dtypes", "xdsl")


@dataclass(frozen=True)
class BlockRow:
    """One recipe in the compiled block: mean cosine against fp32, with the weights cast, and with every matmul's input
    cast too.

    Invariants: `recipe` is None for fp32 weights, where `both` is None as well.
    """

    recipe: Recipe | None
    weights: float
    both: float | None


@dataclass(frozen=True)
class Lowering:
    """How one function was lowered.

    Invariants: `forms` holds (name, IR) in the order of lowering; `python` is the decorated function as its author
    wrote it.
    """

    python: str
    recipe: Recipe
    forms: tuple[tuple[str, str], ...]
    passes: tuple[str, ...]
    source: str
    explain: str


@dataclass(frozen=True)
class BlockResult:
    """Part 2.

    Invariants: `lowering` is of the block with its weights cast, `both` with the inputs of its matmuls cast too; `rows`
    starts with fp32 weights; `layer` names the tensors; `inputs` says in words what the block was
    run on; `difference` is the largest absolute difference between the compiled block on fp32 weights and the plain
    NumPy one.
    """

    layer: str
    inputs: str
    lowering: Lowering
    both: Lowering
    difference: float
    rows: tuple[BlockRow, ...]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """The error of a corner of one weight in one recipe: `error` is |error| over the root mean square of the weight."""

    recipe: Recipe
    error: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Part 3.

    Invariants: `reference` has one fp32 unit vector a sentence; `k` neighbours are compared; `tokens` counts real
    tokens.
    """

    sentences: tuple[str, ...]
    tokens: int
    k: int
    reference: NDArray[np.float32]
    rows: tuple[NeighbourRow, ...]


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that the demo found.

    Invariants: `neighbours` is None exactly where part 3 was skipped, and then `skipped` says why.
    """

    environment: str
    checkpoint: str
    weights: WeightTable
    heat_name: str
    heat: tuple[HeatMap, ...]
    block: BlockResult
    neighbours: Neighbours | None
    skipped: str


def environment() -> str:
    """One line that says what the numbers were made with.

    >>> environment().startswith("breccia ")
    True
    """
    import breccia

    found = [f"breccia {breccia.__version__}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    found += [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    return " · ".join(found)
