"""TransformerEngine's tensors. It needs CUDA to build, so these are stand-ins with the attributes, shapes, padding and
orders of its source (d0067d0); values are computed element by element from what that source says.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import recipes
from breccia.bridges import from_transformer_engine, to_transformer_engine
from breccia.errors import FormatError, RecipeError, UnsupportedError
from breccia.tensor import cast_array

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


DType = IntEnum("DType", {"kFloat8E4M3": 7, "kFloat8E5M2": 8, "kFloat4E2M1": 10})


class StandIn:
    """What TE's constructors do: keep each argument as an attribute."""

    def __init__(self, **arguments: Any) -> None:
        self._quantizer = None
        for name, value in arguments.items():
            setattr(self, {"shape": "shape", "dtype": "_dtype"}.get(name, f"_{name}"), value)


class Float8Tensor(StandIn):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._scale_inv = arguments["fp8_scale_inv"]
        self._transpose = arguments.get("data_transpose")
        self._transpose_invalid = self._transpose is None


class Float8BlockwiseQTensor(StandIn): ...


class MXFP8Tensor(StandIn): ...


class MXFP8TensorStorage(StandIn): ...


class NVFP4Tensor(StandIn): ...


CLASSES = {
    "float8_tensor": Float8Tensor, "float8_blockwise_tensor": Float8BlockwiseQTensor, "mxfp8_tensor": MXFP8Tensor,
    "nvfp4_tensor": NVFP4Tensor,
}  # fmt: skip


@pytest.fixture
def te(monkeypatch):
    """A package of stand-ins under TransformerEngine's names."""
    for name in ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.tensor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, cls in CLASSES.items():
        module = ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, f"transformer_engine.pytorch.tensor.{name}", module)
    extension = ModuleType("transformer_engine_torch")
    extension.DType = DType
    monkeypatch.setitem(sys.modules, "transformer_engine_torch", extension)


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def tensor(x: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x))


def fp8(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 50).astype(ml_dtypes.float8_e4m3fn)


