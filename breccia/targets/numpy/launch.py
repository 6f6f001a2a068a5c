"""Emitted source to a function. Tracebacks show its lines, since `linecache` knows the text."""

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


def launch(source: str, entry: str, library: str = "numpy") -> Callable[..., Any]:
    """The function that `source` defines for the IR function `entry`, on arrays of `library`.

    Raises FormatError if there is none. The same source is compiled once in a process for NumPy, and once for all
    others.
    """
    function = _function(_module(source, in_place=library == "numpy"), entry)
    if library == "numpy":
        return function
    from breccia.arrays.namespaces import array_functions
    from breccia.targets.numpy import portable

    return lambda *parts: function(*parts, xp=array_functions(parts[0]), rt=portable)


def _function(module: ModuleType, entry: str) -> Callable[..., Any]:
    function = getattr(module, entry_name(entry), None)
    if function is None:
        defined = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise FormatError(f"emitted source defines no function {entry_name(entry)!r}; it defines {', '.join(defined)}")
    return function


class _WithoutWriting(ast.NodeTransformer):
    """`x *= y` as `x = x * y`: other libraries' arrays cannot be written into, or are needed for a gradient."""

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name):
            return node
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)


@lru_cache(maxsize=256)
def _module(source: str, in_place: bool = True) -> ModuleType:
    name = f"breccia_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    filename = f"<{name}.py>"
    # A time of None tells linecache.checkcache to keep the entry, although no file stands behind it.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = ModuleType(name, "Emitted by breccia.")
    module.__file__ = filename
    tree = ast.parse(source, filename)
    if not in_place:
        tree = ast.fix_missing_locations(_WithoutWriting().visit(tree))
    exec(compile(tree, filename, "exec", dont_inherit=True), module.__dict__)
    return module
