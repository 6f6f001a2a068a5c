"""The bridges' public names: found lazily, known to type checkers, and those of breccia 0.1."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import breccia
from breccia import bridges

ROOT = Path(breccia.__file__).parent / "bridges"
NAMES_OF_0_1 = {
    "from_transformer_engine", "to_transformer_engine", "from_torchao", "to_torchao", "save_safetensors",
    "load_safetensors", "to_dlpack", "from_dlpack", "from_deepseek_v3", "to_deepseek_v3",
}  # fmt: skip


def test_names_for_type_checkers_are_those_found_at_run_time():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {
        alias.name: node.module.removeprefix("breccia.bridges.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == bridges._HOME_OF
    assert sorted(bridges.__all__) == sorted(typed)


@pytest.mark.parametrize("name", bridges.__all__)
def test_every_name_is_there_and_on_top(name):
    assert getattr(bridges, name) is getattr(breccia, name)


def test_the_names_of_0_1():
    assert set(bridges.__all__) >= NAMES_OF_0_1


def test_every_bridge_has_a_section_in_the_docs():
    text = (ROOT.parents[1] / "docs" / "bridges.md").read_text(encoding="utf-8")
    assert [name for name in bridges.__all__ if f"`{name}" not in text] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"has no attribute 'from_nowhere'; it has: .*from_deepseek_v3"):
        _ = bridges.from_nowhere


def test_looking_up_a_bridge_imports_no_library():
    code = (
        "import sys, breccia\n"
        f"for name in {bridges.__all__!r}: getattr(breccia, name)\n"
        "heavy = {'torch', 'jax', 'mlx', 'xdsl', 'safetensors', 'gguf', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parents[1]
    )
    assert done.returncode == 0, done.stderr


def bridge_files() -> list[Path]:
    shared = {"dlpack", "safetensors", "safetensors_file", "gguf_file"}
    return [file for file in sorted(ROOT.glob("[!_]*.py")) if file.stem not in shared]


@pytest.mark.parametrize("file", bridge_files(), ids=lambda file: file.stem)
def test_every_bridge_says_which_way_it_reads(file):
    assert "theirs -> ours:" in (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
