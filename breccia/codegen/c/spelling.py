"""Numbers and parentheses in languages like C."""

from __future__ import annotations

import re

import numpy as np


def number(value: float) -> str:
    """A float literal, rounded to float32.

    >>> number(0.1), number(float("-inf"))
    ('0.10000000149011612f', '-INFINITY')
    """
    if value - value == 0:
        return f"{float(np.float32(value))!r}f"
    return "NAN" if value != value else f"{'-' * (value < 0)}INFINITY"


def atom(text: str) -> str:
    """An expression as one that may stand beside any operator: in parentheses, unless it is a word or has them.

    >>> atom("i0"), atom("(a + b)"), atom("(a) / (b)")
    ('i0', '(a + b)', '((a) / (b))')
    """
    if re.fullmatch(r"\w+", text) or (text[:1] == "(" and _closing(text) == len(text) - 1):
        return text
    return f"({text})"


def _closing(text: str) -> int:
    """Where the parenthesis closes that opens `text`."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    return -1
