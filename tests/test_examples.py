"""The programs in examples/ run, on every library that is installed, and find what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from breccia import recipes
from tests.optional import MODULES, need

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = re.findall(r'example\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(tested)


@pytest.mark.parametrize("library", MODULES)
def test_quickstart(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(library)
    example("01_quickstart").main(library)
    printed = capsys.readouterr().out
    assert "8.25 bits per value" in printed
    assert float(re.findall(r"cosine with the product in float32: (\S+)", printed)[0]) > 0.9995
    assert "fuses     matmul -> silu" in printed


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_recipe_portable_training(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(library)
    example("02_recipe_portable_training").main(library, recipes.mxfp8_e4m3, recipes.nvfp4, steps=40)
    printed = capsys.readouterr().out
    before, full, trained, shipped, rounded = map(float, re.findall(r"(\d\.\d+) nats", printed))
    assert full < before - 2
    assert max(abs(value - full) for value in (trained, shipped, rounded)) < 0.05
    assert "4.5 bits a weight" in printed


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100"])
def test_kernels(architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    example("03_kernels").main(architecture)
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^triton:(\w+) +(scales at .*)$", printed, re.MULTILINE))
    assert rows["sm_90"].split() == ["scales", "at", "operand", "and", "operand", "dot"]
    assert rows["sm_100"].split() == ["scales", "at", "mma", "and", "mma", "dot_scaled"]
    assert f"layer for triton:{architecture}: 2 kernels" in printed
    assert "@triton.jit\ndef _gemm_0(" in printed


def test_te_migration(capsys: pytest.CaptureFixture[str]) -> None:
    need("torch")
    example("04_te_migration").main()
    printed = capsys.readouterr().out
    assert "recipe=<recipe mxfp8_e4m3>" in printed
    assert "the same bits: True" in printed
    assert "compressed-tensors: mxfp8-quantized, weight, weight_scale" in printed
    assert "GGUF: GGUF holds" in printed
