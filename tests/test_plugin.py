"""A target from another package is found, lowered for, emits, runs, and is held to its claims by the conformance
kit."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from breccia.cli.opt import run
from breccia.recipes import find as find_recipe
from breccia.target import find, names
from breccia.testing.conformance import conform

PACKAGE = Path(__file__).parent / "plugin"
PRODUCT = """
func.func @f(%x : !breccia.tensor<[M, 64], f32>, %w : !breccia.scaled<[64, 24], f32, #breccia.recipe<i8, f32 per [all,
1]>>)
    -> !breccia.tensor<[M, 24], f32> {
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, 24], f32>
}"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as an installer leaves it: its modules, and its metadata as its pyproject.toml says."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(PACKAGE / "breccia_toy", tmp_path / "breccia_toy", ignore=shutil.ignore_patterns("__pycache__"))
    info = tmp_path / f"breccia_toy-{project['version']}.dist-info"
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
    for name in [name for name in sys.modules if name.partition(".")[0] == "breccia_toy"]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_it_is_listed_and_found() -> None:
    assert {"toy:t1", "toy:t2"} <= set(names())
    assert find("toy:t2").capabilities.placements == ("epilogue", "operand")


def test_it_is_unknown_without_the_package() -> None:
    assert not [name for name in names() if name.startswith("toy")]


@pytest.mark.usefixtures("installed")
def test_breccia_opt_lowers_and_emits_for_it() -> None:
    early, late = (
        run(["--target", f"toy:{arch}", "-p", "default", "--emit", f"toy:{arch}"], PRODUCT) for arch in ("t1", "t2")
    )
    assert early[0] == late[0] == 0
    assert "rt.dequantize(xp, w_elements" in early[1]
    assert "rt.dequantize(xp, w_elements" not in late[1]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("arch", ["t1", "t2"])
def test_the_kit_holds_it_to_its_claims(arch: str) -> None:
    recipes = {name: find_recipe(name) for name in ("float8_row", "mxfp8_e4m3", "nvfp4", "uint4_g32_f16")}
    table = conform(f"toy:{arch}", recipes=recipes, shapes=[(3, 96, 7)])
    assert not table.failures, str(table)
    assert {row.program.placement for row in table.rows} == (
        {"", "operand"} if arch == "t1" else {"", "operand", "epilogue"}
    )
