"""examples/target_plugin, a target in a package of its own: found, lowered for, run on PoCL, and held to its claims."""

from __future__ import annotations

import ast
import atexit
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import breccia
from breccia.cli.main import app
from breccia.cli.opt import run
from breccia.errors import UnsupportedError
from breccia.recipes import find as find_recipe
from breccia.target import find, names
from breccia.testing import Row, conform, load_table
from breccia.testing.conformance import callable_for, compare, lower
from breccia.testing.programs import random_program

if "POCL_CACHE_DIR" not in os.environ:  # read when PoCL is loaded
    os.environ["POCL_CACHE_DIR"] = tempfile.mkdtemp(prefix="breccia-pocl-")
    atexit.register(shutil.rmtree, os.environ["POCL_CACHE_DIR"], ignore_errors=True)

PACKAGE = Path(__file__).parents[1] / "examples" / "target_plugin"
SOURCES = sorted((PACKAGE / "breccia_opencl").glob("*.py"))
TABLE = Path(__file__).parent / "golden" / "test_conformance_tables" / "opencl.json"
SHAPE = (5, 160, 24)
RECIPES = ("float8_row", "mxfp4", "mxfp6_e2m3", "nvfp4", "uint4_g32_f16")
"""Scales of each kind, packed codes of 4 and 6 bits, two levels, zero points."""
SEEDS = (1, 6, 7, 14, 16, 20)
"""Random programs that this target takes; others have zero points or axes of unknown size."""
PRODUCT = """
func.func @f(%x : !breccia.tensor<[M, 64], f32>, %w : !breccia.scaled<[64, 24], f32, #breccia.recipe<i8, f32 per [all,
1]>>)
    -> !breccia.tensor<[M, 24], f32> {
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, 24], f32>
}"""


@pytest.fixture
def metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as an installer leaves it: its modules, and its metadata as its pyproject.toml says."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = PACKAGE / "breccia_opencl"
    shutil.copytree(module, tmp_path / module.name, ignore=shutil.ignore_patterns("__pycache__"))
    info = tmp_path / f"breccia_opencl-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "breccia_opencl"]:
        del sys.modules[name]


@pytest.fixture
def installed(metadata: None) -> None:
    """The package where its kernels can run."""
    pytest.importorskip("pyopencl")
    reason = find("opencl").unavailable
    if reason:
        pytest.skip(reason)


# -- the package -------------------------------------------------------------------------------------------------------


def test_it_is_short() -> None:
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES) < 300


def test_it_uses_public_names_of_breccia_alone() -> None:
    used: set[str] = set()
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "breccia":
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute):
                assert not (node.attr.startswith("_") and not node.attr.startswith("__")), f"{file.name}: {node.attr}"
    assert used
    assert [name for name in used if any(part.startswith("_") for part in name.split("."))] == []
    assert [name for name in used if name.startswith("breccia.targets")] == []


def test_it_is_unknown_without_the_package() -> None:
    assert "opencl" not in names()


@pytest.mark.usefixtures("metadata")
def test_it_is_listed_and_lowered_for_without_pyopencl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    assert "opencl" in names()
    assert find("opencl").unavailable == "pyopencl is not installed"
    code, text, _ = run(["--target", "opencl", "-p", "default", "--emit", "opencl"], PRODUCT)
    assert code == 0
    assert "__kernel void gemm_0(__global float *x, __global uchar *w_elements, " in text
    table = conform("opencl", recipes={"mxfp4": find_recipe("mxfp4")}, shapes=[(3, 40, 8)])
    assert {row.outcome for row in table.rows} == {"not run"}
    assert not table.passed


@pytest.mark.usefixtures("installed")
def test_breccia_targets_lists_it() -> None:
    result = CliRunner().invoke(app, ["targets"], env={"COLUMNS": "200"})
    (row,) = (line.split() for line in result.output.splitlines() if line.startswith("opencl "))
    assert row[1:4] == ["breccia-opencl", "yes", "yes"]


# -- its kernels, run --------------------------------------------------------------------------------------------------


