"""Emitted NumPy code: its text in golden files, its results against the interpreter, and no IR name in its code."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from breccia import recipes
from breccia.errors import UnsupportedError
from breccia.ir.dialect import parse_module
from breccia.ir.rewriting import location
from breccia.target import find
from breccia.testing.conformance import compare
from tests.conftest import CheckGolden
from tests.targets.numpy import programs

NUMPY = find("numpy")
SIZES = {"M": 37, "N": 29}


def calls(text: str, entry: str):
    """The emitted function as `compare` wants it."""
    function = NUMPY.launch(text, entry)

    def call(args):
        out = function(*args)
        return list(out) if isinstance(out, tuple) else [out]

    return call


def entry_of(text: str) -> str:
    return re.findall(r"^def ([a-z]\w*)\(", text, re.MULTILINE)[-1]


def check(text: str, kind: str, *, strict: bool, sizes: dict[str, int] = SIZES) -> None:
    source = parse_module(text)
    emitted = programs.source(text)
    outcome, detail = compare(source, calls(emitted, entry_of(emitted)), sizes, kind, strict=strict)
    assert outcome != "FAILED", detail


def emit(text: str) -> str:
    """Source of a module that is in tiled form as it stands."""
    return NUMPY.emit(parse_module(text))


# -- the ten kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_text_is_as_kept(name: str, golden: CheckGolden) -> None:
    golden(programs.source(programs.GOLDEN[name]), f"{name}.txt")


@pytest.mark.parametrize("name", programs.GOLDEN)
@pytest.mark.parametrize("kind", ["normal", "zeros", "ties"])
def test_results_are_the_interpreters(name: str, kind: str) -> None:
    check(programs.GOLDEN[name], kind, strict=False)


@pytest.mark.parametrize("name", ["float8_tensor", "float8_1x128", "mxfp8_e4m3", "nvfp4", "uint4_g128_f16"])
@pytest.mark.parametrize("rows", [1, 130])
def test_exact_sums_give_equal_bits(name: str, rows: int) -> None:
    text = programs.GOLDEN[name].replace("breccia.unary silu", "breccia.unary relu")
    check(text, "coarse", strict=True, sizes={"M": rows})


@pytest.mark.parametrize("name", ["rms_norm", "softmax"])
def test_whole_rows_agree_to_rounding(name: str) -> None:
    check(programs.GOLDEN[name], "normal", strict=False, sizes={"M": 1, "N": 1})


def test_text_parses_and_imports_nothing_but_numpy_and_the_runtime() -> None:
    for text in programs.GOLDEN.values():
        tree = ast.parse(programs.source(text))
        imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports == ["import numpy as np", "from breccia.targets.numpy import runtime"]


def test_the_namespace_is_a_parameter() -> None:
    """A namespace that counts sees every array function; NumPy's own name is only a default."""
    seen: list[str] = []

    def counted(name: str):
        def function(*args, **kwargs):
            seen.append(name)
            return getattr(np, name)(*args, **kwargs)

        return function

    functions = ("matmul", "exp", "broadcast_to", "maximum", "zeros_like", "where", "abs", "full")
    namespace = SimpleNamespace(float32=np.float32, bfloat16=np.dtype("bfloat16"), **{n: counted(n) for n in functions})
    recipe_text = programs.product("mxfp8_e4m3")
    function = NUMPY.launch(programs.source(recipe_text), "product")
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 126, shape).astype(np.uint8) for shape in ((5, 576), (576, 72))]
    scales = [rng.integers(120, 130, shape).astype(np.uint8) for shape in ((5, 18), (18, 72))]
    args = (codes[0], scales[0], codes[1], scales[1], np.zeros((1, 72), np.float32))
    assert np.array_equal(function(*args, xp=namespace).view(np.uint16), function(*args).view(np.uint16))
    assert {"matmul", "exp"} <= set(seen)


# -- what is in the text -----------------------------------------------------------------------------------------------

ROWWISE = """
func.func @{name}(%{x} : !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[M, 8], f32> {{
  %{y} = breccia.kernel "{kernel}" grid(m = 1) in (%{x} window [M, 8] at (m, 0))
    out (!breccia.tensor<[M, 8], f32> window [M, 8] at (m, 0)) finish (%{x}) {{
      %{v} = unary exp %{x}
      yield %{v}
  }}
  func.return %{y} : !breccia.tensor<[M, 8], f32>
}}"""


def rowwise(name: str = "f", x: str = "x", y: str = "y", v: str = "v", kernel: str = "rowwise_0") -> str:
    return emit(ROWWISE.format(name=name, x=x, y=y, v=v, kernel=kernel))


