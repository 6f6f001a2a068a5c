"""Keys of calls, flattening, and conversion to components."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import recipes
from breccia.frontend import keys
from breccia.frontend.results import convert_plain, convert_scaled, converter
from tests.optional import need

X = np.ones((4, 6), np.float32)


class Pair(NamedTuple):
    left: Any
    right: Any


def key(*args: Any, dynamic: bool = True, **kwargs: Any) -> Any:
    return keys.call_key(args, kwargs, dynamic)[0]


def scaled(recipe: Any = recipes.mxfp8_e4m3, shape: tuple[int, ...] = (4, 64)) -> Any:
    return breccia.cast(np.ones(shape, np.float32), recipe)


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "dtype": (X, X.astype(np.float16)),
    "rank": (X, X[None]),
    "last axis": (X, X[:, :3]),
    "vector length": (X[0], X[0, :3]),
    "vector or matrix": (X[0], X),
    "int or float": (1, 1.0),
    "int or bool": (1, True),
    "zeros": (0.0, -0.0),
    "float value": (0.1, 0.2),
    "string": ("a", "b"),
    "none": (None, 0),
    "tuple or list": ((X, X), [X, X]),
    "length": ((X,), (X, X)),
    "nesting": (((X,), X), (X, (X,))),
    "dict keys": ({"a": X}, {"b": X}),
    "recipe": (scaled(), scaled(recipes.mxfp8_e5m2)),
    "policy": (scaled(), scaled(recipes.mxfp8_e4m3.with_policy(scale="floor"))),
    "scaled shape": (scaled(), scaled(shape=(5, 64))),
    "scaled or plain": (scaled(), np.ones((4, 64), np.float32)),
    "recipe argument": (recipes.mxfp4, recipes.mxfp8_e4m3),
    "dtype argument": (np.float32, np.float16),
    "byte order": (X, X.astype(">f4")),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_code_depends_on_is_in_the_key(name: str) -> None:
    a, b = DIFFERENT[name]
    assert key(a) != key(b)
    assert key(a) == key(a)
    hash(key(a))


def test_what_code_does_not_depend_on_is_not_in_the_key() -> None:
    assert key(X) == key(np.zeros((9, 6), np.float32)[:, ::-1])
    assert key(X, dynamic=False) != key(np.zeros((9, 6), np.float32), dynamic=False)
    same = recipes.Recipe(recipes.mxfp4.element, recipes.mxfp4.levels, policy=recipes.mxfp4.policy)
    assert key(scaled(recipes.mxfp4)) == key(scaled(same))
    assert key(float("nan")) == key(float("nan"))
    assert key(w=X) != key(X)


def test_typical_sizes_stand_for_ranges() -> None:
    ranges = {16: (0, 1, 16), 32: (17, 32), 64: (33, 64), 256: (65, 256), 4096: (257, 4096, 1 << 20)}
    assert all(keys.typical(n) == size for size, found in ranges.items() for n in found)


@pytest.mark.parametrize("library", ["torch", "jax", "mlx"])
def test_arrays_of_other_libraries_have_keys_of_their_own(library: str) -> None:
    need(library)
    st = scaled(shape=(4, 64))
    other = st.to(library)
    assert key(other) == key(scaled(shape=(4, 64)).to(library)) != key(st)
    assert key(other) != key(scaled(shape=(5, 64)).to(library)), "all sizes of a ScaledTensor count"
    assert key(other.data) != key(st.data)
    assert key(other.data) == key(scaled(shape=(9, 64)).to(library).data), "the leading size of an array does not"
    assert key(other.data, dynamic=False) != key(scaled(shape=(9, 64)).to(library).data, dynamic=False)
    assert key([other]) != key(other)
    hash(key([other], other.data))


def test_what_an_array_is_differentiated_for_is_no_part_of_the_key_in_the_hosts_memory() -> None:
    need("torch")
    import torch

    assert key(torch.ones(4, 6)) == key(torch.ones(4, 6, requires_grad=True))


def test_tokens_do_not_outlive_their_recipes() -> None:
    first = keys.recipe_token(recipes.mxfp4)
    for i in range(5000):
        keys.recipe_token(recipes.mxfp4.with_policy(amax_min=1.0 + i))
    assert keys.recipe_token(recipes.mxfp4) == first
    assert len(keys._TOKENS) <= keys._MOST_TOKENS


def test_rebuild_goes_in_the_order_of_the_leaves() -> None:
    tree = {"a": [X, 1, Pair(X, "s")], "b": (X, None, np.float32(3))}
    _, leaves = keys.call_key((tree,), {}, True)
    order = iter(range(len(leaves)))
    out = keys.rebuild(tree, lambda leaf: next(order))
    assert out == {"a": [0, 1, Pair(1, "s")], "b": (2, None, 3)}
    assert list(keys.named_leaves(tree, "p")) == ["p_a0", "p_a2_left", "p_b0", "p_b2"]


@pytest.mark.parametrize("name", list(recipes.all_recipes()))
def test_components_have_the_types_of_the_ir(name: str) -> None:
    from breccia.frontend.dtypes import ir_dtype
    from breccia.ir.storage import canonical_layout, storage_types
    from breccia.ir.types import scaled as scaled_type

    st = breccia.cast(np.random.default_rng(0).standard_normal((6, 160), np.float32), recipes.find(name))
    kind = scaled_type(st.shape, ir_dtype(st.dtype), st.recipe)
    parts = convert_scaled(st)
    wanted = storage_types(kind.with_layout(canonical_layout(kind)))
    assert [p.shape for p in parts] == [t.shape for _, t in wanted]
    for part, (_, t) in zip(parts, wanted, strict=True):
        fmt = t.format
        assert part.dtype == (np.uint8 if fmt.bits <= 8 else np.dtype(fmt.name))


def plain(x: Any) -> Any:
    """The one component of a plain array."""
    convert = convert_plain(x.dtype)
    assert convert is not None
    (component,) = convert(x)
    return component


def test_plain_arrays_become_components() -> None:
    assert converter(X) is None
    assert converter(X > 0) is None
    native = plain(X.astype(">f4"))
    assert native.dtype.isnative
    np.testing.assert_array_equal(native, X)
    assert plain(X.astype(ml_dtypes.float8_e4m3fn)).dtype == np.uint8
    assert plain(np.array([-1, 3]).astype(ml_dtypes.int4)).tolist() == [15, 3]
