"""Triton does what its capabilities claim: in its interpreter here, and on the device itself where there is one.

Other modules of this folder turn the interpreter on when they are collected, so on a machine with a device this file is
run alone.
"""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
NATIVE = torch.cuda.is_available()
if not NATIVE:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
pytest.importorskip("triton")

from breccia.recipes import all_recipes  # noqa: E402
from breccia.targets.triton import ARCHITECTURES  # noqa: E402
from breccia.testing import Table, conform  # noqa: E402
from breccia.testing.claims import SHAPES, Shape  # noqa: E402
from tests.targets.triton import interpreter  # noqa: E402

if not NATIVE:
    interpreter.patch()

RECIPES = all_recipes()
SHAPE = (5, 160, 24)
MORE_SHAPES = [*(s for s in SHAPES if s != SHAPE), (130, 576, 300), (2, 1, 1), (3, 129, 128)]
CHOSEN = {
    "sm_90": (
        "float8_row", "float8_1x128", "float8_128x128_e8m0", "mxfp8_e4m3", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4",
        "uint4_g32_f16", "nf4",
    ),
    "sm_80": ("float8_1x128", "mxfp8_e5m2", "int4_g32_f32"),
    "sm_100": ("mxfp8_e4m3", "mxfp4", "nvfp4"),
    "gfx942": ("float8_row", "mxfp6_e2m3"),
}  # fmt: skip
"""What is quick and takes every path: scales of each kind, packed codes, both sides scaled, scaled instructions."""
EVERY = [(arch, name) for arch in ARCHITECTURES for name in RECIPES]
QUICK = [(arch, name) for arch, names in CHOSEN.items() for name in names]


def held(table: Table) -> None:
    """Every claim of a table holds, and none is refused."""
    assert not table.failures, str(table)
    assert not table.refused, str(table)
    assert len(table.rows) >= 4


def interpreted_table(arch: str, name: str, shapes: list[Shape]) -> Table:
    """A recipe's programs for an architecture that is not there."""
    if NATIVE or not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("this process runs on a device; TRITON_INTERPRET=1 was not set when Triton was imported")
    return conform(f"triton:{arch}", recipes={name: RECIPES[name]}, shapes=shapes)


def interpreted(arch: str, name: str) -> None:
    held(interpreted_table(arch, name, [SHAPE]))


def known_refusals(table: Table) -> None:
    """Nothing fails; refused are rows of one or two 6-bit codes, and a scale of a whole tensor of unknown height."""
    assert not table.failures, str(table)
    reasons = ("of 6 bits do not fill their last byte", "is known only at the call")
    assert all(row.program.shape == (2, 1, 1) and any(r in row.detail for r in reasons) for row in table.refused), str(
        table
    )


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "mxfp6_e2m3", "uint4_g32_f16"])
def test_codes_that_do_not_fill_their_last_byte(name: str) -> None:
    if not NATIVE:
        held(interpreted_table("sm_90", name, [(5, 129, 7)]))


@pytest.mark.parametrize(("arch", "name"), QUICK)
def test_chosen_recipes(arch: str, name: str) -> None:
    interpreted(arch, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("arch", "name"), [pair for pair in EVERY if pair not in QUICK])
def test_every_recipe(arch: str, name: str) -> None:
    interpreted(arch, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", MORE_SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_every_shape(shape: Shape, name: str) -> None:
    known_refusals(interpreted_table("sm_90", name, [shape]))


@pytest.mark.device
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_on_the_device(name: str) -> None:
    if not NATIVE:
        pytest.skip("torch.cuda.is_available() is False: no device")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("another module turned Triton's interpreter on; run this file alone")
    from breccia.targets.triton.launch import device_arch

    arch = device_arch("cuda")
    table = conform(f"triton:{arch}", recipes={name: RECIPES[name]}, shapes=[SHAPE, *MORE_SHAPES], device="cuda")
    known_refusals(table)
