"""Every planted compiler bug is caught on every kernel that can have it; the table is printed with -s."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from breccia.ir.dialect import parse_module
from breccia.testing.mutants import MUTANTS, caught

DATA = Path(__file__).parent / "ir" / "data"
SIZES = {"M": 37, "N": 131, "T": 50, "E": 3, "G": 2, "S": 40}
"""None a multiple of a tile, so that every kernel has partial windows."""
KERNELS = sorted(file.stem for file in DATA.glob("*.mlir"))


def tiled(name: str) -> ModuleOp:
    module = parse_module((DATA / f"{name}.mlir").read_text(), f"{name}.mlir")
    for func in list(module.ops)[1:]:
        func.detach()
        func.erase()
    return module


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_mutant_is_caught(kernel: str) -> None:
    module = tiled(kernel)
    survivors: list[str] = []
    count: Counter[str] = Counter()
    for mutant in MUTANTS:
        wrong = mutant.apply(module)
        if wrong is None:
            continue
        verdict = caught(module, wrong, SIZES)
        count[verdict.by] += 1
        print(f"{kernel:18} {mutant.name:36} {verdict.by:14} {verdict.message[:100]}")
        if not verdict.by:
            survivors.append(mutant.name)
    assert survivors == []
    assert count["verifier"] >= 3
    assert count["values"] + count["padded values"] >= 1


def test_every_mutant_has_a_kernel() -> None:
    modules = [tiled(name) for name in KERNELS]
    unused = [m.name for m in MUTANTS if all(m.apply(module) is None for module in modules)]
    assert unused == []
    assert len(MUTANTS) >= 20
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)


def test_a_correct_module_is_not_caught() -> None:
    """The judge does not call everything wrong: a module printed and read back is itself."""
    from breccia.ir.printer import print_module

    for name in KERNELS:
        module = tiled(name)
        assert caught(module, print_module(module), SIZES).by == "", name
