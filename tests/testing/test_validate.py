"""The check itself: passes that keep their contract pass, passes that break it are named with the first difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, StringAttr

from breccia import recipes
from breccia.errors import PassError
from breccia.formats import float32
from breccia.ir import ops
from breccia.ir.attributes import NumberAttr, PolicyAttr
from breccia.ir.dialect import parse_module
from breccia.ir.interpreter import ScaledValue
from breccia.ir.pipeline import BrecciaPass, Contract
from breccia.ir.rewriting import replace_op
from breccia.testing.inputs import KINDS, make_value
from breccia.testing.validate import flatten_value, sums_are_exact, validate_pipeline

MLP = """
#a = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#w = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#p = #breccia.policy<scale = ceil, zero_scale = smallest>
func.func @mlp(%x : !breccia.tensor<[M, 72], bf16>, %w : !breccia.scaled<[72, 40], bf16, #w>)
    -> (!breccia.tensor<[M, 40], bf16>, !breccia.scaled<[M, 72], f32, #a>) {
  %xf = breccia.convert %x : f32
  %q = breccia.quantize %xf policy #p to #a
  %h = breccia.matmul %q, %w
  %c = breccia.full 0.5 [1, 1] : f32
  %g = breccia.binary mul %h, %c
  %y = breccia.convert %g : bf16
  func.return %y, %q : !breccia.tensor<[M, 40], bf16>, !breccia.scaled<[M, 72], f32, #a>
}
"""


def edit(contract: Contract, change: Any) -> BrecciaPass:
    """A pass that applies `change` to every op."""

    @dataclass(frozen=True)
    class Edit(BrecciaPass):
        name = "edit"

        def run(self, module: ModuleOp) -> None:
            for op in list(module.walk()):
                change(op)

    Edit.contract = contract
    return Edit()


def other_constant(value: float) -> Any:
    def change(op: Any) -> None:
        if isinstance(op, ops.FullOp):
            op.properties["value"] = NumberAttr(value)

    return change


def policy(**changes: Any) -> Any:
    def change(op: Any) -> None:
        if isinstance(op, ops.QuantizeOp):
            op.properties["policy"] = PolicyAttr(recipes.mxfp8_e4m3.with_policy(**changes).policy)

    return change


def split_matmul(op: Any) -> None:
    """A sum in two halves: reassociates, and changes nothing else."""
    if not isinstance(op, ops.MatmulOp) or isinstance(op.args[0].type, type(op.out.type)):
        return
    from xdsl.dialects.builtin import IntAttr

    from breccia.ir.types import DimsAttr

    def cut(value: Any, axis: int, start: int, stop: int) -> Any:
        return ops.SliceOp.make(value, axis=IntAttr(axis), start=DimsAttr((start,)), stop=DimsAttr((stop,)))

    a, b = op.args
    parts = [cut(v, x, *r) for r in ((0, 32), (32, 72)) for v, x in ((a, 1), (b, 0))]
    products = [ops.MatmulOp.make(*parts[:2]), ops.MatmulOp.make(*parts[2:])]
    total = ops.BinaryOp.make(*products, fn=StringAttr("add"))
    replace_op(op, [*parts, *products, total])


def nothing(op: Any) -> None:
    """Changes nothing."""


@pytest.mark.parametrize("contract", ["exact", "value_exact", "reassociates", "changes_value"])
def test_a_pass_that_does_nothing(contract: Contract) -> None:
    module = parse_module(MLP)
    out = validate_pipeline(module, [edit(contract, nothing)] * 2)
    assert out is not module
    assert out.is_structurally_equivalent(module)


def test_reassociation_is_allowed_only_where_declared() -> None:
    wide = MLP.replace("[M, 40], bf16>", "[M, 40], f32>").replace("convert %g : bf16", "unary abs %g")
    module = parse_module(wide)
    validate_pipeline(module, [edit("reassociates", split_matmul)])
    with pytest.raises(PassError, match=r"pass edit breaks its contract `exact` on @mlp, .* of result 0"):
        validate_pipeline(module, [edit("exact", split_matmul)])


@pytest.mark.parametrize("contract", ["exact", "value_exact", "reassociates"])
@pytest.mark.parametrize(
    "change",
    [other_constant(0.25), other_constant(0.5 + 2**-9), policy(scale="floor"), policy(rounding="ties_zero")],
    ids=["constant", "almost the constant", "scale rule", "tie rule"],
)
def test_broken_contracts(contract: Contract, change: Any) -> None:
    with pytest.raises(PassError, match=rf"pass edit breaks its contract `{contract}` on @mlp.* before, .* after"):
        validate_pipeline(parse_module(MLP), [edit(contract, change)])


def test_changes_under_a_flag_are_not_compared() -> None:
    validate_pipeline(parse_module(MLP), [edit("changes_value", other_constant(0.25))])


def test_the_message_names_kind_sizes_and_place() -> None:
    with pytest.raises(PassError, match=r"normal inputs, M = 1: .* of result 0, first at \[0, \d+\]"):
        validate_pipeline(parse_module(MLP), [edit("exact", other_constant(0.75))])


def test_a_dropped_rounding_is_seen_by_reassociates() -> None:
    """Rounding to bf16 and back disappears: too large for the error of a sum."""
    text = """func.func @f(%x : !breccia.tensor<[M, 64], f32>) -> !breccia.tensor<[M, 1], f32> {
  %b = breccia.convert %x : bf16
  %c = breccia.convert %b : f32
  %y = breccia.reduce sum %c axis [1]
  func.return %y : !breccia.tensor<[M, 1], f32>
}"""

    def drop(op: Any) -> None:
        inner = op.operands[0].owner if isinstance(op, ops.ConvertOp) else None
        if isinstance(inner, ops.ConvertOp):
            replace_op(op, [], [inner.args[0]])

    with pytest.raises(PassError, match="breaks its contract `reassociates`"):
        validate_pipeline(parse_module(text), [edit("reassociates", drop)])


def test_a_dropped_function() -> None:
    def drop(op: Any) -> None:
        if op.name == "func.func":
            op.detach()

    with pytest.raises(PassError, match="dropped the function @mlp"):
        validate_pipeline(parse_module(MLP), [edit("exact", drop)])


def test_a_form_that_a_pass_promises() -> None:
    @dataclass(frozen=True)
    class Partition(BrecciaPass):
        name = "partition"
        contract: ClassVar[Contract] = "exact"

        def run(self, module: ModuleOp) -> None:
            """Forgets to partition."""

    with pytest.raises(Exception, match=r"partitioned form, @mlp: .* computes outside of a kernel"):
        validate_pipeline(parse_module(MLP), [Partition()])


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "uint4_g32_f16", "mxfp6_e2m3", "float8_1x128"])
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_every_kind_decode(name: str, kind: Any) -> None:
    from breccia import numerics
    from breccia.ir.types import scaled

    type_ = scaled([5, 70], float32, recipes.find(name))
    value = make_value(type_, {}, kind, np.random.default_rng(0))
    assert isinstance(value, ScaledValue)
    parts = numerics.Components(value.codes, value.scales, value.zero_point, value.offset)
    decoded = numerics.dequantize(parts, type_.recipe)
    assert decoded.shape == (5, 70)
    assert kind in ("nan", "inf", "max") or np.isfinite(decoded).all()
    sizes = [a.size for a in flatten_value(type_, value)]
    assert len(sizes) == 1 + len(type_.recipe.levels) + (type_.recipe.zero_point is not None)
    assert sizes[0] == {4: 5 * 35, 6: 5 * 54}.get(type_.recipe.element.bits, 350)


def test_which_sums_are_exact() -> None:
    func = next(iter(parse_module(MLP).ops))
    assert sums_are_exact(func)  # type: ignore[arg-type]
    inexact = parse_module(
        MLP.replace("binary mul %h, %c", "unary exp %h").replace("%c = breccia.full 0.5 [1, 1] : f32", "")
    )
    assert not sums_are_exact(next(iter(inexact.ops)))  # type: ignore[arg-type]
