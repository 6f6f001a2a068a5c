"""`schedule`: tile sizes from the target's rows, bent to a recipe's blocks."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.errors import PassError, UnsupportedError
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.capabilities import TARGET_KEY, Capabilities, TileRow, set_target
from breccia.ir.pipeline import Pipeline
from breccia.ir.rewriting import kernels
from breccia.passes.explode import Explode
from breccia.passes.schedule import Schedule
from tests.passes.kernel_cases import CASES
from tests.passes.kernel_texts import gemm, quantize_kernel

ROWS = Capabilities("test:rows", tiles=(TileRow("gemm", 128, 128, 128), TileRow("rowwise", 8, 128, 1)))


def scheduled(source: ModuleOp, capabilities: Capabilities = ROWS) -> dict[str, int | str]:
    set_target(source, capabilities)
    Pipeline([Explode(), Schedule()]).run(source)
    schedule = kernels(source)[0].schedule
    return {} if schedule is None else dict(schedule.data)


def test_rows_are_taken_where_nothing_speaks_against_them() -> None:
    assert scheduled(gemm("mxfp8", "mxfp8.T", "operand", "operand")) == {"block_m": 128, "block_n": 128, "block_k": 128}


def test_small_sizes_clip_the_tile() -> None:
    assert scheduled(gemm("mxfp8", "mxfp8.T", "operand", "operand", m="7", k="96", n="300")) == {
        "block_n": 128,
        "block_k": 96,
    }


def test_partial_sums_end_with_their_blocks() -> None:
    fmt = ("f8E4M3FN, f32 per [1, 64]", "f8E4M3FN, f32 per [64, 1]")
    assert scheduled(gemm(*fmt, "mainloop", "mainloop"))["block_k"] == 64
    assert scheduled(gemm(*fmt, "operand", "operand"))["block_k"] == 128


def test_results_hold_whole_blocks() -> None:
    assert scheduled(quantize_kernel("128x128"))["block_m"] == 128
    assert scheduled(quantize_kernel("1x128"))["block_m"] == 8


def test_blocks_that_are_no_powers_of_two() -> None:
    blocks = scheduled(gemm("f8E4M3FN, f32 per [1, 48]", "f8E4M3FN, f32 per [48, 1]", "operand", "operand"))
    assert blocks["block_k"] == 96


def test_blocks_that_never_meet_are_refused() -> None:
    source = gemm("f8E4M3FN, f32 per [1, 48]", "f8E4M3FN, f32 per [128, 1]", "mma", "mainloop", k="K")
    with pytest.raises(UnsupportedError, match="no tile fits an axis of K elements"):
        scheduled(source)


def test_what_is_said_is_kept() -> None:
    source = gemm("mxfp8", "mxfp8.T", "operand", "operand")
    kernels(source)[0].properties["schedule"] = ScheduleAttr((("block_n", 64), ("num_stages", 3)))
    assert scheduled(source) == {"block_m": 128, "block_n": 64, "block_k": 128, "num_stages": 3}


def test_warps_where_tiles_are_powers_of_two() -> None:
    gpu = Capabilities("test:gpu", tiles=ROWS.tiles, pow2_tiles=True)
    assert scheduled(gemm("row", "column", "epilogue", "epilogue"), gpu)["num_warps"] == 8
    assert scheduled(gemm("row", "column", "epilogue", "epilogue", n="64"), gpu)["num_warps"] == 4


def test_a_missing_row_is_named() -> None:
    with pytest.raises(
        PassError, match=r"test:rows has no tile row for reduce kernels such as reduce_0 \(rows: gemm, rowwise\)"
    ):
        scheduled(CASES["amax"]())


def test_a_missing_target_is_named() -> None:
    source = gemm("row", "column", "epilogue", "epilogue")
    del source.attributes[TARGET_KEY]
    with pytest.raises(PassError, match="schedule needs to know the target"):
        Pipeline([Explode(), Schedule()]).run(source)
