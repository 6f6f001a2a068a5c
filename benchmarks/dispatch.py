"""What a call costs the host, in microseconds: `python -m benchmarks.dispatch [--quick] [--only NAME ...]`.

Median of 7 times 2000 calls, without waiting for the device inside a repeat; operands are small, so that the device
keeps up. Yardsticks first and last. Every result has been compared with a reference before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

import breccia
from benchmarks import _gpu
from benchmarks._gpu import Options, Table
from breccia import recipes

M, N, K = 16, 256, 256
RAW_BAR = 12.0
"""Microseconds; the goal of a warm call of a compiled function. Reported, not enforced: hosts differ."""
Cases = list[tuple[str, Callable[[], _gpu.Call], bool]]


def normal(given: Options, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=given.device, dtype=torch.float32).bfloat16()


def affine(x: Any) -> Any:
    return x * 2.0 + 1.0


def gemm(a: Any, w: Any) -> Any:
    return breccia.matmul(a, w, out_dtype=torch.bfloat16)


def yardsticks(given: Options, when: str) -> Cases:
    x, out = normal(given, M, N), normal(given, M, N)
    return [
        (f"torch add, {when}", lambda: lambda: x + x, False),
        (f"torch add out=, {when}", lambda: lambda: torch.add(x, x, out=out), False),
        (f"torch.empty, {when}", lambda: lambda: torch.empty((M, N), device=given.device), False),
    ]


def ours(given: Options) -> Cases:
    x = normal(given, M, N)
    plain, weight = normal(given, M, K), normal(given, K, N)

    @cache
    def scaled() -> tuple[Any, Any]:
        return breccia.cast(plain, recipes.float8_1x128), breccia.cast(weight, recipes.float8_128x128, axis=0)

    def elementwise() -> _gpu.Call:
        f = given.compile(affine)
        _gpu.check(_gpu.poisoned(lambda: f(x)), affine(x.double()), 1e-2, "affine")
        return lambda: f(x)

    def product(f: Callable[..., Any]) -> _gpu.Call:
        a, w = scaled()
        wanted = a.dequantize("float32").double() @ w.dequantize("float32").double()
        _gpu.check(_gpu.poisoned(lambda: f(a, w)), wanted, 2e-3, "gemm")
        return lambda: f(a, w)

    def decoded() -> _gpu.Call:
        f, (a, _) = given.compile(breccia.dequantize), scaled()
        _gpu.check_equal(_gpu.poisoned(lambda: f(a)), a.to("numpy").dequantize(), "dequantize")
        return lambda: f(a)

    def program(f: Any, *args: Any) -> _gpu.Call:
        """Past the look-up of the kind of call: the program that the compiled function keeps."""
        f(*args)
        (found,) = next(iter(f._programs.values()))
        return lambda: found.run(args)

    def function(f: Any, *args: Any) -> _gpu.Call:
        """The launcher alone, with the components it takes."""
        f(*args)
        (found,) = next(iter(f._programs.values()))
        components = found.gather(args)
        return lambda: found.function(*components)

    def cast() -> _gpu.Call:
        _gpu.check_equal(
            _gpu.poisoned(lambda: breccia.cast(plain, recipes.float8_1x128)),
            breccia.cast(_gpu.on_host(plain), recipes.float8_1x128),
            "cast",
        )
        return lambda: breccia.cast(plain, recipes.float8_1x128)

    compiled_gemm, compiled_affine = given.compile(gemm), given.compile(affine)
    return [
        ("breccia.compile, one elementwise function", elementwise, True),
        ("  its program.run", lambda: program(compiled_affine, x), False),
        ("  its launcher alone", lambda: function(compiled_affine, x), False),
        ("breccia.compile, gemm of 2 ScaledTensors", lambda: product(compiled_gemm), True),
        ("  its program.run", lambda: program(compiled_gemm, *scaled()), False),
        ("  its launcher alone", lambda: function(compiled_gemm, *scaled()), False),
        ("breccia.compile, dequantize", decoded, True),
        ("breccia.matmul, eager", lambda: product(gemm), True),
        ("breccia.cast, eager, 1x128", cast, True),
    ]


def peers(given: Options) -> Cases:
    x, plain = normal(given, M, N), normal(given, M, K)

    def scaled_mm() -> _gpu.Call:
        left, right = (breccia.cast(v, recipes.float8_tensor) for v in (plain, normal(given, N, K)))
        A, B = (st.data.view(torch.float8_e4m3fn) for st in (left, right))
        multiply = getattr(torch, "_scaled_mm")  # noqa: B009 - not in torch's annotations
        kinds = {"scale_a": left.scale, "scale_b": right.scale, "out_dtype": torch.bfloat16}
        call = lambda: multiply(A, B.t(), **kinds)  # noqa: E731
        wanted = left.dequantize("float32").double() @ right.dequantize("float32").double().t()
        _gpu.check(call(), wanted, 1e-2, "torch._scaled_mm")
        return call

    def compiled(**options: Any) -> _gpu.Call:
        f = torch.compile(affine, **options)
        _gpu.check(f(x), affine(x.double()), 1e-2, "torch.compile")
        return lambda: f(x)

    def inference() -> _gpu.Call:
        f = compiled()

        def call() -> Any:
            with torch.inference_mode():
                return f()

        call()
        return call

    return [
        ("torch._scaled_mm, tensorwise", scaled_mm, False),
        ("torch.compile, one elementwise function", compiled, False),
        ("torch.compile, the same, inference_mode", inference, False),
    ]


def triton_calls(given: Options) -> Cases:
    """Triton's own ways to launch one small kernel; the last is what a launcher can reach."""
    x, y = normal(given, 1024), normal(given, 1024)

    def kernel() -> Any:
        from benchmarks._add_one import add_one

        return add_one

    def checked(call: _gpu.Call) -> _gpu.Call:
        y.fill_(float("nan"))
        call()
        _gpu.check(y, x.double() + 1.0, 1e-2, "Triton kernel")
        return call

    def jit() -> _gpu.Call:
        function = kernel()
        return checked(lambda: function[(1,)](x, y, 1024))

    def bound() -> _gpu.Call:
        compiled = kernel()[(1,)](x, y, 1024)
        return checked(lambda: compiled[(1, 1, 1)](x, y, 1024))

    def raw() -> _gpu.Call:
        compiled = kernel()[(1,)](x, y, 1024)
        stream = torch.cuda.current_stream().cuda_stream
        run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
        return checked(lambda: run(1, 1, 1, stream, function, metadata, None, None, None, x, y, 1024))

    return [
        ("Triton kernel[grid](...)", jit, False),
        ("Triton compiled[grid](...)", bound, False),
        ("Triton compiled.run(...)", raw, False),
    ]


def rows(table: Table, title: str, cases: Sequence[tuple[str, Callable[[], _gpu.Call], bool]]) -> None:
    table.section(title)
    for name, make, is_ours in cases:

        def case(make: Callable[[], _gpu.Call] = make) -> list[object]:
            return [_gpu.host_microseconds(make(), table.given)]

        table.row(name, case, ours=is_ours)


def main() -> None:
    given = _gpu.options(__doc__)
    if given is None:
        return
    table = Table(given, ("us",))
    rows(table, "yardsticks", yardsticks(given, "first"))
    rows(table, f"breccia, {M} x {N} x {K}", ours(given))
    rows(table, "Triton", triton_calls(given))
    rows(table, "PyTorch", peers(given))
    rows(table, "yardsticks again", yardsticks(given, "last"))
    notes = [f"the goal for a compiled function: at most {RAW_BAR:g} us where torch add takes about 7"]
    _gpu.finish("dispatch", "host microseconds of a call, median of 7 x 2000", table, notes)


if __name__ == "__main__":
    main()
