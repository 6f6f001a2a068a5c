"""`legalize-windows`: tiles that a target can work on, or an error that says what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.errors import UnsupportedError
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import Capabilities, TileRow, set_target
from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels
from breccia.passes.explode import Explode
from breccia.passes.legalize_windows import LegalizeWindows
from breccia.passes.schedule import Schedule
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, FUSED, ROWWISE, SMALL_SIZES
from tests.passes.kernel_texts import SMALL, gemm, module, plain

POWERS = replace(SMALL, name="test:powers", pow2_tiles=True)
ROOMY = replace(POWERS, tiles=(TileRow("rowwise", 8, 512, 1),))
"""Rows of a few hundred elements fit a tile, eight at a time."""
LEGALIZED = (
    "quantize 1x128",
    "quantize 128x128",
    "quantize mxfp6, odd",
    "quantize nvfp4, outer given",
    "rms_norm and quantize",
    "dequantize nvfp4",
    "requantize",
    "ranks 0 to 2",
    "batched a, shared w",
    "bias, silu, quantize 1x128",
    "packed result",
    "stochastic, batched",
    "sum and min",
    "grouped, mainloop",
    "w.T, mma",
    "mxfp6@operand x mxfp6.T@operand Mx96x71",
    "bf16@- x int4.T@operand Mx96x71",
    "bf16@- x nf4.T@operand 7x100x71",
)


def tiled(source: ModuleOp, target: Capabilities = POWERS, **said: int | str) -> ModuleOp:
    set_target(source, target)
    if said:
        kernels(source)[0].properties["schedule"] = ScheduleAttr(tuple(said.items()))
    Pipeline([Explode(), Schedule(), Tile()]).run(source)
    return source


def legal(source: ModuleOp, target: Capabilities = POWERS, **said: int | str) -> KernelOp:
    Pipeline([LegalizeWindows()]).run(tiled(source, target, **said))
    return kernels(source)[0]


@pytest.mark.parametrize("case", LEGALIZED)
def test_legal_tiles_mean_the_same(case: str) -> None:
    out = validate_pipeline(tiled(CASES[case]()), [LegalizeWindows()], sizes=SMALL_SIZES)
    for kernel in kernels(out):
        for _, region in kernel.named_regions():
            for value in [*region.block.args, *(r for op in region.block.ops for r in op.results)]:
                sizes = [d for d in value.type.shape if isinstance(d, int)]  # type: ignore[attr-defined]
                assert all(d & (d - 1) == 0 or (d % 3 == 0 and (d // 3) & (d // 3 - 1) == 0) for d in sizes)


def test_a_whole_axis_grows_to_a_power_of_two() -> None:
    kernel = legal(ROWWISE["rms_norm and quantize"](), ROOMY)
    assert [w.block for w in kernel.tiles.outputs] == [(8, 512), (8, 4)]
    assert [w.index for w in kernel.tiles.outputs] == [kernel.tiles.outputs[0].index] * 2


def test_packed_bytes_grow_by_their_units() -> None:
    """97 codes of 6 bits lie in 75 bytes; tiles hold 128 codes, in 32 units of 3 bytes."""
    assert [w.block for w in legal(ROWWISE["quantize mxfp6, odd"](), ROOMY).tiles.outputs] == [(32, 96), (32, 4)]


def test_batch_axes_are_dropped() -> None:
    kernel = legal(FUSED["batched a, shared w"]())
    assert kernel.tiles.outputs[0].block == (None, None, 32, 32)
    assert str(kernel.finish.block.args[0].type) == "!breccia.tensor<[32, 32], f32>"


def test_stochastic_tiles_keep_their_rank() -> None:
    """Their random numbers belong to elements of the whole tensor, which all axes count."""
    assert legal(ROWWISE["stochastic, batched"](), ROOMY).tiles.outputs[0].block == (1, 32, 128)


def test_what_is_legal_stays_as_it_is() -> None:
    source = tiled(gemm("mxfp8", "mxfp8.T", "operand", "operand", k="128", n="64"))
    before = print_module(source)
    Pipeline([LegalizeWindows()]).run(source)
    assert print_module(source) == before


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("softmax", "N is known only at the call; test:powers needs tiles of a known size: compile with dynamic=False"),
        ("slice and concat", "breccia.slice cannot follow: it counts positions"),
    ],
)
def test_refusals_say_what_to_do(case: str, why: str) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        legal(CASES[case]())
    assert why in str(refusal.value)


def test_codes_that_do_not_fill_their_last_byte() -> None:
    """33 codes lie in 17 bytes; tiles hold 64 codes, and `of 33` says where the tensor ends."""
    kernel = legal(CASES["nvfp4@operand+operand x bf16@- Mx33x20"](), block_k=64)
    assert (SMALL.tiles[0].m, 32) in [w.block for w in kernel.tiles.inputs if w is not None]


def test_steps_that_are_no_powers_of_two() -> None:
    source = gemm("f8E4M3FN, f32 per [1, 48]", "f8E4M3FN, f32 per [48, 1]", "mainloop", "mainloop")
    with pytest.raises(UnsupportedError, match="moves in steps of 48, which is no power of two as test:powers needs"):
        legal(source, block_k=48)


def test_tiles_below_the_smallest() -> None:
    tpu = replace(SMALL, name="test:tpu", min_tile=(8, 128))
    source = module({"x": plain("M, 64"), "w": plain("64, 900")}, "%y = matmul %x, %w", {"y": plain("M, 900")})
    kernels(source)[0].properties["schedule"] = ScheduleAttr((("block_n", 192),))
    with pytest.raises(
        UnsupportedError, match="result tiles of 192 are no multiple of 128, the smallest tile of test:tpu"
    ):
        legal(source, tpu)


def test_functions_that_a_target_lacks() -> None:
    source = module({"x": plain("M, 8")}, "%y = unary erf %x", {"y": plain("M, 8")})
    with pytest.raises(UnsupportedError, match="test:poor has no function erf; it has exp, neg"):
        legal(source, replace(SMALL, name="test:poor", functions=("exp", "neg")))
