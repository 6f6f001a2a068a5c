"""What a Python function does, as a hash, without running it: so that compiled code is found again in a new process.

The hash covers bytecode, constants and names; defaults, closure cells and the global names that the code mentions; and
other Python functions it can reach, in the same way. It is conservative: what cannot be proven the same (an object of
an unknown class, a module's state, `getattr`, `eval`, random numbers) makes a function without a fingerprint, and then
it is traced. Arrays count with all their bytes, since a trace may depend on their values.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from breccia.arrays import foreign, namespace
from breccia.frontend.keys import typical
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

MOST_BYTES = 64 << 20
"""Arrays of more bytes than this are not hashed: tracing is quicker."""

_LIBRARIES = ("breccia", "numpy", "math", "operator", "ml_dtypes")
"""Modules whose functions are known by name and version."""
_IMPURE = frozenset({
    "getattr", "setattr", "delattr", "eval", "exec", "compile", "globals", "locals", "vars", "open", "input",
    "__import__", "id", "hash", "print", "dir", "breakpoint", "object", "super",
})  # fmt: skip
_NUMPY_STATE = frozenset({
    "random", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "empty", "empty_like", "geterr", "seterr",
    "errstate", "datetime64", "ctypeslib",
})  # fmt: skip
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)
_TRUSTED_PACKAGES = ("breccia.recipes", "breccia.formats", "breccia.scaling")


class UnprovableError(Exception):
    """Something a function depends on cannot be hashed; the message says what."""


class Fingerprint:
    """A digest in the making, and where the arrays that it met can be found again.

    Invariants: `paths` maps the id of an array or ScaledTensor to how it is reached from the function: global, closure
    and default names in order.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256(f"{sys.version_info} {np.__version__}".encode())
        self._seen: dict[int, int] = {}
        self._keep: list[Any] = []
        self._bytes = 0
        self.paths: dict[int, tuple[Any, ...]] = {}

    def digest(self) -> str:
        return self._hash.hexdigest()

    def text(self, *parts: object) -> None:
        """Add parts whose repr says all about them."""
        for part in parts:
            self._hash.update(repr(part).encode() + b"\0")

    # -- functions -----------------------------------------------------------------------------------------------------

    def function(self, fn: types.FunctionType, path: tuple[Any, ...] = ()) -> None:
        """Add a Python function with everything its code can reach."""
        if id(fn) in self._seen:
            self.text("again", self._seen[id(fn)])
            return
        self._seen[id(fn)] = len(self._seen)
        self._keep.append(fn)
        self.code(fn.__code__)
        for i, value in enumerate(fn.__defaults__ or ()):
            self.value(value, (*path, ("default", i)))
        for name, value in sorted((fn.__kwdefaults__ or {}).items()):
            self.value(value, (*path, ("keyword", name)))
        for i, (name, cell) in enumerate(zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)):
            self.text("cell", name)
            try:
                contents = cell.cell_contents
            except ValueError:
                raise UnprovableError(f"{fn.__qualname__} closes over {name}, which is not set yet") from None
            self.value(contents, (*path, ("cell", i)))
        for name in sorted(mentioned(fn.__code__)):
            if name in fn.__globals__:
                self.text("global", name)
                self._global(fn.__globals__[name], name, fn, path)
            elif hasattr(builtins, name) and name in _IMPURE:
                raise UnprovableError(f"{fn.__qualname__} uses {name}()")

    def _global(self, value: Any, name: str, fn: types.FunctionType, path: tuple[Any, ...]) -> None:
        if isinstance(value, types.ModuleType):
            self._module(value, fn, (*path, ("global", name)))
        else:
            self.value(value, (*path, ("global", name)))

    def _module(self, module: types.ModuleType, fn: types.FunctionType, path: tuple[Any, ...]) -> None:
        names = mentioned(fn.__code__)
        if _root(module.__name__) in _LIBRARIES:
            state = names & _NUMPY_STATE
            if state and _root(module.__name__) == "numpy":
                raise UnprovableError(f"{fn.__qualname__} may use numpy's {', '.join(sorted(state))}")
            self.text("module", module.__name__, getattr(module, "__version__", ""))
            return
        for name in sorted(names):
            if name in vars(module):
                self.text("attribute", module.__name__, name)
                self.value(vars(module)[name], (*path, ("attribute", name)))

    def code(self, code: types.CodeType) -> None:
        """Add a code object; positions in the file do not count."""
        if any(i.opname.startswith("IMPORT") for i in dis.get_instructions(code)):
            raise UnprovableError(f"{code.co_name} imports inside the function")
        self.text(
            "code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags,
            code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_name,
        )  # fmt: skip
        exceptions = getattr(code, "co_exceptiontable", b"")
        self.text(exceptions, len(code.co_consts))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.value(constant, ())

    # -- values --------------------------------------------------------------------------------------------------------

    def value(self, x: Any, path: tuple[Any, ...]) -> None:
        """Add a value that code can reach; raises UnprovableError."""
        kind = type(x)
        if kind in (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range):
            self.text(kind.__name__, x)
        elif kind in (tuple, list):
            self.text(kind.__name__, len(x))
            for i, item in enumerate(x):
                self.value(item, (*path, ("item", i)))
        elif kind is frozenset or kind is set:
            self.text(kind.__name__, sorted(map(repr, x)))
            for item in x:
                if type(item) not in (bool, int, float, str, bytes, type(None)):
                    raise UnprovableError(f"a set of {type(item).__name__}")
        elif kind is dict:
            self.text("dict", len(x))
            for key, item in x.items():
                self.value(key, ())
                self.value(item, (*path, ("item", key)))
        elif isinstance(x, np.ndarray | ScaledTensor):
            self.array(x, path)
        else:
            self._object(x, path)

    def array(self, x: Any, path: tuple[Any, ...]) -> None:
        """Add an array or ScaledTensor with all its bytes, and remember where it is."""
        self.paths.setdefault(id(x), path)
        self._keep.append(x)
        if isinstance(x, ScaledTensor):
            self.text("scaled", x.shape, x.dtype)
            self.dataclass(x.recipe)
            for part in (x.data, *x.scales, x.zero_point, x.offset):
                if part is not None:
                    self._data(part)
        else:
            self._data(x)

    def _data(self, x: Any) -> None:
        if not isinstance(x, np.ndarray):  # to hash it, its device would have to be waited for
            raise UnprovableError(f"an array of {type(x).__module__}")
        self._bytes += x.nbytes
        if x.dtype.hasobject or self._bytes > MOST_BYTES:
            raise UnprovableError(f"an array of {x.dtype}, {x.nbytes} bytes")
        self.text("array", str(x.dtype), x.shape, type(x).__name__)
        self._hash.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data if x.size else b"")

    def dataclass(self, x: Any) -> None:
        """Add a frozen dataclass of breccia, field by field: recipes, levels, formats, policies."""
        self.text(type(x).__module__, type(x).__qualname__)
        for f in fields(x):
            item = getattr(x, f.name)
            self.text(f.name)
            if is_dataclass(item):
                self.dataclass(item)
            elif isinstance(item, tuple) and any(is_dataclass(i) for i in item):
                for part in item:
                    self.dataclass(part)
            else:
                self.value(item, ())

    def _compiled(self, x: Any, path: tuple[Any, ...]) -> None:
        """Add a function that `breccia.compile` made: it is traced as part of this one."""
        self.text("compiled", x.options)
        self.value(x.breccia_function, (*path, ("wrapped", None)))

    def _object(self, x: Any, path: tuple[Any, ...]) -> None:
        kind: Any = type(x)
        if is_dataclass(x) and not isinstance(x, type) and kind.__module__ in _TRUSTED_PACKAGES:
            self.dataclass(x)
        elif isinstance(x, Recipe):
            raise UnprovableError(f"a recipe of class {type(x).__qualname__}")
        elif isinstance(x, np.dtype | np.generic):
            self.text("numpy", x.dtype.str if isinstance(x, np.generic) else str(x), repr(x))
        elif isinstance(x, np.ufunc):
            self.text("ufunc", x.__name__)
        elif isinstance(x, types.FunctionType) and not _from_library(x):
            self.function(x, path)
        elif (isinstance(x, _NAMED) or type(x).__name__ == "_ArrayFunctionDispatcher") and _from_library(x):
            self.text("library", x.__module__, getattr(x, "__qualname__", ""), getattr(x, "__name__", ""))
        elif hasattr(kind, "breccia_function"):
            self._compiled(x, path)
        elif isinstance(x, types.ModuleType) and _root(x.__name__) in _LIBRARIES:
            self.text("module", x.__name__, getattr(x, "__version__", ""))
        else:
            raise UnprovableError(f"{type(x).__module__}.{type(x).__qualname__} {path[-1] if path else ''}")