def said(row: Row) -> tuple[str, ...]:
    """A row without what depends on the order in which a device sums."""
    *which, outcome, detail = row.cells
    return *which, "held" if outcome in ("equal", "close") else outcome, detail


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", RECIPES)
def test_it_does_what_its_table_says(name: str) -> None:
    table = conform("opencl", recipes={name: find_recipe(name)}, shapes=[SHAPE])
    assert table.passed, str(table)
    saved = [said(r) for r in load_table(TABLE).rows if (r.program.recipe, r.program.shape) == (name, SHAPE)]
    assert [said(row) for row in table.rows] == saved, f"write {TABLE.name} again, see docs/adding-a-target.md"


@pytest.mark.usefixtures("installed")
def test_codes_of_a_tile_that_reaches_beyond_its_tensor_are_packed_with_zeros() -> None:
    table = conform("opencl", recipes={"mxfp4": find_recipe("mxfp4")}, shapes=[(3, 40, 7)], epilogues=["quantize"])
    assert table.passed, str(table)
    assert not table.refused, str(table)


@pytest.mark.usefixtures("installed")
@pytest.mark.exhaustive
def test_the_whole_table() -> None:
    table = conform("opencl")
    assert table.passed, str(table)
    assert [said(row) for row in table.rows] == [said(row) for row in load_table(TABLE).rows]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "change", [("t < 32", "t < 31"), ("* 12 +", "* 11 +"), ("round_bf16(", "("), ("0.0f; for", "1.0f; for")]
)
def test_planted_mistakes_are_failures(change: tuple[str, str]) -> None:
    from dataclasses import replace

    opencl = find("opencl")

    def emit(module):
        text = opencl.emit(module)
        return text.replace(*change)

    table = conform(
        replace(opencl, emitter=emit), recipes={"mxfp4": find_recipe("mxfp4")}, shapes=[SHAPE], epilogues=["bias"]
    )
    assert table.failures, str(table)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed: int) -> None:
    source, opencl = random_program(seed), find("opencl")
    lowered, _ = lower(source, opencl)
    call = callable_for(lowered, opencl)
    for kind in ("normal", "zeros", "nan", "inf"):
        for rows in (1, 7):
            outcome, detail = compare(source, call, {"M": rows}, kind, strict=False)
            assert outcome != "FAILED", f"{kind} inputs, M = {rows}: {detail}\n{opencl.emit(lowered)}"


@pytest.mark.usefixtures("installed")
def test_compiled_functions_run_on_it() -> None:
    recipe = find_recipe("mxfp8_e4m3")

    def layer(x, w, offsets):
        y = breccia.grouped_matmul(x, w, offsets)
        return breccia.cast(np.exp(y - y.max(axis=1, keepdims=True)), recipe)

    rng = np.random.default_rng(0)
    x = breccia.cast(rng.standard_normal((9, 64), np.float32), recipe)
    w = breccia.cast(rng.standard_normal((3, 64, 32), np.float32), recipe, axis=1)
    offsets = np.array([0, 4, 4, 9], np.int32)
    wanted, found = (breccia.compile(layer, target=name)(x, w, offsets) for name in ("numpy", "opencl"))
    np.testing.assert_allclose(found.dequantize(), wanted.dequantize(), rtol=2**-3, atol=2**-9)
    np.testing.assert_array_equal(found.scale, wanted.scale)


@pytest.mark.usefixtures("installed")
def test_no_rows_are_no_work() -> None:
    w = breccia.cast(np.ones((64, 24), np.float32), find_recipe("mxfp4"), axis=0)
    f = breccia.compile(breccia.matmul, target="opencl")
    assert f(np.ones((0, 64), np.float32), w).shape == (0, 24)


@pytest.mark.usefixtures("installed")
def test_what_it_cannot_do_is_refused_with_the_kernel_and_the_reason() -> None:
    f = breccia.compile(lambda x: breccia.cast(x, find_recipe("uint4_g32_f16")), target="opencl")
    with pytest.raises(UnsupportedError, match=r"opencl: kernel rowwise_0 quantizes to uint4.*zero points and offsets"):
        f(np.ones((4, 64), np.float32))
