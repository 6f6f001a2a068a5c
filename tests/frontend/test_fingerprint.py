"""What changes a function's fingerprint, what does not, and what has none."""

from __future__ import annotations

import math
import random
import time
import types
from typing import Any

import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.frontend import fingerprint as module
from breccia.frontend.fingerprint import fingerprint, follow, signature
from breccia.recipes import Level, Recipe

ALPHA = 2.0
TABLE = np.arange(4, dtype=np.float32)
X = np.ones((4, 8), np.float32)
HEADER = "import numpy as np\nimport breccia\n"


def define(source: str, **names: Any) -> Any:
    """The function `f` that a source defines, in a fresh module."""
    space = types.ModuleType("scratch")
    vars(space).update(names)
    exec(HEADER + source, vars(space))
    return space.f  # type: ignore[attr-defined]


def digest(source: str, **names: Any) -> str:
    made = fingerprint(define(source, **names))
    assert made is not None
    return made.digest()


BASE = "def f(x): return np.exp(x) * g(x) + 1.5"
CHANGES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "constant": ("def f(x): return x * 2", {}, "def f(x): return x * 3", {}),
    "int or float": ("def f(x): return x * 2", {}, "def f(x): return x * 2.0", {}),
    "operator": ("def f(x): return x * 2", {}, "def f(x): return x + 2", {}),
    "function": ("def f(x): return np.exp(x)", {}, "def f(x): return np.tanh(x)", {}),
    "default": ("def f(x, n=1): return x * n", {}, "def f(x, n=2): return x * n", {}),
    "keyword default": ("def f(x, *, n=1): return x * n", {}, "def f(x, *, n=2): return x * n", {}),
    "global": ("def f(x): return x * a", {"a": 1.0}, "def f(x): return x * a", {"a": 1.5}),
    "global array": (
        "def f(x): return x * a", {"a": np.zeros(3)}, "def f(x): return x * a", {"a": np.ones(3)},
    ),
    "array dtype": (
        "def f(x): return x * a", {"a": np.zeros(2, np.int32)},
        "def f(x): return x * a", {"a": np.zeros(2, np.float32)},
    ),
    "helper": (
        "def g(x): return x\ndef f(x): return g(x)", {}, "def g(x): return x + x\ndef f(x): return g(x)", {},
    ),
    "helper of a helper": (
        "def h(x): return 1\ndef g(x): return h(x)\ndef f(x): return g(x)", {},
        "def h(x): return 2\ndef g(x): return h(x)\ndef f(x): return g(x)", {},
    ),
    "nested function": (
        "def f(x):\n  def g(y): return y * 2\n  return g(x)", {},
        "def f(x):\n  def g(y): return y * 3\n  return g(x)", {},
    ),
    "list": ("def f(x): return x * a[0]", {"a": [1, 2]}, "def f(x): return x * a[0]", {"a": [2, 2]}),
    "dict": ("def f(x): return x * a['k']", {"a": {"k": 1}}, "def f(x): return x * a['k']", {"a": {"k": 2}}),
    "recipe": (
        "def f(x): return breccia.cast(x, r)", {"r": recipes.mxfp4},
        "def f(x): return breccia.cast(x, r)", {"r": recipes.mxfp8_e4m3},
    ),
    "policy": (
        "def f(x): return breccia.cast(x, r)", {"r": recipes.mxfp4},
        "def f(x): return breccia.cast(x, r)", {"r": recipes.mxfp4.with_policy(scale="floor")},
    ),
    "scaled tensor": (
        "def f(x): return x @ w", {"w": breccia.cast(X, recipes.mxfp4)},
        "def f(x): return x @ w", {"w": breccia.cast(2 * X, recipes.mxfp4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changes_that_matter(name: str) -> None:
    source, names, other, other_names = CHANGES[name]
    assert digest(source, **names) == digest(source, **names)
    assert digest(source, **names) != digest(other, **other_names)


def test_closure_cells_count() -> None:
    def make(n: Any) -> Any:
        return lambda x: x * n

    prints = [fingerprint(make(n)) for n in (1, 2, 1, np.float32(1), TABLE, TABLE + 1)]
    digests = [p.digest() for p in prints if p is not None]
    assert len(digests) == 6
    assert digests[0] == digests[2]
    assert len(set(digests)) == 5


def test_lines_and_names_of_files_do_not_count() -> None:
    assert digest("def f(x): return x * 2") == digest("\n\n# moved\ndef f(x):\n    return x * 2")


def test_unmentioned_globals_do_not_count() -> None:
    assert digest("def f(x): return x", a=1) == digest("def f(x): return x", a=2)


def test_a_module_counts_by_what_is_used_of_it() -> None:
    def space(k: float) -> types.ModuleType:
        made = types.ModuleType("helpers")
        made.k, made.unused = k, object()  # type: ignore[attr-defined]
        return made

    source = "def f(x): return x * m.k"
    assert digest(source, m=space(1)) == digest(source, m=space(1))
    assert digest(source, m=space(1)) != digest(source, m=space(2))


def test_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest("def f(x): return np.exp(x)")
    monkeypatch.setattr(np, "__version__", "99.0")
    assert digest("def f(x): return np.exp(x)") != before


class Odd:
    k = 1


UNPROVABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "object": ("def f(x): return x * o.k", {"o": Odd()}),
    "class": ("def f(x): return x * C.k", {"C": Odd}),
    "getattr": ("def f(x): return getattr(x, 'T')", {}),
    "eval": ("def f(x): return eval('x')", {}),
    "globals": ("def f(x): return globals()['x']", {}),
    "random": ("def f(x): return x * np.random.rand()", {}),
    "random function": ("def f(x): return x * r()", {"r": random.random}),
    "clock": ("def f(x): return x * t()", {"t": time.time}),
    "clock module": ("def f(x): return x * t.time()", {"t": time}),
    "import": ("def f(x):\n  import os\n  return x * len(os.environ)", {}),
    "file": ("def f(x): return x * len(open('/dev/null').read())", {}),
    "load": ("def f(x): return x * np.load('w.npy')", {}),
    "bound method": ("def f(x): return x * m(2)", {"m": {}.get}),
    "recipe class": ("def f(x): return breccia.cast(x, r)", {"r": type("R", (Recipe,), {})(recipes.mxfp4.element, (
        Level(recipes.float8_tensor.levels[0].dtype),))}),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVABLE)
def test_what_cannot_be_known_has_no_fingerprint(name: str) -> None:
    source, names = UNPROVABLE[name]
    assert fingerprint(define(source, **names)) is None


def test_large_arrays_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    assert fingerprint(define("def f(x): return x * a", a=np.zeros(20, np.float32))) is not None
    assert fingerprint(define("def f(x): return x * a", a=np.zeros(40, np.float32))) is None


def test_methods_and_callables_have_none() -> None:
    assert fingerprint(Odd().__init__) is None
    assert fingerprint(math.sqrt) is None


def test_recursion_ends() -> None:
    assert digest("def f(x, n): return x if n == 0 else f(x, n - 1)")


def test_compiled_helpers_count() -> None:
    a, b = (breccia.compile(define(f"def f(x): return x * {n}")) for n in (1, 2))
    source = "def f(x): return c(x)"
    assert digest(source, c=a) != digest(source, c=b)
    assert digest(source, c=a) != digest(source, c=a.breccia_function)


def test_arrays_are_found_again() -> None:
    inner = TABLE.copy()

    def helper(x: Any) -> Any:
        return x + inner

    def fn(x: Any, d: Any = TABLE) -> Any:
        return helper(x) * TABLE + d

    made = fingerprint(fn)
    assert made is not None
    for array in (TABLE, inner):
        assert follow(fn, made.paths[id(array)]) is array


def test_signatures() -> None:
    def of(*args: Any, dynamic: bool = True, **kwargs: Any) -> str | None:
        return signature(args, kwargs, dynamic)

    assert of(X) == of(X[:2] * 3)
    assert of(X) != of(X[:2], dynamic=False)
    assert of(X) != of(X[0])
    assert of(X) != of(X.astype(np.float16))
    assert of(X, 1) != of(X, 1.0)
    assert of((X,)) != of([X])
    assert of(x=X) != of(y=X)
    assert of(breccia.cast(X, recipes.mxfp4)) != of(breccia.cast(X, recipes.mxfp8_e4m3))
    assert of(breccia.cast(X, recipes.mxfp4)) == of(breccia.cast(2 * X, recipes.mxfp4))
    assert of(object()) is None