@pytest.mark.parametrize("name", ["lambda", "class", "np", "xp", "rt", "runtime", "range", "None", "match", "M"])
def test_names_that_mean_something_in_python_are_changed(name: str) -> None:
    text = rowwise(x=name, v=f"{name}_")
    out = NUMPY.launch(text, "f")(np.float32([[0.0] * 8]))
    assert out.tolist() == [[1.0] * 8]


@pytest.mark.parametrize("name", ["a-b", "a b", "x; import os", '"""', "é", "1", "__import__('os')", "\\n", "if"])
def test_odd_names_never_reach_code(name: str) -> None:
    module = parse_module(ROWWISE.format(name="f", x="x", y="y", v="v", kernel="k"))
    func = next(iter(module.ops))
    kernel = func.body.block.first_op
    for value in (*func.args, *kernel.outs, *kernel.finish.block.args, *kernel.finish.block.ops.first.outs):
        value._name = name  # past xDSL's own check, as a front end might
    kernel.properties["sym_name"] = type(kernel.sym_name)(name)
    func.properties["sym_name"] = type(func.sym_name)(name)
    text = NUMPY.emit(module)
    tree = ast.parse(text)
    assert not {"os", "import os"} & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert [type(node).__name__ for node in tree.body] == ["Import", "ImportFrom", "FunctionDef", "FunctionDef"]
    assert NUMPY.launch(text, name)(np.float32([[0.0] * 8])).tolist() == [[1.0] * 8]


def test_equal_names_are_told_apart() -> None:
    text = rowwise(x="out", y="rowwise_0", v="RECIPE_0", kernel="f")
    assert NUMPY.launch(text, "f")(np.float32([[1.0] * 8]))[0, 0] == np.exp(np.float32(1))


def test_two_functions_of_one_python_name_are_refused() -> None:
    both = ROWWISE.format(name="a.b", x="x", y="y", v="v", kernel="k") + ROWWISE.format(
        name="a_b", x="x", y="y", v="v", kernel="k"
    )
    with pytest.raises(UnsupportedError, match=r"functions a\.b and a_b have one name in Python"):
        emit(both)


def test_functions_of_one_module_may_have_kernels_of_one_name() -> None:
    both = rowwise() + "\n"
    two = emit(
        ROWWISE.format(name="prepare", x="x", y="y", v="v", kernel="k")
        + ROWWISE.format(name="f", x="x", y="y", v="v", kernel="k").replace("exp", "neg")
    )
    x = np.float32([[1.0] * 8])
    assert NUMPY.launch(two, "prepare")(x)[0, 0] == np.exp(np.float32(1))
    assert NUMPY.launch(two, "f")(x)[0, 0] == -1
    assert "def prepare(" in two
    assert "def prepare(" not in both


def test_the_users_line_stands_beside_the_code() -> None:
    module = programs.lowered(programs.SOFTMAX)
    for op in module.walk():
        op.location = location("/some/where/model.py", 12)
    text = NUMPY.emit(module)
    assert "e = xp.exp(d)  # model.py:12" in text
    assert "/some" not in text


def test_an_op_without_a_line_is_named() -> None:
    text = ROWWISE.format(name="f", x="x", y="y", v="v", kernel="k").replace(
        "unary exp %x", "mask %x axis 1 valid 3 value 0.0"
    )
    with pytest.raises(UnsupportedError, match=r"numpy: cannot print breccia\.mask; .*--target numpy -p default"):
        emit(text)


def test_scaled_values_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"numpy: cannot print breccia\.matmul"):
        emit(programs.product("float8_row"))
    recipe = programs.x_type(recipes.find("float8_row"), 8)
    with pytest.raises(UnsupportedError, match="emitters print tiled modules, which hold plain components alone"):
        emit(f"func.func @f(%x : {recipe}) -> {recipe} {{ func.return %x : {recipe} }}")


def test_arguments_are_not_changed() -> None:
    text = programs.source(programs.mlp())
    rng = np.random.default_rng(0)
    args = [
        rng.standard_normal((3, 96)).astype(np.dtype("bfloat16")),
        *(rng.integers(0, 126, s).astype(np.uint8) for s in ((96, 160), (3, 160), (160, 96), (5, 96))),
    ]
    before = [a.copy() for a in args]
    function = NUMPY.launch(text, "mlp")
    first = function(*args)
    second = function(*args)
    assert all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in zip(args, before, strict=True))
    assert np.array_equal(first.view(np.uint16), second.view(np.uint16))


# -- loops that are left -----------------------------------------------------------------------------------------------

