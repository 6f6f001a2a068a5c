"""What MLX makes of emitted kernels, as far as a machine without Metal shows it; and what runs there instead."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")

import breccia  # noqa: E402
from breccia import recipes  # noqa: E402
from breccia.errors import FormatError, UnsupportedError  # noqa: E402
from breccia.frontend import compile as compile_module  # noqa: E402
from breccia.frontend.compile import FallbackWarning  # noqa: E402
from breccia.ir.interpreter import public_function  # noqa: E402
from breccia.target import find  # noqa: E402
from breccia.targets.metal import launch  # noqa: E402
from tests.targets.metal import programs, shim  # noqa: E402

WITHOUT_METAL = pytest.mark.skipif(launch.is_available(), reason="this machine has Metal")
SIGNATURE = re.compile(r"\[\[kernel\]\] void (\w+)\((.*?)\) \{\n", re.DOTALL)


def exported(source: str, name: str, arrays: list[object], path: Path) -> str:
    """What MLX hands to the compiler of Metal for a function of emitted source: it lies in what MLX exports."""
    function = launch.loaded(source, name)
    mx.export_function(str(path), lambda *a: list(_tuple(function(*a))), *arrays)
    return path.read_bytes().decode("latin1")


def _tuple(out: object) -> tuple[object, ...]:
    return out if isinstance(out, tuple) else (out,)


def arguments(name: str) -> list[object]:
    """Zeros of the shapes that a golden program takes, M = 64."""
    func = public_function(programs.lowered(programs.GOLDEN[name]))
    dtypes = {"f32": mx.float32, "bf16": mx.bfloat16, "f16": mx.float16, "i32": mx.int32}
    return [
        mx.zeros([64 if not isinstance(d, int) else d for d in a.type.shape], dtypes.get(str(a.type.dtype), mx.uint8))
        for a in func.args
    ]


@pytest.mark.parametrize("name", programs.GOLDEN)
def test_mlx_declares_what_kernels_use(name: str, tmp_path: Path) -> None:
    """Every operand, shape, stride and thread index in a kernel is a parameter of the function that MLX makes of it, of
    the type that the shim gives it.
    """
    source = programs.source(programs.GOLDEN[name])
    text = exported(source, _entry(name), arguments(name), tmp_path / "kernel.mlxfn")
    kernels = {k.name: k for k in _kernels(source)}
    found = SIGNATURE.findall(text)
    assert {n for k in kernels for n, _ in found if f"breccia_{k}_" in n}, "MLX exports each kernel"
    assert len(found) == len(kernels)
    for full_name, parameters in found:
        kernel = next(k for k in kernels.values() if full_name.startswith(f"custom_kernel_breccia_{k.name}_"))
        declared = {
            p.split("[[")[0].split()[-1]: " ".join(p.split("[[")[0].split()[:-1]) for p in parameters.split(",\n")
        }
        for operand, kind in zip(kernel.inputs, kernel.types, strict=True):
            assert declared[operand] in (f"const device {kind}*", f"const constant {kind}*"), (operand, declared)
            for suffix, ctype in (("shape", "int"), ("strides", "int64_t")):
                if f"{operand}_{suffix}" in kernel.body:
                    assert declared[f"{operand}_{suffix}"] == f"const constant {ctype}*"
        for result, kind in zip(kernel.outputs, kernel.dtypes, strict=True):
            assert declared[result] == f"device {kind}*"
        for kind, attribute in shim.ATTRIBUTES:
            assert (attribute in kernel.body) == (attribute in declared)
            assert declared.get(attribute, kind) == kind


def _entry(name: str) -> str:
    return public_function(programs.lowered(programs.GOLDEN[name])).sym_name.data


def _kernels(source: str) -> list[shim.Kernel]:
    return [f.__self__ for f in shim.loaded(source).values() if isinstance(getattr(f, "__self__", None), shim.Kernel)]


def test_scalars_are_handed_over_by_reference(tmp_path: Path) -> None:
    """A seed of rank 0 is `seed`, not `seed[0]`."""
    kernel = launch.Kernel("k", ("x", "seed"), ("float", "int64_t"), ("y",), ("float",), "", "y[0] = x[0] + seed;")
    path = tmp_path / "scalar.mlxfn"
    mx.export_function(
        str(path), lambda x, s: kernel.call(1, (x, s), ((1,),))[0], mx.zeros((16,)), mx.array(1, mx.int64)
    )
    assert "const constant int64_t& seed [[" in path.read_bytes().decode("latin1")


def test_no_programs_give_what_results_hold_at_first() -> None:
    kernel = launch.Kernel("k", ("x",), ("float",), ("y",), ("float",), "", "", fill=float("-inf"))
    (out,) = kernel.call(0, (mx.zeros((0, 3)),), ((1, 2),))
    assert out.tolist() == [[-np.inf, -np.inf]]


@WITHOUT_METAL
def test_a_machine_without_metal_says_so() -> None:
    target = find("metal")
    with pytest.raises(UnsupportedError, match="MLX has no Metal device here"):
        target.launch(programs.source(programs.SMALL), "f", "mlx")
    with pytest.raises(FormatError, match="defines no function 'g'"):
        launch.loaded(programs.source(programs.SMALL), "g")
    with pytest.raises(UnsupportedError, match="runs on arrays of mlx, not of numpy"):
        target.launch("", "f", "numpy")


# -- instead -----------------------------------------------------------------------------------------------------------


def product(x, w):
    return breccia.matmul(x, w.T)


def weight(recipe: str, n: int = 64, k: int = 256) -> breccia.ScaledTensor:
    values = np.random.default_rng(0).standard_normal((n, k)).astype(np.float32)
    return breccia.cast(values, recipes.find(recipe)).to("mlx")


@WITHOUT_METAL
def test_a_compiled_function_runs_as_operations_of_mlx_and_says_so() -> None:
    compile_module._warn_once.cache_clear()  # other tests may have met it
    f = breccia.compile(product, target="metal:apple")
    x, w = mx.random.normal((5, 256)), weight("mxfp4")
    with pytest.warns(FallbackWarning, match="runs as operations of mlx, since MLX has no Metal device here"):
        y = f(x, w)
    wanted = np.array(x) @ np.array(w.dequantize()).T
    assert np.allclose(np.array(y), wanted, rtol=1e-4, atol=1e-3)
    said = f.lower(x, w).explain()
    assert "slower: it runs as operations of mlx, since MLX has no Metal device here" in said
    assert "rt.Kernel(" in f.lower(x, w, target="metal:apple").source()


@WITHOUT_METAL
def test_strict_refuses_what_runs_instead() -> None:
    f = breccia.compile(product, target="metal:apple", strict=True)
    with pytest.raises(UnsupportedError, match="strict=True, and it runs as operations of mlx"):
        f(mx.zeros((5, 256)), weight("mxfp4"))
