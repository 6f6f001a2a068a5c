"""`explode`: components at every boundary, and the same results."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.errors import UnsupportedError
from breccia.ir.attributes import IntsAttr
from breccia.ir.dialect import parse_module
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions, kernels
from breccia.ir.types import ScaledType
from breccia.passes.explode import Explode
from breccia.testing.validate import validate_pipeline
from tests.passes.kernel_cases import CASES, SMALL_SIZES
from tests.passes.kernel_texts import plain, scaled


def exploded(text: str, **options: object) -> ModuleOp:
    return validate_pipeline(parse_module(text), [Explode()], **options)  # type: ignore[arg-type]


def view(op: str, source: str, result: str, fmt: str = "mxfp8") -> str:
    """A function whose result is a view of its argument %x, brought into canonical layout."""
    layout = result[result.index("#breccia.layout<") : -1]
    return f"""func.func @f(%x: {source}) -> {result} {{
  %v = breccia.{op}
  %y = breccia.convert_layout %v to {layout}
  func.return %y : {result}
}}"""


@pytest.mark.parametrize(
    "case", ["quantize nvfp4, outer given", "dequantize, transposed", "w.T, mma", "siblings", "requantize"]
)
def test_no_scaled_value_remains_at_function_level(case: str) -> None:
    module = validate_pipeline(CASES[case](), [Explode()], sizes=SMALL_SIZES)
    for function in functions(module):
        for op in function.body.block.ops:
            assert not any(isinstance(v.type, ScaledType) for v in (*op.operands, *op.results))
        assert not any(isinstance(t, ScaledType) for t in function.function_type.outputs)


def test_names_and_order_of_components() -> None:
    module = exploded(
        f"func.func @f(%w: {scaled('64, N', 'int4.T')}, %x: {plain('M, 64')}) -> {scaled('64, N', 'int4.T')} {{\n"
        f"  func.return %w : {scaled('64, N', 'int4.T')}\n}}"
    )
    (function,) = functions(module)
    assert [a.name_hint for a in function.args] == ["w_elements", "w_scale0", "w_zero_point", "x"]


def test_constants_are_renumbered() -> None:
    module = exploded(
        f"func.func @f(%a: {scaled('M, 64', 'nvfp4')}, %b: {plain('64')}, %w: {scaled('M, 64', 'mxfp8')}) -> "
        f"{plain('64')} attributes {{breccia.constants = #breccia.ints[1, 2]}} {{\n  func.return %b : {plain('64')}\n}}"
    )
    (function,) = functions(module)
    assert function.attributes["breccia.constants"] == IntsAttr((3, 4, 5))


def test_a_given_scale_is_no_result_of_its_kernel() -> None:
    """Else every program would write it, and only one program could run."""
    module = validate_pipeline(CASES["quantize nvfp4, outer given"](), [Explode()], sizes=SMALL_SIZES)
    (kernel,) = kernels(module)
    assert [o.name_hint for o in kernel.outs] == ["y_elements", "y_scale1"]


@pytest.mark.parametrize(
    ("op", "source", "result"),
    [
        ("slice %x axis 1 from 32 to 96", scaled("M, 128", "mxfp8"), scaled("M, 64", "mxfp8")),
        ("slice %x axis 1 from 32 to 96", scaled("M, 128", "nvfp4"), scaled("M, 64", "nvfp4")),
        ("slice %x axis 0 from 3 to M", scaled("M, 128", "nvfp4"), scaled("M - 3, 128", "nvfp4")),
        ("slice %x axis 0 from 64 to 100", scaled("100, N", "int4.T"), scaled("36, N", "int4.T")),
        ("reshape %x to [2, 3, 64]", scaled("6, 64", "nvfp4"), None),
        ("concat %x, %x axis 0", scaled("M, 64", "mxfp6"), scaled("M + M, 64", "mxfp6")),
        ("concat %x, %x axis 1", scaled("M, 64", "mxfp6"), scaled("M, 128", "mxfp6")),
        ("transpose %x [1, 0]", scaled("M, 64", "mxfp6"), scaled("64, M", "mxfp6.T")),
    ],
)
def test_views_of_scaled_tensors(op: str, source: str, result: str | None) -> None:
    result = result or scaled("2, 3, 64", "nvfp4")
    exploded(view(op, source, result), sizes=[{"M": 5, "N": 1}, {"M": 9, "N": 7}])


def test_a_slice_inside_a_byte_is_refused() -> None:
    text = view("slice %x axis 1 from 3 to 5", scaled("64, 9", "int4.T"), scaled("64, 2", "int4.T"))
    with pytest.raises(
        UnsupportedError, match=r"slice of .* 3 lies inside a stored unit of 2 elements of its elements; deq"
    ):
        exploded(text)


def test_functions_without_scaled_tensors_stay_as_they_are() -> None:
    text = f"func.func @f(%x: {plain('M, 4')}) -> {plain('M, 4')} {{\n  func.return %x : {plain('M, 4')}\n}}"
    module = parse_module(text)
    before = print_module(module)
    Explode().run(module)
    assert print_module(module) == before
