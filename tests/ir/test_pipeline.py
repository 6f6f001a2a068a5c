"""How a pipeline verifies, and whom it blames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from xdsl.dialects.builtin import ModuleOp, f64

from breccia.errors import PassError
from breccia.ir.dialect import parse_module
from breccia.ir.ops import UnaryOp
from breccia.ir.pipeline import BrecciaPass, Pipeline
from breccia.ir.types import tensor
from breccia.passes import find

TEXT = """
func.func @f(%x: !breccia.tensor<[4], f32>) -> !breccia.tensor<[4], f32> {
  %y = breccia.unary neg %x
  %dead = breccia.unary exp %x
  func.return %y : !breccia.tensor<[4], f32>
}
"""


@dataclass(frozen=True)
class Breaks(BrecciaPass):
    """Gives an op a result type that its operand does not give."""

    name: ClassVar[str] = "breaks"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        for op in module.walk():
            if isinstance(op, UnaryOp):
                op.out._type = tensor([4], f64)


@dataclass(frozen=True)
class Crashes(BrecciaPass):
    """Meets IR that it did not expect."""

    name: ClassVar[str] = "crashes"
    contract: ClassVar = "exact"

    def run(self, module: ModuleOp) -> None:
        raise KeyError("a value that is not there")


@pytest.mark.parametrize("careful", [True, False])
def test_a_pass_that_breaks_the_module_is_named(careful: bool) -> None:
    passes = [find("canonicalize")(), Breaks(), find("cse")()]
    with pytest.raises(PassError, match="pass breaks made IR that does not verify"):
        Pipeline(passes, careful=careful).run(parse_module(TEXT))


def test_a_crash_after_a_broken_module_blames_the_pass_that_broke_it() -> None:
    with pytest.raises(PassError, match="pass breaks"):
        Pipeline([Breaks(), Crashes()], careful=False).run(parse_module(TEXT))


def test_a_crash_on_good_ir_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError, match="not there"):
        Pipeline([Crashes()], careful=False).run(parse_module(TEXT))


@pytest.mark.parametrize("careful", [True, False])
def test_both_ways_give_the_same_module(careful: bool) -> None:
    module = parse_module(TEXT)
    pipeline = Pipeline([find("canonicalize")(), find("dce")()], careful=careful)
    pipeline.run(module)
    assert "exp" not in str(module)
    assert [r.name for r in pipeline.records] == ["canonicalize", "dce"]
