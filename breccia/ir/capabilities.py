"""What a target can do, as data: a printable attribute of the module, so that lowering needs no device.

    builtin.module attributes {breccia.target = #breccia.target<"triton:sm_90",
      mma = [f8E4M3FN * f8E4M3FN step 32, bf16 * bf16 step 16], scaled_mma = [], compute = [bf16, f32],
      placements = [epilogue, mma, mainloop, operand], mainloop_min_block = 128, fetch_pad = zero, ...>}

Feature sets, never "compute capability >= x".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from breccia.errors import PassError

TARGET_KEY = "breccia.target"


@dataclass(frozen=True)
class Mma:
    """A matrix instruction: element formats (MLIR spelling) of both sides, and its step along k."""

    a: str
    b: str
    step: int


@dataclass(frozen=True)
class ScaledMma:
    """A matrix instruction that applies scales itself: elements, the scale's format, and its block along k."""

    a: str
    b: str
    scale: str
    block: int


@dataclass(frozen=True)
class LayoutRow:
    """For a role (`a_elements`, `b_scale`, `out_scale` ...) and a format (`any` for all), the wanted memory order."""

    role: str
    format: str
    order: str


@dataclass(frozen=True)
class TileRow:
    """Default tile of a kernel skeleton (`gemm`, `rowwise`, `reduce`, `grouped`): elements along m, n and k."""

    skeleton: str
    m: int
    n: int
    k: int


@dataclass(frozen=True)
class Capabilities:
    """One target's rows. Everything a pass may ask; nothing that needs a device."""

    name: str
    mma: tuple[Mma, ...] = ()
    scaled_mma: tuple[ScaledMma, ...] = ()
    compute: tuple[str, ...] = ("f32",)
    """Dtypes that decoded operands may be multiplied in, cheapest first; the first exact one is taken."""
    placements: tuple[str, ...] = ("epilogue", "mma", "mainloop", "operand")
    mainloop_min_block: int = 128
    """Shortest block along k for which scaling partial sums pays where operands could be decoded instead."""
    mainloop_least_block: int = 128
    """Shortest block along k for which it pays where decoded operands would need f32."""
    layouts: tuple[LayoutRow, ...] = ()
    tiles: tuple[TileRow, ...] = ()
    pow2_tiles: bool = False
    min_tile: tuple[int, int] = (1, 1)
    """Smallest tile of the last two axes (TPU: 8, 128)."""
    whole_windows: bool = False
    """True where kernels run over whole arrays (NumPy): `coarsen` instead of `legalize-windows`."""
    fetch_pad: Literal["zero", "garbage"] = "zero"
    """What a fetch leaves in the part of a tile that lies outside the tensor."""
    functions: tuple[str, ...] = ()
    """Unary functions; empty for all."""
    shortest_dot: int = 0
    """Elements along k that a product of tiles takes at least; twice as many where they are bytes."""
    decode_rows: int = 0
    """From so many rows and columns of a product on, operands are decoded once, by kernels of their own; 0 for never.
    """
    sum_bits: int = 24
    """Significant bits that sums of FP8 products keep inside a matrix instruction, before float32 takes over."""
    smallest_kept: int = -149
    """Decoded operands of products that are below 2 to this power may lose bits (float32 itself ends at -149)."""
    features: tuple[str, ...] = ()
    scratch_bytes: int = 0
    """Shared, vector or threadgroup memory of one program; 0 for unlimited."""


def show_value(value: Any) -> str:
    """One field, or one row of a field, as the attribute prints it."""
    if isinstance(value, Mma):
        return f"{value.a} * {value.b} step {value.step}"
    if isinstance(value, ScaledMma):
        return f"{value.a} * {value.b} scale {value.scale} block {value.block}"
    if isinstance(value, LayoutRow):
        return f"{value.role} {value.format} {value.order}"
    if isinstance(value, TileRow):
        return f"{value.skeleton} {value.m} {value.n} {value.k}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(show_value, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(parser: AttrParser, entry: Callable[[], Any]) -> tuple[Any, ...]:
    return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, entry))


def _parse_value(parser: AttrParser, key: str) -> Any:
    word, integer = parser.parse_identifier, parser.parse_integer

    def product() -> tuple[str, str]:
        a = word()
        parser.parse_punctuation("*")
        return a, word()

    def keyed(name: str, read: Callable[[], Any]) -> Any:
        parser.parse_keyword(name)
        return read()

    if key == "mma":
        return _list(parser, lambda: Mma(*product(), keyed("step", integer)))
    if key == "scaled_mma":
        return _list(parser, lambda: ScaledMma(*product(), keyed("scale", word), keyed("block", integer)))
    if key == "layouts":
        return _list(parser, lambda: LayoutRow(word(), word(), word()))
    if key == "tiles":
        return _list(parser, lambda: TileRow(word(), integer(), integer(), integer()))
    if key == "min_tile":
        return _list(parser, integer)
    if key in ("compute", "placements", "functions", "features"):
        return _list(parser, word)
    if key in ("pow2_tiles", "whole_windows"):
        return parser.parse_boolean()
    return word() if key == "fetch_pad" else integer()


@irdl_attr_definition
class CapabilitiesAttr(Data[Capabilities]):
    """`#breccia.target<"name", key = value, ...>`; keys that have their default value are not printed."""

    name = "breccia.target"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Capabilities:
        known = [f.name for f in fields(Capabilities)][1:]
        values: dict[str, Any] = {}
        with parser.in_angle_brackets():
            name = parser.parse_str_literal(" naming the target")
            while parser.parse_optional_punctuation(","):
                key = parser.parse_identifier(" naming a capability")
                if key not in known:
                    parser.raise_error(f"capabilities have no field {key!r}; fields are {', '.join(known)}")
                parser.parse_punctuation("=")
                values[key] = _parse_value(parser, key)
        return Capabilities(name, **values)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f'<"{self.data.name}"')
        for f in fields(Capabilities)[1:]:
            value = getattr(self.data, f.name)
            if value != f.default:
                printer.print_string(f", {f.name} = {show_value(value)}")
        printer.print_string(">")


def set_target(module: ModuleOp, capabilities: Capabilities) -> None:
    """Say what `module` is lowered for."""
    module.attributes[TARGET_KEY] = CapabilitiesAttr(capabilities)


def target_of(module: ModuleOp, pass_name: str) -> Capabilities:
    """The capabilities that `module` is lowered for; raises PassError naming the pass that needs them."""
    attribute = module.attributes.get(TARGET_KEY)
    if not isinstance(attribute, CapabilitiesAttr):
        raise PassError(
            f"{pass_name} needs to know the target: give the module the attribute {TARGET_KEY} = #breccia.target<...>, "
            "or run breccia-opt with --target NAME"
        )
    return attribute.data
