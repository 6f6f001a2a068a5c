"""cse and dce on whole programs: duplicates go, results stay, and time is linear."""

from __future__ import annotations

import time

import pytest

from breccia.ir.dialect import parse_module
from breccia.ir.kernel import KernelOp
from breccia.ir.printer import print_module
from breccia.passes.cse import CommonSubexpressions
from breccia.passes.dce import DeadCodeElimination
from tests.passes.examples import PROGRAMS, lowered, parsed


def doubled(text: str) -> str:
    """A program whose every op stands twice; the copies feed nothing."""
    lines = text.strip().splitlines()
    first = next(i for i, line in enumerate(lines) if line.lstrip().startswith("%") and " = " in line)
    last = next(i for i, line in enumerate(lines) if "func.return" in line)
    body = lines[first:last]
    copies = [line.replace(" = ", "_copy = ", 1) for line in body]
    both = [line for pair in zip(body, copies, strict=True) for line in pair]
    return "\n".join([*lines[:first], *both, *lines[last:]])


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("step", [CommonSubexpressions, DeadCodeElimination])
def test_doubled_programs_shrink_to_themselves(
    program: str, step: type[CommonSubexpressions | DeadCodeElimination]
) -> None:
    text = PROGRAMS[program]
    once, twice = parsed(text), parsed(doubled(text))
    assert len(list(twice.walk())) > len(list(once.walk()))
    step().run(twice)
    DeadCodeElimination().run(twice)
    DeadCodeElimination().run(once)
    assert print_module(twice) == print_module(once)


def test_equal_kernels_share_their_body_text_but_not_their_name() -> None:
    kernel = 'breccia.kernel "{}" in (%x) out (!breccia.tensor<[M], f32>) body (%x) {{ %n = unary neg %x yield %n }}'
    text = (
        "func.func @f(%x: !breccia.tensor<[M], f32>) -> (!breccia.tensor<[M], f32>, !breccia.tensor<[M], f32>) {\n"
        f"  %a = {kernel.format('rowwise_0')}\n  %b = {kernel.format('rowwise_1')}\n"
        "  func.return %a, %b : !breccia.tensor<[M], f32>, !breccia.tensor<[M], f32>\n}"
    )
    module = lowered(text, ["cse"])
    assert [k.kernel_name for k in module.walk() if isinstance(k, KernelOp)] == ["rowwise_0"]


def test_equal_ops_inside_a_kernel_are_merged_and_regions_do_not_leak() -> None:
    text = """
func.func @f(%x: !breccia.tensor<[M], f32>) -> (!breccia.tensor<[M], f32>, !breccia.tensor<[M], f32>) {
  %n = breccia.unary neg %x
  %a = breccia.kernel "rowwise_0" in (%x) out (!breccia.tensor<[M], f32>)
    body (%x) { %p = unary neg %x %q = unary neg %x %s = binary mul %p, %q yield %s }
  func.return %a, %n : !breccia.tensor<[M], f32>, !breccia.tensor<[M], f32>
}"""
    module = lowered(text, ["cse"])
    (kernel,) = [k for k in module.walk() if isinstance(k, KernelOp)]
    assert [op.name for op in kernel.body.block.ops] == ["breccia.unary", "breccia.binary", "breccia.yield"]


def test_time_is_about_linear() -> None:
    def seconds(count: int) -> float:
        body = "\n".join(f"  %v{i + 1} = breccia.unary neg %v{i}" for i in range(count))
        type_ = "!breccia.tensor<[M], f32>"
        text = f"func.func @f(%v0: {type_}) -> {type_} {{\n{body}\n  func.return %v{count} : {type_}\n}}"
        best = float("inf")
        for _ in range(3):
            module = parse_module(text)
            start = time.perf_counter()
            CommonSubexpressions().run(module)
            DeadCodeElimination().run(module)
            best = min(best, time.perf_counter() - start)
        return best

    small, large = seconds(200), seconds(800)
    assert large < 12 * small, f"200 ops take {small * 1e3:.1f} ms, 800 take {large * 1e3:.1f} ms"
