"""Where scales go: the table of facts, the reasons, and the dtype that operands are held in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xdsl.dialects.builtin import StringAttr

from breccia import formats, recipes
from breccia.errors import PassError
from breccia.ir.capabilities import Capabilities, Mma, ScaledMma
from breccia.ir.ops import MatmulOp
from breccia.ir.types import ScaledType, TensorType, scaled, tensor
from breccia.passes import find
from breccia.passes._placement import Decision, decide
from breccia.passes.place_scales import REASON, PlaceScales
from breccia.recipes import Level, Recipe
from tests.passes.examples import lowered

WIDE = Capabilities(
    "wide",
    mma=(Mma("f8E4M3FN", "f8E4M3FN", 32), Mma("bf16", "bf16", 16)),
    scaled_mma=(
        ScaledMma("f8E4M3FN", "f8E4M3FN", "f8E8M0FNU", 32),
        ScaledMma("f4E2M1FN", "f4E2M1FN", "f8E4M3FN", 16),
        ScaledMma("f4E2M1FN", "f4E2M1FN", "f8E8M0FNU", 32),
    ),
    compute=("bf16", "f32"),
)
NARROW = replace(WIDE, name="narrow", scaled_mma=())
OLD = replace(NARROW, name="old", mma=(Mma("bf16", "bf16", 16),), placements=("epilogue", "operand"))
ARRAYS = Capabilities("arrays", placements=("epilogue", "operand"))


def pair(recipe: Recipe, k: int = 1024) -> tuple[ScaledType, ScaledType]:
    """Both operands of a product in one recipe, with blocks along k."""
    return scaled([8, k], formats.bfloat16, recipe), scaled([k, 8], formats.bfloat16, recipe.along(0, 2))


def places(recipe: Recipe, capabilities: Capabilities) -> Decision:
    return decide(*pair(recipe), capabilities)


@pytest.mark.parametrize(
    ("recipe", "wide", "narrow", "old"),
    [
        ("float8_tensor", "epilogue", "epilogue", "epilogue"),
        ("float8_row", "epilogue", "epilogue", "epilogue"),
        ("float8_1x128", "mainloop", "mainloop", "operand"),
        ("float8_128x128", "mainloop", "mainloop", "operand"),
        ("mxfp8_e4m3", "mma", "operand", "operand"),
        ("mxfp4", "mma", "operand", "operand"),
        ("int8_row", "epilogue", "epilogue", "epilogue"),
        ("int4_g32_f16", "operand", "operand", "operand"),
    ],
)
def test_table(recipe: str, wide: str, narrow: str, old: str) -> None:
    for capabilities, wanted in ((WIDE, wide), (NARROW, narrow), (OLD, old)):
        found = places(recipes.find(recipe), capabilities)
        assert found.places_a == found.places_b == (wanted,), capabilities.name


def test_two_levels() -> None:
    nvfp4 = recipes.find("nvfp4")
    assert places(nvfp4, WIDE).places_a == ("epilogue", "mma")
    assert places(nvfp4, NARROW).places_b == ("epilogue", "operand")
    assert places(nvfp4, NARROW).compute == "bf16", "e2m1 * e4m3 has at most 6 significant bits"
    assert places(nvfp4, ARRAYS).compute is None


@pytest.mark.parametrize("name", recipes.all_recipes())
@pytest.mark.parametrize("capabilities", [WIDE, NARROW, OLD, ARRAYS], ids=lambda c: c.name)
def test_every_recipe_has_a_decision_with_reasons(name: str, capabilities: Capabilities) -> None:
    recipe = recipes.find(name)
    found = places(recipe, capabilities)
    assert len(found.places_a) == len(found.places_b) == len(recipe.levels)
    assert len(found.reasons) == 2 * len(recipe.levels) + 1
    for i, place in enumerate((*found.places_a, *found.places_b)):
        side = "ab"[i >= len(recipe.levels)]
        assert found.reasons[i].startswith(f"{side} level {i % len(recipe.levels)} (")
        assert f"): {place}, since " in found.reasons[i]
        assert place in capabilities.placements


def test_compute_dtype() -> None:
    bf16 = tensor([8, 256], formats.bfloat16)
    int4 = scaled([256, 8], formats.bfloat16, Recipe(formats.int4, (Level(formats.bfloat16, (128, 1)),)))
    assert decide(bf16, int4, NARROW).compute == "bf16", "elements are exact in bf16, scales wait"
    assert decide(bf16, int4, ARRAYS).compute is None
    wide = tensor([8, 256], formats.float32)
    assert decide(wide, int4, NARROW).compute is None, "f32 activations are not exact in bf16"
    mx = recipes.find("mxfp8_e4m3")
    assert places(mx, NARROW).compute is None, "E8M0's extremes leave bf16's range"
    assert places(recipes.find("mxfp4"), NARROW).compute == "bf16"
    row = recipes.find("float8_row")
    assert places(row, NARROW).compute is None, "the instruction takes the elements as they are"
    assert places(row, OLD).compute == "bf16", "no FP8 instruction: elements are exact in bf16"


EAGER = replace(OLD, name="eager", placements=("epilogue", "mainloop", "operand"), mainloop_least_block=32)


@pytest.mark.parametrize(
    ("recipe", "wanted", "compute"),
    [
        ("int4_g32_f16", "mainloop", "bf16"),  # decoded, a scale of 11 bits would need f32
        ("float8_1x32_f32", "mainloop", "bf16"),
        ("float8_1x16_f32", "operand", None),  # too short all the same
        ("mxfp4", "operand", "bf16"),  # decoded on load, that is exact in bf16
        ("float8_1x128", "mainloop", "bf16"),
    ],
)
def test_short_blocks_wait_where_decoded_operands_would_need_f32(recipe: str, wanted: str, compute: str | None) -> None:
    made = {
        f"float8_1x{n}_f32": Recipe(formats.float8_e4m3fn, (Level(formats.float32, (1, n)),)) for n in (16, 32)
    }  # fmt: skip
    found = places(made.get(recipe) or recipes.find(recipe), EAGER)
    assert found.places_a == found.places_b == (wanted,)
    assert found.compute == compute
    if recipe == "float8_1x16_f32":
        assert "blocks of 16 along k are shorter than 32" in found.reasons[0]
    if recipe == "mxfp4":
        assert "blocks of 32 along k are shorter than 128" in found.reasons[0]


def test_what_stays_decoded_counts_with_the_levels_inside() -> None:
    """An outer level that waits is no reason for f32; an inner one in the way is."""
    nvfp4 = recipes.find("nvfp4")
    assert places(nvfp4, EAGER).places_a == ("epilogue", "operand")
    inner = Level(formats.float32, (1, 32))
    assert places(replace(nvfp4, levels=(nvfp4.levels[0], inner)), EAGER).places_a == ("epilogue", "mainloop")


def test_a_target_may_lose_bits_of_the_smallest_values_and_says_so() -> None:
    mx = recipes.find("mxfp8_e4m3")
    kept = replace(NARROW, smallest_kept=-126)
    assert places(mx, NARROW).compute is None
    assert places(mx, kept).compute == "bf16"
    assert places(mx, kept).reasons[-1] == "compute bf16: it holds both operands exactly but for values below 2**-126"
    assert places(recipes.find("mxfp4"), kept).reasons[-1] == "compute bf16: it holds both operands exactly"
    assert places(mx, replace(EAGER, smallest_kept=-126)).places_a == ("operand",), "bf16 is enough, so nothing waits"
    assert places(mx, EAGER).places_a == ("mainloop",)


def test_plain_operands_need_no_place() -> None:
    a: TensorType = tensor([8, 64], formats.bfloat16)
    found = decide(a, tensor([64, 8], formats.bfloat16), NARROW)
    assert (found.places_a, found.places_b, found.compute) == ((), (), None)


def test_zero_points_are_not_for_instructions_and_offsets_wait_for_nothing() -> None:
    zero = recipes.find("uint4_g128_f16")
    assert places(zero, NARROW).places_b == ("mainloop",)
    from breccia.recipes import Offset

    offset = Recipe(formats.uint4, (Level(formats.float32, (1, None)),), offset=Offset(formats.float32))
    found = places(offset, NARROW)
    assert found.places_a == ("operand",)
    assert "an offset is added after the scale" in found.reasons[0]
    assert found.compute is None


def test_advice_for_a_weight_along_n() -> None:
    a = tensor([8, 256], formats.float32)
    along_n = scaled([256, 256], formats.float32, recipes.find("float8_1x128"))
    along_k = scaled([256, 256], formats.float32, recipes.find("float8_1x128").along(0, 2))
    advice = "cast the weight with axis=0 so that its blocks run along k and the scale folds"
    assert advice in decide(a, along_n, NARROW).reasons[0]
    assert advice not in " ".join(decide(a, along_k, NARROW).reasons)
    assert advice not in " ".join(decide(a, along_k, ARRAYS).reasons), "nothing is wrong with this weight"


def test_prefer_takes_a_legal_placement_only() -> None:
    module = lowered(
        "func.func @f(%a: !breccia.scaled<[M, 64], f32, #row>, %w: !breccia.scaled<[64, 8], f32, #tensor>) -> "
        "!breccia.tensor<[M, 8], f32> {\n %y = breccia.matmul %a, %w\n func.return %y : !breccia.tensor<[M, 8], f32> }",
        [PlaceScales(prefer="operand")],
    )
    (op,) = [op for op in module.walk() if isinstance(op, MatmulOp)]
    assert op.data("place_a") == op.data("place_b") == ("operand",)
    with pytest.raises(PassError, match="prefer is 'nowhere'; allowed: epilogue, mma, mainloop, operand"):
        PlaceScales(prefer="nowhere").run(module)


def test_reasons_are_recorded_and_a_target_is_needed() -> None:
    text = (
        "func.func @f(%a: !breccia.scaled<[M, 64], f32, #row>, %w: !breccia.tensor<[64, 8], f32>) -> "
        "!breccia.tensor<[M, 8], f32> {\n %y = breccia.matmul %a, %w\n func.return %y : !breccia.tensor<[M, 8], f32> }"
    )
    module = lowered(text, ["place-scales"])
    (op,) = [op for op in module.walk() if isinstance(op, MatmulOp)]
    reason = op.attributes[REASON]
    assert isinstance(reason, StringAttr)
    assert reason.data.splitlines() == [
        "a level 0 (f32 per [1, all]): epilogue, since one scale covers all of k = 64",
        "compute f32: it holds both operands exactly",
    ]
    with pytest.raises(PassError, match="place-scales needs to know the target"):
        lowered(text, ["place-scales"], target=None)


def test_find_by_name() -> None:
    assert find("place-scales") is PlaceScales
