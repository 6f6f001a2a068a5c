"""`compare` and `breccia verify`: values across formats, differences found wherever they are, bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import breccia
from breccia import FormatError, ScaledTensor, recipes
from breccia.bridges.safetensors_file import write_file
from breccia.checkpoint import compare as module
from breccia.checkpoint import open_checkpoint
from breccia.checkpoint.compare import Comparison, compare
from breccia.cli.main import app
from tests.checkpoint.models import MODELS, NAMES, deepseek, modules, values, write
from tests.checkpoint.test_gguf import smollm

FIRST = f"{NAMES[0]}.weight"


def compared(a: Path, b: Path) -> dict[str, Comparison]:
    with open_checkpoint(a) as one, open_checkpoint(b) as two:
        return {each.name: each for each in compare(one, two)}


def saved(folder: Path, **tensors: object) -> Path:
    folder.mkdir(exist_ok=True)
    breccia.save_safetensors(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_is_equal_to_its_values(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in runs of one block of rows; and one code that changed is found, in whatever run it is."""
    stored, config, weights = MODELS[model][1]()
    roots = tuple(name.removesuffix(".weight") for name in weights)
    plain = {name: x for name, x in stored.items() if not name.startswith(roots)}
    plain |= {n: x for n, x in stored.items() if n.endswith("_bias")}
    a = write(tmp_path / "a", stored, config, 2)
    b = write(tmp_path / "b", {**plain, **{name: st.dequantize("float32") for name, st in weights.items()}})
    changed = {name: np.array(st.dequantize("float32")) for name, st in weights.items()}
    name = list(changed)[-1]
    changed[name][..., -1, -1] += 1
    c = write(tmp_path / "c", {**plain, **changed})
    for run in (module.RUN, 1):
        monkeypatch.setattr(module, "RUN", run)
        assert {each.verdict for each in compared(a, b).values()} == {"equal"}
        found = compared(a, c)
        count = changed[name].size // changed[name].shape[-1] // changed[name].shape[-2]
        assert {each.name for each in found.values() if each.verdict != "equal"} == {name}
        assert found[name].unequal == count
        assert found[name].largest == pytest.approx(1, abs=1e-6)
        norm = np.linalg.norm(weights[name].dequantize("float64").astype(np.float64))
        assert found[name].relative == pytest.approx(count**0.5 / norm, rel=1e-5)


