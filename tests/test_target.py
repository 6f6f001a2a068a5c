"""Targets are found by name, lazily; what cannot be had is an error that says why."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from breccia.errors import PluginError, UnsupportedError
from breccia.ir.capabilities import CapabilitiesAttr, Mma, ScaledMma, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.printer import print_module
from breccia.target import ABI, PluginWarning, Target, built_in, find, names, provider

EMPTY = "func.func @f() { func.return }"
GOOD = """
from breccia.ir.capabilities import Capabilities
from breccia.target import Target
TARGET = Target("{name}", "1", lambda: (Capabilities("{name}"),))
"""

MADE = "from breccia.target import Target\nTARGET = Target({})"


def announce(folder: Path, name: str, source: str, dist: str = "") -> None:
    """A package on `folder` whose entry point `name` is the TARGET of a module with this source."""
    dist = dist or f"breccia-{name}"
    module = dist.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[breccia.targets]\n{name} = {module}:TARGET\n", encoding="utf-8")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that Python finds."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


# -- this package's targets --------------------------------------------------------------------------------------------


def test_every_folder_is_a_target() -> None:
    assert built_in() == ("metal", "numpy", "pallas", "triton")
    assert {name.partition(":")[0] for name in names()} == set(built_in())


@pytest.mark.parametrize("name", names())
def test_every_name_is_found_and_has_its_row(name: str) -> None:
    target = find(name)
    assert target.full_name == name
    assert target.capabilities.name == name
    assert set(target.capabilities.placements) >= {"epilogue", "operand"}
    assert {row.skeleton for row in target.capabilities.tiles} == {"gemm", "grouped", "rowwise", "reduce"}


@pytest.mark.parametrize("name", names())
def test_rows_print_as_an_attribute_that_reads_back(name: str) -> None:
    module = parse_module(EMPTY)
    set_target(module, find(name).capabilities)
    for generic in (False, True):
        again = parse_module(print_module(module, generic=generic))
        attribute = again.attributes["breccia.target"]
        assert isinstance(attribute, CapabilitiesAttr)
        assert attribute.data == find(name).capabilities


def test_architectures_and_rows_agree() -> None:
    for family in built_in():
        target = find(next(n for n in names() if n.partition(":")[0] == family))
        assert tuple(row.name for row in target.rows()) == target.full_names


def test_a_single_architecture_needs_no_name() -> None:
    assert find("metal").full_name == "metal:apple"
    assert find("numpy").full_name == "numpy"


def test_rows_say_what_compiled_kernels_showed() -> None:
    """Native instructions by architecture, as Triton 3.9's output has them."""
    caps = {n: find(n).capabilities for n in names()}
    fp8, nvfp4 = Mma("f8E4M3FN", "f8E4M3FN", 32), ScaledMma("f4E2M1FN", "f4E2M1FN", "f8E4M3FN", 16)
    mxfp8, mixed = (ScaledMma("f8E4M3FN", b, "f8E8M0FNU", 32) for b in ("f8E4M3FN", "f4E2M1FN"))
    assert [n for n in caps if fp8 in caps[n].mma] == [f"triton:sm_{n}" for n in (89, 90, 100, 103, 120)]
    assert [n for n in caps if nvfp4 in caps[n].scaled_mma] == [f"triton:sm_{n}" for n in (100, 103, 120)]
    assert [n for n in caps if mxfp8 in caps[n].scaled_mma] == [
        *(f"triton:sm_{n}" for n in (100, 103, 120)), "triton:gfx950",
    ]  # fmt: skip
    assert [n for n in caps if mixed in caps[n].scaled_mma] == ["triton:sm_100", "triton:sm_103", "triton:gfx950"]
    assert {m.a for m in caps["triton:gfx942"].mma} >= {"f8E4M3FNUZ", "f8E5M2FNUZ"}
    assert all(not m.a.startswith("f8") for n in ("triton:sm_80", "triton:sm_86", "metal:apple") for m in caps[n].mma)
    assert caps["pallas:v6e"].min_tile == (8, 128)
    assert caps["pallas:v6e"].fetch_pad == "garbage"
    assert caps["numpy"].whole_windows
    assert caps["numpy"].compute == ("f32",)
    assert all("mma" in c.placements for c in caps.values() if c.scaled_mma)


def test_targets_without_an_emitter_say_so() -> None:
    target = replace(find("numpy"), emitter=None, launcher=None)
    assert not target.emits
    with pytest.raises(UnsupportedError, match=rf"lowers and interprets for {target.full_name}, but does not emit"):
        target.emit(parse_module(EMPTY))
    with pytest.raises(UnsupportedError, match="does not emit code for it"):
        target.launch("", "f")


