"""Calls of JAX's functions on values that are not JAX's: every primitive is handed to a callback.

JAX's functions do not dispatch on foreign objects, but they take tracers. A `Handed` is one: it stands for somebody's
value, and each primitive that is applied to it goes to `Rules.apply`. Functions that JAX has as a program (`jit`, and
what has rules for derivatives) are taken apart; what touches no such value is computed at once, as without tracing.

Uses `jax.core.Trace` and `Tracer`, which JAX offers to those who write transformations, and two tables of `jax._src`
where JAX looks up what it accepts; without those, functions of `jax.lax` say what to convert.
"""

# ruff: noqa: ARG002 - parameters are those of JAX's methods
from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import jax
from jax import tree_util

from breccia import arrays
from breccia.errors import UnsupportedError

try:
    from jax.core import ShapedArray, Trace, Tracer, eval_context
    from jax.extend.core import Literal, set_current_trace
except ImportError as error:  # pragma: no cover - for versions of JAX to come
    raise UnsupportedError(
        f"this version of JAX ({jax.__version__}) has another interface for tracing ({error}); write the compiled "
        "function with NumPy's or breccia's functions, or use jax 0.10 to 0.12"
    ) from error

_HERE = str(Path(jax.__file__).parent) + os.sep
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters of primitives that hold a program."""
_CALLS = (
    "jit", "pjit", "eval_jaxpr", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
"""Primitives that mean their program."""
_OWN_RULES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")

Aval = Any
"""JAX's word for shape, dtype and whether the dtype is weak."""


class Rules(Protocol):
    """What the owner of the values supplies."""

    def owns(self, x: Any) -> bool:
        """True for a value of the owner; everything else is an array or number that JAX knows."""
        ...

    def apply(self, primitive: str, operands: Sequence[Any], params: Mapping[str, Any], outs: Sequence[Aval]) -> Any:
        """The results of a primitive, one for each of `outs`."""
        ...

    def stages(self, primitive: str, operands: Sequence[Any]) -> bool:
        """Whether a primitive on JAX's arrays alone, in a program, is applied too rather than computed."""
        ...

    def named(self, name: str, primitives: Sequence[str], operands: Sequence[Any]) -> Any | None:
        """The result of a program of one result, known by its name and its primitives; None where it is not known."""
        ...

    def value(self, x: Any) -> Any:
        """What an owner's value is called outside."""
        ...

    def refuse(self, message: str) -> Exception:
        """The error to raise, which says where the user's code is."""
        ...


class Handed(Tracer[Any]):
    """JAX's view of a value.

    Invariants: `held` belongs to the rules of its trace; `aval` has its shape and dtype.
    """

    __slots__ = ("held",)

    def __init__(self, trace: HandingTrace, held: Any, aval: Aval) -> None:
        super().__init__(trace, aval)
        self.held = held

    @property
    def breccia_value(self) -> Any:
        """The owner's value."""
        return self._trace.rules.value(self.held)

    # What needs values, and NumPy's functions, are the owner's affair.

    def __bool__(self) -> bool:
        return bool(self.breccia_value)

    def __int__(self) -> int:
        return int(self.breccia_value)

    def __float__(self) -> float:
        return float(self.breccia_value)

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        return self.breccia_value.__array_ufunc__(*args, **kwargs)

    def __matmul__(self, other: Any) -> Any:
        # JAX knows nothing of scaled operands, which the owner multiplies.
        if getattr(other, "recipe", None) is not None:
            return self.breccia_value @ other
        return super().__matmul__(other)  # type: ignore[misc]

    def __rmatmul__(self, other: Any) -> Any:
        if getattr(other, "recipe", None) is not None:
            return other @ self.breccia_value
        return super().__rmatmul__(other)  # type: ignore[misc]


arrays._OF_CLASS[Handed] = ""  # no array of JAX's


