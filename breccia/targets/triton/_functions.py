"""Elementwise functions and reductions in Triton, where one of its own does not do what the IR means."""

from __future__ import annotations

from breccia.errors import UnsupportedError
from breccia.ir.types import TensorType, is_float
from breccia.targets.triton._casts import Library

_DIRECT = {
    "neg": "-{x}", "abs": "tl.abs({x})", "exp": "tl.exp({x})", "log": "tl.log({x})", "sqrt": "tl.sqrt_rn({x})",
    "rsqrt": "tl.div_rn(1.0, tl.sqrt_rn({x}))", "reciprocal": "tl.div_rn(1.0, {x})", "square": "{x} * {x}",
    "sin": "tl.sin({x})", "cos": "tl.cos({x})", "floor": "tl.floor({x})", "erf": "tl.erf({x})", "isnan": "{x} != {x}",
    "not": "{x} == 0",
}  # fmt: skip
_HELPERS = {
    "_sigmoid": '''
@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp(-x))
''',
    "_silu": '''
@triton.jit
def _silu(x):
    """x * sigmoid(x)."""
    return x / (1 + tl.exp(-x))
''',
    "_gelu": '''
@triton.jit
def _gelu(x):
    """The Gaussian error linear unit, by erf."""
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
''',
    "_tanh": '''
@triton.jit
def _tanh(x):
    """The hyperbolic tangent: near 0 by its series, where the quotient would cancel."""
    square = x * x
    series = x + x * square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835))))
    shrunk = tl.exp(-2 * tl.abs(x))
    quotient = (1 - shrunk) / (1 + shrunk)
    return tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -quotient, quotient))
''',
    "_gelu_tanh": '''
@triton.jit
def _gelu_tanh(x):
    """The Gaussian error linear unit, by tanh."""
    return 0.5 * x * (1 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
''',
    "_relu": '''
@triton.jit
def _relu(x):
    """The larger of x and 0; NaN stays."""
    return tl.where(x <= 0, 0.0, x)
''',
    "_pow": '''
@triton.jit
def _pow(x, y):
    """x to the power y; of negative x only where y is whole."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = tl.floor(y * 0.5) * 2 != y
    signed = tl.where(whole & odd, -size, size)
    power = tl.where(x < 0, tl.where(whole, signed, float("nan")), size)
    return tl.where((y == 0) | (x == 1), 1.0, power)
''',
    "_larger": '''
@triton.jit
def _larger(a, b):
    """The larger of two; NaN wins."""
    return tl.where((a > b) | (a != a), a, b)
''',
    "_smaller": '''
@triton.jit
def _smaller(a, b):
    """The smaller of two; NaN wins."""
    return tl.where((a < b) | (a != a), a, b)
''',
    "_amax": '''
@triton.jit
def _amax(x, axis: tl.constexpr):
    """The largest |x| along an axis, by its bits: they order as values do, and NaN is above all."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.max(bits, axis, keep_dims=True).to(tl.float32, bitcast=True)
''',
    "_to_int32": '''
@triton.jit
def _to_int32(x):
    """Float32 to the nearest int32, ties to even; saturates, and NaN becomes 0."""
    magic = tl.where(x < 0, -8388608.0, 8388608.0)
    nearest = tl.where(tl.abs(x) < 8388608.0, (x + magic) - magic, x)
    inside = tl.where((nearest >= -2147483648.0) & (nearest < 2147483648.0), nearest, 0.0).to(tl.int32)
    return tl.where(nearest >= 2147483648.0, 2147483647, tl.where(nearest < -2147483648.0, -2147483648, inside))
''',
    "_halves": '''
@triton.jit
def _halves(x):
    """What stands at even and at odd places along the last of two axes."""
    return tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
''',
    "_pack6": '''
@triton.jit
def _pack6(codes):
    """The three bytes that hold four 6-bit codes, for every four along the last axis; low bits first."""
    even, odd = _halves(codes)
    code0, code2 = _halves(even)
    code1, code3 = _halves(odd)
    return code0 | code1 << 6, code1 >> 2 | code2 << 4, code2 >> 4 | code3 << 2
''',
    "_pack6_words": '''
@triton.jit
def _pack6_words(codes):
    """The three words of 32 bits that hold 16 6-bit codes, for every 16 along the last axis; low bits first."""
    even, odd = _halves(codes)
    even, odd = _halves(even.to(tl.uint32) | odd.to(tl.uint32) << 6)
    even, odd = _halves(even | odd << 12)  # 24 bits each
    low0, low1 = _halves(even | odd << 24)
    high0, high1 = _halves(odd >> 8)
    return low0, high0 | low1 << 16, low1 >> 16 | high1 << 16
''',
    "_repack_rows": '''
@triton.jit
def _repack_rows(packed):
    """Bytes that hold two codes of neighbouring columns as bytes that hold two codes of neighbouring rows."""
    rows: tl.constexpr = packed.shape[0] // 2
    columns: tl.constexpr = packed.shape[1]
    even, odd = tl.split(tl.permute(tl.reshape(packed, (rows, 2, columns)), (0, 2, 1)))
    # Joined before they are combined: a product of a tile that is but reshaped fails to compile on Blackwell.
    return tl.interleave(even & 15, even >> 4) | tl.interleave(odd << 4, odd & 240)
''',
}
_PTX = {
    "_sigmoid": '''
@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)), by a third of the instructions of the division: the error is some 2**-22, as of `exp`."""
    return tl.inline_asm_elementwise(
        "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; "
        "rcp.approx.ftz.f32 $0, t; }", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1,
    )
''',
    "_silu": '''
@triton.jit
def _silu(x):
    """x * sigmoid(x)."""
    return x * _sigmoid(x)
''',
}
"""What takes fewer instructions where PTX may be written: 0fBFB8AA3B is -1 / ln 2. Below -87.3 the sigmoid is 0."""
_NEEDS = {"_gelu_tanh": ("_tanh",), "_pack6": ("_halves",), "_pack6_words": ("_halves",)}


