"""What is static of a container (recipes, shapes, names) as bytes, for programs that a library writes to disk."""

from __future__ import annotations

import io
import pickle
from typing import Any

from breccia.errors import FormatError

_MODULES = ("breccia.formats", "breccia.recipes", "breccia.scaling")


class _Reader(pickle.Unpickler):
    """Invariant: makes plain values and breccia's own descriptions, and calls nothing else, whatever the bytes say."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in _MODULES and "." not in name else None
        if not isinstance(found, type) or found.__module__ != module:
            raise FormatError(
                f"the description of a ScaledTensor names {module}.{name}; allowed: the classes of "
                f"{', '.join(_MODULES)}. Write the program again with a recipe of those"
            )
        return found


def dumps(static: Any) -> bytes:
    """Bytes of what is static.

    >>> loads(dumps(((2, 3), "float32")))
    ((2, 3), 'float32')
    """
    return pickle.dumps(static, protocol=4)


def loads(data: bytes) -> Any:
    """What `dumps` was given; raises FormatError for bytes that hold anything but breccia's own descriptions."""
    try:
        return _Reader(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"these {len(data)} bytes are no description of a ScaledTensor: {error}") from error
