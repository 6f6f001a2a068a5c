"""What a traced function read from outside: names whose rebinding makes compiled code stale. No xDSL here.

A trace reads globals, closure cells and the attributes of `self` once. Before each call it is checked that they still
are the same objects; a change of a list or an array in place is not seen, except that captured arrays are passed anew.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

from breccia.frontend.fingerprint import mentioned

Guard = tuple[dict[str, Any], str, Any]
CellGuard = tuple[types.CellType, Any]
_LIBRARIES = ("breccia", "numpy", "builtins", "ml_dtypes")
_MOST_ATTRIBUTES = 256
_REGISTRIES = ("_parameters", "_buffers", "_modules")
"""Where PyTorch's modules keep what looks like attributes."""


class Guards:
    """The bindings that a function depends on, as they are now."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.names: list[Guard] = []
        self.cells: list[CellGuard] = []
        self._seen: set[int] = set()
        self._walk(fn)

    def hold(self) -> bool:
        """True while nothing has been bound anew."""
        for space, name, value in self.names:
            if space.get(name) is not value:
                return False
        for cell, value in self.cells:
            try:
                if cell.cell_contents is not value:
                    return False
            except ValueError:
                return False
        return True

    def _walk(self, x: Any) -> None:
        if id(x) in self._seen:
            return
        self._seen.add(id(x))
        inner = getattr(type(x), "breccia_function", None)
        if inner is not None:
            self._walk(x.breccia_function)
        elif isinstance(x, types.MethodType):
            self._walk(x.__func__)
            self._attributes(x.__self__)
        elif isinstance(x, types.FunctionType):
            self._function(x)
        elif not isinstance(x, type | types.ModuleType):
            self._attributes(x)

    def _function(self, fn: types.FunctionType) -> None:
        if (fn.__module__ or "").partition(".")[0] == "numpy":
            return
        for cell in fn.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            self.cells.append((cell, value))
            self._walk(value)
        for name in mentioned(fn.__code__):
            value = fn.__globals__.get(name)
            if name in fn.__globals__ and not isinstance(value, types.ModuleType):
                self.names.append((fn.__globals__, name, value))
                if (getattr(value, "__module__", None) or "").partition(".")[0] not in _LIBRARIES:
                    self._walk(value)

    def _attributes(self, x: Any) -> None:
        """The attributes of an object of a user's class."""
        if type(x).__module__.partition(".")[0] in _LIBRARIES:
            return
        space: Any = getattr(x, "__dict__", None)
        if not isinstance(space, dict) or len(space) > _MOST_ATTRIBUTES:
            return
        held = [space[name] for name in _REGISTRIES if isinstance(space.get(name), dict)]
        # What PyTorch's modules have besides is hooks, which are private: dozens that would be looked at in every call.
        self.names += [(space, name, value) for name, value in _items(space) if not (held and name.startswith("_"))]
        for registry in held:
            self.names += [(registry, name, value) for name, value in _items(registry)]
            for inner in registry.values():
                self._walk(inner)


def _items(space: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return iter(list(space.items()))
