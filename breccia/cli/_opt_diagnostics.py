"""`--verify-diagnostics`: comments that say which errors an input must give.

    %y = breccia.unary neg %x   // expected-error {{convert it first}}
    // expected-error@+1 {{unknown function}}
    %z = breccia.unary nag %x

`@+N`, `@-N`, `@above` and `@below` count lines from the comment. A chunk stops at its first error, so it expects at
most one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from breccia.cli._opt_input import Chunk, InputError

_EXPECTED = re.compile(r"//\s*expected-error(?:@([+-]\d+|above|below))?\s*\{\{(.*?)\}\}")


@dataclass(frozen=True)
class Expected:
    """An error that must come: its line, and a part of its text."""

    line: int
    text: str


def expectations(chunk: Chunk) -> list[Expected]:
    """What the comments of a chunk ask for."""
    found: list[Expected] = []
    for number, line in enumerate(chunk.text.split("\n"), 1):
        for offset, text in _EXPECTED.findall(line):
            shift = {"": 0, "above": -1, "below": 1}.get(offset)
            found.append(Expected(number + (int(offset) if shift is None else shift), text))
    return found


def unmet(chunk: Chunk, error: InputError | None) -> str | None:
    """What is wrong with the errors of a chunk: None where they are just the expected ones."""
    expected = expectations(chunk)
    if len(expected) > 1:
        second = f"{chunk.name}:{expected[1].line}"
        return f"{second}: error: a chunk stops at its first error; expect one, and split the rest off\n"
    if not expected:
        return None if error is None else error.shown(chunk.name)
    wanted = expected[0]
    missing = f"{chunk.name}:{wanted.line}: error: expected an error with {wanted.text!r} here\n"
    if error is None:
        return missing
    if wanted.text in str(error) and error.line in (0, wanted.line):
        return None
    return f"{missing}and found\n{error.shown(chunk.name)}"
