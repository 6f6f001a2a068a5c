"""The two types of the dialect, and element types in MLIR's spelling.

    !breccia.tensor<[M, 256], bf16>
    !breccia.scaled<[M, 256], bf16, #breccia.recipe<f8E4M3FN, f32 per [1, 128]>>
    !breccia.scaled<[256, N], bf16, #breccia.recipe<...>, #breccia.layout<elements = packed4, scale0 = row_major>>

A scaled type says how to decode and nothing else: it holds no scale values and no policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from xdsl.dialects import builtin
from xdsl.dialects.builtin import IntegerType, NoneAttr, Signedness, StringAttr
from xdsl.ir import Attribute, Data, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from breccia import formats
from breccia.formats import Format
from breccia.ir import dims
from breccia.ir.dims import Dim, Expr
from breccia.recipes import Level, Offset, Policy, Recipe, ZeroPoint

INDEX_DTYPES = ("i1", "i32", "i64")
"""Integer dtypes that are no element formats: truth values, indices and offsets."""


@irdl_attr_definition
class CodeType(ParametrizedAttribute, TypeAttribute):
    """An element format that MLIR has no type for: `!breccia.code<"nf4">`, `!breccia.code<"mxint8">`."""

    name = "breccia.code"
    format: StringAttr

    def verify(self) -> None:
        formats.find(self.format.data)


@cache
def dtype_of(fmt: Format) -> Attribute:
    """The MLIR type of a format."""
    special = {
        "f64": builtin.f64, "f32": builtin.f32, "bf16": builtin.bf16, "f16": builtin.f16,
        "f8E4M3FN": builtin.Float8E4M3FNType(), "f8E4M3FNUZ": builtin.Float8E4M3FNUZType(),
        "f8E5M2": builtin.Float8E5M2Type(), "f8E5M2FNUZ": builtin.Float8E5M2FNUZType(),
        "f8E8M0FNU": builtin.Float8E8M0FNUType(), "f6E2M3FN": builtin.Float6E2M3FNType(),
        "f6E3M2FN": builtin.Float6E3M2FNType(), "f4E2M1FN": builtin.Float4E2M1FNType(),
    }.get(fmt.mlir)  # fmt: skip
    if special is not None:
        return special
    if fmt.kind == "int" and fmt.fraction_bits == 0:
        return IntegerType(fmt.bits, Signedness.SIGNLESS if fmt.signed else Signedness.UNSIGNED)
    return CodeType(StringAttr(fmt.name))


@cache
def format_of(dtype: Attribute) -> Format | None:
    """The format behind an MLIR type; None for i1, i32 and i64."""
    if isinstance(dtype, CodeType):
        return formats.find(dtype.format.data)
    text = str(dtype)
    return None if text in INDEX_DTYPES else formats.find(text)


def is_float(dtype: Attribute) -> bool:
    """True for a dtype in which arithmetic on fractions is meant: f16 to f64 and bf16."""
    return str(dtype) in ("f64", "f32", "bf16", "f16")


def is_compute(dtype: Attribute) -> bool:
    """True for a dtype that elementwise ops compute in. Narrower floats are converted first."""
    return str(dtype) in ("f64", "f32", *INDEX_DTYPES)


@irdl_attr_definition
class DimsAttr(Data[tuple[Dim, ...]]):
    """A shape: `[M, ceildiv(K, 128), 64]`."""

    name = "breccia.dims"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Dim, ...]:
        return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: dims.parse(parser)))

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("[" + ", ".join(map(dims.show, self.data)) + "]")


@irdl_attr_definition
class TensorType(ParametrizedAttribute, TypeAttribute):
    """An array of plain numbers. Formats of 8 bits and fewer stand as unpacked codes unless a layout packs them."""

    name = "breccia.tensor"
    dims: DimsAttr
    dtype: Attribute

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.dims.data

    @property
    def rank(self) -> int:
        return len(self.dims.data)

    @property
    def format(self) -> Format | None:
        return format_of(self.dtype)

    def verify(self) -> None:
        _verify_shape(self.shape, "!breccia.tensor")
        format_of(self.dtype)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        with parser.in_angle_brackets():
            shape = DimsAttr(DimsAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            return [shape, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            self.dims.print_parameter(printer)
            printer.print_string(", ")
            printer.print_attribute(self.dtype)


def tensor(shape: Sequence[Dim], dtype: Attribute | Format) -> TensorType:
    """Shorthand: `tensor([M, 256], formats.bfloat16)`."""
    return TensorType(DimsAttr(tuple(shape)), dtype_of(dtype) if isinstance(dtype, Format) else dtype)


def decode_half(recipe: Recipe, rank: int) -> Recipe:
    """The part of a recipe that a type carries: full-rank blocks, and a policy that is the same for equal encodings."""
    levels = tuple(Level(level.dtype, level.resolve(rank)) for level in recipe.levels)
    rule = "ceil" if recipe.innermost.dtype.is_power_of_two else "exact"
    return Recipe(recipe.element, levels, recipe.zero_point, recipe.offset, Policy(scale=rule))


@irdl_attr_definition
class RecipeAttr(Data[Recipe]):
    """How to decode: `#breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>`. Holds a `decode_half`."""

    name = "breccia.recipe"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Recipe:
        with parser.in_angle_brackets():
            element = _parse_format(parser)
            levels: list[Level] = []
            zero: ZeroPoint | None = None
            offset: Offset | None = None
            try:
                while parser.parse_optional_punctuation(","):
                    if parser.parse_optional_keyword("zero"):
                        zero = ZeroPoint(_parse_format(parser))
                    elif parser.parse_optional_keyword("offset"):
                        offset = Offset(_parse_format(parser))
                    else:
                        dtype = _parse_format(parser)
                        parser.parse_keyword("per")
                        levels.append(Level(dtype, _parse_block(parser)))
                power = bool(levels) and levels[-1].dtype.is_power_of_two
                return Recipe(element, tuple(levels), zero, offset, Policy(scale="ceil" if power else "exact"))
            except ValueError as error:
                parser.raise_error(str(error))

    def print_parameter(self, printer: Printer) -> None:
        recipe = self.data
        parts = [_format_text(recipe.element)]
        parts += [f"{_format_text(level.dtype)} per {_block_text(level.block)}" for level in recipe.levels]
        if recipe.zero_point:
            parts.append(f"zero {_format_text(recipe.zero_point.dtype)}")
        if recipe.offset:
            parts.append(f"offset {_format_text(recipe.offset.dtype)}")
        printer.print_string(f"<{', '.join(parts)}>")


def _format_text(fmt: Format) -> str:
    return fmt.mlir


def _parse_format(parser: AttrParser) -> Format:
    name = parser.parse_identifier(" naming an element or scale format")
    try:
        return formats.find(name)
    except ValueError as error:
        parser.raise_error(str(error))


def _block_text(block: Sequence[int | None] | None) -> str:
    return "[" + ", ".join("all" if b is None else str(b) for b in block or ()) + "]"


def _parse_block(parser: AttrParser) -> tuple[int | None, ...]:
    def entry() -> int | None:
        return None if parser.parse_optional_keyword("all") else parser.parse_integer(allow_boolean=False)

    return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, entry))


@irdl_attr_definition
class LayoutAttr(Data[tuple[tuple[str, str], ...]]):
    """The memory order of each component: `#breccia.layout<elements = packed4, scale0 = row_major>`.

    Components are `elements`, `scale0` (outermost) to `scaleN`, `zero_point`, `offset`; orders are names in `layouts`.
    """

    name = "breccia.layout"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[tuple[str, str], ...]:
        def entry() -> tuple[str, str]:
            component = parser.parse_identifier(" naming a component")
            parser.parse_punctuation("=")
            return component, parser.parse_identifier_or_str_literal()

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, entry))

    def print_parameter(self, printer: Printer) -> None:
        def text(order: str) -> str:
            return order if order.isidentifier() else f'"{order}"'

        printer.print_string("<" + ", ".join(f"{name} = {text(order)}" for name, order in self.data) + ">")

    def order(self, component: str) -> str:
        """The layout name of a component."""
        return dict(self.data)[component]


@irdl_attr_definition
class ScaledType(ParametrizedAttribute, TypeAttribute):
    """A block-scaled tensor of logical shape `shape`; `dtype` is the float type it stands for."""

    name = "breccia.scaled"
    dims: DimsAttr
    dtype: Attribute
    encoding: RecipeAttr
    layout: LayoutAttr | NoneAttr

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.dims.data

    @property
    def rank(self) -> int:
        return len(self.dims.data)

    @property
    def recipe(self) -> Recipe:
        return self.encoding.data

    def with_layout(self, layout: LayoutAttr | None) -> ScaledType:
        return ScaledType(self.dims, self.dtype, self.encoding, layout or NoneAttr())

    def verify(self) -> None:
        _verify_shape(self.shape, "!breccia.scaled")
        if not is_float(self.dtype):
            raise VerifyException(f"!breccia.scaled stands for floats (f16, bf16, f32, f64), not {self.dtype}")
        if not self.shape:
            raise VerifyException("!breccia.scaled needs at least one axis, since blocks lie along axes")
        for level in self.recipe.levels:
            if level.block is None or len(level.block) != self.rank:
                raise VerifyException(
                    f"{self.encoding}: a block of {_block_text(level.block)} on a tensor of shape "
                    f"{self.dims}; give one entry for each of its {self.rank} axes"
                )
        if isinstance(self.layout, LayoutAttr):
            wanted = [name for name, _ in component_types(self)]
            if [name for name, _ in self.layout.data] != wanted:
                raise VerifyException(f"{self.layout} must give an order for each of {', '.join(wanted)}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        with parser.in_angle_brackets():
            shape = DimsAttr(DimsAttr.parse_parameter(parser))
            parser.parse_punctuation(",")
            dtype = parser.parse_type()
            parser.parse_punctuation(",")
            recipe = parser.parse_attribute()
            layout: Attribute = NoneAttr()
            if parser.parse_optional_punctuation(","):
                layout = parser.parse_attribute()
            return [shape, dtype, recipe, layout]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            self.dims.print_parameter(printer)
            printer.print_string(", ")
            printer.print_attribute(self.dtype)
            printer.print_string(", ")
            printer.print_attribute(self.encoding)
            if isinstance(self.layout, LayoutAttr):
                printer.print_string(", ")
                printer.print_attribute(self.layout)


def scaled(
    shape: Sequence[Dim], dtype: Attribute | Format, recipe: Recipe, layout: LayoutAttr | None = None
) -> ScaledType:
    """Shorthand: `scaled([M, 256], formats.bfloat16, recipes.mxfp8_e4m3)`."""
    return ScaledType(
        DimsAttr(tuple(shape)),
        dtype_of(dtype) if isinstance(dtype, Format) else dtype,
        RecipeAttr(decode_half(recipe, len(shape))),
        layout or NoneAttr(),
    )


def scale_shape(shape: Sequence[Dim], block: Sequence[int | None]) -> tuple[Dim, ...]:
    """Shape of an array of scales: one entry for each block; the last block of an axis may be partial."""
    return tuple(1 if b is None else dims.ceildiv(size, b) for size, b in zip(shape, block, strict=True))


def component_types(scaled_type: ScaledType) -> list[tuple[str, TensorType]]:
    """Name and logical (unpacked) type of each component: elements, scales outermost first, zero point, offset."""
    recipe, shape = scaled_type.recipe, scaled_type.shape
    blocks = recipe.blocks(scaled_type.rank)
    parts = [("elements", tensor(shape, recipe.element))]
    for i, (level, block) in enumerate(zip(recipe.levels, blocks, strict=True)):
        parts.append((f"scale{i}", tensor(scale_shape(shape, block), level.dtype)))
    for name, extra in (("zero_point", recipe.zero_point), ("offset", recipe.offset)):
        if extra is not None:
            parts.append((name, tensor(scale_shape(shape, blocks[-1]), extra.dtype)))
    return parts


def with_shape(scaled_type: ScaledType, shape: Sequence[Dim], recipe: Recipe | None = None) -> ScaledType:
    """The same type on another shape, without a layout."""
    new = RecipeAttr(recipe) if recipe is not None else scaled_type.encoding
    return ScaledType(DimsAttr(tuple(shape)), scaled_type.dtype, new, NoneAttr())


def permuted(scaled_type: ScaledType, order: tuple[int, ...]) -> ScaledType:
    """The type of the tensor with axes permuted: blocks move with their axes."""
    recipe = scaled_type.recipe.permuted(order)
    return with_shape(scaled_type, [scaled_type.shape[i] for i in order], replace(recipe))


def _verify_shape(shape: Sequence[Dim], what: str) -> None:
    for size in shape:
        if isinstance(size, int) and size < 0:
            raise VerifyException(f"{what} of shape [{', '.join(map(dims.show, shape))}]: sizes cannot be negative")
        if isinstance(size, Expr) and dims.has_lookup(size):
            raise VerifyException(f"{what}: a size cannot be read from a table, as {dims.show(size)} would be")
