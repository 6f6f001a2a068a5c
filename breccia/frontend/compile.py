"""`breccia.compile`: a function that is traced, lowered and compiled for each kind of arguments it is called with.

A call whose kind is known goes from a tuple key to emitted code. A new kind is looked for on disk before it is traced,
so a process that only meets known ones loads no xDSL.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from breccia.arrays import WHOLE, compiling, opaque
from breccia.errors import TraceError, UnknownSizeError, UnsupportedError
from breccia.frontend import cache, fingerprint, keys
from breccia.frontend.choice import DEFAULT, check_gradients, default_target, found_target, present
from breccia.frontend.guards import Guards
from breccia.frontend.program import Program
from breccia.frontend.tables import tables_of, untunable
from breccia.target import Target, built_in

if TYPE_CHECKING:
    from breccia.frontend.lower import Lowered

DEFAULT_SECONDS = 60.0
"""How long `tune=True` searches for each new kind of call."""
_MOST_PLANS = 32
"""How many plans of one kind of call (for different static sizes) are kept on disk."""


class FallbackWarning(UserWarning):
    """A slower way was taken; `explain()` shows it too, and `strict=True` makes it an error."""


@functools.cache
def _warn_once(text: str, level: int = 5) -> None:
    warnings.warn(text, FallbackWarning, stacklevel=level)  # by default _found, _miss, __call__, and the caller


_COMPILED = "breccia.compiled"
_HANDLES = itertools.count()
_BY_HANDLE: weakref.WeakValueDictionary[int, CompiledFunction] = weakref.WeakValueDictionary()
WHOLE[_COMPILED] = lambda handle, args, kwargs: _BY_HANDLE[handle](*args, **kwargs)


class CompiledFunction:
    """A function compiled on its first call for each kind of arguments.

    Invariants: `_programs` maps a key to the programs for it, one for each set of static sizes; all of them were made
    while `_guards` held.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        target: str | None = None,
        strict: bool = False,
        dynamic: bool = True,
        name: str | None = None,
        accuracy: str = "exact",
        tune: bool | float = False,
        identity: str | None = None,
    ) -> None:
        if not callable(fn):
            raise TraceError(f"breccia.compile takes a function, not {type(fn).__name__}")
        self._seconds = _seconds_of(tune)
        self._fn, self._strict, self._dynamic, self._name = fn, strict, dynamic, name or ""
        self._target_name, self._accuracy = target, accuracy
        if accuracy not in ("exact", "bounded"):
            raise TraceError(f"breccia.compile: accuracy is {accuracy!r}; allowed: 'exact', 'bounded'")
        if target is not None:
            found_target(target)
        self._identity = identity
        self._handle = next(_HANDLES)
        _BY_HANDLE[self._handle] = self
        self._programs: dict[keys.Key, list[Program]] = {}
        self._guards: Guards | None = None
        self._lock = threading.RLock()
        self._bound: weakref.WeakKeyDictionary[Any, CompiledFunction] = weakref.WeakKeyDictionary()
        functools.update_wrapper(self, fn)

    @property
    def breccia_function(self) -> Callable[..., Any]:
        """The function as it was written."""
        return self._fn

    @property
    def options(self) -> str:
        """What `breccia.compile` was told, as text."""
        said = f"strict={self._strict} dynamic={self._dynamic} name={self._name!r} accuracy={self._accuracy}"
        return f"{self._target_name or 'default'} {said}" + (" tuned" if self._seconds else "")

    def __repr__(self) -> str:
        place = self._target_name or "where its arguments lie"
        return f"<compiled {getattr(self._fn, '__qualname__', self._fn)} for {place}>"

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """A method: the function bound to its object, compiled for it alone."""
        if owner is None:
            return self
        try:
            bound = self._bound.get(owner)
        except TypeError:  # an object that cannot be hashed or referred to weakly gets a new one each time
            return self._bind(owner)
        if bound is None:
            bound = self._bound[owner] = self._bind(owner)
        return bound

    def _bind(self, owner: Any) -> CompiledFunction:
        method = self._fn.__get__(owner)
        return CompiledFunction(
            method, target=self._target_name, strict=self._strict, dynamic=self._dynamic, name=self._name,
            accuracy=self._accuracy, tune=self._seconds,
        )  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if compiling():
            return opaque(_COMPILED, (self._handle, args, kwargs), {})
        try:
            key, leaves = keys.call_key(args, kwargs, self._dynamic)
        except keys.InlineError:
            return self._fn(*args, **kwargs)
        programs = self._programs.get(key)
        if programs is not None and self._guards is not None and self._guards.hold():
            for program in programs:
                if program.plan.fits(leaves):
                    return program.run(leaves)
        return self._miss(key, leaves, args, kwargs).run(leaves)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """The function traced for such arguments; shows IR, source and decisions, and compiles ahead of time.

        target: instead of the function's own, if it takes no argument of that name; needs no device.
        """
        chosen = None
        if "target" in kwargs and not _takes_target(self._fn):
            chosen = found_target(kwargs.pop("target"))
        return self._lowered(args, kwargs, target=chosen)

    def _lowered(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], pinned: str = "", target: Target | None = None,
        instead: str = "",
    ) -> Lowered:  # fmt: skip
        from breccia.frontend.build import trace
        from breccia.frontend.lower import Lowered

        key, leaves = keys.call_key(args, kwargs, self._dynamic)
        traced = trace(
            self._fn, args, kwargs, dynamic=self._dynamic, name=self._name, pinned=pinned, accuracy=self._accuracy
        )
        if target is None:
            target, instead = present(self._target(leaves))
        return Lowered(traced, target, leaves, key, strict=self._strict, instead=instead)

    def _target(self, leaves: Sequence[Any]) -> Target:
        """What a call with these arrays is compiled for."""
        return found_target(self._target_name) if self._target_name else default_target(leaves)

    def clear(self) -> None:
        """Forget everything compiled in this process."""
        with self._lock:
            self._programs.clear()
            self._guards = None

    # -- a kind of call that is new ------------------------------------------------------------------------------------

    def _miss(self, key: keys.Key, leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
        with self._lock:
            if self._guards is None or not self._guards.hold():
                self._programs.clear()
                self._guards = Guards(self._fn)
            known = self._programs.setdefault(key, [])
            for program in known:  # another thread may have been quicker
                if program.plan.fits(leaves):
                    return program
            program = self._found(leaves, args, kwargs)
            known.append(program)
            return program

    def _found(self, leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
        """A program from disk, or one made now and stored."""
        target, instead = present(self._target(leaves))
        check_gradients(target, leaves)
        if instead and not self._strict:
            _warn_once(f"{getattr(self._fn, '__qualname__', self._fn)}: {instead}")
        usable = cache.folder() is not None and not os.environ.get("BRECCIA_DUMP")
        origin = self._origin() if usable else None
        name = self._plan_name(origin, target, leaves, args, kwargs) if origin is not None else None
        backward = self._backward(target, args, kwargs)
        if origin is not None and name is not None:
            stored = _stored_program(name, target, leaves, origin, backward)
            if stored is not None:
                return stored
        lowered, program = self._made(target, args, kwargs, instead, backward)
        if origin is not None and self._seconds:  # what was found is part of the name
            name = self._plan_name(origin, target, leaves, args, kwargs)
        if self._identity is None:  # an eager call has fixed sizes anyway
            for text in lowered.pinned_numbers():
                _warn_once(f"{getattr(self._fn, '__qualname__', self._fn)}: {text}")
        if origin is not None and name is not None and lowered.target == target:
            _store_plan(name, program, lowered.code_key, lowered.constants, origin)
        return program

    def _backward(self, target: Target, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[], Program] | None:
        """What makes the program that is differentiated instead of the target's; None where that is its own."""
        if not target.backward:
            return None
        from breccia.arrays.namespaces.jax import shapes_of

        shapes, named = shapes_of((tuple(args), dict(kwargs)))
        return lambda: self._lowered(shapes, named, target=found_target(target.backward)).program()

    def _made(
        self, target: Target, args: Sequence[Any], kwargs: Mapping[str, Any], instead: str = "",
        backward: Callable[[], Program] | None = None,
    ) -> tuple[Lowered, Program]:  # fmt: skip
        """The function lowered, and its program. Sizes become part of the code where the target has to know them; what
        a target that nobody named cannot do runs as array functions, which is said. instead: why `target` is not the
        one that was named.
        """
        pinned = ""
        while True:
            lowered = self._lowered(args, kwargs, pinned, target=target, instead=instead)
            try:
                lowered = self._tuned(lowered) if self._seconds else lowered
                return lowered, lowered.program(backward)
            except UnsupportedError as error:
                if isinstance(error, UnknownSizeError) and not pinned:
                    pinned = f"{target.full_name} needs to know the size of an axis"
                    continue
                if self._target_name or target.name == DEFAULT:
                    raise
                why = f"it runs as array functions instead of kernels, since {error}"
            lowered = self._lowered(args, kwargs, target=found_target(DEFAULT), instead=why)
            program = lowered.program()
            _warn_once(f"{getattr(self._fn, '__qualname__', self._fn)}: {why}")
            return lowered, program

    def _tuned(self, lowered: Lowered) -> Lowered:
        """The function with the schedules that a search found, or that tables have. Where nothing can be measured, it
        stays as it is, which is said once.
        """
        from breccia.frontend.tuning import LineWatcher, tune

        lowered.source()  # raises for what the target cannot do at all
        why = untunable(lowered.target, lowered.leaves)
        why = why or tune(lowered, seconds=self._seconds, watcher=LineWatcher()).failed
        if why and self._strict:
            raise UnsupportedError(f"strict=True and tune={self._seconds:g}, and nothing is tuned, since {why}")
        if why:
            _warn_once(f"{getattr(self._fn, '__qualname__', self._fn)}: nothing is tuned, since {why}", level=7)
        return lowered.retargeted()

    def _origin(self) -> Origin | None:
        if self._identity is not None:
            return Origin(self._fn, self._identity, {})
        made = fingerprint.fingerprint(self._fn)
        return None if made is None else Origin(self._fn, made.digest(), made.paths)

    def _plan_name(
        self, origin: Origin, target: Target, leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> str | None:
        signature = fingerprint.signature(args, kwargs, self._dynamic)
        if signature is None:
            return None
        rows = "" if target.name in built_in() else repr(target.capabilities)  # built-in rows are in the build id
        tables = tables_of(target, leaves).digest
        parts = signature, self.options, target.full_name, target.version, rows, *([tables] if tables else [])
        return cache.key_of("plan", origin.digest, *parts)


def _seconds_of(tune: bool | float) -> float:
    """How long to search: 0 for not at all; raises TraceError for what is neither a truth value nor a time."""
    if isinstance(tune, bool):
        return DEFAULT_SECONDS if tune else 0.0
    if not isinstance(tune, int | float) or not 0 <= tune < float("inf"):
        raise TraceError(f"tune={tune!r}; allowed: True, False, or the seconds that a search may take, such as 30.0")
    return float(tune)


def _takes_target(fn: Callable[..., Any]) -> bool:
    """True where `target` is an argument of the user's function."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "target" or p.kind is p.VAR_KEYWORD for p in parameters)


class Origin:
    """A function whose meaning is known without running it, and where the arrays it captures are found."""

    def __init__(self, fn: Callable[..., Any], digest: str, paths: Mapping[int, tuple[Any, ...]]) -> None:
        self.fn, self.digest, self.paths = fn, digest, paths


def _stored_program(
    name: str, target: Target, leaves: Sequence[Any], origin: Origin, backward: Callable[[], Program] | None
) -> Program | None:
    """The program that an earlier process stored for such a call."""
    from breccia.frontend.storage import plan_from_json

    for entry in cache.read(name) or ():
        plan = plan_from_json(entry["plan"])
        code = cache.read(entry["code"]) if plan.fits(leaves) else None
        if code is not None:
            constants = [fingerprint.follow(origin.fn, path) for path in entry["constants"]]
            return Program(plan, functools.partial(target.launch, code["source"]), leaves, constants, backward)
    return None


def _store_plan(name: str, program: Program, code: str, constants: Sequence[Any], origin: Origin) -> None:
    """Store how a call goes, where its captured arrays can be found again."""
    from breccia.frontend.storage import NotStorableError, plan_to_json

    paths = [origin.paths.get(id(array)) for array in constants]
    if any(path is None for path in paths):
        return
    try:
        entry = {"plan": plan_to_json(program.plan), "code": code, "constants": paths}
    except NotStorableError:
        return
    others = cache.read(name) or []
    cache.write(name, [entry, *others][:_MOST_PLANS])


@overload
def compile(fn: Callable[..., Any], /) -> CompiledFunction: ...
@overload
def compile(
    fn: None = None,
    /,
    *,
    target: str | None = None,
    strict: bool = False,
    dynamic: bool = True,
    name: str | None = None,
    accuracy: str = "exact",
    tune: bool | float = False,
) -> Callable[[Callable[..., Any]], CompiledFunction]: ...
@overload
def compile(
    fn: Callable[..., Any], /, *, target: str | None = None, strict: bool = False, dynamic: bool = True,
    name: str | None = None, accuracy: str = "exact", tune: bool | float = False,
) -> CompiledFunction: ...  # fmt: skip


def compile(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    target: str | None = None,
    strict: bool = False,
    dynamic: bool = True,
    name: str | None = None,
    accuracy: str = "exact",
    tune: bool | float = False,
) -> Any:
    """Compile a function over arrays and `ScaledTensor`s; a decorator, with or without arguments.

    fn: a function, lambda or bound method. Its arguments are arrays, `ScaledTensor`s, Python numbers and strings (part
    of the code), and tuples, lists and dicts of them. target: what code is made for, such as "numpy" or
    "triton:sm_90"; see `breccia.target.names()`. By default kernels where the arrays lie on a GPU that has a target and
    nothing is differentiated, and array functions elsewhere. strict: raise where a slower way would be taken. dynamic:
    leave the leading size of plain arrays of two axes or more unknown, so that the same code serves every batch size;
    where the function needs such a size as a number, that size becomes part of the code. name: of the function in IR
    and source. accuracy: "bounded" lets products of MXFP8 fold exponents into elements where FP8 is multiplied quickly,
    which changes a value by at most 2**-9.8 of the largest of its block of 32; rows and columns that would lose more
    are computed exactly, and `explain()` says where it was done. tune: search for the quickest
    schedules of kernels that no table knows, on the first call of each kind, for so many seconds (True: 60), and keep
    them in the user's table for this device; see `docs/tuning.md`.

    Arrays that the function closes over become constant arguments. Raises TraceError, naming the line, for Python that
    cannot be traced.

    >>> import numpy as np
    >>> @compile
    ... def double(x):
    ...     return x + x
    >>> double(np.ones((2, 2), np.float32)).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    options: dict[str, Any] = {
        "target": target, "strict": strict, "dynamic": dynamic, "name": name, "accuracy": accuracy, "tune": tune,
    }  # fmt: skip
    if fn is None:
        return lambda inner: CompiledFunction(inner, **options)
    return CompiledFunction(fn, **options)