def helper(library: Library, name: str) -> str:
    """The name of a helper function, whose text the emitted file then holds."""
    texts = {**_HELPERS, **_PTX} if library.ptx else _HELPERS
    needed = ("_sigmoid",) if library.ptx and name == "_silu" else _NEEDS.get(name, ())
    for other in needed:
        helper(library, other)
    return library.add(name, texts[name].strip())


def unary(library: Library, fn: str, x: str) -> str:
    """The expression of a unary function of `x`, which is f32 or i1."""
    if fn in _DIRECT:
        return _DIRECT[fn].format(x=x)
    if f"_{fn}" not in _HELPERS:
        raise UnsupportedError(f"triton: has no function {fn}; express it by others, or compile for numpy")
    return f"{helper(library, f'_{fn}')}({x})"


def binary(library: Library, fn: str, a: str, b: str, *, floats: bool) -> str:
    """The expression of `max`, `min`, `div` or `pow`."""
    if fn in ("max", "min"):
        if not floats:
            return f"tl.{fn}imum({a}, {b})"
        return f"{helper(library, '_larger' if fn == 'max' else '_smaller')}({a}, {b})"
    if fn == "div":
        return f"tl.div_rn({a}, {b})"
    if fn == "pow":
        return f"{helper(library, '_pow')}({a}, {b})"
    raise UnsupportedError(f"triton: has no function {fn} of two arguments")


def reduce(library: Library, fn: str, x: str, axis: int, t: TensorType) -> str:
    """The expression of a reduction along one axis, which stays with size 1. NaN wins."""
    floats = is_float(t.dtype)
    if fn == "sum":
        return f"tl.sum({x}, {axis}, keep_dims=True)"
    if fn == "amax" and str(t.dtype) == "f32":
        return f"{helper(library, '_amax')}({x}, {axis})"
    if fn == "amax" and str(t.dtype) != "i1":
        x = f"tl.abs({x})"
    if not floats:
        return f"tl.{'min' if fn == 'min' else 'max'}({x}, {axis}, keep_dims=True)"
    return f"tl.reduce({x}, {axis}, {helper(library, '_smaller' if fn == 'min' else '_larger')}, keep_dims=True)"


def to_integer(library: Library, to: str) -> str:
    """The name of the function that rounds float32 to i32."""
    if to != "i32":
        raise UnsupportedError("triton: floats are converted to i32, not to i64; convert to i32 first")
    return helper(library, "_to_int32")


def pack6(library: Library, *, words: bool) -> str:
    """The name of the function that packs 6-bit codes into three tiles: of bytes, or of words of 32 bits."""
    return helper(library, "_pack6_words" if words else "_pack6")


def repack(library: Library) -> str:
    """The name of the function that turns bytes packed along columns into bytes packed along rows."""
    return helper(library, "_repack_rows")
