"""Kernels in laid-out form, as text: the starting points of the lower passes' tests."""

from __future__ import annotations

import re
from collections.abc import Mapping

from xdsl.dialects.builtin import ModuleOp

from breccia.ir.capabilities import Capabilities, TileRow, set_target
from breccia.ir.dialect import parse_module

SMALL = Capabilities(
    "test:small",
    compute=("f32",),
    tiles=(
        TileRow("gemm", 32, 32, 64),
        TileRow("grouped", 16, 32, 64),
        TileRow("rowwise", 8, 32, 1),
        TileRow("reduce", 16, 32, 1),
    ),
)
"""Tiles that are small enough for inputs of a few hundred elements to need several."""

FORMATS = {
    "tensor": "f8E4M3FN, f32 per [all, all]",
    "row": "f8E4M3FN, f32 per [1, all]",
    "column": "f8E4M3FN, f32 per [all, 1]",
    "1x128": "f8E4M3FN, f32 per [1, 128]",
    "128x1": "f8E4M3FN, f32 per [128, 1]",
    "128x128": "f8E4M3FN, f32 per [128, 128]",
    "mxfp8": "f8E4M3FN, f8E8M0FNU per [1, 32]",
    "mxfp8.T": "f8E4M3FN, f8E8M0FNU per [32, 1]",
    "mxfp6": "f6E2M3FN, f8E8M0FNU per [1, 32]",
    "mxfp6.T": "f6E2M3FN, f8E8M0FNU per [32, 1]",
    "nvfp4": "f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]",
    "nvfp4.T": "f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]",
    "int4": "ui4, f16 per [1, 32], zero ui4",
    "int4.T": "ui4, f16 per [32, 1], zero ui4",
    "offset": "ui4, f32 per [1, 32], offset f32",
    "offset.T": "ui4, f32 per [32, 1], offset f32",
    "nf4": "nf4, f32 per [1, 64]",
    "nf4.T": "nf4, f32 per [64, 1]",
    "int8": "i8, f32 per [1, all]",
    "int8.T": "i8, f32 per [all, 1]",
}
ORDERS = {"f4E2M1FN": "packed4", "ui4": "packed4", "i4": "packed4", "nf4": "packed4", "f6E2M3FN": "packed6"}


def scaled(shape: str, fmt: str, dtype: str = "bf16") -> str:
    """A scaled type in canonical layout: `scaled("M, 576", "mxfp8")`; blocks get a 1 for each leading axis."""
    recipe = FORMATS.get(fmt, fmt)
    lead = shape.count(",") - 1
    whole = re.findall(r"\[all, all\]", recipe)
    recipe = recipe.replace("[all, all]", "[" + ", ".join(["all"] * (lead + 2)) + "]") if whole else recipe
    recipe = (
        re.sub(r"\[((?:\d+|all), (?:\d+|all))\]", lambda m: "[" + "1, " * lead + m.group(1) + "]", recipe)
        if lead
        else recipe
    )
    element, *rest = [part.strip() for part in re.split(r",(?![^\[]*\])", recipe)]
    orders = [f"elements = {ORDERS.get(element, 'row_major')}"]
    orders += [f"scale{i} = row_major" for i, _ in enumerate(p for p in rest if " per " in p)]
    for part in rest:
        word = part.partition(" ")[0]
        if word == "zero":
            orders.append("zero_point = row_major")
        if word == "offset":
            orders.append("offset = row_major")
    return f"!breccia.scaled<[{shape}], {dtype}, #breccia.recipe<{recipe}>, #breccia.layout<{', '.join(orders)}>>"


def plain(shape: str, dtype: str = "f32") -> str:
    return f"!breccia.tensor<[{shape}], {dtype}>"


def module(
    arguments: Mapping[str, str],
    body: str,
    results: Mapping[str, str],
    capabilities: Capabilities = SMALL,
    name: str = "kernel_0",
) -> ModuleOp:
    """A function of one kernel; `results` gives the type of each value that the body yields."""
    operands = ", ".join(f"%{a}" for a in arguments)
    types = ", ".join(results.values())
    inner = "\n".join(f"    {line.strip()}" for line in body.strip().splitlines())
    outs = ", ".join(f"%{r}" for r in results)
    text = f"""
func.func @f({", ".join(f"%{a} : {t}" for a, t in arguments.items())}) -> ({types}) {{
  {outs} = breccia.kernel "{name}" in ({operands}) out ({types})
    body ({operands}) {{
{inner}
    yield {outs} }}
  func.return {outs} : {types}
}}
"""
    out = parse_module(text)
    set_target(out, capabilities)
    return out


def gemm(
    a: str, b: str, place_a: str, place_b: str, m: str = "M", k: str = "576", n: str = "300", compute: str = ""
) -> ModuleOp:
    """A product of two scaled operands with their scales placed as said; empty formats give plain operands."""
    arguments = {
        "a": scaled(f"{m}, {k}", a) if a else plain(f"{m}, {k}", "bf16"),
        "w": scaled(f"{k}, {n}", b) if b else plain(f"{k}, {n}", "bf16"),
    }
    places = "".join(
        f" {key} #breccia.place<{place}>" for key, place in (("place_a", place_a), ("place_b", place_b)) if place
    )
    body = f"%y = matmul %a, %w{f' compute {compute}' if compute else ''}{places}"
    return module(arguments, body, {"y": plain(f"{m}, {n}")}, name="gemm_0")


def policy(**fields: object) -> str:
    return "#breccia.policy<" + ", ".join(f"{k} = {v}" for k, v in fields.items()) + ">"


def recipe(fmt: str) -> str:
    return f"#breccia.recipe<{FORMATS.get(fmt, fmt)}>"


CEIL = policy(scale="ceil", zero_scale="smallest")
EXACT = policy()


def quantize_kernel(fmt: str, shape: str = "M, 300", how: str = EXACT, before: str = "") -> ModuleOp:
    """A rowwise kernel that encodes a value; `before` computes %v from %x."""
    encode = f"%q = quantize %v policy {how} to {recipe(fmt)}\n%y = convert_layout %q to {layout(shape, fmt)}"
    body = f"{before or '%v = unary neg %x'}\n{encode}"
    return module({"x": plain(shape)}, body, {"y": scaled(shape, fmt, "f32")}, name="rowwise_0")


def layout(shape: str, fmt: str) -> str:
    """The canonical layout of a scaled type."""
    text = scaled(shape, fmt)
    return text[text.index("#breccia.layout<") : -1]


RMS_NORM = """%sq = unary square %x
%sum = reduce sum %sq axis [1]
%count = full 300.0 [1, 1] : f32
%mean = binary div %sum, %count
%r = unary rsqrt %mean
%n = binary mul %x, %r
%v = binary mul %n, %g"""

SOFTMAX = """%max = reduce max %x axis [1]
%d = binary sub %x, %max
%e = unary exp %d
%s = reduce sum %e axis [1]
%y = binary div %e, %s"""