def test_unknown_targets_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"unknown target 'cuda'; known targets: .*numpy.*triton:sm_90"):
        find("cuda")
    with pytest.raises(UnsupportedError, match=r"unknown architecture 'sm_70' of target triton; known: triton:sm_80"):
        find("triton:sm_70")
    with pytest.raises(UnsupportedError, match=r"which architecture of target triton\?; known: triton:sm_80"):
        find("triton")
    with pytest.raises(UnsupportedError, match="unknown architecture 'avx' of target numpy; known: numpy"):
        find("numpy:avx")
    with pytest.raises(UnsupportedError, match="given by its name, such as 'numpy', not None"):
        find(None)


def test_finding_and_launching_load_no_xdsl() -> None:
    code = (
        "import sys; from breccia.target import find; t = find('numpy'); find('triton:sm_90');"
        "f = t.launch('import numpy as np\\nfrom breccia.targets.numpy import runtime\\n"
        "@runtime.quiet\\ndef f(x, *, xp=np, rt=runtime):\\n    return rt.gelu(xp, x)\\n', 'f');"
        "import numpy as np; f(np.float32([1.0])); print({'xdsl', 'torch', 'jax', 'mlx', 'triton'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.returncode) == ("set()", 0), result.stderr


# -- targets of other packages -----------------------------------------------------------------------------------------


def test_a_plugin_is_found_by_its_entry_point(packages: Path) -> None:
    announce(packages, "mychip", GOOD.format(name="mychip"))
    assert "mychip" in names()
    assert find("mychip").capabilities.name == "mychip"


def test_a_plugin_is_not_imported_before_it_is_asked_for(packages: Path) -> None:
    announce(packages, "lazychip", GOOD.format(name="lazychip"))
    find("numpy")
    assert "breccia_lazychip" not in sys.modules
    find("lazychip")
    assert "breccia_lazychip" in sys.modules


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("raises", "1 / 0", r"'raises' \(breccia_raises:TARGET of breccia-raises\).* division by zero"),
        ("noattr", "x = 1", r"'noattr' .* does not load: AttributeError"),
        ("notarget", "TARGET = 3", r"'notarget' .* is int 3; a breccia.target.Target is wanted"),
        ("oldabi", GOOD.format(name="oldabi").replace("))", "), abi=99)"),
         rf"'oldabi' .* is made for target interface 99; this breccia has {ABI}"),
        ("norows", MADE.format("'norows', '1', None"), "'norows' .* lacks the hook rows"),
        ("halfway", MADE.format("'halfway', '1', tuple, emitter=str"), "'halfway' .* lacks the hook launcher"),
        ("other", GOOD.format(name="another"), "'other' .* calls itself 'another'"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_and_skipped(packages: Path, name: str, source: str, message: str) -> None:
    announce(packages, name, source)
    with pytest.warns(PluginWarning, match=message + ".*; it is skipped"):
        found = names()
    assert "numpy" in found
    assert name not in found
    with pytest.raises(PluginError, match=message):
        find(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find("numpy").name == "numpy"


def test_two_plugins_of_one_name_are_an_error_that_names_both(packages: Path) -> None:
    announce(packages, "twin", GOOD.format(name="twin"), dist="breccia-first")
    announce(packages, "twin", GOOD.format(name="twin"), dist="breccia-second")
    with pytest.raises(
        PluginError, match=r"2 targets are called 'twin': .*breccia-(first|second).* and .*breccia-(first|second)"
    ):
        find("twin")
    with pytest.warns(PluginWarning, match="2 targets are called 'twin'"):
        assert "twin" not in names()


def test_a_plugin_cannot_take_the_name_of_a_built_in_target(packages: Path) -> None:
    announce(packages, "numpy", GOOD.format(name="numpy"), dist="breccia-impostor")
    with pytest.raises(
        PluginError, match=r"'numpy': breccia.targets.numpy of breccia and breccia_impostor:TARGET of breccia-impostor"
    ):
        find("numpy")
    assert find("triton:sm_90").arch == "sm_90"


def test_a_missing_row_is_named() -> None:
    with pytest.raises(PluginError, match="no row of capabilities named 'bare'"):
        _ = Target("bare", "1", tuple).capabilities


# -- whether code can run here -----------------------------------------------------------------------------------------


def test_numpy_runs_everywhere_and_what_is_not_emitted_nowhere() -> None:
    assert find("numpy").unavailable == ""
    assert "does not emit" in replace(find("numpy"), emitter=None, launcher=None).unavailable


def test_the_hook_is_asked_for_the_architecture() -> None:
    target = replace(find("numpy"), arch="a1", missing=lambda arch: f"no {arch} here")
    assert target.unavailable == "no a1 here"


@pytest.mark.parametrize("module", ["torch", "triton"])
def test_a_library_that_is_not_installed_is_a_reason(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert find("triton:sm_90").unavailable == f"{module} is not installed"


def test_who_provides_a_target(packages: Path) -> None:
    announce(packages, "mine", GOOD.format(name="mine"))
    assert (provider("numpy"), provider("mine"), provider("nobody")) == ("breccia", "breccia-mine", "")
