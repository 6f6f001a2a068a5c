"""Attributes of ops: policies, placements, schedules, and small lists.

#breccia.policy<scale = ceil, zero_scale = smallest>
#breccia.place<epilogue, mainloop>
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from breccia.recipes import Policy

Entries = dict[str, int | str]
"""What a schedule says, by name. `breccia.target` has the same name for it, for where no xDSL is loaded."""
PLACEMENTS = ("epilogue", "mma", "mainloop", "operand")


@irdl_attr_definition
class PolicyAttr(Data[Policy]):
    """How to encode. Fields that have their default value are not printed."""

    name = "breccia.policy"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Policy:
        defaults = {f.name: f.default for f in fields(Policy)}

        def entry() -> tuple[str, Any]:
            key = parser.parse_identifier(" naming a field of the policy")
            if key not in defaults:
                parser.raise_error(f"a policy has no field {key!r}; its fields are {', '.join(defaults)}")
            parser.parse_punctuation("=")
            number = parser.parse_optional_number()
            return key, parser.parse_identifier() if number is None else number

        pairs = parser.parse_comma_separated_list(parser.Delimiter.ANGLE, entry)
        try:
            return Policy(**dict(pairs))
        except ValueError as error:
            parser.raise_error(str(error))

    def print_parameter(self, printer: Printer) -> None:
        changed = [
            (f.name, getattr(self.data, f.name)) for f in fields(Policy) if getattr(self.data, f.name) != f.default
        ]
        printer.print_string("<" + ", ".join(f"{name} = {number(value)}" for name, value in changed) + ">")


@irdl_attr_definition
class PlaceAttr(Data[tuple[str, ...]]):
    """Where the scales of a matmul operand are applied, one entry a level, outermost first."""

    name = "breccia.place"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[str, ...]:
        return tuple(
            parser.parse_comma_separated_list(parser.Delimiter.ANGLE, lambda: parser.parse_keyword_in(PLACEMENTS))
        )

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<" + ", ".join(self.data) + ">")

    def verify(self) -> None:
        for place in self.data:
            if place not in PLACEMENTS:
                raise VerifyException(f"unknown placement {place!r}; allowed: {', '.join(PLACEMENTS)}")


@irdl_attr_definition
class IntsAttr(Data[tuple[int, ...]]):
    """A list of integers: axes, a permutation, blocks."""

    name = "breccia.ints"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[int, ...]:
        return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer))

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(str(list(self.data)))


@irdl_attr_definition
class NumberAttr(Data[float]):
    """A constant, printed so that it reads back to the same float64; `inf`, `-inf` and `nan` are words."""

    name = "breccia.number"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> float:
        with parser.in_angle_brackets():
            return parse_number(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{number(self.data)}>")

    def __hash__(self) -> int:  # NaN constants are equal to themselves, so that common subexpressions fold
        return hash(repr(self.data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NumberAttr) and repr(self.data) == repr(other.data)


def parse_number(parser: AttrParser) -> float:
    """Read a number, `inf`, `-inf` or `nan`."""
    negative = parser.parse_optional_punctuation("-") is not None
    word = parser.parse_optional_keyword_in(("inf", "nan"))
    value = float(word) if word else float(parser.parse_number())
    return -value if negative else value


def number(value: object) -> str:
    """A number as MLIR lexes it: Python's `1e-05` becomes `1.0e-05`."""
    text = str(value) if not isinstance(value, float) else repr(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text


@irdl_attr_definition
class ScheduleAttr(Data[tuple[tuple[str, int | str], ...]]):
    """Choices that change speed and never a result: `#breccia.schedule<num_warps = 8, num_stages = 3>`."""

    name = "breccia.schedule"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[tuple[str, int | str], ...]:
        def entry() -> tuple[str, int | str]:
            key = parser.parse_identifier(" naming a schedule entry")
            parser.parse_punctuation("=")
            value = parser.parse_optional_integer(allow_boolean=False)
            return key, parser.parse_identifier() if value is None else value

        return tuple(parser.parse_comma_separated_list(parser.Delimiter.ANGLE, entry))

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<" + ", ".join(f"{key} = {value}" for key, value in self.data) + ">")

    @classmethod
    def of(cls, entries: Mapping[str, int | str]) -> ScheduleAttr:
        """The schedule with these entries."""
        return cls(tuple(entries.items()))

    @property
    def entries(self) -> Entries:
        """What it says, by name."""
        return dict(self.data)

    def integer(self, key: str, default: int) -> int:
        """The integer entry `key`."""
        value = self.entries.get(key, default)
        assert isinstance(value, int), f"schedule entry {key} is {value!r}, an integer is wanted"
        return value
