"""Programs in traced form that the tests of the upper passes share, and how they run them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
from xdsl.dialects.func import FuncOp

from breccia.ir.base import BrecciaOp
from breccia.ir.capabilities import Capabilities, LayoutRow, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import YieldOp
from breccia.ir.pipeline import BrecciaPass, Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions, kernels, location
from breccia.passes import LAID_OUT, TRACED, find
from breccia.target import find as find_target

UPPER = (*TRACED, *LAID_OUT)
ATTRIBUTES = """
#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#mxt = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#pmx = #breccia.policy<scale = ceil, zero_scale = smallest>
#exact = #breccia.policy<>
#tensor = #breccia.recipe<f8E4M3FN, f32 per [all, all]>
#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#column = #breccia.recipe<f8E4M3FN, f32 per [all, 1]>
#k128 = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#square = #breccia.recipe<f8E4M3FN, f32 per [128, 128]>
#nv = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>
#nvt = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]>
#int4 = #breccia.recipe<i4, bf16 per [128, 1]>
#uint4 = #breccia.recipe<ui4, f16 per [32, 1], zero ui4>
#int8 = #breccia.recipe<i8, f32 per [1, all]>
"""

MLP = """
func.func @mlp(%x: !breccia.tensor<[M, 128], bf16>, %w1: !breccia.scaled<[128, 256], bf16, #mxt>,
               %w2: !breccia.scaled<[256, 128], bf16, #mxt>) -> !breccia.tensor<[M, 128], bf16>
    attributes {breccia.constants = #breccia.ints[1, 2]} {
  %xf = breccia.convert %x : f32
  %sq = breccia.unary square %xf
  %t = breccia.reduce sum %sq axis [1]
  %c = breccia.full 128.0 [] : f32
  %ms = breccia.binary div %t, %c
  %rs = breccia.unary rsqrt %ms
  %nf = breccia.binary mul %xf, %rs
  %n = breccia.convert %nf : bf16
  %nq = breccia.quantize %n policy #pmx to #mx
  %h = breccia.matmul %nq, %w1
  %g = breccia.unary silu %h
  %gb = breccia.convert %g : bf16
  %gq = breccia.quantize %gb policy #pmx to #mx
  %o = breccia.matmul %gq, %w2
  %yf = breccia.binary add %o, %xf
  %y = breccia.convert %yf : bf16
  func.return %y : !breccia.tensor<[M, 128], bf16>
}
"""
"""The worked example: rms_norm, quantize, gemm, silu, quantize, gemm, residual."""

ATTENTION = """
func.func @attention(%q: !breccia.tensor<[2, 3, S, 16], bf16>, %k: !breccia.tensor<[2, 1, S, 16], bf16>,
                     %v: !breccia.tensor<[2, 1, S, 16], bf16>) -> !breccia.tensor<[2, S, 48], bf16> {
  %kt = breccia.transpose %k [0, 1, 3, 2]
  %s = breccia.matmul %q, %kt
  %c = breccia.full 0.25 [] : f32
  %t = breccia.binary mul %s, %c
  %m = breccia.reduce max %t axis [3]
  %d = breccia.binary sub %t, %m
  %e = breccia.unary exp %d
  %z = breccia.reduce sum %e axis [3]
  %p = breccia.binary div %e, %z
  %pb = breccia.convert %p : bf16
  %o = breccia.matmul %pb, %v
  %ob = breccia.convert %o : bf16
  %r = breccia.transpose %ob [0, 2, 1, 3]
  %y = breccia.reshape %r to [2, S, 48]
  func.return %y : !breccia.tensor<[2, S, 48], bf16>
}
"""

SWIGLU = """
func.func @swiglu(%x: !breccia.tensor<[M, 64], bf16>, %wg: !breccia.scaled<[64, 48], bf16, #uint4>,
                  %wu: !breccia.scaled<[64, 48], bf16, #uint4>, %b: !breccia.tensor<[48], bf16>)
    -> (!breccia.tensor<[M, 48], bf16>, !breccia.tensor<[M, 48], f32>) {
  %g = breccia.matmul %x, %wg
  %u = breccia.matmul %x, %wu
  %bf = breccia.convert %b : f32
  %one = breccia.full 1.0 [] : f32
  %b1 = breccia.binary add %bf, %one
  %gb = breccia.binary add %g, %b1
  %s = breccia.unary silu %gb
  %h = breccia.binary mul %s, %u
  %y = breccia.convert %h : bf16
  func.return %y, %gb : !breccia.tensor<[M, 48], bf16>, !breccia.tensor<[M, 48], f32>
}
"""
"""Two products of one value, a bias that is computed, and a result that is used inside and outside."""

LINEARS = """
func.func @linears(%x: !breccia.tensor<[M, 256], f32>, %w: !breccia.scaled<[256, 32], f32, #nvt>,
                   %v: !breccia.scaled<[256, 32], f32, #square>, %u: !breccia.scaled<[256, 32], bf16, #int4>,
                   %n: !breccia.scaled<[256, 32], f32, #row>)
    -> (!breccia.tensor<[M, 32], f32>, !breccia.tensor<[M, 32], f32>, !breccia.tensor<[M, 32], f32>,
        !breccia.tensor<[M, 32], f32>, !breccia.scaled<[M, 256], f32, #int8>) {
  %a = breccia.quantize %x policy #exact to #nv
  %y = breccia.matmul %a, %w
  %b = breccia.quantize %x policy #exact to #k128
  %z = breccia.matmul %b, %v
  %c = breccia.quantize %x policy #exact to #tensor
  %d = breccia.matmul %c, %n
  %xb = breccia.convert %x : bf16
  %e = breccia.matmul %xb, %u
  %i = breccia.quantize %x policy #exact to #int8
  func.return %y, %z, %d, %e, %i : !breccia.tensor<[M, 32], f32>, !breccia.tensor<[M, 32], f32>,
    !breccia.tensor<[M, 32], f32>, !breccia.tensor<[M, 32], f32>, !breccia.scaled<[M, 256], f32, #int8>
}
"""
"""One value in several recipes: two levels, blocks, a tensor's scale, rows, and INT4 weights; one weight along n."""

VIEWS = """
func.func @views(%x: !breccia.tensor<[M, 64], f32>, %w: !breccia.scaled<[N, 64], f32, #mx>,
                 %v: !breccia.scaled<[N, 64], f32, #mx>)
    -> (!breccia.tensor<[M, N], f32>, !breccia.tensor<[64, N], f32>, !breccia.scaled<[N + N, 64], f32, #mx>,
        !breccia.tensor<[M, 64], f32>, !breccia.tensor<[2], f32>) attributes {breccia.constants = #breccia.ints[1]} {
  %wt = breccia.transpose %w [1, 0]
  %y = breccia.matmul %x, %wt
  %vt = breccia.transpose %v [1, 0]
  %d = breccia.dequantize %vt
  %c = breccia.concat %v, %v axis 0
  %two = breccia.full 2.0 [2] : f32
  func.return %y, %d, %c, %x, %two : !breccia.tensor<[M, N], f32>, !breccia.tensor<[64, N], f32>,
    !breccia.scaled<[N + N, 64], f32, #mx>, !breccia.tensor<[M, 64], f32>, !breccia.tensor<[2], f32>
}
"""
"""Views of scaled tensors between kernels, a result that is an argument, and one that is a constant."""

GROUPED = """
func.func @grouped(%x: !breccia.tensor<[T, 64], f32>, %w: !breccia.scaled<[4, 64, 24], f32,
                   #breccia.recipe<f8E4M3FN, f32 per [1, 32, 1]>>, %o: !breccia.tensor<[5], i32>)
    -> !breccia.scaled<[T, 24], bf16, #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 8]>> {
  %q = breccia.quantize %x policy #pmx to #mx
  %y = breccia.grouped_matmul %q, %w, %o
  %s = breccia.unary relu %y
  %b = breccia.convert %s : bf16
  %r = breccia.quantize %b policy #pmx to #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 8]>
  func.return %r : !breccia.scaled<[T, 24], bf16, #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 8]>>
}
"""

SIBLINGS = """
func.func @siblings(%x: !breccia.tensor<[M, 64], f32>)
    -> (!breccia.scaled<[M, 64], f32, #mx>, !breccia.scaled<[64, M], f32, #mx>, !breccia.tensor<[M, 64], f32>) {
  %g = breccia.unary silu %x
  %q = breccia.quantize %g policy #pmx to #mx
  %d = breccia.dequantize %q
  %t = breccia.transpose %g [1, 0]
  %r = breccia.quantize %t policy #pmx to #mx
  func.return %q, %r, %d : !breccia.scaled<[M, 64], f32, #mx>, !breccia.scaled<[64, M], f32, #mx>,
    !breccia.tensor<[M, 64], f32>
}
"""
"""What training needs: one value quantized along its rows, and along its columns for the other product."""

LAYER_NORM = """
func.func @layer_norm(%x: !breccia.tensor<[2, S, 24], bf16>, %w: !breccia.tensor<[24], bf16>,
                      %b: !breccia.tensor<[24], bf16>)
    -> (!breccia.tensor<[2, S, 24], bf16>, !breccia.tensor<[1, 1, 1], f32>) {
  %xf = breccia.convert %x : f32
  %n = breccia.full 24.0 [] : f32
  %s = breccia.reduce sum %xf axis [2]
  %m = breccia.binary div %s, %n
  %d = breccia.binary sub %xf, %m
  %q = breccia.unary square %d
  %v = breccia.reduce sum %q axis [2]
  %u = breccia.binary div %v, %n
  %r = breccia.unary rsqrt %u
  %y = breccia.binary mul %d, %r
  %wf = breccia.convert %w : f32
  %bf = breccia.convert %b : f32
  %yw = breccia.binary mul %y, %wf
  %yb = breccia.binary add %yw, %bf
  %o = breccia.convert %yb : bf16
  %a = breccia.unary abs %yb
  %z = breccia.reduce amax %a axis [0, 1, 2]
  func.return %o, %z : !breccia.tensor<[2, S, 24], bf16>, !breccia.tensor<[1, 1, 1], f32>
}
"""

DELAYED = """
func.func @delayed(%x: !breccia.tensor<[M, 64], f32>, %h: !breccia.tensor<[16], f32>)
    -> (!breccia.scaled<[M, 64], f32, #tensor>, !breccia.tensor<[16], f32>) {
  %a = breccia.amax_from_history max %h
  %r = breccia.reshape %a to [1, 1]
  %s = breccia.scale_from_amax %r policy #breccia.policy<amax = delayed, history = 16> to #tensor level 0
  %q = breccia.quantize %x, %s given [0] policy #breccia.policy<amax = delayed, history = 16> to #tensor
  %n = breccia.reduce amax %x axis [0, 1]
  %g = breccia.history_update %h, %n
  func.return %q, %g : !breccia.scaled<[M, 64], f32, #tensor>, !breccia.tensor<[16], f32>
}
"""

PROGRAMS = {
    "mlp": MLP, "attention": ATTENTION, "swiglu": SWIGLU, "linears": LINEARS, "views": VIEWS, "grouped": GROUPED,
    "siblings": SIBLINGS, "layer_norm": LAYER_NORM, "delayed": DELAYED,
}  # fmt: skip


def capabilities(name: str = "numpy") -> Capabilities:
    return find_target(name).capabilities


def with_layouts(name: str = "triton:sm_100") -> Capabilities:
    """A target that wants weights with k contiguous and scales swizzled."""
    rows = (
        LayoutRow("a_scale", "f8E8M0FNU", "swizzle_128x4"),
        LayoutRow("b_scale", "any", "swizzle_128x4"),
        LayoutRow("b_elements", "f8E4M3FN", "mn_major"),
    )
    return replace(capabilities(name), layouts=rows)


def parsed(text: str, target: str | Capabilities | None = "numpy") -> ModuleOp:
    """A program of this file, or a text that uses its attributes, for a target."""
    module = parse_module(ATTRIBUTES + text)
    if target is not None:
        set_target(module, capabilities(target) if isinstance(target, str) else target)
    return module


def passes(names: Iterable[str | BrecciaPass]) -> list[BrecciaPass]:
    return [find(n)() if isinstance(n, str) else n for n in names]


def lowered(
    text: str, names: Iterable[str | BrecciaPass] = UPPER, target: str | Capabilities | None = "numpy"
) -> ModuleOp:
    """A program after passes."""
    module = parsed(text, target)
    Pipeline(passes(names)).run(module)
    return module


def before(name: str) -> tuple[str, ...]:
    """The upper passes that run before one of them."""
    return UPPER[: UPPER.index(name)]


def body_ops(kernel: KernelOp) -> list[str]:
    """What a kernel holds: `matmul`, `unary silu`, ... without its yield."""
    ops = [op for op in kernel.body.block.ops if isinstance(op, BrecciaOp) and not isinstance(op, YieldOp)]
    return [op.short_name + (f" {op.data('fn')}" if "fn" in op.properties else "") for op in ops]


def kernel_ops(module: ModuleOp) -> dict[str, list[str]]:
    """What every kernel holds, by kernel name."""
    return {k.kernel_name: body_ops(k) for k in kernels(module)}


def number_locations(module: ModuleOp) -> int:
    """Give every op a line of its own in user.py; how many there are."""
    count = 0
    for op in module.walk():
        count += 1
        op.location = location("user.py", count)
    return count


def lost_locations(module: ModuleOp) -> list[str]:
    """Ops that no longer know where they come from."""
    return [
        op.name
        for function in functions(module)
        for op in function.walk()
        if not isinstance(op, FuncOp)
        and not (isinstance(op.location, FileLineColLoc) and op.location.filename.data == "user.py")
    ]


def text_of(module: ModuleOp) -> str:
    return print_module(module)


SIZES = {"M": 5, "N": 3, "S": 7, "T": 9}


def validated(name: str, program: str, target: str | Capabilities = "numpy", sizes: dict[str, int] = SIZES) -> ModuleOp:
    """`program` after the pass `name`, which is held to its contract on inputs of every kind; and locations stay."""
    from breccia.testing.validate import validate_pipeline

    module = lowered(program, before(name), target)
    number_locations(module)
    after = validate_pipeline(module, passes([name]), sizes=[sizes])
    assert lost_locations(after) == []
    return after
