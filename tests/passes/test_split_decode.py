"""`split-decode`: operands of a product decoded by kernels of their own, where the schedule says `decode = apart`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities, set_target
from breccia.ir.dialect import parse_module
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import TransposeOp
from breccia.ir.pipeline import Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels
from breccia.passes.explode import Explode
from breccia.passes.insert_masks import InsertMasks
from breccia.passes.legalize_windows import LegalizeWindows
from breccia.passes.schedule import Schedule
from breccia.passes.split_decode import SplitDecode
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.examples import lost_locations, number_locations
from tests.passes.kernel_cases import CASES, FUSED, PRODUCTS, SMALL_SIZES, product_name
from tests.passes.kernel_texts import SMALL, gemm, plain, scaled

POWERS = replace(SMALL, name="test:powers", pow2_tiles=True)
SPLIT = ("decode_0", "decode_1")
OPERANDS = [product_name(row) for row in PRODUCTS if "operand" in row[2] + row[3]]
TURNED = ("w.T packed", "batched a, shared w", "x @ x.T", "bias, silu, quantize 1x128", "grouped, mainloop")


def asked(source: ModuleOp, target: Capabilities = SMALL) -> ModuleOp:
    """A tiled module whose kernels all want their operands decoded apart."""
    set_target(source, target)
    for kernel in kernels(source):
        kernel.properties["schedule"] = ScheduleAttr((("decode", "apart"),))
    Pipeline([Explode(), Schedule(), Tile()]).run(source)
    return source


def split(source: ModuleOp) -> dict[str, KernelOp]:
    """The kernels of a module after the pass, by name."""
    Pipeline([SplitDecode()]).run(asked(source))
    return {k.kernel_name: k for k in kernels(source)}


@pytest.mark.parametrize("case", [*OPERANDS, *TURNED])
def test_decoding_apart_means_the_same(case: str) -> None:
    source = asked(CASES[case]())
    number_locations(source)
    after = validate_pipeline(source, [SplitDecode()], sizes=SMALL_SIZES)
    assert {k.kernel_name for k in kernels(after)} & set(SPLIT)
    assert lost_locations(after) == []


@pytest.mark.parametrize("case", [OPERANDS[3], "bf16@- x nf4.T@operand 7x100x71", "w.T packed", "grouped, mainloop"])
def test_padded_tiles_of_the_new_kernels_mean_the_same(case: str) -> None:
    source = asked(CASES[case](), POWERS)
    passes = [SplitDecode(), LegalizeWindows(), InsertMasks()]
    validate_pipeline(source, passes, sizes=SMALL_SIZES, kinds=("normal", "nan"))


def test_both_operands_are_decoded_and_their_scales_go_with_them() -> None:
    found = split(gemm("mxfp8", "mxfp8.T", "operand", "operand", "M", "96", "70", "bf16"))
    assert list(found) == ["decode_0", "decode_1", "gemm_0"]
    assert [str(k.outs[0].type) for k in found.values()][:2] == [
        "!breccia.tensor<[M, 96], bf16>", "!breccia.tensor<[96, 70], bf16>",
    ]  # fmt: skip
    product = found["gemm_0"]
    assert [a.name_hint for a in product.args] == ["a_values", "w_values"]
    assert [op.name for op in product.step.block.ops] == ["breccia.dot", "breccia.binary", "breccia.yield"]
    assert [d.name for d in found["decode_1"].tiles.grid] == ["n", "k"]
    assert {d.kind for d in found["decode_1"].tiles.grid} == {"parallel"}


def test_what_is_decoded_once_is_turned_to_rows_of_n() -> None:
    found = split(FUSED["w.T packed"]())
    decode, product = found["decode_1"], found["kernel_0"]
    assert isinstance(list(decode.finish.block.ops)[-2], TransposeOp)
    assert str(decode.outs[0].type) == "!breccia.tensor<[96, 70], f32>", "codes are counted, not their bytes"
    assert decode.tiles.outputs[0].block == (64, 32)
    assert "dot nn %a_values, %w_values" in print_module(product.parent_op().parent_op())  # type: ignore[union-attr]


def test_bytes_are_turned_to_rows_of_k_and_wait_for_their_scales() -> None:
    found = split(gemm("row", "column", "epilogue", "epilogue", "M", "96", "70"))
    assert list(found) == ["decode_1", "gemm_0"], "the left operand lies right already"
    assert str(found["decode_1"].outs[0].type) == "!breccia.tensor<[70, 96], f8E4M3FN>"
    assert found["gemm_0"].tiles.finish_uses == (1, 2), "scales of the epilogue are renumbered"
    assert "w_values" in [a.name_hint for a in found["gemm_0"].args]


def test_one_operand_on_both_sides_is_turned_for_one_of_them() -> None:
    source = parse_module("""