TILED_GEMM = """
func.func @gemm(%a: !breccia.tensor<[M, 320], f8E4M3FN>, %sa: !breccia.tensor<[M, 3], f32>,
    %w: !breccia.tensor<[320, N], f8E4M3FN>, %sw: !breccia.tensor<[3, ceildiv(N, 128)], f32>,
    %bias: !breccia.tensor<[1, N], f32>) -> !breccia.tensor<[M, N], bf16> {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 32), n = ceildiv(N, 128), k = 3 reduction)
    in (%a window [32, 128] at (m, k), %sa window [32, 1] at (m, k), %w window [128, 128] at (k, n),
        %sw window [1, 1] at (k, n), %bias window [1, 128] at (0, n))
    out (!breccia.tensor<[M, N], bf16> window [32, 128] at (m, n))
    init { %acc = full 0.0 [32, 128] : f32
      yield %acc }
    step (%acc, %a, %sa, %w, %sw) {
      %p = dot nn %a, %w
      %s = binary mul %sa, %sw
      %q = binary mul %p, %s
      %r = binary add %acc, %q
      yield %r }
    finish (%acc, %bias) {
      %h = binary add %acc, %bias
      %y = convert %h : bf16
      yield %y }
  func.return %y : !breccia.tensor<[M, N], bf16>
}"""

GROUPED = """
func.func @grouped(%off: !breccia.tensor<[4], i32>, %x: !breccia.tensor<[T, 16], f32>, %w: !breccia.tensor<[3, 16, 8],
f32>)
    -> !breccia.tensor<[T, 8], f32> {
  %y = breccia.kernel "grouped_0" grid(e = 3, m = ceildiv(T, 4))
    in (%off, %x window [4, 16] at (m, 0) within axis 0 %off[e] to %off[e + 1], %w window [one, 16, 8] at (e, 0, 0))
    out (!breccia.tensor<[T, 8], f32> window [4, 8] at (m, 0) within axis 0 %off[e] to %off[e + 1])
    finish (%x, %w) {
      %p = dot nn %x, %w
      yield %p }
  func.return %y : !breccia.tensor<[T, 8], f32>
}"""

SPLIT = """
func.func @split(%x: !breccia.tensor<[M, 96], f32>) -> (!breccia.tensor<[1, 1], f32>, !breccia.tensor<[1, 1], f32>) {
  %top, %sum = breccia.kernel "reduce_0" grid(m = ceildiv(M, 8), n = 3)
    in (%x window [8, 32] at (m, n))
    out (!breccia.tensor<[1, 1], f32> window [1, 1] at (0, 0) combine max,
         !breccia.tensor<[1, 1], f32> window [1, 1] at (0, 0) combine add)
    finish (%x) {
      %t = reduce amax %x axis [0, 1]
      %s = reduce sum %x axis [0, 1]
      yield %t, %s }
  func.return %top, %sum : !breccia.tensor<[1, 1], f32>, !breccia.tensor<[1, 1], f32>
}"""

CAUSAL = """
func.func @causal(%x: !breccia.tensor<[S, 8], f32>) -> !breccia.tensor<[S, 8], f32> {
  %y = breccia.kernel "scan_0" grid(m = ceildiv(S, 4), n = m + 1 reduction)
    in (%x window [4, 8] at (n, 0))
    out (!breccia.tensor<[S, 8], f32> window [4, 8] at (m, 0))
    init { %acc = full 0.0 [1, 8] : f32
      yield %acc }
    step (%acc, %x) {
      %i = iota axis 0 start n * 4 [4, 1] : i32
      %f = convert %i : f32
      %v = binary mul %x, %f
      %s = reduce sum %v axis [0]
      %r = binary add %acc, %s
      yield %r }
    finish (%acc) {
      %b = broadcast %acc to [4, 8]
      yield %b }
  func.return %y : !breccia.tensor<[S, 8], f32>
}"""


@pytest.mark.parametrize("text", [TILED_GEMM, SPLIT, CAUSAL], ids=["gemm", "split", "causal"])
@pytest.mark.parametrize("sizes", [{"M": 1, "N": 300, "S": 1}, {"M": 67, "N": 128, "S": 11}], ids=["small", "large"])
def test_tiled_kernels_run_as_loops(text: str, sizes: dict[str, int]) -> None:
    source = parse_module(text)
    emitted = emit(text)
    entry = entry_of(emitted)
    used = {s: n for s, n in sizes.items() if f"[{s}," in text or f", {s}]" in text}
    for kind in ("coarse", "normal"):
        outcome, detail = compare(source, calls(emitted, entry), used, kind, strict=kind == "coarse")
        assert outcome != "FAILED", detail


@pytest.mark.parametrize("offsets", [[0, 3, 3, 10], [0, 0, 9, 10], [0, 10, 10, 10]])
def test_ragged_groups_run_as_loops(offsets: list[int]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(-4, 5, (10, 16)).astype(np.float32), rng.integers(-4, 5, (3, 16, 8)).astype(np.float32)
    out = NUMPY.launch(emit(GROUPED), "grouped")(np.int32(offsets), x, w)
    wanted = np.concatenate([x[a:b] @ w[e] for e, (a, b) in enumerate(pairwise(offsets))])
    assert np.array_equal(out, wanted)
