"""Compiled code as it is called: a launcher, and what goes in and comes out. No xDSL here.

A `Plan` is everything about a call that emitted source does not say. It can be written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from breccia.arrays import namespace, transfer
from breccia.errors import DTypeError, PassError
from breccia.frontend.keys import library_of, one_library
from breccia.frontend.results import Result, Tree, convert_scaled, converter
from breccia.tensor import ScaledTensor

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """How to call the emitted function for calls of one key.

    Invariants: indices count the arrays of the call; `symbols` names the leading size of an array each.
    """

    entry: str
    pinned: tuple[tuple[int, int], ...]
    """(array, leading size) that is part of the code."""
    equal: tuple[tuple[int, int], ...]
    """Arrays whose leading sizes must be equal."""
    symbols: tuple[tuple[str, int], ...]
    tree: Tree
    results: tuple[Result, ...]
    prepare: bool = False
    """True where the source has a function `prepare` that converts the constants once."""
    notes: tuple[str, ...] = ()

    def fits(self, leaves: Sequence[Any]) -> bool:
        """True where the leading sizes of a call are those that the code was made for."""
        for i, size in self.pinned:  # loops, since this is on the way of every call
            if leaves[i].shape[0] != size:
                return False
        for i, j in self.equal:  # noqa: SIM110
            if leaves[i].shape[0] != leaves[j].shape[0]:
                return False
        return True


class Program:
    """Emitted code, ready to be called with the arrays of a call.

    Invariants: `function` takes the components of all arrays, then of the constants; `run` is the quickest way through
    conversion, call and assembly for this plan.
    """

    def __init__(
        self, plan: Plan, load: Callable[[str, str], Callable[..., Any]], leaves: Sequence[Any],
        constants: Sequence[Any], backward: Callable[[], Program] | None = None,
    ) -> None:  # fmt: skip
        """backward: the program that is differentiated instead, where the library asks for a gradient."""
        self.plan = plan
        library = library_of_call(leaves, constants)
        self.function = load(plan.entry, library) if plan.results else _nothing
        place = device_of(leaves)
        self.converters = tuple(converter(leaf) or number(leaf, library, place) for leaf in leaves)
        fixed = [part for c in constants for part in components(moved(c, library, place))]
        if plan.prepare:
            made = load("prepare", library)(*fixed)
            fixed = list(made) if isinstance(made, tuple) else [made]
        self.fixed = tuple(fixed)
        if backward is not None:
            self.function = _differentiable(self.function, backward, len(self.fixed))
        self.assemblers = tuple(result.assembler() for result in plan.results)
        self.alone = plan.tree.kind == "array" and len(plan.results) == 1
        """True where the only result is an array or ScaledTensor by itself."""
        self.run: Callable[[Sequence[Any]], Any] = self._chosen()

    def _chosen(self) -> Callable[[Sequence[Any]], Any]:
        plain_in = not any(self.converters)
        plain_out = self.plan.tree.kind == "array" and self.plan.results[0].is_plain
        if plain_in and plain_out and not self.fixed:
            return lambda leaves: self.function(*leaves)
        if plain_out:
            return lambda leaves: self.function(*self.gather(leaves))
        return lambda leaves: self.scatter(self.function(*self.gather(leaves)), leaves)

    def gather(self, leaves: Sequence[Any]) -> list[Any]:
        """The components that the emitted function takes."""
        parts: list[Any] = []
        for convert, leaf in zip(self.converters, leaves):  # noqa: B905 - one for each; this is on the way of every call
            if convert is None:
                parts.append(leaf)
            else:
                parts += convert(leaf)
        if self.fixed:
            parts += self.fixed
        return parts

    def scatter(self, out: Any, leaves: Sequence[Any]) -> Any:
        """The function's results, from the components that the emitted function gave."""
        env = {name: leaves[i].shape[0] for name, i in self.plan.symbols}
        if self.alone:
            return self.assemblers[0](out if isinstance(out, tuple) else (out,), env)
        parts = iter(out if isinstance(out, tuple) else (out,))
        arrays = [
            assemble(list(islice(parts, result.components)), env)
            for assemble, result in zip(self.assemblers, self.plan.results, strict=True)
        ]
        if next(parts, None) is not None:
            raise PassError(f"{self.plan.entry} gave more components than its results have")
        return self.plan.tree.fill(iter(arrays))


def _differentiable(function: Callable[..., Any], backward: Callable[[], Program], fixed: int) -> Callable[..., Any]:
    """`function` with the gradient of another program of the same call. fixed: how many constants come last."""
    from breccia.arrays.namespaces.jax import with_backward

    @cache
    def other() -> Callable[..., Any]:
        program = backward()
        return lambda *parts: program.function(*parts[: len(parts) - fixed], *program.fixed)

    return with_backward(function, other)


def _nothing(*_: Any) -> tuple[()]:
    """Stands for the emitted function of a program without array results."""
    return ()


def library_of_call(leaves: Sequence[Any], constants: Sequence[Any]) -> str:
    """The library whose arrays a call is computed with; constants of NumPy's are moved there.

    Constants decide where there are no arrays.
    """
    return one_library(leaves or [c for c in constants if library_of(c) != "numpy"])


def device_of(leaves: Sequence[Any]) -> Any:
    """The device that the arrays of a call lie on; None where that means nothing."""
    for leaf in leaves:
        array = leaf.data if isinstance(leaf, ScaledTensor) else leaf
        if not isinstance(array, np.ndarray):
            return namespace(array).device(array)
    return None


def number(leaf: Any, library: str, device: Any) -> Callable[[Any], Sequence[Any]] | None:
    """What takes a number of NumPy's along in a call of another library."""
    if library == "numpy" or not isinstance(leaf, np.ndarray):
        return None
    return lambda x: (transfer(x, library, device),)


def moved(array: Any, library: str, device: Any) -> Any:
    """A captured array in the library of the call. What belongs to another library than NumPy stays there."""
    if library_of(array) == library:
        return array
    if library_of(array) != "numpy":
        raise DTypeError(
            f"the function closes over an array of {library_of(array)} (shape {tuple(array.shape)}) and was called "
            f"with arrays of {library}; convert one of them first"
        )
    return array.to(library, device) if isinstance(array, ScaledTensor) else transfer(array, library, device)


def components(array: Any) -> Sequence[Any]:
    """The components of an array or ScaledTensor."""
    if isinstance(array, ScaledTensor):
        return convert_scaled(array)
    convert = converter(array)
    return (array,) if convert is None else convert(array)
