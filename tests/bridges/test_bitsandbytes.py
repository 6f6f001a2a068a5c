"""bitsandbytes: `quantize_4bit` and `dequantize_4bit` on the CPU, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from breccia import recipes
from breccia.bridges import from_bitsandbytes, to_bitsandbytes
from breccia.errors import FormatError, UnsupportedError
from breccia.tensor import cast_array
from tests.peers.compare import load, need

X = (np.random.default_rng(0).standard_normal((48, 256)) * 3).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def peer() -> str:
    return need("bitsandbytes", "torch")


def quantized(x: np.ndarray = X, kind: str = "nf4", size: int = 64, nested: bool = False) -> tuple[Any, Any]:
    import torch

    functional = load("bitsandbytes.functional")
    return functional.quantize_4bit(
        torch.from_numpy(x), blocksize=size, quant_type=kind, compress_statistics=nested
    )  # fmt: skip


def theirs(weight: Any, state: Any) -> np.ndarray:
    return load("bitsandbytes.functional").dequantize_4bit(weight, state).numpy()


def stored(weight: Any, state: Any) -> dict[str, Any]:
    """As a checkpoint holds it."""
    return {"weight": weight} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_values(kind, size, nested):
    weight, state = quantized(kind=kind, size=size, nested=nested)
    st = from_bitsandbytes(stored(weight, state))
    assert (st.shape, st.recipe.blocks(2), st.library) == ((48, 256), ((1, size),), "torch")
    np.testing.assert_array_equal(st.numpy(), theirs(weight, state))
    if kind == "nf4":  # fp4's second zero has no sign in its codebook, but in the kernel of the CPU
        assert st.numpy().tobytes() == theirs(weight, state).tobytes()
    assert from_bitsandbytes({"weight": weight}, state) == st


def test_nf4_is_our_recipe():
    weight, state = quantized()
    assert from_bitsandbytes(stored(weight, state)).recipe == recipes.nf4


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_same_bits_come_back_and_load_there(kind):
    weight, state = quantized(kind=kind)
    tensors = stored(weight, state)
    st = from_bitsandbytes(tensors)
    back = to_bitsandbytes(st)
    assert set(back) == set(tensors)
    for name in ("weight", "weight.absmax", "weight.quant_map"):
        assert back[name].dtype == tensors[name].dtype
        assert back[name].tolist() == tensors[name].tolist()
    again = load("bitsandbytes.functional").QuantState.from_dict(
        {k.removeprefix("weight."): v for k, v in back.items() if k != "weight"}, device="cpu"
    )
    np.testing.assert_array_equal(theirs(back["weight"], again), st.numpy())
    assert from_bitsandbytes(back) == st


def test_short_rows_share_a_block():
    x = X.reshape(-1, 32)
    weight, state = quantized(x)
    st = from_bitsandbytes(stored(weight, state))
    assert st.recipe.blocks(2) == ((2, 32),)
    np.testing.assert_array_equal(st.numpy(), theirs(weight, state))
    assert to_bitsandbytes(st)["weight.absmax"].tolist() == state.absmax.tolist()


def test_rows_that_blocks_cross_are_refused():
    weight, state = quantized(X[:, :96].copy())
    with pytest.raises(UnsupportedError, match=r"cross the rows of shape .* Decode it with bitsandbytes"):
        from_bitsandbytes(stored(weight, state))


def test_the_high_nibble_comes_first():
    weight, state = quantized(np.tile(np.array([[1.0, -1.0]], np.float32), (1, 32)))
    assert int(weight[0, 0]) == 0xF0
    assert from_bitsandbytes(stored(weight, state)).numpy()[0, :2].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"weight.absmax": None}, "there is no tensor 'absmax'"),
        ({"weight.quant_state.bitsandbytes__nf4": None}, "there is no tensor quant_state"),
        ({"weight.quant_state.bitsandbytes__nf4": np.frombuffer(b"{", np.uint8)}, "is no JSON"),
        ({"weight.quant_state.bitsandbytes__nf4": np.frombuffer(b"{}", np.uint8)}, "must say quant_type"),
        ({"weight.SCB": np.ones(3)}, "does not know the tensor SCB"),
        ({"weight.absmax": np.ones(3, np.float32)}, "takes 6144 bytes and 192 absmax; got 6144 and 3"),
        ({"weight.quant_map": np.ones(8, np.float32)}, "must have 16 values"),
        ({"weight.nested_absmax": np.ones(1), "weight.nested_quant_map": np.ones(256)}, "must be uint8"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(change, text):
    tensors = {name: x for name, x in (stored(*quantized()) | change).items() if x is not None}
    with pytest.raises(FormatError, match=text):
        from_bitsandbytes({name: np.asarray(x) for name, x in tensors.items()})


@pytest.mark.parametrize("recipe", [recipes.int4_g64_f32, recipes.mxfp4, recipes.nvfp4], ids=repr)
def test_what_it_cannot_hold_is_refused(recipe):
    with pytest.raises(UnsupportedError, match=r"bitsandbytes holds.*recipes\.nf4"):
        to_bitsandbytes(cast_array(X, recipe))
    with pytest.raises(UnsupportedError, match="bitsandbytes holds"):
        to_bitsandbytes(cast_array(X, recipes.nf4, axis=0))
    with pytest.raises(UnsupportedError, match="bitsandbytes holds"):
        to_bitsandbytes(cast_array(X[:, :96], recipes.nf4))
