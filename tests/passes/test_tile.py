"""`tile` (with `explode` and `schedule` before it): what it makes, and that it means what the kernel meant."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp, UnknownLoc
from xdsl.utils.exceptions import VerifyException

from breccia.errors import PassError, UnsupportedError
from breccia.ir.attributes import ScheduleAttr
from breccia.ir.dialect import parse_module
from breccia.ir.kernel import KernelOp
from breccia.ir.pipeline import Pipeline
from breccia.ir.printer import print_module
from breccia.ir.rewriting import kernels, location
from breccia.ir.tiling import Window
from breccia.passes.coarsen import Coarsen
from breccia.passes.explode import Explode
from breccia.passes.schedule import Schedule
from breccia.passes.tile import Tile
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, FUSED, SMALL_SIZES
from tests.passes.kernel_texts import CEIL, gemm, module, plain, recipe, scaled

LOWER = (Explode(), Schedule(), Tile())


def tiled(source: ModuleOp) -> KernelOp:
    """The first kernel after lowering."""
    Pipeline(LOWER).run(source)
    return kernels(source)[0]


def window(kernel: KernelOp, name: str) -> Window:
    """The window of the operand called `name`."""
    (found,) = [
        w for a, w in zip(kernel.args, kernel.tiles.inputs, strict=True) if a.name_hint == name and w is not None
    ]
    return found


def text(source: ModuleOp) -> str:
    Pipeline(LOWER).run(source)
    return print_module(source)


@pytest.mark.parametrize("case", CASES)
def test_tiled_means_what_the_kernel_meant(case: str) -> None:
    validate_pipeline(CASES[case](), LOWER, sizes=SMALL_SIZES)


@pytest.mark.parametrize(("block_m", "block_n", "block_k"), [(16, 16, 32), (64, 64, 128), (128, 256, 256), (8, 16, 64)])
@pytest.mark.parametrize("case", ["w.T packed", "bias, silu, quantize 1x128", "packed result", "grouped, mainloop"])
def test_any_schedule_gives_the_same(case: str, block_m: int, block_n: int, block_k: int) -> None:
    source = FUSED[case]()
    for kernel in kernels(source):
        kernel.properties["schedule"] = ScheduleAttr((("block_m", block_m), ("block_n", block_n), ("block_k", block_k)))
    validate_pipeline(source, LOWER, sizes=SMALL_SIZES[1:], kinds=("normal", "exact"))


# ---- scale windows ---------------------------------------------------------------------------------------------------


def test_scales_move_with_the_blocks_of_k_where_tiles_are_smaller() -> None:
    kernel = tiled(gemm("1x128", "128x128", "mainloop", "mainloop", n="300"))
    assert str(window(kernel, "a_elements").index) == "(m, k)"
    assert str(window(kernel, "a_scale0").index) == "(m, k floordiv 2)"
    assert str(window(kernel, "w_scale0").index) == "(k floordiv 2, n floordiv 4)"


def test_scales_come_by_the_dozen_where_tiles_are_larger() -> None:
    kernel = tiled(gemm("mxfp8", "mxfp8.T", "operand", "operand", k="160", n="70"))
    assert window(kernel, "a_scale0").block == (32, 2)
    assert window(kernel, "w_scale0").block == (2, 32)


def test_a_scale_of_the_whole_tensor_does_not_move() -> None:
    kernel = tiled(gemm("tensor", "tensor", "epilogue", "epilogue"))
    assert window(kernel, "a_scale0") == Window((1, 1), (0, 0))
    assert [kernel.args[i].name_hint for i in kernel.tiles.step_uses] == ["a_elements", "w_elements"]
    assert [kernel.args[i].name_hint for i in kernel.tiles.finish_uses] == ["a_scale0", "w_scale0"]


def test_blocks_along_n_are_expanded_along_n() -> None:
    out = text(gemm("", "1x128", "", "operand", k="100", n="300"))
    assert "%w_scale0 window [64, 1] at (k, n floordiv 4)" in out
    source = gemm("", "1x128", "", "operand", k="100", n="300")
    kernels(source)[0].properties["schedule"] = ScheduleAttr((("block_n", 256),))
    assert "expand %w_scale0 axis 1 by 128 to 256" in text(source)


def test_the_tail_of_k_is_walked() -> None:
    kernel = tiled(gemm("row", "column", "epilogue", "epilogue", k="576", n="70"))
    (k,) = [d for d in kernel.tiles.grid if d.kind == "reduction"]
    assert (k.extent, window(kernel, "a_elements").block[1]) == (9, 64)


def test_two_windows_over_one_operand_are_two_operands() -> None:
    out = text(FUSED["residual, k = n"]())
    assert "%x_1 = breccia.reshape %x to [M, 70]" in out
    parse_module(out)


# ---- planted mistakes: validation would see them ---------------------------------------------------------------------


def changed(old: str, new: str, source: ModuleOp) -> ModuleOp:
    out = text(source)
    assert old in out
    return parse_module(out.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%a_scale0 window [32, 1] at (m, k floordiv 2)", "%a_scale0 window [32, 1] at (m, k floordiv 3)"),
        ("k = 9 reduction", "k = 8 reduction"),
        (
            "%w_scale0 window [1, 1] at (k floordiv 2, n floordiv 4)",
            "%w_scale0 window [1, 1] at (n floordiv 4, k floordiv 2)",
        ),
    ],
)
def test_a_wrong_index_does_not_verify(old: str, new: str) -> None:
    with pytest.raises(VerifyException):
        changed(old, new, gemm("1x128", "128x128", "mainloop", "mainloop"))


class Swapped(Tile):
    """`tile` with the two levels of NVFP4 swapped afterwards."""

    def run(self, module: ModuleOp) -> None:
        Tile().run(module)
        broken = parse_module(
            print_module(module).replace(
                "binary mul %a_elements_2, %a_scale1_2", "binary add %a_elements_2, %a_scale1_2"
            )
        )
        module.body.block.detach_op(next(iter(module.ops)))
        function = next(iter(broken.ops))
        broken.body.block.detach_op(function)
        module.body.block.add_op(function)


def test_a_wrong_scaling_is_caught() -> None:
    source = gemm("nvfp4", "nvfp4.T", "epilogue, operand", "epilogue, operand", k="96", n="70")
    assert "binary mul %a_elements_2, %a_scale1_2" in text(source.clone())
    with pytest.raises(PassError, match="breaks its contract"):
        validate_pipeline(source, (Explode(), Schedule(), Swapped()), sizes=SMALL_SIZES[1:])


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_offsets_cannot_wait() -> None:
    source = gemm("", "offset.T", "", "epilogue", k="32", n="70")
    with pytest.raises(UnsupportedError, match="adds an offset after scaling, so its scales cannot wait for epilogue"):
        text(source)


def test_zero_points_have_no_scaled_instruction() -> None:
    with pytest.raises(UnsupportedError, match="zero points, which no scaled matrix instruction subtracts"):
        text(gemm("int4", "int4.T", "mma", "mma", k="64", n="70"))


def test_mma_takes_both_sides() -> None:
    with pytest.raises(UnsupportedError, match="takes the innermost level of both operands"):
        text(gemm("mxfp8", "mxfp8.T", "mma", "operand", k="64", n="70"))


def test_groups_cannot_cut_blocks_of_rows() -> None:
    source = module(
        {"x": scaled("T, 64", "128x128"), "w": plain("2, 64, 8"), "o": plain("3", "i32")},
        "%y = grouped_matmul %x, %w, %o",
        {"y": plain("T, 8")},
    )
    with pytest.raises(UnsupportedError, match="blocks of 128 along axis 0 cross the borders of groups"):
        text(source)


def test_a_grouped_product_leaves_as_narrow_as_it_keeps_zeros() -> None:
    source = module(
        {"x": plain("T, 64"), "w": plain("2, 64, 8"), "o": plain("3", "i32"), "b": plain("8")},
        "%h = grouped_matmul %x, %w, %o\n%s = unary relu %h\n%c = convert %s : bf16\n%f = convert %c : f32\n"
        "%n = unary neg %f\n%d = convert %n : bf16\n%g = convert %d : f32\n%r = unary relu %g\n%y = binary add %r, %b",
        {"y": plain("T, 8")},
    )
    made = validate_pipeline(source, [Tile()], sizes=[{"T": 9}])
    first, rest = kernels(made)
    assert [str(out.type) for out in first.outs] == ["!breccia.tensor<[T, 8], bf16>"]
    assert [op.name.removeprefix("breccia.") for op in rest.finish.block.ops] == ["convert", "unary", "binary", "yield"]


def test_two_products_do_not_share_a_kernel() -> None:
    source = module(
        {"x": plain("M, 8"), "w": plain("8, 8")}, "%h = matmul %x, %w\n%y = matmul %h, %w", {"y": plain("M, 8")}
    )
    with pytest.raises(UnsupportedError, match="a kernel holds one product"):
        text(source)


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_locations_survive() -> None:
    source = FUSED["bias, silu, quantize 1x128"]()
    for number, op in enumerate(kernels(source)[0].body.block.ops):
        op.location = location("model.py", 10 + number)
    kernel = tiled(source)
    lines: dict[str, int] = {}
    for _, region in kernel.named_regions():
        for op in region.block.ops:
            assert not isinstance(op.location, UnknownLoc) or op.name == "breccia.yield", op
            if op.name != "breccia.yield":
                lines[op.name] = op.location.line.data  # type: ignore[attr-defined]
    assert lines["breccia.dot"] == 10
    assert lines["breccia.unary"] == 12
    assert lines["breccia.encode"] == 13


def test_a_long_chain_is_tiled() -> None:
    body = "\n".join(f"%v{i} = unary neg %{f'v{i - 1}' if i else 'x'}" for i in range(1500))
    kernel = tiled(module({"x": plain("M, 8")}, body + "\n%y = unary neg %v1499", {"y": plain("M, 8")}))
    assert len(list(kernel.finish.block.ops)) == 1502


# ---- other memory orders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["swizzle_128x4", "mn_major"])
@pytest.mark.parametrize("m", ["M", "200", "1"])
def test_scales_in_other_orders_are_brought_back(order: str, m: str) -> None:
    a = scaled(f"{m}, 300", "mxfp8").replace("scale0 = row_major", f"scale0 = {order}")
    source = module(
        {"a": a, "w": scaled("300, 70", "mxfp8.T")},
        "%y = matmul %a, %w place_a #breccia.place<mma> place_b #breccia.place<mma>",
        {"y": plain(f"{m}, 70")},
    )
    Explode().run(source)  # not validated: the validator hands functions their arguments in canonical order
    later = [Schedule(), Tile(), Coarsen()]
    out = validate_pipeline(source, later, sizes=({"M": 1}, {"M": 131}), kinds=("normal", "exact"))
    assert ("unswizzle" if order.startswith("swizzle") else "transpose") in print_module(out)


def test_results_are_not_swizzled_inside_a_kernel() -> None:
    order = "#breccia.layout<elements = row_major, scale0 = swizzle_128x4>"
    source = module(
        {"x": plain("M, 64")},
        f"%q = quantize %x policy {CEIL} to {recipe('mxfp8')}\n%y = convert_layout %q to {order}",
        {"y": scaled("M, 64", "mxfp8", "f32").replace("scale0 = row_major", "scale0 = swizzle_128x4")},
    )
    with pytest.raises(
        UnsupportedError, match=r"storing scale0 of .* as swizzle_128x4 from inside a kernel is not support"
    ):
        text(source)