def garbage(shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Padding of any content: nobody may read it."""
    return RNG.integers(1, 100, shape).astype(dtype)


def spread(grid: np.ndarray, block: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    return np.repeat(np.repeat(grid, block[0], 0), block[1], 1)[: shape[0], : shape[1]]


# --- FP8 ---


def test_float8_tensor():
    data = fp8(5, 7)
    t = Float8Tensor(
        data=tensor(data.view(np.uint8)), fp8_scale_inv=torch.tensor([0.25]), fp8_dtype=DType.kFloat8E4M3,
        dtype=torch.bfloat16,
    )  # fmt: skip
    st = from_transformer_engine(t)
    assert (st.recipe, st.dtype.name) == (recipes.float8_tensor, "bfloat16")
    np.testing.assert_array_equal(st.dequantize("float32").numpy(), data.astype(np.float32) * 0.25)
    assert st.data.data_ptr() == t._data.data_ptr()
    t._data, t._transpose, t._transpose_invalid = None, tensor(data.view(np.uint8).T), False
    assert from_transformer_engine(t) == st
    t._transpose_invalid = True
    with pytest.raises(FormatError, match="neither _data nor a valid _transpose"):
        from_transformer_engine(t)


def test_float8_tensor_of_e5m2():
    data = fp8(4, 4).astype(ml_dtypes.float8_e5m2)
    t = Float8Tensor(
        data=tensor(data.view(np.uint8)), fp8_scale_inv=torch.tensor([3.0]), fp8_dtype=DType.kFloat8E5M2,
        dtype=torch.float32,
    )  # fmt: skip
    np.testing.assert_array_equal(from_transformer_engine(t).numpy(), data.astype(np.float32) * 3)


# --- FP8 by blocks ---


def blockwise(data: np.ndarray, grid: np.ndarray, square: bool, columnwise: bool) -> Float8BlockwiseQTensor:
    """grid: scales of (M, K) data by 128x128, by 1x128 rowwise, or by 128x1 columnwise."""
    m, k = data.shape
    if square:
        laid = grid.T if columnwise else grid
    else:
        laid = grid if columnwise else grid.T  # (ceil(M / 128), K) or (ceil(K / 128), M)
    padded = garbage((laid.shape[0], up(laid.shape[1], 4)), np.float32)
    padded[:, : laid.shape[1]] = laid
    octets = tensor((data.T if columnwise else data).view(np.uint8))
    copies = {"rowwise_data": None, "rowwise_scale_inv": None, "columnwise_data": None, "columnwise_scale_inv": None}
    which = "columnwise" if columnwise else "rowwise"
    copies |= {f"{which}_data": octets, f"{which}_scale_inv": tensor(padded)}
    return Float8BlockwiseQTensor(
        **copies, is_2D_scaled=square, fp8_dtype=DType.kFloat8E4M3, dtype=torch.float32, shape=(m, k)
    )


@pytest.mark.parametrize("columnwise", [False, True])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("shape", [(256, 384), (192, 576), (256, 256), (3, 130)])
def test_float8_blockwise(shape, square, columnwise):
    data = fp8(*shape)
    block = (128, 128) if square else (128, 1) if columnwise else (1, 128)
    grid = (RNG.random([-(-n // b) for n, b in zip(shape, block, strict=True)]) + 0.5).astype(np.float32)
    t = blockwise(data, grid, square, columnwise)
    st = from_transformer_engine(t)
    np.testing.assert_array_equal(st.numpy(), data.astype(np.float32) * spread(grid, block, shape))
    assert st.recipe.blocks(2) == (block,)


@pytest.mark.parametrize("name", ["float8_128x128", "float8_1x128", "float8_tensor"])
def test_float8_comes_back(name, te):
    st = cast_array(torch.randn(192, 576), recipes.find(name), dtype="bfloat16")
    t = to_transformer_engine(st)
    assert t._fp8_dtype is DType.kFloat8E4M3
    assert from_transformer_engine(t) == st
    if name != "float8_tensor":
        assert t._rowwise_scale_inv.shape == ((2, 8) if name == "float8_128x128" else (5, 192))


def test_float8_by_columns_becomes_the_columnwise_copy(te):
    st = cast_array(torch.randn(192, 130), recipes.float8_1x128, axis=0)
    t = to_transformer_engine(st)
    assert (t._rowwise_data, tuple(t._columnwise_data.shape), tuple(t._columnwise_scale_inv.shape)) == (
        None, (130, 192), (2, 132),
    )  # fmt: skip
    assert from_transformer_engine(t) == st


# --- MXFP8 ---


def swizzled(scale: np.ndarray) -> np.ndarray:
    """cuBLAS' 128x4 order of padded scales, entry by entry."""
    rows, columns = scale.shape
    out = np.zeros(scale.size, scale.dtype)
    for r in range(rows):
        for c in range(columns):
            tile = (r // 128) * (columns // 4) + c // 4
            out[tile * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4] = scale[r, c]
    return out.reshape(rows, columns)


def mxfp8(data: np.ndarray, codes: np.ndarray, columnwise: bool, gemm: bool, cls: Any = MXFP8Tensor) -> Any:
    rows, columns = codes.shape
    multiples = (4, 128) if columnwise else (128, 4)
    padded = garbage((up(rows, multiples[0]), up(columns, multiples[1])), np.uint8)
    padded[:rows, :columns] = codes
    if gemm:
        padded = swizzled(padded.T).reshape(padded.shape) if columnwise else swizzled(padded)
    copies = {"rowwise_data": None, "rowwise_scale_inv": None, "columnwise_data": None, "columnwise_scale_inv": None}
    which = "columnwise" if columnwise else "rowwise"
    copies |= {f"{which}_data": tensor(data.view(np.uint8)), f"{which}_scale_inv": tensor(padded)}
    return cls(
        **copies, fp8_dtype=DType.kFloat8E4M3, with_gemm_swizzled_scales=gemm, dtype=torch.bfloat16, shape=data.shape
    )


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("columnwise", [False, True])
@pytest.mark.parametrize("shape", [(64, 160), (256, 256), (160, 32)])
def test_mxfp8(shape, columnwise, gemm):
    data = fp8(*shape)
    block = (32, 1) if columnwise else (1, 32)
    codes = RNG.integers(120, 135, [-(-n // b) for n, b in zip(shape, block, strict=True)]).astype(np.uint8)
    st = from_transformer_engine(mxfp8(data, codes, columnwise, gemm))
    wanted = data.astype(np.float32) * spread(np.exp2(codes.astype(np.float32) - 127), block, shape)
    np.testing.assert_array_equal(st.dequantize("float32").numpy(), wanted)
    assert st.recipe.blocks(2) == (block,)
    assert from_transformer_engine(mxfp8(data, codes, columnwise, gemm, MXFP8TensorStorage)) == st


def test_mxfp8_of_three_axes(te):
    st = cast_array(torch.randn(2, 3, 64), recipes.mxfp8_e4m3)
    t = to_transformer_engine(st)
    assert tuple(t._rowwise_scale_inv.shape) == (128, 4)
    assert from_transformer_engine(t) == st


@pytest.mark.parametrize("axis", [0, 1])
def test_mxfp8_comes_back(axis, te):
    st = cast_array(torch.randn(96, 160), recipes.mxfp8_e4m3, axis=axis)
    t = to_transformer_engine(st)
    assert tuple((t._columnwise_scale_inv if axis == 0 else t._rowwise_scale_inv).shape) == (
        (4, 256) if axis == 0 else (128, 8)
    )
    assert from_transformer_engine(t) == st


def test_the_columnwise_copy_can_be_asked_for():
    both, codes = mxfp8(fp8(64, 64), np.full((64, 2), 127, np.uint8), False, False), np.full((2, 64), 130, np.uint8)
    with pytest.raises(FormatError, match="has no columnwise copy"):
        from_transformer_engine(both, columnwise=True)
    other = mxfp8(fp8(64, 64), codes, True, False)
    both._columnwise_data, both._columnwise_scale_inv = other._columnwise_data, other._columnwise_scale_inv
    assert from_transformer_engine(both, columnwise=True) == from_transformer_engine(other)
    assert from_transformer_engine(both).recipe == recipes.mxfp8_e4m3


# --- NVFP4 ---

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def nvfp4(codes: np.ndarray, inner: np.ndarray, amax: np.ndarray, columnwise: bool = False, **more: Any) -> Any:
    """codes (rows, columns) of 4 bits and E4M3 scales (rows, columns / 16), turned before where columnwise."""
    padded = garbage((up(inner.shape[0], 128), up(inner.shape[1], 4)), np.uint8)
    padded[: inner.shape[0], : inner.shape[1]] = inner.view(np.uint8)
    if more.get("with_gemm_swizzled_scales"):
        padded = swizzled(padded)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    which, other = ("columnwise", "rowwise") if columnwise else ("rowwise", "columnwise")
    copies = {
        f"{which}_data": tensor(packed), f"{which}_scale_inv": tensor(padded), f"amax_{which}": tensor(amax),
        f"{other}_data": None, f"{other}_scale_inv": None, f"amax_{other}": None,
    }  # fmt: skip
    more = {"with_gemm_swizzled_scales": False} | more
    return NVFP4Tensor(**copies, fp4_dtype=DType.kFloat4E2M1, dtype=torch.bfloat16, **more)


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("columnwise", [False, True])
def test_nvfp4(columnwise, gemm):
    codes = RNG.integers(0, 16, (160, 96), np.uint8)
    inner = (RNG.random((160, 6)) * 100 + 1).astype(ml_dtypes.float8_e4m3fn)
    amax = np.array([5376.0], np.float32)  # an outer scale of 2, so that every product is exact
    st = from_transformer_engine(nvfp4(codes, inner, amax, columnwise, with_gemm_swizzled_scales=gemm))
    wanted = E2M1[codes] * spread(inner.astype(np.float32), (1, 16), codes.shape) * 2
    np.testing.assert_array_equal(st.dequantize("float32").numpy(), wanted.T if columnwise else wanted)
    assert st.recipe.blocks(2)[-1] == ((16, 1) if columnwise else (1, 16))


def test_nvfp4_of_four_over_six_has_another_largest_scale():
    codes, inner = np.full((2, 16), 2, np.uint8), np.ones((2, 1), ml_dtypes.float8_e4m3fn)
    amax = np.array([1536.0], np.float32)
    st = from_transformer_engine(nvfp4(codes, inner, amax, nvfp4_use_4over6=True, nvfp4_e4m3_max=256))
    assert set(st.dequantize("float32").numpy().reshape(-1).tolist()) == {1.0}


def test_nvfp4_scaled_by_row():
    codes, inner = np.full((2, 16), 2, np.uint8), np.ones((2, 1), ml_dtypes.float8_e4m3fn)
    st = from_transformer_engine(nvfp4(codes, inner, np.array([2688.0, 5376.0], np.float32), row_scaled_nvfp4=True))
    assert st.dequantize("float32").numpy()[:, 0].tolist() == [1.0, 2.0]


def test_a_rotated_copy_is_refused():
    t = nvfp4(np.zeros((16, 16), np.uint8), np.ones((16, 1), ml_dtypes.float8_e4m3fn), np.ones(1, np.float32), True)
    t._quantizer = SimpleNamespace(with_rht=True)
    with pytest.raises(UnsupportedError, match="random Hadamard transform"):
        from_transformer_engine(t)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("amax", [5376.0, 3.3, 1e-3])
def test_nvfp4_comes_back(amax, axis, te):
    outer = torch.tensor(np.float32(amax) * (np.float32(1) / np.float32(2688)))
    st = cast_array(torch.randn(96, 160) * amax / 10, recipes.nvfp4, axis=axis, scale=(outer, None))
    t = to_transformer_engine(st)
    assert from_transformer_engine(t) == st
    found = t._amax_columnwise if axis == 0 else t._amax_rowwise
    assert abs(float(found) / amax - 1) < 1e-6


def test_an_outer_scale_that_no_amax_gives_is_refused(te):
    """Between 1.53 and 2 times a power of two, one outer scale in three is not the product of any float32 amax."""

    def comes_back(outer):
        st = cast_array(torch.ones(16, 32), recipes.nvfp4, scale=(torch.tensor(outer), None))
        return from_transformer_engine(to_transformer_engine(st)) == st

    assert comes_back(1.25)
    results = []
    for i in range(30):
        try:
            results.append(comes_back(1.75 + i * 2.0**-23))
        except UnsupportedError:
            results.append(None)
    assert False not in results
    assert 5 < results.count(None) < 15
    bad = 1.75 + results.index(None) * 2.0**-23
    with pytest.raises(UnsupportedError, match=r"no float32 amax gives.*requantize"):
        comes_back(bad)


# --- what does not fit ---


def test_what_it_cannot_hold_is_refused(te):
    for recipe in (recipes.mxfp4, recipes.int8_row, recipes.float8_row, recipes.float8_1x128_e8m0, recipes.nvfp4_16x16):
        with pytest.raises(UnsupportedError, match=r"TransformerEngine holds.*breccia\.requantize"):
            to_transformer_engine(cast_array(torch.ones(32, 256), recipe))
    with pytest.raises(UnsupportedError, match="TransformerEngine holds"):
        to_transformer_engine(cast_array(torch.ones(32, 48), recipes.mxfp8_e4m3))


def test_without_it_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_engine", None)
    with pytest.raises(UnsupportedError, match=r"TransformerEngine is not installed.*pip install"):
        to_transformer_engine(cast_array(torch.ones(4, 4), recipes.float8_tensor))


def test_other_classes_are_refused():
    with pytest.raises(UnsupportedError, match=r"cannot read a torch\.Tensor; readable: Float8Tensor"):
        from_transformer_engine(torch.ones(3))


def test_the_recipe_can_be_asked_for_as_in_0_1():
    from breccia.scaling import DelayedScaling

    t = Float8Tensor(
        data=torch.zeros(2, 2, dtype=torch.uint8), fp8_scale_inv=torch.ones(1), fp8_dtype=DType.kFloat8E4M3,
        dtype=torch.float32,
    )  # fmt: skip
    assert from_transformer_engine(t, DelayedScaling()).recipe == DelayedScaling()
    with pytest.raises(RecipeError, match="which is not DelayedScaling"):
        from_transformer_engine(t, DelayedScaling("E5M2"))


def test_scales_that_are_too_few_are_refused():
    t = mxfp8(fp8(64, 64), np.full((64, 2), 127, np.uint8), False, False)
    t._rowwise_scale_inv = t._rowwise_scale_inv[:32]
    with pytest.raises(FormatError, match=r"_rowwise_scale_inv must have at least shape \(64, 2\)"):
        from_transformer_engine(t)
    t._with_gemm_swizzled_scales = True
    with pytest.raises(FormatError, match="128x4 order take 512 bytes"):
        from_transformer_engine(t)
