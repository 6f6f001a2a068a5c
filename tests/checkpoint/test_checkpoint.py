"""Checkpoints of every convention: opened, described without their data, read to the very bits; and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import FormatError, ScaledTensor, recipes
from breccia.bridges.safetensors_file import write_file
from breccia.checkpoint import open_checkpoint
from tests.checkpoint.models import MODELS, NAMES, compressed, deepseek, gptq, modelopt, values, write

FIRST = f"{NAMES[0]}.weight"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_every_convention(model: str, shards: int, tmp_path: Path) -> None:
    convention, make = MODELS[model]
    stored, config, weights = make()
    with open_checkpoint(write(tmp_path, stored, config, shards)) as checkpoint:
        assert checkpoint.conventions == (convention, "plain")
        assert checkpoint.problems == ()
        assert weights.keys() <= checkpoint.keys()
        assert sorted(t for w in checkpoint.weights.values() for t in w.tensors) == sorted(stored)
        for name, wanted in weights.items():
            said, found = checkpoint.weights[name], checkpoint[name]
            assert isinstance(found, ScaledTensor)
            assert (said.shape, said.recipe) == (wanted.shape, found.recipe)
            assert found.dequantize("float32").tobytes() == wanted.dequantize("float32").tobytes()
            held = sum(np.asarray(stored[t]).nbytes for t in said.tensors)
            assert said.bits_per_value == 8 * held / wanted.size
        assert np.asarray(checkpoint["model.norm.weight"]).dtype == ml_dtypes.bfloat16


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that keep their bytes are views of the file."""
    stored, config, weights = deepseek()
    with open_checkpoint(write(tmp_path, stored, config)) as checkpoint:
        found = checkpoint[FIRST]
        assert isinstance(found, ScaledTensor)
        assert not found.data.flags.writeable
        assert not found.data.flags.owndata
    assert found == weights[FIRST]  # also after it is closed


def test_its_own_files(tmp_path: Path) -> None:
    weights = {
        "a": breccia.cast(values((4, 100)), recipes.nvfp4),
        "b": breccia.cast(values((4, 64)), recipes.int4_g32_f16),
    }
    breccia.save_safetensors(
        {**weights, "bias": np.arange(3), "raw": np.ones(2, ml_dtypes.float8_e4m3fn)}, tmp_path / "model.safetensors"
    )
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.conventions == ("breccia", "plain")
            assert {name: checkpoint[name] for name in weights} == weights
            assert checkpoint.weights["a"].recipe == recipes.nvfp4
            assert checkpoint.weights["a"].bits_per_value == weights["a"].bits_per_value


def test_scales_of_powers_of_two_as_e8m0_called_scale(tmp_path: Path) -> None:
    """DeepSeek-V4's spelling."""
    data, scale = values((128, 128)).astype(ml_dtypes.float8_e4m3fn), np.full((1, 1), 120, np.uint8)
    stored = {"l.weight": data, "l.scale": scale.view(ml_dtypes.float8_e8m0fnu)}
    with open_checkpoint(write(tmp_path, stored, {"quant_method": "fp8"})) as checkpoint:
        assert np.array_equal(checkpoint["l.weight"].numpy(), data.astype(np.float32) * np.float32(2.0**-7))


def test_fused_experts_of_modelopt(tmp_path: Path) -> None:
    """One outer scale for each expert, and parts behind the name of the weight."""
    experts = [breccia.to_modelopt(breccia.cast(values((16, 64), seed), recipes.nvfp4)) for seed in range(3)]
    stacked = {part: np.stack([np.asarray(e[part]) for e in experts]) for part in experts[0]}
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stored = {
        name: stacked["weight"], f"{name}_weight_scale": stacked["weight_scale"],
        f"{name}_weight_scale_2": stacked["weight_scale_2"], f"{name}_input_scale": np.ones(3, np.float32),
    }  # fmt: skip
    with open_checkpoint(write(tmp_path, stored, {"quant_method": "modelopt"}, 2)) as checkpoint:
        assert list(checkpoint) == [name, f"{name}_input_scale"]
        wanted = [breccia.from_modelopt(e).dequantize("float32") for e in experts]
        assert np.array_equal(checkpoint[name].dequantize("float32"), np.stack(wanted))


