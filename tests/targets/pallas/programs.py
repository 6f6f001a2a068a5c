"""Programs whose emitted text is kept, run and compiled: those of the NumPy target, and grouped products."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.dialect import parse_module
from breccia.target import find
from breccia.testing.conformance import lower
from tests.targets.numpy import programs as plain
from tests.targets.triton.programs import grouped

TARGET = "pallas:v6e"
GOLDEN: dict[str, str] = {
    **{name: text for name, text in plain.GOLDEN.items() if name != "softmax"},  # whose rows have no known length
    "softmax": plain.SOFTMAX.replace("N]", "200]"),
    "grouped": grouped(k=256, n=256),
    "grouped_in_rooms": grouped(k=256, n=256, counted=40).replace("xi64>", "xi32>").replace("], i64>", "], i32>"),
}


def lowered(text: str, target: str = TARGET) -> ModuleOp:
    """The module after the whole pipeline."""
    return lower(parse_module(text), find(target))[0]


def source(text: str, target: str = TARGET) -> str:
    """What the target prints for traced IR."""
    return find(target).emit(lowered(text, target))