class HandingTrace(Trace):
    """Where primitives on `Handed` go while a function runs."""

    __slots__ = ("rules",)

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def hand(self, held: Any, shape: Sequence[int], dtype: Any) -> Handed:
        """JAX's view of an owner's value."""
        return Handed(self, held, ShapedArray(tuple(shape), dtype))

    def stage_value(self, val: Any) -> Any:
        return val

    def process_primitive(self, primitive: Any, tracers: Sequence[Any], params: Mapping[str, Any], /) -> Any:
        operands = [self._held(t) for t in tracers]
        if not any(map(self.rules.owns, operands)):
            self._check_known(operands)
            with eval_context():
                return primitive.bind(*operands, **params)
        if primitive.name in _CALLS:
            jaxpr = next(params[name] for name in _INNER if name in params)
            outs = _inner(jaxpr)[0].outvars
            made = self._called(primitive, operands, params)
            return [self._wrapped(x, v.aval) for x, v in zip(made, outs, strict=True)]
        avals, _ = primitive.abstract_eval(*(jax.typeof(t) for t in tracers), **params)
        many = primitive.multiple_results
        made = self.rules.apply(primitive.name, operands, params, avals if many else [avals])
        wrapped = [self._wrapped(x, a) for x, a in zip(made, avals if many else [avals], strict=True)]
        return wrapped if many else wrapped[0]

    def process_call(self, call_primitive: Any, f: Any, tracers: Sequence[Any], params: Any, /) -> Any:
        return self._run(f, tracers)

    def process_custom_jvp_call(self, primitive: Any, fun: Any, jvp: Any, tracers: Sequence[Any], /, **_: Any) -> Any:
        self._check_derivative(fun, tracers)
        return self._run(fun, tracers)

    def process_custom_vjp_call(
        self, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Sequence[Any], /, **_: Any
    ) -> Any:
        self._check_derivative(fun, tracers)
        return self._run(fun, tracers)

    # -- programs ------------------------------------------------------------------------------------------------------

    def _run(self, function: Any, tracers: Sequence[Any]) -> Any:
        traced = any(isinstance(t, Handed) for t in tracers)
        with set_current_trace(self) if traced else eval_context():
            return function.call_wrapped(*tracers)

    def _called(self, primitive: Any, operands: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        """The results of a program that a primitive holds."""
        jaxpr, consts = _inner(next(params[name] for name in _INNER if name in params))
        if primitive.name in _OWN_RULES:
            self._check_derivative(jaxpr, operands)
        name = params.get("name", "")
        if len(jaxpr.outvars) == 1:
            known = self.rules.named(name, [eqn.primitive.name for eqn in jaxpr.eqns], operands)
            if known is not None:
                return [known]
        return self._evaluate(jaxpr, consts, operands)

    def _evaluate(self, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *operands), strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            outs = [v.aval for v in eqn.outvars]
            made = self._equation(eqn.primitive, inputs, eqn.params, outs)
            env.update(zip(eqn.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, primitive: Any, inputs: Sequence[Any], params: Mapping[str, Any], outs: Sequence[Aval]) -> Any:
        if primitive.name in _CALLS:
            return self._called(primitive, inputs, params)
        traced = any(map(self.rules.owns, inputs)) or self.rules.stages(primitive.name, inputs)
        if traced:
            return self.rules.apply(primitive.name, inputs, params, outs)
        with eval_context():
            made = primitive.bind(*inputs, **params)
        return made if primitive.multiple_results else [made]

    # -- values --------------------------------------------------------------------------------------------------------

    def _held(self, x: Any) -> Any:
        return x.held if isinstance(x, Handed) and x._trace is self else x

    def _wrapped(self, x: Any, aval: Aval) -> Any:
        return Handed(self, x, aval) if self.rules.owns(x) else x

    def _check_known(self, operands: Sequence[Any]) -> None:
        if any(isinstance(x, Tracer) for x in operands):
            raise self.rules.refuse(
                "an array that jax is tracing meets a function that breccia is tracing; pass it as an argument"
            )

    def _check_derivative(self, function: Any, operands: Sequence[Any]) -> None:
        """JAX's own functions may lose their rules for derivatives, which say what their operations imply."""
        info = getattr(function, "debug_info", None)
        place = str(getattr(info, "func_src_info", ""))
        if f" at {_HERE}" not in place and any(isinstance(x, Handed) or self.rules.owns(x) for x in operands):
            raise self.rules.refuse(
                f"a function with its own rule for derivatives ({place or 'custom_jvp or custom_vjp'}) would lose the "
                "rule; call it outside the compiled function, or call the function that it wraps"
            )


def _inner(program: Any) -> tuple[Any, Sequence[Any]]:
    """A program and its constants."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def teach(cls: type, convert: Callable[[Any], Any]) -> None:
    """Let JAX's functions take objects of `cls`: `convert` gives the `Handed` for one."""
    tree_util.register_pytree_node(cls, lambda x: ((convert(x),), None), lambda _, children: children[0])
    with suppress(ImportError, AttributeError):
        from jax._src import core, dtypes

        core.pytype_aval_mappings[cls] = lambda x: convert(x).aval
        dtypes.register_canonicalize_value_handler(cls, convert)


@contextmanager
def handing(trace: HandingTrace) -> Generator[None]:
    """While this is open, primitives go to `trace`."""
    with set_current_trace(trace):
        yield
