"""Reading IR for `breccia-opt`: files and chunks of files to modules, every error with its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import ParseError, VerifyException

from breccia.ir.dialect import TextParser

_SEPARATOR = re.compile(r"^[ \t]*// -----[ \t]*$", re.MULTILINE)


class InputError(Exception):
    """One message about the input. `line` counts from 1, 0 where it is unknown; so does `column`."""

    def __init__(self, message: str, line: int = 0, column: int = 0, source: str = "") -> None:
        super().__init__(message)
        self.line, self.column, self.source = line, column, source

    def shown(self, name: str) -> str:
        """`file.mlir:3:5: error: ...`, with the line of the input and a caret where both are known."""
        where = f"{name}:{self.line}:{self.column}: " if self.line else f"{name}: "
        text = f"{where}error: {self}\n"
        if self.source.strip() and len(self.source) <= 400:
            text += f"  {self.source}\n  {' ' * (self.column - 1)}^\n"
        return text


@dataclass(frozen=True)
class Chunk:
    """One module's text. Invariant: it stands after as many line breaks as precede it in its file."""

    name: str
    text: str

    def line(self, number: int) -> str:
        lines = self.text.split("\n", number)
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


def read_text(file: str | None, stdin: str | bytes) -> tuple[str, str]:
    """(name for messages, text) of a file, or of standard input for None and `-`.

    Raises InputError for what is not UTF-8; OSError for a file that cannot be read.
    """
    name = "<stdin>" if file in (None, "-") else str(file)
    raw = stdin if name == "<stdin>" else Path(name).read_bytes()
    if isinstance(raw, str):
        return name, raw
    try:
        return name, raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; IR is UTF-8 text"
        raise InputError(message, line, column) from None


def chunks(name: str, text: str, *, split: bool) -> Iterator[Chunk]:
    """The file as one chunk, or cut at lines of `// -----`."""
    if not split:
        yield Chunk(name, text)
        return
    lines = 0
    for part in _SEPARATOR.split(text):
        yield Chunk(name, "\n" * lines + part)
        lines += part.count("\n")


class PositionParser(TextParser):
    """Remembers where each operation stands. Invariant: `positions` holds every operation parsed so far."""

    def __init__(self, ctx: Context, text: str, name: str) -> None:
        super().__init__(ctx, text, name)
        self.positions: dict[Operation, tuple[int, int]] = {}

    def parse_operation(self) -> Operation:
        start = self._current_token.span
        op = super().parse_operation()
        here = start.get_location()
        self.positions[op] = (here.line, here.col)
        return op

    def here(self) -> tuple[int, int]:
        at = self._current_token.span.get_location()
        return at.line, at.col


@dataclass
class Parsed:
    """A verified module, and where its operations stood in the text."""

    module: ModuleOp
    chunk: Chunk
    positions: dict[Operation, tuple[int, int]]

    def verify(self, after: str = "") -> None:
        """Raise InputError for the first operation that does not verify. `after` names the pass that made it."""
        try:
            self.module.verify()
        except VerifyException as error:
            line, column = self._failing()
            prefix = f"pass {after} made IR that does not verify: " if after else ""
            raise InputError(f"{prefix}{error}", line, column, self.chunk.line(line)) from None

    def _failing(self) -> tuple[int, int]:
        for op in self.module.walk():
            try:
                op.verify(verify_nested_ops=False)
            except VerifyException:
                return self.position(op)
        return 0, 0

    def position(self, op: Operation) -> tuple[int, int]:
        """(line, column) of `op` in the text; (0, 0) for one that a pass made."""
        found: Any = op
        while found is not None and found not in self.positions:
            found = None if isinstance(found.location, FileLineColLoc) else found.parent_op()
        return (0, 0) if found is None else self.positions[found]


def parse(ctx: Context, chunk: Chunk) -> Parsed:
    """The module of a chunk, not yet verified; raises InputError for text that does not parse."""
    parser: PositionParser | None = None
    try:
        parser = PositionParser(ctx, chunk.text, chunk.name)
        return Parsed(parser.parse_module(), chunk, parser.positions)
    except ParseError as error:
        at = error.span.get_location()
        message = " ".join(error.msg.split())
        raise InputError(message, at.line, at.col, chunk.line(at.line)) from None
    except RecursionError:
        line, column = parser.here() if parser is not None else (1, 1)
        raise InputError("nested too deeply to be read; split it into functions or values", line, column) from None
    except VerifyException as error:
        line, column = parser.here() if parser is not None else (1, 1)
        raise InputError(str(error), line, column, chunk.line(line)) from None
