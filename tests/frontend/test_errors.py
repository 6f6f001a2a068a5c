"""What cannot be traced: each raises, names the user's file and line, and says what to write instead."""

# ruff: noqa: PLW0108 - lambdas are functions under test
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.errors import BrecciaError, DTypeError, RecipeError, ShapeError, TraceError, UnsupportedError
from breccia.frontend.build import trace
from breccia.frontend.keys import call_key

X = np.ones((4, 64), np.float32)
ESCAPED: list[Any] = []


def assign(x: Any) -> Any:
    x[0] = 1
    return x


def add_in_place(x: Any) -> Any:
    x += 1
    return x


def branch(x: Any) -> Any:
    return x if x.sum() > 0 else -x


def loop(x: Any) -> Any:
    return sum(row for row in x)


UNTRACEABLE: dict[str, tuple[Any, type[BrecciaError], str]] = {
    "branch": (branch, TraceError, r"a branch .* breccia\.where\(condition, a, b\)"),
    "and": (lambda x: x > 0 and x, TraceError, "use breccia.where"),
    "int": (lambda x: int(x), TraceError, r"int\(\) needs the values .*astype\(np.int32\)"),
    "float": (lambda x: float(x.sum()), TraceError, r"float\(\) needs the values"),
    "index": (lambda x: [1, 2][x], TraceError, "an index or range"),
    "loop": (loop, TraceError, "iterating .* np.split"),
    "unpack": (lambda x: dict(zip("ab", x, strict=False)), TraceError, "iterating"),
    "contains": (lambda x: 1.0 in x, TraceError, "`in` needs the values"),
    "item": (lambda x: x.item(), TraceError, r"\.item\(\)"),
    "tolist": (lambda x: x.tolist(), TraceError, r"\.tolist\(\)"),
    "assign": (assign, TraceError, "item assignment .* breccia.where"),
    "in place": (add_in_place, TraceError, r"`x \+= y` writes .* write `x = x \+ y`"),
    "out": (lambda x: np.exp(x, out=np.empty((4, 64), np.float32)), TraceError, "use its result instead"),
    "asarray": (lambda x: np.asarray(x), TraceError, "cannot become an array"),
    "unknown ufunc": (lambda x: np.arctan(x), TraceError, r"np.arctan cannot be traced; close to it: .*np.tanh"),
    "unknown function": (lambda x: np.sort(x), TraceError, "np.sort cannot be traced; sort before or after"),
    "linalg": (lambda x: np.linalg.norm(x), TraceError, "np.norm cannot be traced"),
    "ufunc method": (lambda x: np.add.reduce(x), TraceError, "np.add.reduce cannot be traced; use np.sum"),
    "keyword": (lambda x: np.sum(x, where=X > 0), TraceError, "np.sum is not traced with these arguments"),
    "mask": (lambda x: x[x > 0], TraceError, "indexing with a traced array"),
    "fancy": (lambda x: x[[0, 2]], TraceError, "indexing with list: only integers, slices"),
    "array index": (lambda x: x[np.array([0, 1])], TraceError, "indexing with ndarray"),
    "step": (lambda x: x[:, ::2], TraceError, "a slice of step 2"),
    "attribute": (lambda x: x.transposed(), TraceError, "no attribute 'transposed'; close to it: transpose"),
    "list of traced": (lambda x: np.add([x, x], x), TraceError, "breccia.concat or np.stack"),
    "object": (lambda x: x + object(), TraceError, "object .* cannot meet a traced array"),
    "string": (lambda x: x * "a", TraceError, "str 'a' cannot meet"),
    "bitwise": (lambda x: x & 3, TraceError, "bitwise and of float32"),
    "escaped": (lambda x: ESCAPED[0] + 1, TraceError, "traced value is used after its function has returned"),
    "result": (lambda x: object(), TraceError, "a compiled function returns arrays"),
    "one-argument where": (lambda x: np.where(x > 0), TraceError, "sizes cannot depend on values"),
    "scaled arithmetic": (lambda x: breccia.cast(x, recipes.mxfp4) + 1, DTypeError, r"decode it with \.dequantize\(\)"),
    "scaled softmax": (lambda x: breccia.softmax(breccia.cast(x, recipes.mxfp4)), DTypeError, "takes plain arrays"),
    "dequantize plain": (lambda x: x.dequantize(), DTypeError, "dequantize takes a scaled tensor"),
    "cast scaled": (lambda x: breccia.cast(breccia.cast(x, recipes.mxfp4), recipes.mxfp4), DTypeError, "plain arrays"),
    "recipe class": (lambda x: breccia.cast(x, "mxfp4"), DTypeError, "unsupported recipe: str"),
    "recipe axis": (lambda x: breccia.cast(x, recipes.mxfp4, axis=2), ShapeError, "axis 2 is out of range"),
    "static scale": (
        lambda x: breccia.cast(x, recipes.float8_tensor.with_policy(amax="static")), RecipeError, "pass scale=",
    ),
    "seed": (
        lambda x: breccia.cast(x, recipes.float8_tensor.with_policy(rounding="stochastic")), RecipeError, "pass seed=",
    ),
    "broadcast": (lambda x: x + x[:, :3], ShapeError, r"shape mismatch: \[M = 4, 64\] and \[M = 4, 3\] do not"),
    "matmul": (lambda x: x @ x, ShapeError, "shape mismatch: .* last axis of a .64. must equal"),
    "vector": (lambda x: x @ x[0], ShapeError, r"shape mismatch: .* reshape a vector"),
    "float64": (lambda x: x.astype(np.float64) @ X.T.astype(np.float64), DTypeError, r"astype\(np.float32\)"),
    "reshape": (lambda x: x.reshape(3, 5), ShapeError, "has not as many elements"),
    "reshape -1": (lambda x: x.reshape(7, -1), ShapeError, "does not divide"),
    "axis": (lambda x: x.sum(axis=2), ShapeError, "axis 2 is out of range .* allowed: -2 to 1"),
    "axis twice": (lambda x: x.sum(axis=(0, -2)), ShapeError, "an axis twice"),
    "index range": (lambda x: x[9], ShapeError, "index 9 is out of range"),
    "too many": (lambda x: x[0, 0, 0], ShapeError, "3 indices"),
    "concat": (lambda x: np.concatenate([x, X[:, :3]]), ShapeError, "shape mismatch"),
    "split": (lambda x: np.split(x, 5, axis=1), ShapeError, "no 5 equal parts"),
    "fnuz": (
        lambda x: breccia.matmul(
            breccia.cast(x, recipes.float8_tensor), breccia.cast(X.T.copy(), recipes.float8_e4m3fnuz_tensor, axis=0)
        ),
        DTypeError, "fn and fnuz",
    ),
    "out_dtype": (lambda x: breccia.matmul(x, x.T, np.int32), DTypeError, "out_dtype int32 is no float"),
    "weight": (lambda x: breccia.rms_norm(x, np.ones((2, 4, 64), np.float32)), ShapeError, "more axes than x"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_says_where_and_what_instead(name: str) -> None:
    fn, error, message = UNTRACEABLE[name]
    if name == "escaped":
        ESCAPED.clear()
        trace(lambda x: ESCAPED.append(x), (X,), {})
    with pytest.raises(error, match=f"(?s){message}") as caught:
        trace(fn, (X,), {})
    if name != "result":
        assert f"{__file__}:" in str(caught.value)


def test_the_line_named_is_the_users() -> None:
    with pytest.raises(TraceError) as caught:
        trace(branch, (X,), {})
    assert f"{__file__}:{branch.__code__.co_firstlineno + 1}" in str(caught.value)


def test_hasattr_works_on_traced_arrays() -> None:
    assert trace(lambda x: x * 2 if not hasattr(x, "nonsense") else x, (X,), {}).notes == ()


def test_values_of_two_traces_do_not_mix() -> None:
    held: list[Any] = []

    def outer(x: Any) -> Any:
        held.append(x)
        trace(lambda y: y + held[0], (X,), {})
        return x

    with pytest.raises(TraceError, match="values of two functions meet"):
        trace(outer, (X,), {})


def test_a_retrace_passes_through_handlers_of_the_user() -> None:
    def fn(x: Any) -> Any:
        try:
            return x * int(x.shape[0])
        except Exception:  # noqa: BLE001 - what is tested
            return x

    assert trace(fn, (X,), {}).symbols.pinned() == ((0, 4),)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (object(), TraceError, "object cannot be an argument"),
        ({1, 2}, TraceError, "set cannot be an argument"),
        (np.ones(3, np.complex64), DTypeError, "arrays of complex64 cannot be compiled; allowed: float32"),
        (np.ones(3, np.int16), DTypeError, "arrays of int16"),
        (np.array(["a"]), DTypeError, "cannot be compiled"),
    ],
)
def test_arguments_that_cannot_be_traced(argument: Any, error: type[BrecciaError], message: str) -> None:
    with pytest.raises(error, match=message):
        breccia.compile(lambda x: x)(argument)


def test_arrays_of_other_libraries_say_so() -> None:
    class Tensor:
        pass

    Tensor.__module__ = "cupy"
    with pytest.raises(TraceError, match="Tensor cannot be an argument of a compiled function; allowed: arrays"):
        call_key((Tensor(),), {}, True)


def test_unknown_torch_functions_say_what_to_use() -> None:
    def torch_like(x: Any) -> Any:
        return type(x).__torch_function__(np.arctan, (), (x,))

    with pytest.raises(TraceError, match=r"torch's arctan cannot be traced; close to it: tanh"):
        trace(torch_like, (X,), {})


def test_compile_takes_functions_and_known_targets() -> None:
    with pytest.raises(TraceError, match="takes a function, not int"):
        breccia.compile(3)
    with pytest.raises(UnsupportedError, match="unknown target"):
        breccia.compile(lambda x: x, target="abacus")