def _root(module: str) -> str:
    return module.partition(".")[0]


def _from_library(x: Any) -> bool:
    """True for functions and classes that are known by name: of the libraries, and pure builtins."""
    module = getattr(x, "__module__", None) or ""
    if "<" in getattr(x, "__qualname__", ""):  # a lambda, or made inside a function: its name does not say what it is
        return False
    if module == "builtins":
        return x.__name__ not in _IMPURE
    return _root(module) in _LIBRARIES and "random" not in module


def mentioned(code: types.CodeType) -> frozenset[str]:
    """Every global and attribute name in a code object, and in those nested in it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= mentioned(constant)
    return frozenset(names)


def fingerprint(fn: Callable[..., Any]) -> Fingerprint | None:
    """The fingerprint of a function; None where what it does cannot be known without running it."""
    if not isinstance(fn, types.FunctionType):
        return None
    made = Fingerprint()
    try:
        made.function(fn)
    except UnprovableError:
        return None
    return made


def signature(args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: bool) -> str | None:
    """A digest of what `keys.call_key` keys by, that means the same in another process; None where it has none."""
    made = Fingerprint()
    try:
        for x in (*args, dict(kwargs)):
            _argument(made, x, dynamic)
    except UnprovableError:
        return None
    return made.digest()


def _argument(made: Fingerprint, x: Any, dynamic: bool) -> None:
    if isinstance(x, ScaledTensor):
        made.text("scaled", x.library, x.shape, str(x.dtype))
        made.dataclass(x.recipe)
    elif isinstance(x, np.ndarray | np.generic):
        made.text("array", str(x.dtype), x.ndim, x.shape[1:] if dynamic and x.ndim > 1 else x.shape)
    elif name := foreign(x):
        shape = tuple(int(n) for n in x.shape)
        made.text(name, namespace(x).dtype_name(x), len(shape), shape[1:] if dynamic and len(shape) > 1 else shape)
        if (
            dynamic and len(shape) > 1 and namespace(x).architecture(x)
        ):  # kernels are chosen by it, as in the call's key
            made.text("typical", typical(shape[0]))
    elif type(x) in (tuple, list):
        made.text(type(x).__name__, len(x))
        for item in x:
            _argument(made, item, dynamic)
    elif isinstance(x, dict):
        made.text("dict", tuple(x))
        for item in x.values():
            _argument(made, item, dynamic)
    else:
        made.value(x, ())


def follow(fn: Any, path: Sequence[Sequence[Any]]) -> Any:
    """The object at the end of a path that `Fingerprint.paths` holds."""
    at: Any = fn
    for kind, name in path:
        if kind == "default":
            at = at.__defaults__[name]
        elif kind == "keyword":
            at = at.__kwdefaults__[name]
        elif kind == "cell":
            at = at.__closure__[name].cell_contents
        elif kind == "global":
            at = at.__globals__[name]
        elif kind == "attribute":
            at = getattr(at, name)
        elif kind == "item":
            at = at[name]
        else:
            at = at.breccia_function
    return at
