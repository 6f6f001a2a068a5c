"""The dialect, and a context that knows it."""

from __future__ import annotations

import re

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.ir import Dialect
from xdsl.parser import Parser, ParserState
from xdsl.utils.lexer import Input
from xdsl.utils.mlir_lexer import MLIRLexer

from breccia.ir.attributes import IntsAttr, NumberAttr, PlaceAttr, PolicyAttr, ScheduleAttr
from breccia.ir.capabilities import CapabilitiesAttr
from breccia.ir.kernel import KernelOp
from breccia.ir.ops import WHOLE_TENSOR_OPS
from breccia.ir.tile_ops import TILE_OPS
from breccia.ir.tiling import TilingAttr
from breccia.ir.types import CodeType, DimsAttr, LayoutAttr, RecipeAttr, ScaledType, TensorType

Breccia = Dialect(
    "breccia",
    [*WHOLE_TENSOR_OPS, *TILE_OPS, KernelOp],
    [
        CodeType, DimsAttr, LayoutAttr, RecipeAttr, ScaledType, TensorType,
        IntsAttr, NumberAttr, PlaceAttr, PolicyAttr, ScheduleAttr, TilingAttr, CapabilitiesAttr,
    ],
)  # fmt: skip


def context() -> Context:
    """A context with `builtin`, `func` and `breccia`."""
    ctx = Context()
    for dialect in (Builtin, Func, Breccia):
        ctx.load_dialect(dialect)
    return ctx


class Lexer(MLIRLexer):
    """xDSL's lexer. Its own pattern for strings takes time exponential in the length of one that is not closed."""

    _unescaped_characters_regex = re.compile(r'"(?:[^"\\\n\v\f]++|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"')


class TextParser(Parser):
    """xDSL's parser over `Lexer`: text from anywhere gives a module or an error, in time linear in its length."""

    def __init__(self, ctx: Context, text: str, name: str = "<text>") -> None:
        super().__init__(ctx, "", name)
        self._parser_state = ParserState(Lexer(Input(text, name)))


def parse_module(text: str, name: str = "<text>") -> ModuleOp:
    """The verified module that `text` spells; raises xDSL's ParseError or VerifyException."""
    parser = TextParser(context(), text, name)
    try:
        module = parser.parse_module()
    except RecursionError:
        parser.raise_error("nested too deeply here")
    module.verify()
    return module
