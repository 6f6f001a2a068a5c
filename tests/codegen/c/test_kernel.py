"""Kernels in languages like C: what is printed, and what is refused. tests/test_plugin.py runs them through OpenCL."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from breccia.codegen.c import CKernel, Dialect, Tables
from breccia.errors import UnsupportedError
from breccia.ir.dialect import parse_module
from breccia.ir.rewriting import kernels

PLAIN = Dialect("mine", conversions={"bf16": "round_bf16({0})"})
ROWS = """
func.func @f(%x : !breccia.tensor<[M, 8], {dtype}>) -> !breccia.tensor<[M, 8], f32> {{
  %y = breccia.kernel "rows" grid(m = ceildiv(M, 4){more})
    in (%x window [4, 8] at (m, 0))
    out (!breccia.tensor<[M, 8], f32> window [4, 8] at (m, 0))
    finish (%x) {{ {body}
      breccia.yield %v }}
  func.return %y : !breccia.tensor<[M, 8], f32>
}}"""
SQUARE = "%v = breccia.unary square %x"
SWAP = """
func.func @f(%x : !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[M, 8], f32> {
  %y = breccia.kernel "swap" grid(m = ceildiv(M, 4), k = 3 reduction)
    in (%x window [4, 8] at (m, 0))
    out (!breccia.tensor<[M, 8], f32> window [4, 8] at (m, 0))
    init { %a = breccia.full 1.0 [4, 8] : f32
           %b = breccia.full 2.0 [4, 8] : f32
           breccia.yield %a, %b }
    step (%a, %b, %x) { %c = breccia.binary add %a, %x
                        breccia.yield %b, %c }
    finish (%a, %b) { %v = breccia.binary sub %a, %b
                      breccia.yield %v }
  func.return %y : !breccia.tensor<[M, 8], f32>
}"""


def printed(text: str, dialect: Dialect = PLAIN, scratch_bytes: int = 1 << 15) -> str:
    return CKernel(kernels(parse_module(text))[0], "k", dialect, Tables(dialect), scratch_bytes).text()


def rows(body: str = SQUARE, dtype: str = "f32", more: str = "") -> str:
    return ROWS.format(body=body, dtype=dtype, more=more)


def test_a_kernel_of_entries_needs_no_shared_memory() -> None:
    text = printed(rows())
    assert "static" not in text
    assert text.startswith("// rows(x: [M, 8] f32) -> [M, 8] f32\nvoid k(float *x, float *y, const long M) {\n")
    assert "if ((m * 4 + i0) < M) y[" in text
    assert "square(" in text


def test_what_is_read_twice_lies_in_shared_memory() -> None:
    text = printed(rows("%v = breccia.binary mul %x, %x"))
    assert len(re.findall(r"static float \w+\[32\];", text)) == 1
    with pytest.raises(
        UnsupportedError,
        match="mine: kernel rows has tiles of 128 bytes, and a work-group 127: make them smaller",
    ):
        printed(rows("%v = breccia.binary mul %x, %x"), scratch_bytes=127)


def test_carried_values_are_overwritten_after_all_new_ones_are_known() -> None:
    text = printed(SWAP)
    loop = text[text.index("for (long k") :]
    stores = re.findall(r"^ +(\w+)\[[^=]*\] = (\w+)\[[^=]*\];$", loop, re.MULTILINE)
    (copy, old_b), (a, from_copy), (b, _) = stores[-4:-1] if len(stores) > 3 else stores[:3]
    assert (old_b, from_copy) == (b, copy)
    assert a != b


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rows(more=" sequential"), "kernel rows wants its programs in order"),
        (rows("%v = breccia.convert %x : f32", "bf16"), "kernel rows has an array of bf16; convert to f32 first"),
        (
            rows("%h = breccia.convert %x : f16\n%v = breccia.convert %h : f32"),
            "kernel rows converts to f16; known: f32, bf16",
        ),
    ],
)
def test_what_the_dialect_cannot_say_is_refused(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"mine: {message}"):
        printed(text)


def test_names_of_the_ir_never_meet_those_of_the_language() -> None:
    text = printed(
        rows().replace("%x", "%float").replace("%v", "%EACH").replace("[M, 8]", "[silu, 8]").replace("(M,", "(silu,")
    )
    assert re.search(r"void k\(float \*float_, float \*y, const long silu_2\)", text)


def test_a_dialect_spells_its_own_words() -> None:
    cuda = replace(
        PLAIN,
        kernel='extern "C" __global__ void {name}({parameters}) {{\n{body}\n}}',
        program="long program = blockIdx.x;",
    )
    text = printed(rows(), cuda)
    assert 'extern "C" __global__ void k(' in text
    assert "long program = blockIdx.x;" in text
