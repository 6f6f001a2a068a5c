"""Which target a call is compiled for where none was named: kernels where the arrays lie on a GPU that has a target,
else array functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from breccia.arrays import foreign, namespace
from breccia.errors import GradientError
from breccia.target import Target, find
from breccia.tensor import ScaledTensor

DEFAULT = "numpy"
NATIVE_PRODUCTS = "native_products"
"""Feature of array functions: products of decoded operands are left to the library where it has such a product."""


@cache
def found_target(name: str) -> Target:
    """The target called `name`; looked for once, since that reads the metadata of every installed package."""
    return find(name)


def default_target(leaves: Sequence[Any]) -> Target:
    """The target for the arrays of a call: Triton's where all of them lie on a GPU that it knows, else NumPy's."""
    names = {_kernels_for(leaf) for leaf in leaves if not isinstance(leaf, np.ndarray)}
    return found_target(names.pop() or DEFAULT if len(names) == 1 else DEFAULT)


@cache
def present(target: Target) -> tuple[Target, str]:
    """(what runs on this machine for `target`, why it is not that itself): array functions where its device is missing.

    They multiply by the library's own products of quantized weights, where those mean the same.
    """
    missing = target.missing(target.arch) if target.stands_in else ""
    if not missing:
        return target, ""
    instead = found_target(DEFAULT)
    rows = tuple(replace(row, features=(*row.features, NATIVE_PRODUCTS)) for row in instead.rows())
    return replace(instead, rows=_Rows(rows)), f"it runs as operations of {target.arrays[0]}, since {missing}"


@dataclass(frozen=True)
class _Rows:
    """Rows of capabilities as a hook."""

    rows: tuple[Any, ...]

    def __call__(self) -> tuple[Any, ...]:
        return self.rows


def runs_kernels(x: Any) -> bool:
    """True where an eager call on `x`, an array or ScaledTensor, runs kernels."""
    array = x.scales[-1] if isinstance(x, ScaledTensor) else x
    return bool(foreign(array)) and bool(_kernels_for(x))


def _kernels_for(leaf: Any) -> str:
    array = leaf.scales[-1] if isinstance(leaf, ScaledTensor) else leaf  # of these two, scales may want a gradient
    architecture = namespace(array).architecture(array)
    return _known(architecture) if architecture else ""


@cache
def _known(architecture: str) -> str:
    """The target that writes kernels for an architecture; empty for none."""
    if find_spec("triton") is None:
        return ""
    found = found_target("triton:sm_90")
    return f"triton:{architecture}" if architecture in found.architectures else ""


def check_gradients(target: Target, leaves: Sequence[Any]) -> None:
    """Raise GradientError where a target that stops gradients is given arrays that are differentiated."""
    if target.gradients:
        return
    message = (
        f"kernels of {target.full_name} give no gradients; detach the arrays, or name no target, and calls that are "
        "differentiated run as array functions"
    )
    for leaf in leaves:
        array = leaf.scales[-1] if isinstance(leaf, ScaledTensor) else leaf
        if not isinstance(array, np.ndarray):
            try:
                namespace(array).refuse_gradient(array, message)
            except GradientError:
                raise GradientError(message) from None