func.func @f(%x: !breccia.tensor<[64, 64], f32>) -> !breccia.tensor<[64, 64], f32> {
  %y = breccia.kernel "gemm_0" grid(k = 2 reduction) schedule<decode = apart> in (%x window [64, 32] at (0, k))
      out (!breccia.tensor<[64, 64], f32> window [64, 64] at (0, 0))
      init { %acc = full 0.0 [64, 64] : f32  yield %acc }
      step (%acc, %x) { %p = dot nt %x, %x  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[64, 64], f32>
}""")
    set_target(source, SMALL)
    after = validate_pipeline(source, [SplitDecode()], kinds=("normal", "exact"))
    assert [len(k.args) for k in kernels(after)] == [1, 2]


def test_segments_stay_while_the_weights_of_groups_are_decoded() -> None:
    """Where rows of a group begin is looked up, which no grid of the rows alone could follow."""
    found = split(CASES["grouped, with a bias"]())
    assert list(found)[:2] == ["decode_1", "grouped_0"]
    assert [d.name for d in found["decode_1"].tiles.grid] == ["e", "n", "k"]
    assert "x_elements" in [a.name_hint for a in found["grouped_0"].args]


def test_operands_before_a_table_stay_since_index_maps_count_operands() -> None:
    """`tile` puts tables first; in text by hand they may stand anywhere before their use."""
    text = """
func.func @f(%w: !breccia.tensor<[3, 32, 8], f8E4M3FN>, %o: !breccia.tensor<[4], i32>,
             %x: !breccia.tensor<[T, 32], f32>) -> !breccia.tensor<[T, 8], f32> {
  %y = breccia.kernel "grouped_0" grid(e = 3, m = ceildiv(T, 16), k = 1 reduction) schedule<decode = apart>
      in (OPERANDS, %x window [16, 32] at (m, k) within axis 0 %o[e] to %o[e + 1])
      out (!breccia.tensor<[T, 8], f32> window [16, 8] at (m, 0) within axis 0 %o[e] to %o[e + 1] combine add)
      init { %acc = full 0.0 [16, 8] : f32  yield %acc }
      step (%acc, %w, %x) { %b = convert %w : f32  %p = dot nn %x, %b  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[T, 8], f32>
}"""
    weight = "%w window [one, 32, 8] at (e, k, 0)"
    for operands, count in ((f"%o, {weight}", 2), (f"{weight}, %o", 1)):
        source = parse_module(text.replace("OPERANDS", operands))
        set_target(source, SMALL)
        after = validate_pipeline(source, [SplitDecode()], sizes=[{"T": 21}], kinds=("normal",))
        assert len(kernels(after)) == count


@pytest.mark.parametrize("case", ["amax", "softmax", "w.T, mainloop", "x @ x + x"])
def test_what_has_nothing_to_decode_stays(case: str) -> None:
    source = asked(CASES[case]())
    text = print_module(source)
    Pipeline([SplitDecode()]).run(source)
    assert print_module(source) == text


def test_nothing_is_split_unless_the_schedule_asks() -> None:
    source = gemm("mxfp8", "mxfp8.T", "operand", "operand", "M", "96", "70", "bf16")
    Pipeline([Explode(), Schedule(), Tile(), SplitDecode()]).run(source)
    assert [k.kernel_name for k in kernels(source)] == ["gemm_0"]


def test_each_kernel_that_asks_has_decode_kernels_of_its_own_name() -> None:
    body = "%h = matmul %a, %w place_a #breccia.place<operand> place_b #breccia.place<operand>"
    types = f"%a: {scaled('M, 96', 'mxfp8')}, %w: {scaled('96, 70', 'mxfp8.T')}"
    out = plain("M, 70")
    one = f'breccia.kernel "gemm_0" in (%a, %w) out ({out}) body (%a, %w) {{ {body} yield %h }}'
    source = parse_module(
        f"func.func @f({types}) -> ({out}, {out}) {{ %y = {one} %z = {one} func.return %y, %z : {out}, {out} }}"
    )
    Pipeline([SplitDecode()]).run(asked(source))
    names = [k.kernel_name for k in kernels(source)]
    assert [n for n in names if n.startswith("decode")] == [f"decode_{i}" for i in range(4)]
