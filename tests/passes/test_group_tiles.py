"""Shapes of programs on Hopper: what the cost model picks, and where it does not apply."""

from __future__ import annotations

import pytest

from breccia.ir.kernel import KernelOp
from breccia.passes._group_tiles import SHAPES, TURNS, Shape, cost
from breccia.target import find
from tests.targets.triton.programs import FP8_BLOCKS, gemm, lowered

SM_90 = find("triton:sm_90").capabilities


def best(rows: int, columns: int, depth: int) -> Shape:
    return min((*SHAPES, *TURNS), key=lambda shape: cost(shape, rows, columns, -(-depth // 128)))


@pytest.mark.parametrize(
    ("size", "rows", "columns", "turns"),
    [
        ((8192, 8192, 8192), 256, 128, 1),
        ((4096, 7168, 16384), 256, 128, 1),
        (
            (4096, 2112, 7168),
            192,
            128,
            1,
        ),  # three rounds of tiles, nearly full
        ((64, 2112, 7168), 64, 16, 2),
        ((128, 2112, 7168), 64, 32, 2),
        ((64, 7168, 16384), 64, 64, 2),
        ((128, 24576, 1536), 128, 256, 1),
    ],
)
def test_what_was_quickest_on_a_device_is_picked(
    size: tuple[int, int, int], rows: int, columns: int, turns: int
) -> None:
    shape = best(*size)
    assert (shape.rows, shape.columns, shape.turns) == (rows, columns, turns)


def schedule(text: str, arch: str = "sm_90") -> dict[str, int | str]:
    kernels = [op for op in lowered(text, arch).walk() if isinstance(op, KernelOp) and op.step.blocks]
    assert len(kernels) == 1
    assert kernels[0].schedule is not None
    return dict(kernels[0].schedule.data)


def test_products_of_bytes_are_shared_by_groups_on_hopper_alone() -> None:
    text = gemm("float8_1x128", "float8_128x128", typical=4096, n=4096)
    assert schedule(text)["groups"] == 2
    assert "groups" not in schedule(text, "sm_89")
    assert "groups" not in schedule(text, "sm_100")


def test_turns_have_an_even_number_of_stages() -> None:
    found = schedule(gemm("float8_1x128", "float8_128x128", typical=64, n=2112))
    assert found["turns"] == 2
    assert int(found["num_stages"]) % 2 == 0


def test_scales_of_both_sides_along_k_leave_no_room_for_a_second_tile() -> None:
    found = schedule(gemm("float8_1x128", typical=4096, n=4096))
    assert (found["groups"], found["waves_m"], found["waves_n"]) == (2, 1, 1)


def test_weights_of_4_bits_and_unknown_rows_stay_as_they_were() -> None:
    assert "groups" not in schedule(gemm("", "uint4_g128_f16", typical=4096))
    assert "groups" not in schedule(gemm("float8_1x128", "float8_128x128"))


def test_operands_decoded_apart_are_shared_as_halves() -> None:
    found = schedule(gemm("mxfp8_e4m3", typical=4096, n=4096, k=4096))
    assert (found["groups"], found["block_k"]) == (2, 64)


def test_scratch_memory_holds_all_stages() -> None:
    for typical in (64, 128, 4096):
        for pair in (("float8_row", "float8_row"), FP8_BLOCKS):
            found = schedule(gemm(*pair, typical=typical, n=2112))
            steps = int(found.get("steps", 1))
            rows = 64 * int(found["groups"]) * int(found["waves_m"])
            stage = (rows + int(found["block_n"]) * int(found["waves_n"])) * 128 * steps
            assert stage * int(found["num_stages"]) < SM_90.scratch_bytes
