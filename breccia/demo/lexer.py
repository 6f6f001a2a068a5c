"""Colours for printed IR: a Pygments lexer, used by the terminal report and by the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pygments.lexer import RegexLexer, words
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text

_REGIONS = (
    "grid", "in", "out", "init", "step", "finish", "window", "at", "schedule", "yield",
    "reduction", "parallel", "sequential",
)  # fmt: skip


class IRLexer(RegexLexer):
    """Tokens of xDSL's and MLIR's textual form, as far as colours need them.

    Invariants: every character of the input is in exactly one token, so that nothing is lost on the way to the page.
    """

    name = "breccia IR"
    aliases: ClassVar[Sequence[str]] = ("breccia-ir",)
    filenames: ClassVar[Sequence[str]] = ("*.mlir",)
    tokens: ClassVar[dict[str, Any]] = {
        "root": [
            (r"//[^\n]*", Comment.Single),
            (r'"(?:\\.|[^"\\\n])*"', String),
            (r"%[\w.$-]+(?:#\d+)?", Name.Variable),
            (r"#[\w.$]+", Name.Constant),
            (r"![\w.$]+", Keyword.Type),
            (r"@[\w.$-]+", Name.Function),
            (r"\^[\w.$-]+", Name.Label),
            (r"\b(?:[if]\d+|bf16|index|ui\d+|f\d+E\w+)\b", Keyword.Type),
            (r"-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b", Number),
            (r"\b(?:breccia|func|builtin|arith)\.[\w.]+", Name.Builtin),
            (words(_REGIONS, prefix=r"\b", suffix=r"\b"), Keyword),
            (r"->|=", Operator),
            (r"[{}()\[\]<>,:]", Punctuation),
            (r"\s+", Text),
            (r"[^\W\d]\w*", Name),
            (r".", Text),
        ]
    }
