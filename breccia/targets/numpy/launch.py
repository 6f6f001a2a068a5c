"""Emitted source to a function on arrays of any library."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from breccia.codegen.loading import function_of, module_of


def launch(source: str, entry: str, library: str = "numpy") -> Callable[..., Any]:
    """The function that `source` defines for the IR function `entry`, on arrays of `library`.

    Raises FormatError if there is none. The same source is compiled once in a process for NumPy, and once for all
    others.
    """
    function = function_of(module_of(source, None if library == "numpy" else _without_writing), entry)
    if library == "numpy":
        return function
    from breccia.arrays.namespaces import array_functions
    from breccia.targets.numpy import portable

    return lambda *parts: function(*parts, xp=array_functions(parts[0]), rt=portable)


class _WithoutWriting(ast.NodeTransformer):
    """`x *= y` as `x = x * y`: other libraries' arrays cannot be written into, or are needed for a gradient."""

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        if not isinstance(node.target, ast.Name):
            return node
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)


def _without_writing(tree: ast.Module) -> ast.Module:
    return ast.fix_missing_locations(_WithoutWriting().visit(tree))
