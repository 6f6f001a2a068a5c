"""assign-layouts and hoist-prepare together: who converts, who writes what is asked for, and what runs once."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from breccia.errors import PassError
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import ConvertLayoutOp
from breccia.ir.types import ScaledType
from breccia.passes.hoist_prepare import HoistPrepare
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import PROGRAMS, UPPER, before, lowered, passes, with_layouts


def at_function_level(module: ModuleOp, name: str) -> list[ConvertLayoutOp]:
    function = next(f for f in module.walk() if isinstance(f, FuncOp) and f.sym_name.data == name)
    return [op for op in function.body.block.ops if isinstance(op, ConvertLayoutOp)]


def test_nothing_is_asked_for_nothing_is_converted() -> None:
    module = lowered(PROGRAMS["mlp"])
    assert at_function_level(module, "mlp") == []
    assert [f.sym_name.data for f in module.walk() if isinstance(f, FuncOp)] == ["mlp"]


def test_weights_are_converted_once_and_activations_are_written_so() -> None:
    module = lowered(PROGRAMS["mlp"], target=with_layouts())
    assert at_function_level(module, "mlp") == []
    assert len(at_function_level(module, "prepare")) == 2
    orders = [dict(o.type.layout.data) for k in module.walk() if isinstance(k, KernelOp) for o in k.outs  # type: ignore[union-attr]
              if isinstance(o.type, ScaledType)]  # fmt: skip
    assert orders == [{"elements": "row_major", "scale0": "swizzle_128x4"}] * 2
    prepare = next(f for f in module.walk() if isinstance(f, FuncOp) and f.sym_name.data == "prepare")
    given = [t.layout.data for t in prepare.function_type.inputs.data]  # type: ignore[attr-defined]
    assert all(order == "row_major" for data in given for _, order in data), "@prepare takes what is on disk"


def test_values_stay() -> None:
    module = lowered(PROGRAMS["mlp"], before("assign-layouts"), with_layouts())
    validate_pipeline(module, passes(["assign-layouts", "hoist-prepare"]), sizes=[{"M": 5}], kinds=("normal", "nan"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_boundaries_are_canonical_without_constants(program: str) -> None:
    text = PROGRAMS[program].replace("attributes {breccia.constants = #breccia.ints[1, 2]}", "")
    module = lowered(text.replace("attributes {breccia.constants = #breccia.ints[1]}", ""), UPPER, with_layouts())
    for function in module.walk():
        if isinstance(function, FuncOp):
            types = (*function.function_type.inputs.data, *function.function_type.outputs.data)
            for t in types:
                if isinstance(t, ScaledType):
                    assert {order for _, order in t.layout.data} <= {"row_major", "packed4", "packed6"}  # type: ignore[union-attr]


def test_parts_of_packed_codes_become_a_kernel() -> None:
    text = """
func.func @f(%q: !breccia.scaled<[M, 10], f32, #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]>>)
    -> (!breccia.tensor<[M, 10], f4E2M1FN>, !breccia.tensor<[M, 1], f8E8M0FNU>) {
  %e, %s = breccia.parts %q
  func.return %e, %s : !breccia.tensor<[M, 10], f4E2M1FN>, !breccia.tensor<[M, 1], f8E8M0FNU>
}"""
    module = lowered(text, before("assign-layouts"))
    out = validate_pipeline(module, passes(["assign-layouts"]), sizes=[{"M": 3}], kinds=("normal",))
    assert [k.kernel_name for k in out.walk() if isinstance(k, KernelOp)] == ["parts_0"]


def test_positions_of_constants_are_checked() -> None:
    text = PROGRAMS["mlp"].replace("ints[1, 2]", "ints[1, 7]")
    module = lowered(text, before("hoist-prepare"), with_layouts())
    with pytest.raises(
        PassError, match=r"breccia.constants of @mlp is \[1, 7\]; positions of its 3 arguments are wanted"
    ):
        HoistPrepare().run(module)
