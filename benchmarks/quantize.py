"""Quantizing on one GPU against the speed of a copy: `python -m benchmarks.quantize [--quick] [--only NAME ...]`.

GB/s counts bytes read and written once; `x copy` is that over the first copy of the same tensor, and the last copy
shows how far the machine drifted. Before a row of breccia is timed, its results equal NumPy's bit for bit, on odd
shapes and on slices of the timed tensor (fused ones, whose sums and exponentials may round otherwise, within 5e-3).
Peers are checked by decoding. See `benchmarks._gpu` for how time is taken.
"""

# What the peers annotate is narrower than what they take.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import breccia
from benchmarks import _gpu
from benchmarks._gpu import Options, Table
from breccia import recipes

RECIPES = ("float8_1x128", "float8_row", "float8_128x128", "mxfp8_e4m3", "mxfp4", "nvfp4")
SHAPES = [(8192, 8192), (4096, 7168)]
ODD = [((130, 576), -1), ((7, 300), -1), ((1, 576), -1), ((576, 300), 0)]
SLICE = 256
FUSED_TOLERANCE = 5e-3
Tensor = torch.Tensor
Function = Callable[..., Any]


# -- what peers compute ------------------------------------------------------------------------------------------------


def blocks(x: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """(float32 values as [M/rows, rows, K/columns, columns], their amax in that shape)."""
    M, K = x.shape
    values = x.float().view(M // rows, rows, K // columns, columns)
    return values, values.abs().amax((1, 3), keepdim=True).clamp(min=1e-30)


def power_of_two(scale: Tensor) -> Tensor:
    """The next power of two that is no smaller, by bits."""
    return (((scale.view(torch.int32) + 0x7FFFFF) >> 23) << 23).view(torch.float32)


def e2m1(x: Tensor) -> Tensor:
    """Codes of 4-bit floats, rounded to nearest even by thresholds, two a byte."""
    a = x.abs()
    code = (a > 0.25).to(torch.uint8) + (a >= 0.75) + (a > 1.25) + (a >= 1.75) + (a > 2.5) + (a >= 3.5) + (a > 5)
    code = (code | ((x < 0).to(torch.uint8) << 3)).flatten(-2)
    return code[..., 0::2] | (code[..., 1::2] << 4)


def fp8(x: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    values, amax = blocks(x, rows, columns)
    scale = amax / 448.0
    return (values / scale).to(torch.float8_e4m3fn).view(x.shape), scale.flatten(2).flatten(0, 1)


def mxfp8(x: Tensor) -> tuple[Tensor, Tensor]:
    values, amax = blocks(x, 1, 32)
    scale = power_of_two(amax / 448.0)
    return (values / scale).to(torch.float8_e4m3fn).view(x.shape), (scale.view(torch.int32) >> 23).to(torch.uint8)


def mxfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    values, amax = blocks(x, 1, 32)
    scale = power_of_two(amax / 6.0)
    return e2m1(values / scale).view(x.shape[0], -1), (scale.view(torch.int32) >> 23).to(torch.uint8)


def nvfp4(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    outer = x.abs().max().float() / (6.0 * 448.0)
    values, amax = blocks(x, 1, 16)
    scale = (amax / 6.0 / outer).to(torch.float8_e4m3fn)
    return e2m1(values / (scale.float() * outer)).view(x.shape[0], -1), scale, outer


FORMULAS: dict[str, Function] = {
    "float8_1x128": lambda x: fp8(x, 1, 128),
    "float8_row": lambda x: fp8(x, 1, x.shape[1]),
    "float8_128x128": lambda x: fp8(x, 128, 128),
    "mxfp8_e4m3": mxfp8,
    "mxfp4": mxfp4,
    "nvfp4": nvfp4,
}

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def decoded(name: str, made: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """The values that a peer's parts stand for."""
    elements, scale = made[:2]
    if elements.dtype == torch.uint8 or elements.dtype == torch.float4_e2m1fn_x2:
        codes = elements.view(torch.uint8).reshape(shape[0], -1)
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(1).long()
        table = torch.tensor([*E2M1, *(-v for v in E2M1)], device=codes.device)
        values = table[codes]
    else:
        values = elements.float()
    if scale.dtype in (torch.uint8, torch.float8_e8m0fnu):
        scale = (scale.view(torch.uint8).int() << 23).view(torch.float32)
    rows, columns = 128 if name == "float8_128x128" else 1, -(-values.numel() // scale.numel())
    columns = columns // rows
    grid = scale.float().reshape(shape[0] // rows, 1, shape[1] // columns, 1)
    grid = grid * made[2] if len(made) > 2 else grid
    return (values.view(shape[0] // rows, rows, shape[1] // columns, columns) * grid).view(shape)


def torchao_of(name: str) -> Function:
    """Torchao's own quantizer; raises ImportError or KeyError where it has none."""
    from torchao.prototype.blockwise_fp8_training import kernels
    from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor

    mode = mx_tensor.ScaleCalculationMode.RCEIL

    def mx(element: Any) -> Function:
        compiled = torch.compile(mx_tensor.to_mx, dynamic=False)

        def run(x: Tensor) -> Any:
            scale, elements = compiled(x, element, 32, mode)
            return elements, scale

        return run

    def nv(x: Tensor) -> Any:
        outer = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().max())
        scale, elements = nvfp4_tensor.nvfp4_quantize(x, 16, outer)
        return elements, scale, outer

    def act(x: Tensor) -> Any:
        return kernels.triton_fp8_blockwise_act_quant_lhs(x, 128)

    made: dict[str, Callable[[], Function]] = {
        "float8_1x128": lambda: act,
        "mxfp8_e4m3": lambda: mx(torch.float8_e4m3fn),
        "mxfp4": lambda: mx(torch.float4_e2m1fn_x2),
        "nvfp4": lambda: torch.compile(nv, dynamic=False),
    }
    return made[name]()


# -- checks ------------------------------------------------------------------------------------------------------------


def normal(given: Options, *shape: int) -> Tensor:
    return torch.randn(*shape, device=given.device, dtype=torch.float32).bfloat16()


def same_as_numpy(cast: Function, x: Tensor, recipe: breccia.Recipe, axis: int = -1) -> None:
    """Raises where a cast of `x` on the device is not NumPy's, bit for bit."""
    found = _gpu.poisoned(lambda: cast(x))
    what = f"{recipe.name} of {'x'.join(map(str, x.shape))}, axis {axis}"
    _gpu.check_equal(found, breccia.cast(_gpu.on_host(x), recipe, axis), what)


def odd_shapes(given: Options, recipe: breccia.Recipe, make: Callable[[int], Function], few: bool) -> None:
    """The gate of one recipe; `make` gives the cast along an axis."""
    for shape, axis in ODD[:1] if few else ODD[:2] if given.quick else ODD:
        same_as_numpy(make(axis), normal(given, *shape), recipe, axis)


def slices_as_numpy(found: Any, x: Tensor, recipe: breccia.Recipe) -> None:
    """First and last rows of a large result are NumPy's; all of it where a scale covers the tensor."""
    if any(level.block is None for level in recipe.levels):
        _gpu.check_equal(found, breccia.cast(_gpu.on_host(x), recipe), recipe.name)
        return
    for rows in (slice(0, SLICE), slice(x.shape[0] - SLICE, x.shape[0])):
        wanted = breccia.cast(_gpu.on_host(x[rows].contiguous()), recipe)
        _gpu.check_equal(found[rows], wanted, f"{recipe.name}, rows {rows.start} to {rows.stop}")


# -- rows --------------------------------------------------------------------------------------------------------------


class Sheet:
    """The rows of one shape."""

    def __init__(self, table: Table, shape: tuple[int, int], gate: bool) -> None:
        self.table, self.given, self.shape, self.gate = table, table.given, shape, gate
        self.label = "x".join(map(str, shape))
        self.x = normal(self.given, *shape)
        self.copied = 0.0

    def copy(self, when: str) -> None:
        def case() -> list[object]:
            y = torch.empty_like(self.x)
            speed, cells = self.cells(lambda: y.copy_(self.x), 2 * _gpu.nbytes(self.x))
            self.copied = self.copied or speed
            return [*cells, speed / self.copied]

        self.table.row(f"{self.label} copy, {when}", case, always=True)

    def cells(self, call: _gpu.Call, moved: int) -> tuple[float, list[object]]:
        took = _gpu.microseconds(call, self.given)
        return moved / took * 1e-3, [took, moved / took * 1e-3]

    def timed(self, call: _gpu.Call, moved: int, note: str) -> list[object]:
        speed, cells = self.cells(call, moved)
        return [*cells, speed / self.copied if self.copied else float("nan"), note]

    def ours(self, name: str, compiled: bool) -> None:
        recipe, x = recipes.find(name), self.x

        def make(axis: int) -> Function:
            def cast(x: Any) -> Any:
                return breccia.cast(x, recipe, axis)

            return self.given.compile(cast) if compiled else cast

        def case() -> list[object]:
            if self.gate or self.given.full:
                odd_shapes(self.given, recipe, make, compiled)
            cast = make(-1)
            found = _gpu.poisoned(lambda: cast(x))
            slices_as_numpy(found, x, recipe)
            return self.timed(lambda: cast(x), _gpu.nbytes(x, found), "bits equal")

        self.table.row(f"{self.label} {name} breccia.{'compile' if compiled else 'cast'}", case, ours=True)

    def static(self, name: str) -> None:
        """A recipe of two levels whose outer scale is known, as serving has it: the input is read once."""
        recipe, x = recipes.find(name), self.x

        def cast(x: Any, scale: Any) -> Any:
            return breccia.cast(x, recipe, scale=(scale, None))

        def case() -> list[object]:
            compiled, scale = self.given.compile(cast), breccia.cast(x, recipe).scales[0].reshape(())
            found = _gpu.poisoned(lambda: compiled(x, scale))
            slices_as_numpy(found, x, recipe)
            return self.timed(lambda: compiled(x, scale), _gpu.nbytes(x, found), "bits equal")

        self.table.row(f"{self.label} {name}, scale of the tensor given, breccia.compile", case, ours=True)

    def peer(self, name: str, who: str, make: Callable[[], Function]) -> None:
        def case() -> list[object]:
            function, x = make(), self.x
            made = function(x)
            error = _gpu.check(decoded(name, made, self.shape), x.float(), 0.2, f"{who} {name}")
            # Bytes of breccia's storage: a peer that keeps wider scales has no credit for them.
            moved = _gpu.nbytes(x) + breccia.cast(x, recipes.find(name)).nbytes
            return self.timed(lambda: function(x), moved, f"{error:.1e}")

        self.table.row(f"{self.label} {name} {who}", case)

    def fused(self, name: str, function: Function, arguments: tuple[Any, ...], *, exact: bool = False) -> None:
        """A function that gives one or several ScaledTensors."""

        def case() -> list[object]:
            compiled = self.given.compile(function)
            worst = 0.0
            for count in (SLICE, 130, 7, 1):
                args = tuple(a[:count].contiguous() if a.ndim == 2 else a for a in arguments)
                worst = max(worst, self.compared(compiled, function, args, exact))
            found = _gpu.poisoned(lambda: compiled(*arguments))
            note = "bits equal" if exact else f"{worst:.1e} differ"
            return self.timed(lambda: compiled(*arguments), _gpu.nbytes(arguments, found), note)

        self.table.row(f"{self.label} {name} breccia.compile", case, ours=True)

    def compared(self, compiled: Function, function: Function, args: tuple[Any, ...], exact: bool) -> float:
        """Share of elements that differ from NumPy's; raises where values differ by more than that explains."""
        found = _gpu.poisoned(lambda: compiled(*args))
        wanted = breccia.compile(function)(*(_gpu.on_host(a) for a in args))
        worst = 0.0
        for one, other in zip(_several(found), _several(wanted), strict=True):
            if exact:
                _gpu.check_equal(one, other, f"{len(args[0])} rows")
                continue
            values = torch.from_numpy(other.dequantize("float32")).to(self.given.device)
            _gpu.check(one.dequantize("float32"), values, FUSED_TOLERANCE, f"{len(args[0])} rows")
            worst = max(worst, _gpu.share_of_different_elements(one, other))
        return worst

    def fused_peer(self, name: str, function: Function, plain: Function, arguments: tuple[Any, ...]) -> None:
        """`plain` is what `function` quantizes; the first two results are its elements and scales."""

        def case() -> list[object]:
            compiled = torch.compile(function, dynamic=False)
            made = compiled(*arguments)
            wanted = plain(*(a.float() for a in arguments))
            error = _gpu.check(decoded("float8_1x128", made[:2], tuple(wanted.shape)), wanted, 0.05, name)
            return self.timed(lambda: compiled(*arguments), _gpu.nbytes(arguments, made), f"{error:.1e}")

        self.table.row(f"{self.label} {name} torch.compile", case)


def _several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


# -- fused functions ---------------------------------------------------------------------------------------------------


def norm_cast(x: Any, weight: Any) -> Any:
    return breccia.cast(breccia.rms_norm(x, weight), recipes.float8_1x128)


def swiglu_cast(gate: Any, up: Any) -> Any:
    return breccia.cast(breccia.silu(gate) * up, recipes.float8_1x128)


def halves_cast(both: Any) -> Any:
    half = both.shape[1] // 2
    return breccia.cast(breccia.silu(both[:, :half]) * both[:, half:], recipes.float8_1x128)


def two_ways(x: Any) -> Any:
    return breccia.cast(x, recipes.float8_1x128), breccia.cast(x, recipes.float8_1x128, axis=0)


def torch_norm(x: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[1],), weight, 1e-6)


def torch_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def torch_halves(both: Tensor) -> Tensor:
    return torch_swiglu(*both.chunk(2, 1))


def torch_norm_cast(x: Tensor, weight: Tensor) -> Any:
    return fp8(torch_norm(x, weight), 1, 128)


def torch_swiglu_cast(gate: Tensor, up: Tensor) -> Any:
    return fp8(torch_swiglu(gate, up), 1, 128)


def torch_halves_cast(both: Tensor) -> Any:
    return fp8(torch_halves(both), 1, 128)


def torch_two_ways(x: Tensor) -> Any:
    values, amax = blocks(x, 128, 1)
    scale = amax / 448.0
    return *fp8(x, 1, 128), (values / scale).to(torch.float8_e4m3fn).view(x.shape), scale.flatten()


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    table = Table(given, ("us", "GB/s", "x copy", "check"))
    shapes = given.pick(SHAPES, SHAPES[1:], [(512, 512)])
    for shape in shapes:
        table.section(f"{shape[0]} x {shape[1]} bfloat16, N(0, 1)")
        sheet = Sheet(table, shape, gate=shape == shapes[0])
        x, half = sheet.x, shape[1] // 2
        weight = normal(given, shape[1])
        gate, up = (normal(given, shape[0], half) for _ in range(2))
        fused: list[tuple[str, Function, Function, Function, tuple[Any, ...]]] = [
            ("rms_norm + 1x128", norm_cast, torch_norm_cast, torch_norm, (x, weight)),
            ("swiglu + 1x128", swiglu_cast, torch_swiglu_cast, torch_swiglu, (gate, up)),
            ("swiglu of halves + 1x128", halves_cast, torch_halves_cast, torch_halves, (x,)),
            ("1x128 both ways", two_ways, torch_two_ways, lambda x: x, (x,)),
        ]
        sheet.copy("first")
        for name in RECIPES:
            sheet.ours(name, compiled=False)
            if given.full or (sheet.gate and not given.quick):
                sheet.ours(name, compiled=True)
        sheet.static("nvfp4")
        for name, mine, _, _, arguments in fused:
            sheet.fused(name, mine, arguments, exact=mine is two_ways)
        for name, _, theirs, plain, arguments in fused[:2] if given.quick else fused:
            sheet.fused_peer(name, theirs, plain, arguments)
        for name in ("float8_1x128", "mxfp4") if given.quick else RECIPES:
            formula = FORMULAS[name]
            sheet.peer(name, "torch.compile", lambda formula=formula: torch.compile(formula, dynamic=False))
        for name in () if given.quick else ("float8_1x128", "mxfp8_e4m3", "mxfp4", "nvfp4"):
            sheet.peer(name, "torchao", lambda name=name: torchao_of(name))
        sheet.copy("last")
    _gpu.finish("quantize", "quantizing bfloat16, by device time; GB/s of bytes read and written once", table)


if __name__ == "__main__":
    main()
