"""`insert-masks`: with it, full tiles with garbage outside give what smaller tiles give; without it, they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.errors import PassError, UnsupportedError
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import TARGET_KEY, Capabilities, TileRow, set_target
from breccia.ir.interpreter import interpret
from breccia.ir.pipeline import Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions, kernels
from breccia.passes.explode import Explode
from breccia.passes.insert_masks import InsertMasks
from breccia.passes.legalize_windows import LegalizeWindows
from breccia.passes.schedule import Schedule
from breccia.passes.tile import Tile
from breccia.target import find
from breccia.testing.inputs import make_arguments
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, ROWWISE, SMALL_SIZES
from tests.passes.kernel_texts import SMALL, gemm, module, plain, scaled

GARBAGE = replace(SMALL, name="test:garbage", fetch_pad="garbage")
POWERS = replace(SMALL, name="test:powers", fetch_pad="zero", pow2_tiles=True)
BOTH = replace(SMALL, name="test:both", fetch_pad="garbage", pow2_tiles=True)


def lowered(source: ModuleOp, target: Capabilities, *, masks: bool = True, block_k: int = 0) -> ModuleOp:
    set_target(source, target)
    if block_k:
        kernels(source)[0].properties["schedule"] = ScheduleAttr((("block_k", block_k),))
    Pipeline([Explode(), Schedule(), Tile(), LegalizeWindows(), *([InsertMasks()] if masks else [])]).run(source)
    return source


def masks(source: ModuleOp) -> list[str]:
    """The masks of a module, as text."""
    return [line.partition(" = ")[2] for line in print_module(source).splitlines() if " = mask " in line]


@pytest.mark.parametrize("target", [GARBAGE, POWERS, BOTH], ids=lambda t: t.name)
@pytest.mark.parametrize("case", CASES)
def test_full_tiles_give_what_smaller_ones_give(case: str, target: Capabilities) -> None:
    source = CASES[case]()
    set_target(source, target)
    try:
        Pipeline([Explode(), Schedule(), Tile(), LegalizeWindows()]).run(source)
    except UnsupportedError as refusal:
        reason = str(refusal)
        if target.pow2_tiles and ("known only at the call" in reason or "powers of two" in reason):
            return  # test_legalize_windows holds these
        raise
    if case == "quantize with offsets" and target.pow2_tiles:
        return  # refused; see test_offsets_across_an_edge_are_refused
    validate_pipeline(source, [InsertMasks()], sizes=SMALL_SIZES, kinds=("normal", "nan"))


@pytest.mark.parametrize(
    "case",
    [
        "row@epilogue x column@epilogue Mx96x70",
        "1x128@mainloop x 128x128@mainloop Mx576x300",
        "nvfp4@epilogue+mma x nvfp4.T@epilogue+mma Mx96x71",
        "amax",
        "sum and min",
    ],
)
def test_without_masks_garbage_reaches_results(case: str) -> None:
    source = lowered(CASES[case](), GARBAGE, masks=False)
    (function,) = functions(source)
    args = make_arguments(function, dict(SMALL_SIZES[1]), "normal", np.random.default_rng(0))
    clip = interpret(source, args)
    pad = interpret(source, args, pad="nan")
    if case.startswith("1x128"):  # 576 is a multiple of the tile along k: nothing is outside there
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(clip, pad, strict=True))
    else:
        assert any(np.isnan(np.asarray(b, np.float64)).any() for b in pad)
        assert not any(np.isnan(np.asarray(a, np.float64)).any() for a in clip)


@pytest.mark.parametrize("case", ["quantize 1x128", "rms_norm and quantize", "quantize nvfp4, outer given"])
def test_rows_beyond_the_tensor_need_no_mask(case: str) -> None:
    assert masks(lowered(ROWWISE[case](), GARBAGE)) == []


def test_one_side_is_enough_where_a_fetch_gives_zero() -> None:
    assert masks(lowered(gemm("row", "column", "epilogue", "epilogue", k="100", n="70"), SMALL)) == []
    assert masks(lowered(gemm("row", "column", "epilogue", "epilogue", k="100", n="70"), GARBAGE)) == [
        "mask %a_elements axis 1 valid 100 - (k * 64) value 0.0",
        "mask %w_elements axis 0 valid 100 - (k * 64) value 0.0",
    ]


def test_code_zero_is_not_zero_in_nf4() -> None:
    """A fetch of zeros leaves -1 there, times a scale."""
    source = module(
        {"q": scaled("M, 100", "nf4")}, "%d = dequantize %q\n%y = reduce sum %d axis [1]", {"y": plain("M, 1")}
    )
    assert masks(lowered(source, POWERS)) == ["mask %d axis 1 valid 100 value 0.0"]
    source = module(
        {"q": scaled("M, 100", "mxfp8")}, "%d = dequantize %q\n%y = reduce sum %d axis [1]", {"y": plain("M, 1")}
    )
    assert masks(lowered(source, POWERS)) == []


NF4 = ("nf4, f32 per [1, 16]", "nf4, f32 per [16, 1]")
"""Where a code of zero stands for -1, and tiles of 64 hold four scales."""


def test_a_partial_block_has_a_real_scale_beyond_its_last_element() -> None:
    """100 elements have scales for 112: from the 100th on, codes of -1 are multiplied by a scale that is not 0."""
    hopper = replace(find("triton:sm_90").capabilities, tiles=SMALL.tiles)
    found = masks(lowered(gemm("", NF4[1], "", "operand", k="100", n="72"), hopper, block_k=64))
    assert [line.partition(" ")[2].partition(" ")[2] for line in found] == ["axis 0 valid 100 - (k * 64) value 0.0"]
    source = gemm("mxfp8", "mxfp8.T", "operand", "operand", k="100", n="72")
    assert masks(lowered(source, hopper, block_k=64)) == [], "zero times a real scale is zero"


@pytest.mark.parametrize("pair", [NF4, ("int4", "int4.T"), ("offset", "offset.T"), ("nvfp4", "nvfp4.T")], ids=str)
@pytest.mark.parametrize("target", [POWERS, BOTH], ids=lambda t: t.name)
def test_partial_blocks_in_padded_tiles(pair: tuple[str, str], target: Capabilities) -> None:
    place = "operand, operand" if pair[0] == "nvfp4" else "operand"
    source = gemm(*pair, place, place, m="5", k="100", n="8")
    lowered(source, target, masks=False, block_k=64)
    validate_pipeline(source, [InsertMasks()], kinds=("normal", "nan"))


def test_a_function_that_moves_zero_is_masked_after_it() -> None:
    for fn, wanted in (("silu", []), ("exp", ["mask %v axis 1 valid 300 value 0.0"])):
        source = module(
            {"x": plain("M, 300")}, f"%v = unary {fn} %x\n%y = reduce amax %v axis [1]", {"y": plain("M, 1")}
        )
        assert masks(lowered(source, POWERS)) == wanted


def test_maxima_start_at_minus_infinity() -> None:
    source = module({"x": plain("M, 300")}, "%y = reduce max %x axis [1]", {"y": plain("M, 1")})
    assert masks(lowered(source, POWERS)) == ["mask %x axis 1 valid 300 value -inf"]


def test_codes_in_the_last_byte_are_masked_before_they_are_packed() -> None:
    whole = replace(BOTH, tiles=(TileRow("rowwise", 8, 128, 1),))
    assert "mask %q_elements axis 1 valid 97 value 0.0" in masks(lowered(ROWWISE["quantize mxfp6, odd"](), whole))
    source = lowered(ROWWISE["quantize mxfp6, odd"](), BOTH)
    assert "mask %q_elements axis 1 valid 97 - (n * 64) value 0.0" in masks(source), "rows in two tiles"


def test_scales_outside_must_be_finite() -> None:
    found = masks(lowered(gemm("mxfp8", "mxfp8.T", "mma", "mma", k="160", n="70"), GARBAGE))
    assert found == [
        "mask %a_elements axis 1 valid 160 - (k * 64) value 0.0",
        "mask %a_scale0 axis 1 valid 5 - (k * 2) value 1.0",
        "mask %w_elements axis 0 valid 160 - (k * 64) value 0.0",
        "mask %w_scale0 axis 0 valid 5 - (k * 2) value 1.0",
    ]


def test_groups_end_at_their_limit() -> None:
    """Rows of the next group lie in a tile's tail; they reach no result of this one."""
    assert masks(lowered(CASES["grouped"](), GARBAGE)) == []


def test_offsets_across_an_edge_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no value outside leaves the range of such a block as it is"):
        lowered(ROWWISE["quantize with offsets"](), POWERS)


class Misplaced(InsertMasks):
    """`insert-masks` that leaves out the last mask."""

    def run(self, module: ModuleOp) -> None:
        InsertMasks().run(module)
        found = [op for op in module.walk() if op.name == "breccia.mask"]
        found[-1].results[0].replace_all_uses_with(found[-1].operands[0])


def test_a_forgotten_mask_is_caught() -> None:
    source = lowered(gemm("row", "column", "epilogue", "epilogue", k="100", n="70"), GARBAGE, masks=False)
    with pytest.raises(PassError, match="smaller tiles and padded tiles differ"):
        validate_pipeline(source, [Misplaced()], sizes=SMALL_SIZES[1:], kinds=("normal",))


def test_a_missing_target_is_named() -> None:
    source = lowered(CASES["amax"](), GARBAGE, masks=False)
    del source.attributes[TARGET_KEY]
    with pytest.raises(PassError, match="insert-masks needs to know the target"):
        InsertMasks().run(source)
