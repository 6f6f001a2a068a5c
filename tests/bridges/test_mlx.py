"""MLX: `mx.quantize` and `mx.dequantize`, on its CPU, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import formats, recipes
from breccia.bridges import from_mlx, to_mlx
from breccia.bridges._common import integer, recipe_of
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import ScaledTensor, cast_array
from tests.peers.compare import load, need

X = (np.random.default_rng(0).standard_normal((12, 384)) * 3).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("mlx")


def quantized(mode: str = "affine", **arguments: Any) -> tuple[Any, ...]:
    mx = load("mlx.core")
    with mx.stream(mx.cpu):
        made = mx.quantize(mx.array(X), mode=mode, **arguments)
        mx.eval(*made)
    return tuple(made)


def theirs(*arrays: Any, **arguments: Any) -> np.ndarray:
    mx = load("mlx.core")
    given = {k: mx.array(np.asarray(v)) if k == "global_scale" else v for k, v in arguments.items()}
    as_mx = [a if type(a).__module__.startswith("mlx") else mx.array(np.asarray(a)) for a in arrays]
    with mx.stream(mx.cpu):
        more = {} if arguments.get("mode", "affine") == "affine" else {"dtype": mx.float32}
        return np.array(mx.dequantize(*as_mx, **given, **more))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_affine(bits, group):
    arrays = quantized(bits=bits, group_size=group)
    st = from_mlx(*arrays, bits=bits, group_size=group)
    assert (st.library, st.recipe.element.bits, st.recipe.blocks(2)[-1]) == ("mlx", bits, (1, group))
    np.testing.assert_array_equal(st.numpy(), theirs(*arrays, bits=bits, group_size=group))
    again, arguments = to_mlx(st)
    assert arguments == {"group_size": group, "bits": bits, "mode": "affine"}
    for a, b in zip(again, arrays, strict=True):
        assert (a.dtype, np.array(a).tobytes()) == (b.dtype, np.array(b).tobytes())


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_the_other_modes(mode):
    arrays = quantized(mode)
    st = from_mlx(*arrays, mode=mode)
    np.testing.assert_array_equal(st.numpy(), theirs(*arrays, mode=mode))
    again, arguments = to_mlx(st)
    assert arguments["mode"] == mode
    assert all(np.array(a).tobytes() == np.array(b).tobytes() for a, b in zip(again, arrays, strict=True))


def test_nvfp4_with_a_global_scale():
    mx = load("mlx.core")
    largest = mx.array(2688.0 * 2**-5)  # exact, so that the order of products does not matter
    arrays = quantized("nvfp4", global_scale=largest)
    st = from_mlx(*arrays, mode="nvfp4", global_scale=largest)
    assert float(np.array(st.scales[0])) == 2.0**-5
    np.testing.assert_array_equal(st.numpy(), theirs(*arrays, mode="nvfp4", global_scale=largest))
    again, arguments = to_mlx(st)
    assert float(np.array(arguments["global_scale"])) == float(np.array(largest))
    assert np.array(again[0]).tobytes() == np.array(arrays[0]).tobytes()


def test_outer_scales_come_back_or_are_refused():
    """Some float32 are the 2688th part of no other: those are refused, all others come back."""
    refused = []
    for outer in (0.1, 0.37, 1e-3, 3.3, 1.0, 0.75):
        st = cast_array(X, recipes.nvfp4, scale=(np.float32(outer), None))
        try:
            arrays, arguments = to_mlx(st)
        except UnsupportedError as error:
            refused.append((outer, "of which none has" in str(error)))
            continue
        assert from_mlx(*arrays, mode="nvfp4", global_scale=arguments["global_scale"]) == st
    assert refused == [(0.1, True), (3.3, True)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scales_of_16_bits(dtype):
    mx = load("mlx.core")
    with mx.stream(mx.cpu):
        arrays = mx.quantize(mx.array(X).astype(getattr(mx, dtype)), group_size=32)
        wide = [arrays[0], *(a.astype(mx.float32) for a in arrays[1:])]
    st = from_mlx(*arrays, group_size=32)
    assert st.dtype.name == dtype
    np.testing.assert_array_equal(np.array(st.dequantize("float32")), theirs(*wide, group_size=32))


@pytest.mark.parametrize(
    "recipe",
    [
        recipe_of(formats.uint4, (formats.float32, (1, 64)), offset=formats.float32),
        recipe_of(formats.uint4, (formats.float32, (1, 64))),
        recipe_of(formats.int8, (formats.float16, (1, 64))),
        recipe_of(integer(3, signed=True), (formats.bfloat16, (1, 32))),
        recipe_of(integer(6, signed=True), (formats.float16, (1, 128))),
    ],
    ids=repr,
)
def test_integers_that_we_cast(recipe):
    st = cast_array(np.abs(X) if not recipe.element.signed and recipe.offset is None else X, recipe)
    if recipe.element.signed:  # scales of 16 bits, stored as float32
        wide = recipe_of(recipe.element, (formats.float32, recipe.innermost.block))
        st = ScaledTensor(st.data, st.scale.astype(np.float32), wide, shape=st.shape)
    arrays, arguments = to_mlx(st)
    np.testing.assert_array_equal(theirs(*arrays, **arguments), st.numpy())


def test_signed_integers_with_long_scales_are_refused():
    """MLX would round code * scale before it adds the bias."""
    with pytest.raises(UnsupportedError, match="are not exact"):
        to_mlx(cast_array(X, recipe_of(formats.int4, (formats.float32, (1, 64)))))


def zero_points(dtype: str) -> ScaledTensor:
    rng = np.random.default_rng(1)
    scale = (rng.integers(1024, 2048, (4, 2)) / 1024).astype(np.float16).astype(dtype)
    recipe = recipe_of(formats.uint4, (formats.find(dtype), (1, 32)), zero_point=formats.uint4)
    codes, zero = rng.integers(0, 16, (4, 64)).astype(np.uint8), rng.integers(0, 16, (4, 2)).astype(np.uint8)
    return ScaledTensor(codes, scale, recipe, zero_point=zero, shape=(4, 64))


def test_zero_points_become_biases_where_that_is_exact():
    st = zero_points("float32")
    arrays, arguments = to_mlx(st)
    np.testing.assert_array_equal(theirs(*arrays, **arguments), st.numpy())
    with pytest.raises(UnsupportedError, match=r"are not exact.*store scales of 16 bits as float32"):
        to_mlx(zero_points("float16"))


def test_numpy_and_torch_arrays():
    w, scales, biases = (np.array(a) for a in quantized())
    st = from_mlx(w, scales, biases)
    assert st.library == "numpy"
    torch = pytest.importorskip("torch")
    other = from_mlx(torch.from_numpy(w.view(np.int32)), torch.from_numpy(scales), torch.from_numpy(biases))
    assert other.to("numpy") == st
    words = to_mlx(other)[0][0]
    assert words.view(torch.int32).numpy().tobytes() == w.tobytes()


def test_what_does_not_fit():
    w, ones = np.zeros((2, 8), np.uint32), np.ones((2, 1), np.float32)
    with pytest.raises(FormatError, match="affine needs biases"):
        from_mlx(w, ones)
    with pytest.raises(FormatError, match=r"scales of a \(2, 64\) tensor in groups of 32 must have shape \(2, 2\)"):
        from_mlx(w, ones, ones, group_size=32)
    with pytest.raises(FormatError, match=r"biases must have shape \(2, 1\)"):
        from_mlx(w, ones, ones[:1])
    with pytest.raises(FormatError, match="words of 32 bits"):
        from_mlx(w.astype(np.uint8), ones, ones)
    with pytest.raises(UnsupportedError, match="unknown mode 'nf4'"):
        from_mlx(w, ones, mode="nf4")
    with pytest.raises(UnsupportedError, match="affine of 7 bits"):
        from_mlx(w, ones, ones, bits=7)
    with pytest.raises(FormatError, match="mxfp4 has no biases"):
        from_mlx(w, np.ones((2, 2), np.uint8), ones, mode="mxfp4")
    with pytest.raises(FormatError, match="mxfp4 has no global_scale"):
        from_mlx(w, np.ones((2, 2), np.uint8), mode="mxfp4", global_scale=np.ones(1))


@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        (recipes.mxfp4, 48), (recipes.nf4, 64), (recipes.mxfp8_e5m2, 64), (recipes.mxfp6_e2m3, 64),
        (recipes.float8_row, 64), (recipes.int4_g32_f16, 40), (recipes.mxint8, 64),
    ],
    ids=repr,
)  # fmt: skip
def test_what_it_cannot_hold_is_refused(recipe, columns):
    with pytest.raises(UnsupportedError, match=r"MLX holds.*To go on: "):
        to_mlx(cast_array(np.ones((2, columns), np.float32), recipe))