def test_quantizations_of_the_other_configuration_files(tmp_path: Path) -> None:
    stored, config, weights = gptq(1)()
    write(tmp_path / "a", stored)
    (tmp_path / "a" / "quantize_config.json").write_text(json.dumps(config))
    stored_b, _, weights_b = modelopt(recipes.nvfp4)()
    write(tmp_path / "b", stored_b)
    (tmp_path / "b" / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    for folder, wanted in (("a", weights), ("b", weights_b)):
        with open_checkpoint(tmp_path / folder) as checkpoint:
            assert np.array_equal(checkpoint[FIRST].dequantize("float32"), wanted[FIRST].dequantize("float32"))


def test_groups_of_compressed_tensors_by_module(tmp_path: Path) -> None:
    stored, config, _ = compressed(recipes.int4_g128_f16)()
    other = breccia.cast(values((64, 256), 5), recipes.int8_row)
    tensors, scheme = breccia.to_compressed_tensors(other)
    stored |= {f"model.head.{part}": x for part, x in tensors.items()}
    config["config_groups"]["group_1"] = {"targets": ["re:.*head$"], "weights": scheme["weights"]}
    with open_checkpoint(write(tmp_path, stored, config)) as checkpoint:
        assert np.array_equal(checkpoint["model.head.weight"].dequantize("float32"), other.dequantize("float32"))
        assert checkpoint.weights[FIRST].recipe.element.bits == 4


# -- what is not sound -------------------------------------------------------------------------------------------------


def refusal(folder: Path, stored: dict[str, Any], config: dict[str, Any] | None) -> str:
    """The error of a checkpoint, which opens without `strict` and has the same problems."""
    write(folder, stored, config)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(folder)
    with open_checkpoint(folder, strict=False) as checkpoint:
        assert checkpoint.problems
        assert all(problem in str(caught.value) for problem in checkpoint.problems[:8])
        for weight in checkpoint.weights.values():
            if weight.problem:
                with pytest.raises(FormatError, match="cannot be read"):
                    checkpoint[weight.name]
    return str(caught.value)


MISSING = [
    (model, part)
    for model, parts in {
        "deepseek_v3": ("weight", "weight_scale_inv"),
        "deepseek_v3 fused": ("_scale_inv",),
        "compressed_tensors uint4": ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape"),
        "compressed_tensors nvfp4": ("weight_packed", "weight_scale"),
        "modelopt nvfp4": ("weight", "weight_scale", "weight_scale_2"),
        "modelopt fp8": ("weight", "weight_scale"),
        "gptq": ("qweight", "qzeros", "scales"),
        "awq": ("qzeros", "scales"),
        "bitsandbytes": ("weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"),
        "gpt_oss": ("_scales", "_blocks"),
    }.items()
    for part in parts
]


@pytest.mark.parametrize(("model", "part"), MISSING)
def test_a_part_that_is_missing(model: str, part: str, tmp_path: Path) -> None:
    stored, config, weights = MODELS[model][1]()
    name = next(iter(weights)).removesuffix(".weight")
    del stored[name + (part if part.startswith("_") else f".{part}")]
    assert name in refusal(tmp_path, stored, config)


@pytest.mark.parametrize("model", [m for m in MODELS if m != "modelopt fp8"])
def test_scales_of_another_shape(model: str, tmp_path: Path) -> None:
    stored, config, weights = MODELS[model][1]()
    name = next(iter(weights)).removesuffix(".weight")
    part = next(
        t for t in stored
        if t.startswith(name) and t.rsplit(".", 1)[1].endswith(("scale", "scales", "scale_inv", "absmax"))
        and np.asarray(stored[t]).size > 1
    )  # fmt: skip
    stored[part] = np.concatenate([np.asarray(stored[part])] * 2)
    assert name in refusal(tmp_path, stored, config)


@pytest.mark.parametrize("spelling", ["scale_weight", "weight_descale", "w_scale_inv", "pre_quant_scale"])
@pytest.mark.parametrize("model", ["deepseek_v3", "modelopt nvfp4", "compressed_tensors int4"])
def test_a_scale_that_nobody_would_apply(model: str, spelling: str, tmp_path: Path) -> None:
    stored, config, _ = MODELS[model][1]()
    stored[f"{NAMES[0]}.{spelling}"] = np.ones((), np.float32)
    assert spelling in refusal(tmp_path, stored, config)


@pytest.mark.parametrize("spelling", ["scale_weight", "descale", "weight_multiplier"])
def test_fp8_whose_scale_is_called_otherwise(spelling: str, tmp_path: Path) -> None:
    data = values((16, 32)).astype(ml_dtypes.float8_e4m3fn)
    said = refusal(tmp_path, {"l.weight": data, f"l.{spelling}": np.ones((), np.float32)}, None)
    assert "l.weight is F8_E4M3 and has no scale tensor" in said


def test_a_configuration_that_says_otherwise(tmp_path: Path) -> None:
    stored, _, _ = deepseek()
    assert "deepseek_v3" in refusal(tmp_path / "a", stored, {"quant_method": "modelopt"})
    assert "'new' is not known" in refusal(tmp_path / "b", stored, {"quant_method": "new"})
    plain = {"l.weight": values((4, 4))}
    assert "no weight has the tensors" in refusal(tmp_path / "c", plain, {"quant_method": "fp8"})
    stored, _, _ = gptq(1)()
    assert "version 1 and 2 look alike" in refusal(tmp_path / "d", stored, None)
    stored, config, _ = compressed(recipes.int4_g128_f16)()
    config["config_groups"]["group_0"]["weights"]["group_size"] = 64
    assert NAMES[0] in refusal(tmp_path / "e", stored, config)
    config["config_groups"]["group_0"]["weights"]["group_size"] = "64"
    assert "group_size" in refusal(tmp_path / "f", stored, config)


def test_names_that_only_look_like_scales_are_plain(tmp_path: Path) -> None:
    stored = {n: values((8,)) for n in ("norm.scale", "layer_scale", "blk.logit_scale", "a.scales", "attn.k_scale")}
    with open_checkpoint(write(tmp_path, stored)) as checkpoint:
        assert checkpoint.conventions == ("plain",)
        assert list(checkpoint) == sorted(stored)


def test_indices_that_do_not_fit_their_shards(tmp_path: Path) -> None:
    stored, config, _ = deepseek()
    folder = write(tmp_path, stored, config, 2)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]

    def refused(weight_map: Any) -> str:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(FormatError) as caught:
            open_checkpoint(folder)
        return str(caught.value)

    name = next(iter(good))
    assert "which is not there" in refused(good | {name: "model-00009.safetensors"})
    assert "beside the index" in refused(good | {name: "../model-00001-of-00002.safetensors"})
    assert "it is in none" in refused(good | {"x": good[name]})
    assert "does not list" in refused({t: f for t, f in good.items() if t != name})
    assert "no index" in refused([name])
    index.unlink()
    write_file(folder / "more.safetensors", {name: stored[name]})
    with pytest.raises(FormatError, match="which one holds"):
        open_checkpoint(folder)


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(FormatError, match=r"no \.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(FormatError, match="no safetensors file"):
        open_checkpoint(tmp_path / "model.bin")
