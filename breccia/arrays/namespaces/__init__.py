"""The functions of arrays, spelled as in NumPy, for PyTorch, JAX and MLX: what emitted array code calls as `xp`.

One file a library, loaded when an array of it is met. Each has `functions(x)`, which gives an object for the library
and device of `x`. Besides NumPy's names it has `full`, `arange` and `store`, which take dtypes by name.
"""

from __future__ import annotations

import importlib
from typing import Any

from breccia.arrays import library


def array_functions(x: Any) -> Any:
    """The functions for arrays like `x`.

    >>> import numpy as np
    >>> array_functions(np.ones(2)) is np
    True
    """
    name = library(x)
    if name == "numpy":
        return importlib.import_module("numpy")
    return importlib.import_module(f"{__name__}.{name}").functions(x)