@pytest.mark.parametrize("recipe", breccia.all_recipes())
def test_runs_of_rows_are_the_rows(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((300, 160), (5, 48, 96), (3, 70)):
        x = breccia.cast(values(shape), breccia.all_recipes()[recipe])
        wanted = x.dequantize("float32")
        monkeypatch.setattr(module, "RUN", 1)
        runs = list(module._runs(shape, module._border(x)))
        made = [module._values(x, run) for run in runs]
        assert np.array_equal(np.concatenate(made), wanted)
        assert len(runs) == -(-shape[0] // module._border(x))


def test_two_formats_of_the_same_codes(tmp_path: Path) -> None:
    weights = modules(recipes.nvfp4)
    one = {f"{n}.{part}": x for n, st in weights.items() for part, x in breccia.to_modelopt(st).items()}
    a = write(tmp_path / "a", one, {"quant_method": "modelopt"})
    b = saved(tmp_path / "b", **{f"{n}.weight": st for n, st in weights.items()})
    assert {each.verdict for each in compared(a, b).values()} == {"equal"}


def test_numbers_that_are_special(tmp_path: Path) -> None:
    nan, inf = np.nan, np.inf
    a = np.array([[nan, inf, 0.0, 1.0], [nan, -inf, 2.0, 3.0]], np.float32)
    b = np.array([[nan, inf, -0.0, 1.0], [1.0, inf, 2.0, 3.0]], np.float32)
    one = saved(tmp_path / "a", w=a, i=np.array([[2**62]]), s=np.float32(1).reshape(()), e=np.zeros((0, 4)))
    two = saved(tmp_path / "b", w=b, i=np.array([[2**62 + 1]]), s=np.float32(1).reshape(()), e=np.zeros((0, 4)))
    found = compared(one, two)
    assert (found["w"].verdict, found["w"].unequal, found["w"].largest) == ("differs", 2, inf)
    assert not found["w"].within(1e30)
    assert (found["i"].verdict, found["i"].unequal) == ("differs", 1)
    assert found["i"].within(1e-9)
    assert not found["i"].within(0)
    assert found["s"].verdict == found["e"].verdict == "equal"
    assert compared(one, one)["w"].verdict == "equal"


def test_an_infinite_value_hides_no_difference(tmp_path: Path) -> None:
    one = saved(tmp_path / "a", w=np.array([np.inf, 1.0], np.float32))
    two = saved(tmp_path / "b", w=np.array([np.inf, 2.0], np.float32))
    found = compared(one, two)["w"]
    assert (found.unequal, found.largest, found.relative) == (1, 1.0, 1.0)


def test_memory_is_that_of_a_run_not_of_the_values(tmp_path: Path) -> None:
    data = np.full((4096, 4096), 56, np.uint8).view(ml_dtypes.float8_e4m3fn)  # 16 MiB, 64 as float32
    tensors = {"w.weight": data, "w.weight_scale_inv": np.ones((32, 32), np.float32)}
    a = write(tmp_path / "a", tensors, {"quant_method": "fp8"})
    write_file(tmp_path / "b.safetensors", {"w.weight": np.ones((4096, 4096), ml_dtypes.bfloat16)})
    compared(a, tmp_path / "b.safetensors")  # tables that are made once
    tracemalloc.start()
    found = compared(a, tmp_path / "b.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["w.weight"].verdict == "equal"
    assert peak < 40 << 20


# -- the command -------------------------------------------------------------------------------------------------------


def verified(*arguments: object, code: int) -> str:
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_exit_codes(tmp_path: Path) -> None:
    stored, config, weights = deepseek()
    a = write(tmp_path / "a", stored, config)
    assert "equal 4/4" in verified(a, a, code=0)
    near = {name: st.dequantize("float32") * np.float32(1.001) for name, st in weights.items()}
    b = saved(tmp_path / "b", **near, extra=np.zeros(1))
    text = verified(a, b, code=1)
    assert "equal 0/5" in text
    assert "only in A" in text
    assert "only in B" in text
    assert "equal 0/2" in verified(a, b, "--common", code=1)
    assert "equal 0/2, within 0.01 2/2" in verified(a, b, "--common", "--tolerance", "0.01", code=0)
    assert "0.001" in verified(a, b, "--only", "layers.1", "--tolerance", "0.0001", code=1)
    assert "nothing was compared" in verified(a, b, "--only", "none", code=1)
    assert "does not exist" in verified(a, tmp_path / "none", code=2)
    del stored[f"{FIRST}_scale_inv"]
    assert "has no scale tensor" in verified(a, write(tmp_path / "c", stored, config), code=2)


def test_another_shape(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a", w=np.zeros((2, 3))), saved(tmp_path / "b", w=np.zeros((3, 2)))
    assert "another shape" in verified(a, b, code=1)


def test_names_of_another_format(tmp_path: Path) -> None:
    x, y = values((2, 3)), values((2, 3), 1)
    a = saved(tmp_path / "a", **{"model.layers.0.up.weight": x, "model.layers.1.up.weight": y})
    b = saved(tmp_path / "b", **{"blk.0.up.weight": x, "blk.1.up.weight": y})
    assert "equal 2/2" in verified(a, b, "--rename", r"^blk\.=model.layers.", code=0)
    assert "no '='" in verified(a, b, "--rename", "blk", code=2)
    assert "no regular expression" in verified(a, b, "--rename", "(=x", code=2)
    assert "no regular expression" in verified(a, b, "--rename", r"x=\3", code=2)
    assert "would both be called" in verified(a, b, "--rename", r"\d=0", code=2)
    with open_checkpoint(a) as one, open_checkpoint(b) as two, pytest.raises(FormatError):
        list(compare(one, two, rename=lambda name: "w"))


def test_a_real_model(tmp_path: Path) -> None:
    """SmolLM2's Q4_1 against breccia's file of the same, whole; then with one scale that is another."""
    path = smollm()
    with open_checkpoint(path) as checkpoint:
        tensors = dict(checkpoint.items())
        breccia.save_safetensors(tensors, tmp_path / "a.safetensors")
        name = "blk.7.ffn_up.weight"
        st = tensors[name]
        assert isinstance(st, ScaledTensor)
        scale = np.array(st.scale)
        scale[5, 3] = np.nextafter(scale[5, 3], np.float16(1))
        changed = ScaledTensor(st.data, scale, st.recipe, shape=st.shape, offset=st.offset)
        breccia.save_safetensors({**tensors, name: changed}, tmp_path / "b.safetensors")
    assert "equal 272/272" in verified(path, tmp_path / "a.safetensors", code=0)
    text = verified(path, tmp_path / "b.safetensors", code=1)
    assert "equal 271/272" in text
    assert name in text
