"""What ends up in one kernel: shapes of the examples, random graphs, names, and time for long programs."""

from __future__ import annotations

import random
import time

import pytest

from breccia.ir.dialect import parse_module
from breccia.ir.forms import verify_form
from breccia.ir.ops import GroupedMatmulOp, MatmulOp
from breccia.ir.rewriting import kernels
from breccia.passes import TRACED
from breccia.passes.partition import Partition
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import PROGRAMS, kernel_ops, lowered

THROUGH = (*TRACED, "partition")


def test_worked_example_is_three_launches() -> None:
    found = kernel_ops(lowered(PROGRAMS["mlp"], THROUGH))
    assert list(found) == ["rowwise_0", "gemm_0", "gemm_1"]
    assert found["gemm_0"] == ["matmul", "unary silu", "convert", "quantize"]
    assert found["gemm_1"] == ["matmul", "convert", "binary add", "convert"]


def test_attention_is_three_launches() -> None:
    found = kernel_ops(lowered(PROGRAMS["attention"], THROUGH))
    assert list(found) == ["gemm_0", "rowwise_0", "gemm_1"]
    assert found["gemm_0"] == ["transpose", "matmul", "full", "binary mul"]
    assert found["rowwise_0"][-1] == "convert", "P is written in bf16, not widened"


def test_gate_and_up_share_an_epilogue() -> None:
    found = kernel_ops(lowered(PROGRAMS["swiglu"], THROUGH))
    assert found["gemm_0"] == ["matmul"]
    assert found["gemm_1"][:1] == ["matmul"]
    assert found["gemm_1"][-3:] == ["unary silu", "binary mul", "convert"]
    assert "convert" in found["gemm_1"], "the bias is widened where it is read"
    module = lowered(PROGRAMS["swiglu"], THROUGH)
    assert [len(k.outs) for k in kernels(module)] == [1, 2], "a value used inside and outside is a result"


def test_layer_norm_is_one_kernel_and_the_amax_another() -> None:
    module = lowered(PROGRAMS["layer_norm"], THROUGH)
    assert [k.kernel_name for k in kernels(module)] == ["rowwise_0", "reduce_0"]


def test_siblings_are_one_kernel_with_several_results() -> None:
    module = lowered(PROGRAMS["siblings"], THROUGH)
    (kernel,) = kernels(module)
    assert len(kernel.outs) == 3
    assert "breccia.group" not in str(module)


def test_results_of_the_function_keep_their_names() -> None:
    module = lowered(PROGRAMS["swiglu"], THROUGH)
    last = next(op for op in module.walk() if op.name == "func.return")
    assert [v.name_hint for v in last.operands] == ["y", "gb"]
    assert [[a.name_hint for a in k.args] for k in kernels(module)][1] == ["x", "wg", "b", "u"]


def test_names_are_unique_over_functions() -> None:
    text = "\n".join(
        f"func.func @{name}(%x: !breccia.tensor<[M], f32>) -> !breccia.tensor<[M], f32> {{\n"
        "  %y = breccia.unary neg %x\n  func.return %y : !breccia.tensor<[M], f32>\n}"
        for name in "fg"
    )
    assert list(kernel_ops(lowered(text, ["partition"]))) == ["rowwise_0", "rowwise_1"]


def random_program(seed: int, count: int = 14) -> str:
    """A straight-line program of elementwise ops, reductions, products, views and roundings on [M, 16] values."""
    rng = random.Random(seed)
    wide, rows, lines = ["x", "z"], list[str](), list[str]()
    for i in range(count):
        a, b = rng.choice(wide), rng.choice(wide)
        kind = rng.choice(
            ["unary", "binary", "binary", "reduce", "column", "whole", "apply", "matmul", "narrow", "view"]
        )
        if kind == "unary":
            lines.append(f"%v{i} = breccia.unary {rng.choice(['neg', 'relu', 'square'])} %{a}")
        elif kind in ("binary", "apply"):
            other = rng.choice(rows) if kind == "apply" and rows else b
            lines.append(f"%v{i} = breccia.binary {rng.choice(['add', 'max', 'sub'])} %{a}, %{other}")
        elif kind in ("reduce", "column", "whole"):
            axes = {"reduce": "[1]", "column": "[0]", "whole": "[0, 1]"}[kind]
            lines.append(f"%r{i} = breccia.reduce {rng.choice(['max', 'amax'])} %{a} axis {axes}")
            rows.append(f"r{i}")
            continue
        elif kind == "matmul":
            lines.append(f"%v{i} = breccia.matmul %{a}, %w")
        elif kind == "narrow":
            lines += [f"%n{i} = breccia.convert %{a} : bf16", f"%v{i} = breccia.convert %n{i} : f32"]
        else:
            lines += [f"%t{i} = breccia.transpose %{a} [1, 0]", f"%v{i} = breccia.transpose %t{i} [1, 0]"]
        wide.append(f"v{i}")
    results = rng.sample(wide, 2)
    type_ = "!breccia.tensor<[M, 16], f32>"
    body = "\n  ".join(lines)
    return f"""func.func @random(%x: {type_}, %z: {type_}, %w: !breccia.tensor<[16, 16], f32>) -> ({type_}, {type_}) {{
  {body}
  func.return %{results[0]}, %{results[1]} : {type_}, {type_}
}}"""


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed: int) -> None:
    module = parse_module(random_program(seed))
    out = validate_pipeline(module, [Partition()], sizes=[{"M": 3}], kinds=("normal", "exact", "nan"))
    for kernel in kernels(out):
        products = [op for op in kernel.body.block.ops if isinstance(op, MatmulOp | GroupedMatmulOp)]
        assert len(products) <= 1, "one product a kernel"


@pytest.mark.parametrize("seed", range(100, 160))
def test_random_graphs_are_convex(seed: int) -> None:
    """Kernels that are not convex cannot be ordered: partition or the verifier would raise."""
    module = lowered(random_program(seed, count=40), ["partition"], target=None)
    verify_form(module, "partitioned")


def chain(count: int) -> str:
    """Blocks of product, activation, sum of squares and division: many kernels."""
    lines, last = list[str](), "x"
    for i in range(count // 5):
        lines += [
            f"%h{i} = breccia.matmul %{last}, %w", f"%s{i} = breccia.unary silu %h{i}",
            f"%q{i} = breccia.unary square %s{i}", f"%r{i} = breccia.reduce max %q{i} axis [1]",
            f"%y{i} = breccia.binary div %s{i}, %r{i}",
        ]  # fmt: skip
        last = f"y{i}"
    type_ = "!breccia.tensor<[M, 16], f32>"
    body = "\n  ".join(lines)
    return (
        f"func.func @chain(%x: {type_}, %w: !breccia.tensor<[16, 16], f32>) -> {type_} {{\n  {body}\n"
        f"  func.return %{last} : {type_}\n}}"
    )


def test_time_is_about_linear_in_the_number_of_ops() -> None:
    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            module = parse_module(chain(count))
            start = time.perf_counter()
            Partition().run(module)
            best = min(best, time.perf_counter() - start)
        return best

    small, large = seconds(200), seconds(800)
    assert large < 12 * small, f"200 ops take {small * 1e3:.0f} ms, 800 take {large * 1e3:.0f} ms"
