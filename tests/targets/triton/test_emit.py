"""Emitted Triton text: kept in golden files, a function of the module alone, and safe from names and from traps."""

from __future__ import annotations

import ast
import keyword
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breccia.errors import UnsupportedError
from breccia.ir.dialect import parse_module
from breccia.ir.rewriting import location
from breccia.recipes import all_recipes
from breccia.target import find
from breccia.targets.triton.emit import emit
from breccia.testing import conformance
from tests.conftest import CheckGolden
from tests.targets.numpy import programs as of_numpy
from tests.targets.triton import programs

LONGEST = 240
MORE = {
    "sm_90": ("float8_128x128_e8m0", "mxfp4", "mxfp6_e2m3", "mxint8", "uint4_g32_f16", "nf4"),
    "sm_100": ("mxfp4", "nvfp4"),
    "gfx942": ("int8_row",),
}
"""Recipes whose conformance programs are held to the properties, too."""


def texts() -> Iterator[tuple[str, str]]:
    """(name, emitted text) of many programs."""
    for name, (arch, text) in programs.GOLDEN.items():
        yield name, programs.source(text, arch)
    for arch, names in MORE.items():
        chosen = find(f"triton:{arch}")
        recipes = {name: all_recipes()[name] for name in names}
        for program in conformance.programs(chosen.capabilities, recipes, [(5, 160, 24)]):
            module, _ = conformance.lower(parse_module(program.text), chosen, program.placement)
            yield f"{arch} {program.name} {program.recipe} {program.placement}", emit(module)


@pytest.fixture(scope="module")
def emitted() -> dict[str, str]:
    return dict(texts())


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_is_as_kept(name: str, golden: CheckGolden) -> None:
    arch, text = programs.GOLDEN[name]
    golden(programs.source(text, arch), f"{name}.{arch}.txt")


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_follows_from_the_module_alone(name: str) -> None:
    arch, text = programs.GOLDEN[name]
    module = programs.lowered(text, arch)
    first = emit(module)
    assert emit(module) == first
    assert emit(programs.lowered(text, arch)) == first


def test_emitting_imports_no_framework() -> None:
    code = """
import sys
from tests.targets.triton import programs
for arch, text in programs.GOLDEN.values():
    programs.source(text, arch)
print(sorted({"torch", "triton", "jax", "mlx"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_text_parses_and_imports_triton_and_the_runtime_alone(emitted: dict[str, str]) -> None:
    for text in emitted.values():
        found = [ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
        gluon = [line for line in found if "gluon" in line or "hopper" in line]
        assert len(gluon) == (3 if "@gluon.jit" in text else 0)
        assert [line for line in found if line not in gluon] == [
            "import triton", "import triton.language as tl", "from breccia.targets.triton import launch as rt",
        ]  # fmt: skip


def test_lines_have_an_end(emitted: dict[str, str]) -> None:
    found = {name: [line for line in text.splitlines() if len(line) > LONGEST] for name, text in emitted.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_users_line_stands_beside_the_code() -> None:
    arch, text = programs.GOLDEN["softmax"]
    module = programs.lowered(text, arch)
    for op in module.walk():
        op.location = location("/some/where/model.py", 12)
    source = emit(module)
    assert "e = tl.exp(d)  # model.py:12" in source
    assert "/some" not in source


# -- a trap of Triton's front end --------------------------------------------------------------------------------------


def aliases_in_loops(function: ast.FunctionDef) -> list[str]:
    """Assignments in loops of a bare name that is assigned before and in the loop.

    Triton's front end takes what is assigned so for the value before the loop, in every iteration.
    """
    found: list[str] = []
    for loop in (node for node in ast.walk(function) if isinstance(node, ast.For | ast.While)):
        inside = _stored(loop)
        before = {n.id for n in _stores(function) if n.lineno < loop.lineno}
        for node in (n for n in ast.walk(loop) if isinstance(n, ast.Assign)):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            found += [ast.unparse(node) for v in values if isinstance(v, ast.Name) and v.id in before & inside]
    return found


def _stores(tree: ast.AST) -> list[ast.Name]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _stored(tree: ast.AST) -> set[str]:
    return {n.id for n in _stores(tree)}


def functions_of(text: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]


def test_the_check_for_aliases_sees_them() -> None:
    text = "def f(n):\n    s = 0\n    for i in range(n):\n        {}\n        s += 1"
    assert aliases_in_loops(functions_of(text.format("p = s"))[0]) == ["p = s"]
    assert aliases_in_loops(functions_of(text.format("p, q = s, i"))[0]) == ["p, q = (s, i)"]
    assert aliases_in_loops(functions_of(text.format("p = s + 0"))[0]) == []


def test_no_line_gives_a_carried_value_a_second_name(emitted: dict[str, str]) -> None:
    found = {name: [a for f in functions_of(text) for a in aliases_in_loops(f)] for name, text in emitted.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


SWAPPED = """
func.func @f(%x : !breccia.tensor<[8, 64], f32>)
    -> (!breccia.tensor<[8, 1], f32>, !breccia.tensor<[8, 1], f32>) {
  %p, %q = breccia.kernel "scan_0" grid(k = 4 reduction) in (%x window [8, 16] at (0, k))
    out (!breccia.tensor<[8, 1], f32> window [8, 1] at (0, 0), !breccia.tensor<[8, 1], f32> window [8, 1] at (0, 0))
    init {
      %a = full 0.0 [8, 1] : f32
      %b = full 1.0 [8, 1] : f32
      yield %a, %b }
    step (%a, %b, %x) {
      %s = reduce sum %x axis [1]
      %t = binary add %a, %s
      yield %b, %t }
    finish (%a, %b) { yield %a, %b }
  func.return %p, %q : !breccia.tensor<[8, 1], f32>, !breccia.tensor<[8, 1], f32>
}"""
KERNEL = """
func.func @{function}(%{x} : !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[M, 8], f32> {{
  %{y} = breccia.kernel "{kernel}" grid(m = ceildiv(M, 16)) in (%{x} window [16, 8] at (m, 0))
    out (!breccia.tensor<[M, 8], f32> window [16, 8] at (m, 0)) finish (%{x}) {{
      %{v} = unary exp %{x}
      yield %{v}
  }}
  func.return %{y} : !breccia.tensor<[M, 8], f32>
}}"""


def tiled(text: str, arch: str = "sm_90"):
    """A module that is in tiled form as it stands."""
    from breccia.ir.capabilities import set_target

    module = parse_module(text)
    set_target(module, find(f"triton:{arch}").capabilities)
    return module


def test_carried_values_that_change_places_are_no_aliases() -> None:
    text = emit(tiled(SWAPPED))
    assert [a for f in functions_of(text) for a in aliases_in_loops(f)] == []
    assert "a, b = b * 1, t" in text


# -- names -------------------------------------------------------------------------------------------------------------

HOSTILE = (
    "tl", "rt", "triton", "pid", "range", "min", "lambda", "class", "None", "match", "M", "m", "x_stride0", "x_ptrs",
    "_exp", "k", "tile", "acc", "print", "f_0", "_k", "out",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_mean_something_are_changed(name: str) -> None:
    text = emit(tiled(KERNEL.format(function="f", x=name, y=f"{name}_y", v=f"{name}_v", kernel="k")))
    checked(text)


@pytest.mark.parametrize(
    "name", ["a-b", "a b", "x\nimport os\n", "x; import os", '"""', "é", "1", "__import__('os')", "if"]
)
def test_odd_names_never_reach_code(name: str) -> None:
    module = tiled(KERNEL.format(function="f", x="x", y="y", v="v", kernel="k"))
    func = next(iter(module.ops))
    kernel = func.body.block.first_op
    for value in (*func.args, *kernel.outs, *kernel.finish.block.args, *kernel.finish.block.ops.first.outs):
        value._name = name  # past xDSL's own check, as a front end might
    kernel.properties["sym_name"] = type(kernel.sym_name)(name)
    func.properties["sym_name"] = type(func.sym_name)(name)
    text = emit(module)
    checked(text)
    assert not {"os", "__import__"} & {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}


