"""Elementwise functions where Metal has none of the name, or none that does what the IR means."""

from __future__ import annotations

from breccia.errors import UnsupportedError
from breccia.numerics.elementwise import _ERF_LARGE, _ERF_SMALL
from breccia.targets.metal._library import Library, number

_DIRECT = {
    "neg": "-{x}", "abs": "abs({x})", "exp": "precise::exp({x})", "log": "precise::log({x})",
    "sqrt": "precise::sqrt({x})", "rsqrt": "1.0f / precise::sqrt({x})", "reciprocal": "1.0f / {x}",
    "square": "{x} * {x}", "tanh": "precise::tanh({x})", "sin": "precise::sin({x})", "cos": "precise::cos({x})",
    "floor": "floor({x})", "isnan": "isnan({x})", "not": "!{x}",
}  # fmt: skip
_HELPERS = {
    "sigmoid": ("1 / (1 + exp(-x)).", "return 1.0f / (1.0f + precise::exp(-x));", ()),
    "silu": ("x * sigmoid(x).", "return x * (1.0f / (1.0f + precise::exp(-x)));", ()),
    "relu": ("The larger of x and 0; NaN stays.", "return x <= 0.0f ? 0.0f : x;", ()),
    "gelu": (
        "The Gaussian error linear unit, by erf.",
        "return 0.5f * x * (1.0f + error_function(x * 0.70710677f));",
        ("erf",),
    ),
    "gelu_tanh": (
        "The Gaussian error linear unit, by tanh.",
        "return 0.5f * x * (1.0f + precise::tanh(0.7978846f * (x + 0.044715f * (x * x * x))));",
        (),
    ),
    "erf": ("The error function, by the polynomials of breccia.numerics.", "", ()),
}
_NAMES = {"erf": "error_function"}


def unary(library: Library, fn: str, x: str) -> str:
    """The expression of a unary function of `x`, an atom."""
    if fn in _DIRECT:
        return _DIRECT[fn].format(x=x)
    if fn not in _HELPERS:
        raise UnsupportedError(f"metal: has no function {fn}; express it by others, or compile for numpy")
    return f"{_helper(library, fn)}({x})"


def _helper(library: Library, fn: str) -> str:
    doc, body, needs = _HELPERS[fn]
    body = body or _erf()
    for needed in needs:
        _helper(library, needed)
    return library.define("float", _NAMES.get(fn, fn), "float x", doc, body)


def _erf() -> str:
    return f"""
float a = min(abs(x), 4.0f), square = a * a;
float small = a * ({_polynomial(_ERF_SMALL, "square")});
float place = (a - 2.5f) * {number(1 / 1.5)};
float large = 1.0f - precise::exp(-square) * ({_polynomial(_ERF_LARGE, "place")});
float y = a < 1.0f ? small : large;
return x < 0.0f ? -y : x > 0.0f ? y : x;
"""


def _polynomial(coefficients: tuple[float, ...], x: str) -> str:
    """Horner's scheme, rounded after each step."""
    text = number(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        text = f"({text}) * {x} + {number(c)}"
    return text


def larger(library: Library) -> str:
    """The larger of two floats; NaN wins."""
    return library.define(
        "float", "larger", "float a, float b", "The larger of two; NaN wins.", "return a > b || isnan(a) ? a : b;"
    )


def smaller(library: Library) -> str:
    """The smaller of two floats; NaN wins."""
    return library.define(
        "float", "smaller", "float a, float b", "The smaller of two; NaN wins.", "return a < b || isnan(a) ? a : b;"
    )


def power(library: Library) -> str:
    """The power y of x; of negative x only where y is whole."""
    body = """
float size = precise::pow(abs(x), y);
bool whole = floor(y) == y, odd = floor(y * 0.5f) * 2.0f != y;
float signed_size = whole && odd ? -size : size;
return y == 0.0f || x == 1.0f ? 1.0f : x < 0.0f ? (whole ? signed_size : NAN) : size;
"""
    return library.define("float", "raised", "float x, float y", "x to the power y.", body)


def divided(library: Library, ctype: str) -> str:
    """Integers divided and rounded down; 0 where the divisor is 0."""
    body = f"""
if (b == 0) {{
    return 0;
}}
{ctype} quotient = a / b;
return quotient * b != a && (a < 0) != (b < 0) ? quotient - 1 : quotient;
"""
    return library.define(ctype, f"divided_{ctype}", f"{ctype} a, {ctype} b", "a / b, rounded down.", body)


def to_integer(library: Library, ctype: str) -> str:
    """Float to the nearest int or long, ties to even; it saturates, and NaN becomes 0."""
    bits = 31 if ctype == "int" else 63
    top, least = f"{float(2**bits)!r}f", f"(-{2**bits - 1}{'' if ctype == 'int' else 'L'} - 1)"
    most = f"{2**bits - 1}{'' if ctype == 'int' else 'L'}"
    body = f"""
float nearest = rint(x);
return isnan(x) ? 0 : nearest >= {top} ? {most} : nearest < -{top} ? {least} : {ctype}(nearest);
"""
    return library.define(ctype, f"to_{ctype}", "float x", "The nearest integer, ties to even; saturates.", body)


def combine(library: Library, how: str) -> str:
    """A function that adds a float to a place in device memory, or takes the maximum, while others do the same."""
    doc = {"add": "Adds to what others add to.", "max": "The larger of what is there and a value; NaN wins."}[how]
    fresh = "as_type<float>(seen) + value" if how == "add" else f"{larger(library)}(as_type<float>(seen), value)"
    body = f"""
device atomic_uint* word = reinterpret_cast<device atomic_uint*>(place);
uint seen = atomic_load_explicit(word, memory_order_relaxed), wanted = as_type<uint>({fresh});
while (!atomic_compare_exchange_weak_explicit(word, &seen, wanted, memory_order_relaxed, memory_order_relaxed)) {{
    wanted = as_type<uint>({fresh});  // another program was quicker
}}
"""
    return library.define("void", f"combine_{how}", "device float* place, float value", doc, body)
