"""Emitted source to a function. Tracebacks show its lines, since `linecache` knows the text."""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from breccia.errors import FormatError
from breccia.targets.numpy.names import entry_name


def launch(source: str, entry: str) -> Callable[..., Any]:
    """The function that `source` defines for the IR function `entry`.

    Raises FormatError if there is none. The same source is compiled once in a process.
    """
    module = _module(source)
    function = getattr(module, entry_name(entry), None)
    if function is None:
        defined = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise FormatError(f"emitted source defines no function {entry_name(entry)!r}; it defines {', '.join(defined)}")
    return function


@lru_cache(maxsize=256)
def _module(source: str) -> ModuleType:
    name = f"breccia_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    filename = f"<{name}.py>"
    # A time of None tells linecache.checkcache to keep the entry, although no file stands behind it.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(name, "Emitted by breccia.")
    module.__file__ = filename
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
    return module