def checked(text: str) -> None:
    """A kernel and its host: their statements and no others, and no name that hides a module or a keyword."""
    tree = ast.parse(text)
    assert [type(node).__name__ for node in tree.body] == [
        "Import", "Import", "ImportFrom", "FunctionDef", "Assign", "FunctionDef",
    ]  # fmt: skip
    kernel, host = functions_of(text)
    assert [ast.unparse(d) for d in kernel.decorator_list] == ["triton.jit"]
    for function in (kernel, host):
        names = [a.arg for a in function.args.args]
        assert len(names) == len(set(names))
        assert not {"tl", "rt", "triton", "range", "min"} & (_stored(function) | set(names))
        assert not any(keyword.iskeyword(n) for n in names)
        assert {"tl", "rt"} & {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    launched = tree.body[4]
    assert isinstance(launched, ast.Assign)
    called = {n.func.id for n in ast.walk(host) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert {t.id for t in launched.targets if isinstance(t, ast.Name)} <= called


def test_two_functions_of_one_python_name_are_refused() -> None:
    one, two = (KERNEL.format(function=name, x="x", y="y", v="v", kernel="k") for name in ("a.b", "a_b"))
    with pytest.raises(UnsupportedError, match=r"triton: functions a\.b and a_b have one name in Python"):
        emit(tiled(one + two))


def test_functions_of_one_module_may_have_kernels_of_one_name() -> None:
    one, two = (KERNEL.format(function=name, x="x", y="y", v="v", kernel="k") for name in ("prepare", "f"))
    names = [f.name for f in functions_of(emit(tiled(one + two)))]
    assert len(names) == len(set(names)) == 4


# -- what cannot be printed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "%e = full 1.0 [16, 8] : f8E4M3FN\n      %v = convert %e : f32",
            r"breccia\.full of .*model\.py:3; a constant of f8",
        ),
        ("%i = convert %x : i64\n      %v = convert %i : f32", "floats are converted to i32, not to i64"),
        (
            "%i = convert %x : i32\n      %d = binary div %i, %i\n      %v = convert %d : f32",
            r"breccia\.binary of .*model\.py:3",
        ),
    ],
)
def test_errors_name_the_op(lines: str, message: str) -> None:
    text = KERNEL.format(function="f", x="x", y="y", v="v", kernel="k").replace("%v = unary exp %x", lines)
    module = tiled(text)
    for op in module.walk():
        op.location = location("/some/where/model.py", 3)
    with pytest.raises(UnsupportedError, match=message):
        emit(module)


def test_scaled_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="emitters print tiled modules, which hold plain components alone"):
        emit(tiled(of_numpy.product("float8_row")))


def test_what_is_not_tiled_is_refused() -> None:
    text = """
func.func @f(%x : !breccia.tensor<[8, 16], f32>) -> !breccia.tensor<[8, 16], f32> {
  %y = breccia.unary exp %x
  func.return %y : !breccia.tensor<[8, 16], f32>
}"""
    with pytest.raises(UnsupportedError, match=r"triton: cannot print breccia\.unary"):
        emit(tiled(text))
