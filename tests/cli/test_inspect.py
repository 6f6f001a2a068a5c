"""`breccia inspect`: what it prints of sound checkpoints and of others, and that it is quick."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from breccia.cli.main import app
from breccia.demo.weights import find_model
from breccia.errors import UnsupportedError
from tests.checkpoint.models import MODELS, NAMES, deepseek, write
from tests.checkpoint.test_gguf import smollm


def printed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_layers_share_a_row(tmp_path: Path) -> None:
    stored, config, _ = deepseek()
    text = printed(write(tmp_path, stored, config))
    (row,) = [line.split() for line in text.splitlines() if line.startswith("model.layers.*.mlp.up_proj.weight")]
    assert row[1:] == ["x2", "192x320", "deepseek_v3", "F8_E4M3", "float8_128x128", "8.003"]
    assert "announced as fp8" in text
    (total,) = [line.split() for line in text.splitlines() if line.startswith("total")]
    assert total[1:3] == ["4", f"{2 * 192 * 320 + 257:,}"]


def test_every_tensor_and_some_tensors(tmp_path: Path) -> None:
    stored, config, _ = deepseek()
    folder = write(tmp_path, stored, config)
    assert all(f"\n{name}.weight " in printed(folder, "--every") for name in NAMES)
    text = printed(folder, "--every", "--only", "layers.1")
    assert NAMES[1] in text
    assert NAMES[0] not in text


@pytest.mark.parametrize("model", MODELS)
def test_json(model: str, tmp_path: Path) -> None:
    convention, make = MODELS[model]
    stored, config, weights = make()
    said = json.loads(printed(write(tmp_path, stored, config), "--json"))
    found = {each["name"]: each for each in said["weights"]}
    for name, st in weights.items():
        assert (found[name]["convention"], found[name]["shape"]) == (convention, list(st.shape))
    assert said["bytes"] == sum(np.asarray(x).nbytes for x in stored.values())
    assert said["bytes"] == sum(each["bytes"] for each in said["totals"])
    assert said["problems"] == []


def test_problems_are_listed_and_are_exit_code_1(tmp_path: Path) -> None:
    stored, config, _ = deepseek()
    del stored[f"{NAMES[1]}.weight_scale_inv"]
    folder = write(tmp_path, stored, config)
    text = printed(folder, code=1)
    assert f"problem: {NAMES[1]}.weight is F8_E4M3 and has no scale tensor" in text
    said = json.loads(printed(folder, "--json", code=1))
    assert [each["name"] for each in said["weights"] if each["problem"]] == [f"{NAMES[1]}.weight"]


def test_what_cannot_be_opened_is_exit_code_2(tmp_path: Path) -> None:
    assert "does not exist" in printed(tmp_path / "none", code=2)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    assert "no safetensors file" in printed(tmp_path, code=2)


def test_real_models() -> None:
    """MiniLM in float32, and SmolLM2 in Q4_1."""
    try:
        said = json.loads(printed(find_model(), "--json"))
        assert {w["convention"] for w in said["weights"]} == {"plain"}
        assert (len(said["weights"]), round(said["values"] / 1e6, 1)) == (104, 22.7)
    except UnsupportedError as error:
        pytest.skip(str(error))
    said = json.loads(printed(smollm(), "--json"))
    assert (len(said["weights"]), said["values"]) == (272, 134_515_008)
    assert {(t["recipe"], t["weights"]) for t in said["totals"] if t["convention"] == "gguf"} == {
        ("uint4, float16 per 1x32, offset float16", 210), ("int8, float16 per 1x32", 1),
    }  # fmt: skip


@pytest.mark.parametrize("model", ["deepseek_v3", "compressed_tensors uint4", "gptq", "modelopt nvfp4", "bitsandbytes"])
def test_a_thousand_tensors_take_under_a_second(model: str, tmp_path: Path) -> None:
    stored, config, weights = MODELS[model][1]()
    first = next(iter(weights)).removesuffix(".weight")
    parts = {t.removeprefix(first): x for t, x in stored.items() if t.startswith(first)}
    count = -(-1000 // len(parts))
    many = {f"model.layers.{i}.w{part}": x for i in range(count) for part, x in parts.items()}
    folder = write(tmp_path, many, config, 4)
    seconds: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        assert f"x{count}" in printed(folder)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0
