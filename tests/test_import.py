"""`import breccia` is cheap: nothing beyond the standard library, and names are found on first use."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import breccia
from tests.optional import FRAMEWORKS


def child(code: str) -> object:
    """What `code`, run in a fresh interpreter, prints as JSON on its last line."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(breccia.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def roots_loaded_by(code: str) -> set[str]:
    """Top-level packages that `code` adds to a bare interpreter's modules."""
    loaded = child(
        f"import sys\nbefore = set(sys.modules)\n{code}\n"
        "import json; print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    assert isinstance(loaded, list)
    return {str(name) for name in loaded}


def test_import_loads_the_standard_library_alone() -> None:
    loaded = roots_loaded_by("import breccia")
    assert "breccia" in loaded
    assert loaded - sys.stdlib_module_names == {"breccia"}


def test_import_loads_no_other_module_of_breccia() -> None:
    code = "import sys, json, breccia; print(json.dumps(sorted(m for m in sys.modules if 'breccia' in m)))"
    assert child(code) == ["breccia", "breccia._version"]


def test_listing_and_errors_load_nothing_more() -> None:
    loaded = roots_loaded_by(
        "import breccia; dir(breccia); breccia.RecipeError; breccia.recipes.nvfp4; breccia.formats"
    )
    assert loaded - sys.stdlib_module_names == {"breccia"}


def test_eager_use_on_numpy_loads_neither_xdsl_nor_a_framework() -> None:
    loaded = roots_loaded_by(
        "import numpy, breccia\n"
        "q = breccia.cast(numpy.ones((4, 64), numpy.float32), breccia.recipes.mxfp8_e4m3)\n"
        "assert breccia.dequantize(q).shape == (4, 64)"
    )
    assert "numpy" in loaded
    assert not loaded & (FRAMEWORKS | {"xdsl", "networkx"})


def test_import_takes_little_time() -> None:
    # The figure itself is benchmarks/import_time.py's; this bound has room for a busy machine.
    code = "import time; start = time.perf_counter(); import breccia; print(time.perf_counter() - start)"
    seconds = [child(code) for _ in range(5)]
    assert min(float(str(each)) for each in seconds) < 0.3


def test_names_for_type_checkers_are_those_found_at_run_time() -> None:
    tree = ast.parse(Path(breccia.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    lazy = dict(breccia._HOME_OF) | dict.fromkeys(breccia._SUBMODULES, "breccia")
    assert typed == lazy
    assert sorted(breccia.__all__) == sorted([*lazy, "__version__"])
    assert len(set(breccia.__all__)) == len(breccia.__all__)


@pytest.mark.parametrize("name", sorted(breccia.__all__))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(breccia, name) is not None
    assert name in dir(breccia)


def test_every_error_is_public() -> None:
    errors = import_module("breccia.errors")
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert classes <= set(breccia.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'kast'; dir\(breccia\) lists"):
        _ = breccia.kast  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(breccia, "_no_such_name")
