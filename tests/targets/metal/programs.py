"""Traced programs whose emitted Metal text is kept in golden files, and run by the shim against the interpreter."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.capabilities import set_target
from breccia.ir.dialect import parse_module
from breccia.ir.pipeline import Pipeline
from breccia.passes import default_pipeline
from breccia.target import find
from tests.targets.numpy.programs import SOFTMAX, mlp, normalized, product
from tests.targets.triton.programs import cast, dequantize, gemm, grouped

GOLDEN: dict[str, str] = {
    "gemm_float8_1x128": product("float8_1x128"),
    "gemm_mxfp4": gemm("", "mxfp4", k=256, n=72, bias=True),
    "gemm_nvfp4": gemm("nvfp4", k=192, n=40),
    "gemm_uint4_zero_point": gemm("", "uint4_g128_f16", k=256, n=40, rows=False),
    "grouped_float8": grouped(k=160, n=40),
    "rms_norm": normalized(),
    "mlp": mlp(),
    "softmax": SOFTMAX.replace("N]", "200]"),
    "cast_mxfp6": cast("mxfp6_e3m2", k=192),
    "dequantize_nf4": dequantize("nf4", k=192),
}
"""Name to traced text."""
SMALL = """
func.func @f(%x : !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[M, 8], f32> {
  %y = breccia.binary add %x, %x
  func.return %y : !breccia.tensor<[M, 8], f32>
}"""


def lowered(text: str) -> ModuleOp:
    """The module after the whole pipeline for Metal."""
    module = parse_module(text)
    capabilities = find("metal").capabilities
    set_target(module, capabilities)
    Pipeline(default_pipeline(capabilities)).run(module)
    return module


def source(text: str) -> str:
    """What the Metal target prints for traced IR."""
    return find("metal").emit(lowered(text))
