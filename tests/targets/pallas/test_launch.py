"""What emitted Pallas kernels call: lists of work, results of no elements, halves, and how kernels are run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import breccia  # noqa: E402
from breccia import numerics  # noqa: E402
from breccia.arrays import namespace, within  # noqa: E402
from breccia.errors import FormatError, UnsupportedError  # noqa: E402
from breccia.formats import ALL  # noqa: E402
from breccia.targets.pallas import launch, tiles  # noqa: E402

W = breccia.cast(np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32), breccia.recipes.float8_row).to(
    "jax"
)


work_list = jax.jit(launch.work_list, static_argnums=(2, 3))


@given(st.lists(st.integers(0, 12), min_size=5, max_size=5), st.sampled_from([1, 7, 64]))
def test_the_list_of_work_covers_every_row_of_every_group_once(counts, block):
    ends = np.cumsum(counts)
    begins, rows = ends - counts, 64
    groups, found = work_list(jnp.array(begins), jnp.array(ends), rows, block)
    pairs = list(dict.fromkeys(zip(groups.tolist(), found.tolist(), strict=True)))
    assert found.tolist() == sorted(found.tolist())
    assert set(found.tolist()) == set(range(-(-rows // block)))
    seen = [(g, r) for g, t in pairs for r in range(t * block, min((t + 1) * block, rows)) if begins[g] <= r < ends[g]]
    assert sorted(seen) == [(g, r) for g in range(len(counts)) for r in range(begins[g], ends[g])]


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_any_number_of_rows(rows: int) -> None:
    f = breccia.compile(breccia.matmul, target="pallas:v6e")
    x = np.ones((rows, 64), np.float32)
    found = f(jnp.asarray(x), W)
    assert found.shape == (rows, 128)
    assert np.allclose(found, x @ np.asarray(W.dequantize()), atol=1e-4)


def test_rooms_of_which_some_rows_count() -> None:
    """Rows that do not count become 0, as everywhere."""

    def f(x, w, counts):
        return breccia.grouped_matmul(x, breccia.transpose(w, (0, 2, 1)), counts)

    rng = np.random.default_rng(0)
    x = breccia.cast(rng.standard_normal((4, 40, 128)).astype(np.float32), breccia.recipes.float8_1x128)
    w = breccia.cast(rng.standard_normal((4, 32, 128)).astype(np.float32), breccia.recipes.float8_128x128)
    counts = np.array([40, 0, 7, 33], np.int32)
    wanted = breccia.compile(f)(x, w, counts)
    found = breccia.compile(f, target="pallas:v6e")(x.to("jax"), w.to("jax"), jnp.asarray(counts))
    assert np.allclose(found, wanted, atol=1e-4)
    assert not np.asarray(found)[1].any()


def test_halves_are_words_to_a_kernel() -> None:
    f = breccia.compile(lambda x: x * 2, target="pallas:v6e")
    x = jnp.asarray(np.float16([[1.0, 32000.0, 6e-8, np.nan, -np.inf]]))
    found = f(x)
    assert found.dtype == jnp.float16
    assert np.array_equal(np.asarray(found), np.asarray(x) * np.float16(2), equal_nan=True)


def test_arrays_of_other_libraries_are_refused() -> None:
    f = breccia.compile(lambda x: x + 1, target="pallas:v6e")
    with pytest.raises(UnsupportedError, match="pallas:v6e runs on arrays of jax, not of numpy"):
        f(np.ones((2, 2), np.float32))


def test_an_entry_that_is_not_there() -> None:
    with pytest.raises(FormatError, match="defines no function 'g'"):
        launch.launch("def f():\n    pass\n", "g")


def test_compiling_for_a_tpu_that_is_not_there_is_not_interpreting() -> None:
    f = breccia.compile(lambda x: x + 1, target="pallas:v6e")
    x = jnp.ones((8, 128))
    assert np.array_equal(f(x), x + 1)
    with launch.interpreting(False), pytest.raises(ValueError, match="interpret mode"):
        f(x)


def test_explain_says_how_kernels_run() -> None:
    f = breccia.compile(breccia.matmul, target="pallas:v6e")
    text = f.lower(jnp.ones((4, 64)), W).explain()
    assert "note: kernels are interpreted, as operations of XLA, since JAX's backend here is cpu and not a TPU" in text


# -- the primitives inside kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [f for f in ALL if f.bits <= 8], ids=lambda f: f.name)
def test_decoding_without_a_table(fmt) -> None:
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    wanted = numerics.decode(codes, fmt)
    with within("jax_tiles"):
        found = np.asarray(numerics.decode(jnp.asarray(codes), fmt))
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    assert same.all(), codes[~same]


def test_within_is_for_its_library_alone() -> None:
    x = jnp.ones(3)
    with within("jax_tiles"):
        assert namespace(x).__name__.endswith("jax_tiles")
        assert namespace(np.ones(3)).__name__.endswith("numpy")
    assert namespace(x).__name__.endswith(".jax")


@pytest.mark.parametrize("size", [1, 2, 4, 5, 8, 13])
@pytest.mark.parametrize("order", ["packed4", "packed6"])
def test_packed_codes(order: str, size: int) -> None:
    codes = np.random.default_rng(size).integers(0, 16, (3, size)).astype(np.uint8)
    packed = tiles.pack(jnp.asarray(codes), order)
    fmt = tiles._PACKED[order]
    assert np.array_equal(packed, numerics.pack(codes, fmt))
    assert np.array_equal(tiles.unpack(packed, order, size), codes)


@pytest.mark.parametrize("start", [0, 3, 120])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_windows_in_larger_blocks(start: int, dtype: str) -> None:
    block = jnp.asarray(np.arange(256).reshape(2, 128) % 200, dtype)
    inside = jax.jit(lambda b, s: tiles.cut(b, -1, s, 8))(block, start)
    assert np.array_equal(inside, block[:, start : start + 8])
    put = jax.jit(lambda b, x, s: tiles.put(b, x, (-1, s)))(block, inside + jnp.ones((), dtype), start)
    wanted = np.asarray(block).copy()
    wanted[:, start : start + 8] += np.asarray(1, wanted.dtype)
    assert np.array_equal(np.asarray(put), wanted)
