"""Bugs planted in emitted text: each must be caught by what the tests of this folder look at."""

from __future__ import annotations

import pytest

from breccia.ir.dialect import parse_module
from breccia.testing.conformance import compare
from tests.targets.metal import programs, shim

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
BUGS: dict[str, tuple[str, str, str]] = {
    "no barrier before the product": ("gemm_mxfp4", f"    {BARRIER}    {{", "    {"),
    "no barrier after the product": ("gemm_mxfp4", f"    }}\n    {BARRIER}}}", "    }\n}"),
    "a row of the operand too many": ("gemm_mxfp4", "place < M ?", "place <= M ?"),
    "a row of the result too many": ("gemm_mxfp4", "place >= M", "place > M"),
    "scales of the wrong block": ("gemm_nvfp4", "j / 16", "(j + 1) / 16"),
    "codes of a byte swapped": ("gemm_mxfp4", "(j % 2) * 4", "(1 - j % 2) * 4"),
    "an operand read across": ("gemm_mxfp4", ", ulong2(0, 0), true", ""),
    "subnormal codes as normal ones": ("gemm_mxfp4", "magnitude < 2u", "magnitude < 1u"),
    "a zero point added": ("gemm_uint4_zero_point", "w_elements_4 - w_zero_point_3", "w_elements_4 + w_zero_point_3"),
    "one step of k too few": ("gemm_uint4_zero_point", "for (int k = 0; k < 8; k++)", "for (int k = 0; k < 7; k++)"),
    "the next group's rows": ("grouped_float8", "(e_2 + 1) * offsets_strides[0]", "(e_2 + 2) * offsets_strides[0]"),
    "lanes that do not meet": ("rms_norm", "simd_sum(found)", "found"),
    "an element of a block not looked at": ("cast_mxfp6", "e < 32", "e < 31"),
    "ties to odd": ("cast_mxfp6", "(kept & 1)", "!(kept & 1)"),
    "the sign lost": ("cast_mxfp6", "code | (bits >> 31 << 5)", "code"),
    "six bits in the wrong place": ("cast_mxfp6", "(6 - shift)", "(4 - shift)"),
}  # fmt: skip
"""Name to (program, text, what takes its place)."""


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug(name: str) -> None:
    program, right, wrong = BUGS[name]
    text = programs.GOLDEN[program]
    source = programs.source(text)
    assert right in source, "the text has changed: plant the bug anew"
    assert not caught(text, source), "the program is right before"
    assert caught(text, source.replace(right, wrong))


def caught(text: str, source: str) -> str:
    """How a program shows that it is wrong; empty where it does not."""
    module = parse_module(text)
    entry = next(f for f in text.split("func.func @")[1:]).split("(")[0]
    call = shim.launch(source, entry)

    def listed(args):
        out = call(*args)
        return list(out) if isinstance(out, tuple) else [out]

    for kind in ("normal", "ties", "zeros"):
        for rows in (5, 37):
            try:
                outcome, detail = compare(module, listed, {"M": rows}, kind, strict=False)
            except AssertionError as error:  # places, races and barriers
                return str(error)
            if outcome == "FAILED":
                return detail
    return ""
