"""Part 2's arguments, references and bookkeeping; what `compile` itself does is tested elsewhere and in test_run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import breccia
from breccia.demo.block import FORMS, Block, checkpoint_block, feed_forward_block, lower, measure_block
from breccia.demo.encoder import gelu
from breccia.demo.sentences import SENTENCES
from breccia.demo.tokenize import tokenize
from breccia.demo.weights import Checkpoint, mlp_pair
from breccia.recipes import find
from breccia.tensor import ScaledTensor

if TYPE_CHECKING:
    from pathlib import Path

    from breccia.demo.encoder import Encoder
    from breccia.recipes import Recipe


class _Recorded:
    """Stands in for a compiled function: decodes scaled arguments, calls plain NumPy, and records what it was given."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls, self.lowered = function, [], []
        self.__wrapped__ = function

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self.function(*(a.dequantize() if isinstance(a, ScaledTensor) else a for a in args))

    def lower(self, *args: Any) -> _Recorded:
        self.lowered.append(args)
        return self

    def ir(self, form: str) -> str:
        return f"ir of {form}"

    def passes(self) -> list[str]:
        return ["cse", "tile"]

    def source(self) -> str:
        return "source"

    def explain(self) -> str:
        return "explanation"


def _product(x: Any, weight: Any) -> Any:
    return x @ weight.T


@pytest.fixture
def block() -> Block:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((8, 64), dtype=np.float32), rng.standard_normal((16, 64), dtype=np.float32)

    def with_cast(recipe: Recipe) -> Any:
        return _Recorded(lambda x, w: breccia.cast(x, recipe).dequantize() @ w.T)

    return Block("fc.weight", "fc.weight", "8 rows", _Recorded(_product), with_cast, x, (w,), (), x @ w.T)


def test_every_recipe_is_run_on_cast_weights_and_then_on_cast_inputs_too(block: Block) -> None:
    done: list[int] = []
    recipes = [find("int8_row"), find("mxfp4")]
    result = measure_block(block, recipes, recipes[1], done.append)
    assert done == [1, 1]
    assert result.difference == 0
    assert [row.recipe for row in result.rows] == [None, *recipes]
    plain, int8, mxfp4 = result.rows
    assert plain.weights == pytest.approx(1)
    assert plain.both is None
    assert 1 > int8.weights > mxfp4.weights > 0.9
    for row in (int8, mxfp4):
        assert row.both is not None
        assert row.both < row.weights
    given = [args[1] for args in block.function.calls]  # type: ignore[attr-defined]
    assert given[0] is block.weights[0]
    assert [w.recipe for w in given[1:]] == recipes


def test_a_compiled_function_that_is_wrong_shows_in_every_number(block: Block) -> None:
    wrong = replace(block, function=_Recorded(lambda x, w: -(x @ w.T)))
    result = measure_block(wrong, [find("int8_row")], find("int8_row"))
    assert result.difference > 1
    assert [row.weights < -0.99 for row in result.rows] == [True, True]


def test_lowering_is_of_the_shown_recipe_and_holds_every_form_in_order(block: Block) -> None:
    found = lower(block, block.function, find("nvfp4"))
    assert found.forms == tuple((form, f"ir of {form}") for form in FORMS)
    assert FORMS == ("traced", "partitioned", "laid_out", "tiled")
    assert (found.passes, found.source, found.explain) == (("cse", "tile"), "source", "explanation")
    (args,) = block.function.lowered  # type: ignore[attr-defined]
    assert args[1].recipe == find("nvfp4")
    assert found.python == "def _product(x, weight):\n    return x @ weight.T", "as written, without annotations"


def test_the_reference_is_what_the_encoder_computes(model_folder: Path, encoder: Encoder) -> None:
    tokens = tokenize(model_folder, SENTENCES[:4])
    seen: dict[str, np.ndarray] = {}
    encoder.embed(tokens, lambda name, x: seen.update({name: x}))
    real = tokens.mask.reshape(-1)
    block = feed_forward_block(encoder, tokens, 2)
    np.testing.assert_array_equal(block.x, seen["encoder.layer.2.intermediate.dense"][real])
    np.testing.assert_allclose(block.reference, seen["encoder.layer.3.attention.self.query"][real], atol=2e-5)
    assert block.x.shape == (tokens.count, 384)
    assert [w.shape for w in block.weights] == [(1536, 384), (384, 1536)]
    assert encoder.config.epsilon == 1e-12, "the block spells its epsilon out"
    assert encoder.weights[block.weight_name] is block.weights[0]


def test_another_checkpoint_gives_its_pair_or_its_first_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"h.0.att.weight": (24, 24), "h.0.fc.weight": (72, 24), "h.0.proj.weight": (24, 72)}
    save_file({k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}, tmp_path / "w.safetensors")
    checkpoint = Checkpoint(tmp_path / "w.safetensors")
    linears = checkpoint.linears()
    pair = checkpoint_block(checkpoint, linears, mlp_pair(linears))
    up, down = (checkpoint.read(name) for name in ("h.0.fc.weight", "h.0.proj.weight"))
    np.testing.assert_allclose(pair.reference, gelu(pair.x @ up.T) @ down.T, rtol=1e-5)
    assert pair.layer == "h.0.fc.weight and h.0.proj.weight"
    one = checkpoint_block(checkpoint, linears, None)
    np.testing.assert_array_equal(one.reference, one.x @ checkpoint.read("h.0.att.weight").T)
    assert one.layer == one.weight_name == "h.0.att.weight"
