"""The shim itself: what it is there to catch, it catches."""

from __future__ import annotations

import numpy as np
import pytest

from tests.targets.metal import shim

HEAD = "const int t = thread_index_in_threadgroup;\n"


def kernel(body: str, **options: object) -> shim.Kernel:
    """A kernel of one float input and one float result."""
    return shim.Kernel("k", ("x",), ("float",), ("y",), ("float",), "", HEAD + body, **options)


X = np.arange(128, dtype=np.float32)


def run(body: str, size: int = 128, **options: object) -> np.ndarray:
    (found,) = kernel(body, **options).call(1, [X], [(size,)])
    return found


def test_threads_barriers_and_lanes() -> None:
    out = run("""
threadgroup float kept[128];
kept[t] = x[t * x_strides[0]];
threadgroup_barrier(mem_flags::mem_threadgroup);
y[t] = kept[127 - t] + simd_max(float(t)) + simd_sum(1.0f);
""")
    assert np.array_equal(out, X[::-1] + X // 32 * 32 + 31 + 32)


def test_matrices() -> None:
    out = run(
        """
threadgroup half a[64];
threadgroup float c[64];
if (t < 64) a[t] = half(x[t] - 30.0f);
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_matrix<half, 8, 8> left, right;
simdgroup_matrix<float, 8, 8> sums = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
simdgroup_load(left, &a[0], 8);
simdgroup_load(right, &a[0], 8, ulong2(0, 0), true);
simdgroup_multiply_accumulate(sums, left, right, sums);
if (simdgroup_index_in_threadgroup == 0) simdgroup_store(sums, &c[0], 8);
threadgroup_barrier(mem_flags::mem_threadgroup);
if (t < 64) y[t] = c[t];
""",
        64,
    )
    a = (X[:64] - 30).reshape(8, 8)
    assert np.array_equal(out.reshape(8, 8), a @ a.T + 1)


@pytest.mark.parametrize("body", ["y[t] = x[t + 1];", "y[t - 1] = x[t];", "y[2 * t] = 0.0f;"])
def test_places_outside_of_buffers_are_found(body: str) -> None:
    with pytest.raises(AssertionError, match="outside of a buffer"):
        run(body)


def test_a_barrier_that_some_threads_miss_is_found() -> None:
    with pytest.raises(AssertionError, match="some threads end where others wait"):
        run("if (t < 64) threadgroup_barrier(mem_flags::mem_threadgroup); y[t] = 0.0f;")


def test_lanes_that_part_are_found() -> None:
    with pytest.raises(AssertionError, match="lanes of a simdgroup"):
        run("if (t % 2) y[t] = simd_max(1.0f); else threadgroup_barrier(mem_flags::mem_threadgroup);")


def test_scalars_and_arrays_are_told_apart() -> None:
    for body, x in (("y[t] = x;", X), ("y[t] = x[0];", np.float32(3))):
        with pytest.raises(AssertionError, match="a scalar for an array"):
            kernel(body).call(1, [x], [(128,)])
    (out,) = kernel("y[t] = x;").call(1, [np.float32(3)], [(128,)])
    assert (out == 3).all()


RACE = """
threadgroup float kept[128];
kept[t] = x[t];
y[t] = kept[(t + 1) % 128];
"""


def test_a_race_and_memory_that_is_not_written_show() -> None:
    """Without its barrier, a kernel gives other results in the other order of threads; poison is NaN."""
    forward, backward = run(RACE), run(RACE, reversed=True)
    assert not np.array_equal(forward, backward, equal_nan=True)
    assert np.isnan(run("threadgroup float kept[128]; y[t] = kept[t];")).all()
    assert np.isnan(run("if (t < 3) y[t] = 1.0f;")[3:]).all()


def test_an_error_in_the_text_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="does not compile"):
        run("y[t] = undefined_name;")
