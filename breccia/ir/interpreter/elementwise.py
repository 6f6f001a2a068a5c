"""The meaning of the elementwise functions, which emitted code shares and which therefore lies below the IR."""

from breccia.numerics.elementwise import BINARY as BINARY
from breccia.numerics.elementwise import UNARY as UNARY
