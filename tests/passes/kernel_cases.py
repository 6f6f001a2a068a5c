"""Kernels of every kind in laid-out form, by name: what the lower passes are validated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp

from tests.passes.kernel_texts import (
    CEIL,
    EXACT,
    RMS_NORM,
    SOFTMAX,
    gemm,
    layout,
    module,
    plain,
    policy,
    quantize_kernel,
    recipe,
    scaled,
)

Case = Callable[[], ModuleOp]
MXFP4 = "f4E2M1FN, f8E8M0FNU per [1, 32]"

# (format of a, of w, places of a, of w, m, k, n): every placement, odd sizes, sizes below a block, and single elements.
PRODUCTS: Sequence[tuple[str, str, str, str, str, str, str]] = (
    ("1x128", "128x128", "mainloop", "mainloop", "M", "576", "300"),
    ("1x128", "128x128", "mainloop", "mainloop", "1", "96", "33"),
    ("1x128", "128x128", "mainloop", "mainloop", "M", "1", "1"),
    ("1x128", "128x128", "operand", "operand", "M", "300", "150"),
    ("1x128", "128x128", "mainloop", "operand", "M", "200", "33"),
    ("row", "column", "epilogue", "epilogue", "M", "96", "70"),
    ("tensor", "tensor", "epilogue", "epilogue", "M", "N", "70"),
    ("mxfp8", "mxfp8.T", "operand", "operand", "M", "96", "70"),
    ("mxfp8", "mxfp8.T", "mma", "mma", "M", "160", "70"),
    ("nvfp4", "nvfp4.T", "epilogue, operand", "epilogue, operand", "M", "96", "70"),
    ("nvfp4", "nvfp4.T", "epilogue, mma", "epilogue, mma", "M", "96", "71"),
    ("nvfp4", "", "operand, operand", "", "M", "33", "20"),
    ("", "int4.T", "", "operand", "M", "96", "71"),
    ("", "int4", "", "operand", "M", "96", "71"),
    ("", "int4.T", "", "operand", "M", "96", "N"),
    ("", "offset.T", "", "operand", "M", "96", "71"),
    ("mxfp6", "mxfp6.T", "operand", "operand", "M", "96", "71"),
    ("mxfp6", "mxfp6.T", "operand", "operand", "M", "K", "N"),
    ("", "nf4.T", "", "operand", "7", "100", "71"),
    ("int8", "int8.T", "epilogue", "epilogue", "M", "96", "71"),
    ("", "128x1", "", "operand", "M", "300", "71"),
    ("", "1x128", "", "operand", "M", "100", "200"),
    ("row", "nvfp4.T", "epilogue", "epilogue, operand", "M", "100", "70"),
    ("", "", "", "", "1", "1", "1"),
)


def product_name(row: tuple[str, ...]) -> str:
    a, w, place_a, place_w, m, k, n = (part.replace(", ", "+") for part in row)
    return f"{a or 'bf16'}@{place_a or '-'} x {w or 'bf16'}@{place_w or '-'} {m}x{k}x{n}"


def encoded(fmt: str, shape: str, values: str, how: str = EXACT, scale: str = "", result: str = "y") -> str:
    """Lines that encode %`values` and give it the canonical layout."""
    given = f", %{scale} given [0]" if scale else ""
    return (
        f"%q_{result} = quantize %{values}{given} policy {how} to {recipe(fmt)}\n"
        f"%{result} = convert_layout %q_{result} to {layout(shape, fmt)}"
    )


def _stochastic(shape: str, fmt: str) -> ModuleOp:
    body = (
        f"%q = quantize %x, %seed policy {policy(rounding='stochastic')} to #breccia.recipe<{fmt}>\n"
        f"%y = convert_layout %q to {layout(shape, 'row')}"
    )
    return module({"x": plain(shape), "seed": plain("", "i64")}, body, {"y": scaled(shape, "row", "f32")})


def _reduce(body: str, results: Mapping[str, str], **more: str) -> ModuleOp:
    return module({"x": plain("M, N"), **more}, body, results, name="reduce_0")


EPILOGUES = "place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>"
MAINLOOPS = "place_a #breccia.place<mainloop> place_b #breccia.place<mainloop>"

ROWWISE: Mapping[str, Case] = {
    "quantize 1x128": lambda: quantize_kernel("1x128"),
    "quantize 128x1": lambda: quantize_kernel("128x1", "300, N"),
    "quantize 128x128": lambda: quantize_kernel("128x128"),
    "quantize rows": lambda: quantize_kernel("row", "M, N"),
    "quantize columns": lambda: quantize_kernel("column", "M, N"),
    "quantize mxfp8": lambda: quantize_kernel("mxfp8", "M, 96", CEIL),
    "quantize mxfp6, odd": lambda: quantize_kernel("mxfp6", "M, 97", CEIL),
    "quantize int4, odd": lambda: quantize_kernel("int4", "M, 99"),
    "quantize with offsets": lambda: quantize_kernel("offset", "M, 99"),
    "quantize nvfp4, outer given": lambda: module(
        {"x": plain("M, 100"), "s": plain("1, 1")},
        encoded("nvfp4", "M, 100", "x", scale="s"),
        {"y": scaled("M, 100", "nvfp4", "f32")},
    ),
    "quantize 128x128, all given": lambda: module(
        {"x": plain("M, 300"), "s": plain("ceildiv(M, 128), 3")},
        encoded("128x128", "M, 300", "x", policy(amax="static"), "s"),
        {"y": scaled("M, 300", "128x128", "f32")},
    ),
    "stochastic": lambda: _stochastic("M, 70", "f8E4M3FN, f32 per [1, all]"),
    "stochastic, batched": lambda: _stochastic("B, M, 70", "f8E4M3FN, f32 per [1, 1, all]"),
    "rms_norm and quantize": lambda: module(
        {"x": plain("M, 300"), "g": plain("1, 300")},
        RMS_NORM + "\n" + encoded("1x128", "M, 300", "v"),
        {"y": scaled("M, 300", "1x128", "f32")},
    ),
    "softmax": lambda: module({"x": plain("M, N")}, SOFTMAX, {"y": plain("M, N")}),
    "softmax, batched": lambda: module({"x": plain("B, M, N")}, SOFTMAX.replace("[1]", "[2]"), {"y": plain("B, M, N")}),
    "softmax of a vector": lambda: module({"x": plain("M")}, SOFTMAX.replace("[1]", "[0]"), {"y": plain("M")}),
    "softmax of columns": lambda: module({"x": plain("M, N")}, SOFTMAX.replace("[1]", "[0]"), {"y": plain("M, N")}),
    "siblings": lambda: module(
        {"x": plain("M, 300")},
        "%v = unary neg %x\n" + encoded("1x128", "M, 300", "v") + "\n" + encoded("128x1", "M, 300", "v", result="z"),
        {"y": scaled("M, 300", "1x128", "f32"), "z": scaled("M, 300", "128x1", "f32")},
    ),
    "results of three shapes": lambda: module(
        {"x": plain("M, N"), "b": plain("1, N")},
        "%s = reduce sum %x axis [1]\n%y = binary add %x, %b\n%z = unary neg %b",
        {"s": plain("M, 1"), "y": plain("M, N"), "z": plain("1, N")},
    ),
    "scale_from_amax": lambda: module(
        {"x": plain("M, 1")},
        f"%y = scale_from_amax %x policy {CEIL} to {recipe('mxfp8')} level 0",
        {"y": plain("M, 1", "f8E8M0FNU")},
    ),
    "x + x.T": lambda: module(
        {"x": plain("N, N")}, "%t = transpose %x [1, 0]\n%y = binary add %x, %t", {"y": plain("N, N")}
    ),
    "transpose": lambda: module(
        {"x": plain("M, N")}, "%t = transpose %x [1, 0]\n%y = unary neg %t", {"y": plain("N, M")}
    ),
    "causal select": lambda: module(
        {"x": plain("M, N")},
        "%i = iota axis 0 start 3 [M, N] : i32\n%j = iota axis 1 start 0 [M, N] : i32\n%c = binary ge %i, %j\n"
        "%m = full -1.0 [M, N] : f32\n%y = select %c, %x, %m",
        {"y": plain("M, N")},
    ),
    "broadcast": lambda: module(
        {"x": plain("M, 1")},
        "%y = broadcast %x to [M, 70]\n%f = full 2.0 [M, 70] : f32",
        {"y": plain("M, 70"), "f": plain("M, 70")},
    ),
    "slice and concat": lambda: module(
        {"x": plain("M, 70")},
        "%a = slice %x axis 1 from 3 to 33\n%b = slice %x axis 1 from 40 to 70\n%s = binary mul %a, %b\n"
        "%y = concat %s, %x axis 1",
        {"y": plain("M, 100")},
    ),
    "dequantize nvfp4": lambda: module(
        {"q": scaled("M, 100", "nvfp4")}, "%d = dequantize %q\n%y = convert %d : bf16", {"y": plain("M, 100", "bf16")}
    ),
    "dequantize, transposed": lambda: module(
        {"q": scaled("M, 99", "int4.T")}, "%t = transpose %q [1, 0]\n%y = dequantize %t", {"y": plain("99, M")}
    ),
    "requantize": lambda: module(
        {"q": scaled("M, 100", "nvfp4")},
        "%d = dequantize %q\n" + encoded("mxfp6", "M, 100", "d", CEIL),
        {"y": scaled("M, 100", "mxfp6", "f32")},
    ),
    "ranks 0 to 2": lambda: module(
        {"x": plain("M, 70"), "s": plain(""), "v": plain("70")},
        "%a = binary mul %x, %s\n%y = binary add %a, %v",
        {"y": plain("M, 70")},
    ),
}

REDUCTIONS: Mapping[str, Case] = {
    "amax": lambda: _reduce("%n = unary square %x\n%y = reduce amax %n axis [0, 1]", {"y": plain("1, 1")}),
    "amax, max and values": lambda: _reduce(
        "%n = unary square %x\n%y = reduce amax %n axis [0, 1]\n%z = reduce max %x axis [0, 1]",
        {"y": plain("1, 1"), "z": plain("1, 1"), "n": plain("M, N")},
    ),
    "scale of a tensor": lambda: module(
        {"x": plain("B, M, N")},
        f"%a = reduce amax %x axis [0, 1, 2]\n%y = scale_from_amax %a policy {EXACT} to "
        "#breccia.recipe<f8E4M3FN, f32 per [all, all, all]> level 0",
        {"y": plain("1, 1, 1")},
        name="reduce_0",
    ),
    "sum and min": lambda: _reduce(
        "%y = reduce sum %x axis [0, 1]\n%m = reduce min %x axis [0, 1]\n%z = binary add %y, %m",
        {"z": plain("1, 1"), "m": plain("1, 1")},
    ),
    "two sweeps": lambda: _reduce(
        "%s = reduce sum %x axis [0, 1]\n%d = binary sub %x, %s\n%e = unary square %d\n%y = reduce sum %e axis [0, 1]",
        {"y": plain("1, 1")},
    ),
    "history": lambda: _reduce(
        "%a = reduce amax %x axis [0, 1]\n%h2 = history_update %h, %a\n%m = amax_from_history max %h2",
        {"h2": plain("16"), "m": plain("1")},
        h=plain("16"),
    ),
}

FUSED: Mapping[str, Case] = {
    "batched a, shared w": lambda: module(
        {"a": scaled("B, H, M, 96", "row"), "w": scaled("96, 70", "column")},
        f"%y = matmul %a, %w {EPILOGUES}",
        {"y": plain("B, H, M, 70")},
    ),
    "batches broadcast": lambda: module(
        {"a": plain("B, 1, M, 40"), "w": plain("H, 40, N", "bf16")}, "%y = matmul %a, %w", {"y": plain("B, H, M, N")}
    ),
    "residual, k = n": lambda: module(
        {"x": plain("M, 70"), "w": plain("70, 70")}, "%h = matmul %x, %w\n%y = binary add %h, %x", {"y": plain("M, 70")}
    ),
    "x @ x + x": lambda: module(
        {"x": plain("N, N")}, "%h = matmul %x, %x\n%y = binary add %h, %x", {"y": plain("N, N")}
    ),
    "x @ x.T": lambda: module(
        {"x": plain("M, 70")}, "%t = transpose %x [1, 0]\n%y = matmul %x, %t", {"y": plain("M, M")}
    ),
    "w.T packed": lambda: module(
        {"a": plain("M, 96", "bf16"), "w": scaled("70, 96", "int4")},
        "%t = transpose %w [1, 0]\n%y = matmul %a, %t place_b #breccia.place<operand>",
        {"y": plain("M, 70")},
    ),
    "w.T, mainloop": lambda: module(
        {"a": scaled("M, 300", "1x128"), "w": scaled("70, 300", "128x128")},
        f"%t = transpose %w [1, 0]\n%y = matmul %a, %t {MAINLOOPS}",
        {"y": plain("M, 70")},
    ),
    "w.T, one tile of rows and of k": lambda: module(
        {"a": scaled("64, 128", "1x128"), "w": scaled("256, 128", "128x128")},
        "%t = transpose %w [1, 0]\n"
        "%y = matmul %a, %t place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>",
        {"y": plain("64, 256")},
    ),
    "w.T, mma": lambda: module(
        {"a": scaled("M, 96", "nvfp4"), "w": scaled("70, 96", "nvfp4")},
        "%t = transpose %w [1, 0]\n"
        "%y = matmul %a, %t place_a #breccia.place<epilogue, mma> place_b #breccia.place<epilogue, mma>",
        {"y": plain("M, 70")},
    ),
    "bias, silu, quantize 1x128": lambda: module(
        {"a": plain("M, 96", "bf16"), "w": scaled("96, 300", "mxfp8.T"), "bias": plain("1, 300")},
        "%h = matmul %a, %w place_b #breccia.place<operand>\n%b = binary add %h, %bias\n%s = unary silu %b\n"
        + encoded("1x128", "M, 300", "s"),
        {"y": scaled("M, 300", "1x128", "f32")},
    ),
    "packed result": lambda: module(
        {"a": plain("M, 64"), "w": plain("64, 100")},
        "%h = matmul %a, %w\n" + encoded(MXFP4, "M, 100", "h", policy(scale="ceil")),
        {"y": scaled("M, 100", MXFP4, "f32")},
    ),
    "computed in bf16": lambda: gemm("mxfp8", "mxfp8.T", "operand", "operand", "M", "96", "70", "bf16"),
    "grouped": lambda: module(
        {"x": plain("T, 40", "bf16"), "w": plain("E, 40, 70", "bf16"), "o": plain("E + 1", "i32")},
        "%h = grouped_matmul %x, %w, %o\n%y = convert %h : bf16",
        {"y": plain("T, 70", "bf16")},
        name="grouped_0",
    ),
    "grouped, counted": lambda: module(
        {"x": scaled("M * 3, 160", "1x128"), "w": scaled("3, 160, 70", "nvfp4.T"), "o": plain("3", "i32")},
        "%h = grouped_matmul %x, %w, %o each M place_a #breccia.place<operand> "
        "place_b #breccia.place<epilogue, operand>\n%y = convert %h : bf16",
        {"y": plain("M * 3, 70", "bf16")},
        name="grouped_0",
    ),
    "grouped, with a bias": lambda: module(
        {
            "x": scaled("T, 160", "1x128"),
            "w": scaled("3, 160, 70", "nvfp4.T"),
            "o": plain("4", "i32"),
            "b": plain("1, 70"),
        },
        "%h = grouped_matmul %x, %w, %o place_a #breccia.place<operand> place_b #breccia.place<epilogue, operand>\n"
        "%y = binary add %h, %b",
        {"y": plain("T, 70")},
        name="grouped_0",
    ),
    "grouped, mainloop": lambda: module(
        {"x": scaled("T, 300", "1x128"), "w": scaled("3, 300, 70", "128x128"), "o": plain("4", "i32")},
        f"%y = grouped_matmul %x, %w, %o {MAINLOOPS}",
        {"y": plain("T, 70")},
        name="grouped_0",
    ),
}

CASES: Mapping[str, Case] = {
    **{product_name(row): (lambda row=row: gemm(*row)) for row in PRODUCTS},
    **ROWWISE,
    **REDUCTIONS,
    **FUSED,
}
SMALL_SIZES = (
    {"B": 1, "H": 1, "M": 1, "N": 1, "K": 1, "T": 1, "E": 1},
    {"B": 3, "H": 2, "M": 37, "N": 35, "K": 101, "T": 41, "E": 3},
)
"""Symbols: all 1, and values that no tile divides."""
