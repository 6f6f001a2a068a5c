"""Emitted source to a module, and to its functions. Tracebacks show its lines, since `linecache` knows the text."""

from __future__ import annotations

import ast
import hashlib
import linecache
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from breccia.codegen.names import entry_name
from breccia.errors import FormatError


@lru_cache(maxsize=256)
def module_of(source: str, change: Callable[[ast.Module], ast.Module] | None = None) -> ModuleType:
    """The module that `source` is, made once in a process. change: what is done with its tree before.

    >>> module_of("def double(x): return x + x").double(4)
    8
    """
    name = f"breccia_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    filename = f"<{name}.py>"
    # A time of None tells linecache.checkcache to keep the entry, although no file stands behind it.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(name, "Emitted by breccia.")
    module.__file__ = filename
    tree = ast.parse(source, filename)
    exec(compile(tree if change is None else change(tree), filename, "exec", dont_inherit=True), module.__dict__)
    return module


def function_of(module: ModuleType, entry: str) -> Callable[..., Any]:
    """What a module of emitted source defines for the IR function `entry`. Raises FormatError if that is nothing."""
    function = getattr(module, entry_name(entry), None)
    if function is None:
        defined = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise FormatError(f"emitted source defines no function {entry_name(entry)!r}; it defines {', '.join(defined)}")
    return function
