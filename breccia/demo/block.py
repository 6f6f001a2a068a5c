"""Part 2: the feed-forward block of a real layer, written over NumPy arrays and compiled.

The functions below are what a user would write: nothing in them knows about recipes, until a weight that is passed in
has one.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import breccia
from breccia.demo import encoder as plain
from breccia.demo.measure import cosine
from breccia.demo.results import BlockResult, BlockRow, Lowering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from breccia.demo.encoder import Encoder
    from breccia.demo.tokenize import Tokens
    from breccia.demo.weights import Checkpoint, TensorInfo
    from breccia.recipes import Recipe

    Array = NDArray[np.float32]

FORMS = ("traced", "partitioned", "laid_out", "tiled")


class Compiled(Protocol):
    """What `breccia.compile` gives: callable, and able to show how it is lowered."""

    def __call__(self, *args: Any) -> Any: ...

    def lower(self, *args: Any) -> Any: ...


@breccia.compile
def feed_forward(x: Any, up: Any, down: Any, up_bias: Any, down_bias: Any, weight: Any, bias: Any) -> Any:
    """The second half of a transformer layer: two dense layers with a GELU between, a residual, a layer norm."""
    h = breccia.gelu(x @ up.T + up_bias)
    y = h @ down.T + down_bias
    return breccia.layer_norm(x + y, weight, bias, 1e-12)


@breccia.compile
def mlp(x: Any, up: Any, down: Any) -> Any:
    """Two dense layers with a GELU between."""
    return breccia.gelu(x @ up.T) @ down.T


@breccia.compile
def linear(x: Any, weight: Any) -> Any:
    """One dense layer."""
    return x @ weight.T


@dataclass(frozen=True, eq=False)
class Block:
    """A function and real arguments for it.

    Invariants: the function is called as `function(x, *weights, *rest)`; `weights` are the linear weights, (out, in),
    which are cast; `reference` is what plain NumPy gives in fp32.
    """

    layer: str
    weight_name: str
    """The checkpoint's name of `weights[0]`."""
    inputs: str
    function: Compiled
    with_cast: Callable[[Recipe], Compiled]
    """The same function with the input of every matmul cast to a recipe."""
    x: Array
    weights: tuple[Array, ...]
    rest: tuple[Array, ...]
    reference: Array


def feed_forward_block(model: Encoder, tokens: Tokens, layer: int) -> Block:
    """The feed-forward block of one layer of the encoder, on what reaches it when the sentences are embedded."""
    name = f"encoder.layer.{layer}"
    seen: dict[str, Array] = {}
    model.embed(tokens, observe=lambda at, value: seen.update({at: value}))
    x = seen[f"{name}.intermediate.dense"][tokens.mask.reshape(-1)]
    w = model.weights
    up, up_bias = w[f"{name}.intermediate.dense.weight"], w[f"{name}.intermediate.dense.bias"]
    down, down_bias = w[f"{name}.output.dense.weight"], w[f"{name}.output.dense.bias"]
    weight, bias = w[f"{name}.output.LayerNorm.weight"], w[f"{name}.output.LayerNorm.bias"]
    y = _array(plain.gelu(x @ up.T + up_bias) @ down.T + down_bias)
    reference = plain.layer_norm(x + y, weight, bias, model.config.epsilon)
    inputs = f"the {len(x)} tokens of {len(tokens.ids)} sentences, as they reach this layer"
    rest = (up_bias, down_bias, weight, bias)
    first = f"{name}.intermediate.dense.weight"
    return Block(name, first, inputs, feed_forward, _feed_forward_cast, x, (up, down), rest, reference)


def checkpoint_block(
    checkpoint: Checkpoint, linears: Sequence[TensorInfo], pair: tuple[TensorInfo, TensorInfo] | None
) -> Block:
    """A pair of MLP weights of any checkpoint where it has one, else its first linear weight; on random activations."""
    chosen = linears[:1] if pair is None else pair
    weights = tuple(checkpoint.read(info.name) for info in chosen)
    rows = 64
    x = np.random.default_rng(0).standard_normal((rows, weights[0].shape[1]), dtype=np.float32)
    inputs = f"{rows} rows of random normal activations"
    layer = " and ".join(info.name for info in chosen)
    if pair is None:
        return Block(layer, chosen[0].name, inputs, linear, _linear_cast, x, weights, (), x @ weights[0].T)
    reference = plain.gelu(x @ weights[0].T) @ weights[1].T
    return Block(layer, chosen[0].name, inputs, mlp, _mlp_cast, x, weights, (), reference)


def measure_block(
    block: Block, recipes: Sequence[Recipe], shown: Recipe, advance: Callable[[int], None] = lambda _: None
) -> BlockResult:
    """Run the block on fp32 weights and in every recipe, and lower it once for `shown`."""
    found = _array(block.function(block.x, *block.weights, *block.rest))
    difference = float(np.abs(found - block.reference).max())
    rows = [BlockRow(None, cosine(found, block.reference), None)]
    for recipe in recipes:
        cast = [breccia.cast(weight, recipe) for weight in block.weights]
        weights = _array(block.function(block.x, *cast, *block.rest))
        both = _array(block.with_cast(recipe)(block.x, *cast, *block.rest))
        rows.append(BlockRow(recipe, cosine(weights, block.reference), cosine(both, block.reference)))
        advance(1)
    lowering, both = lower(block, block.function, shown), lower(block, block.with_cast(shown), shown)
    return BlockResult(block.layer, block.inputs, lowering, both, difference, tuple(rows))


def lower(block: Block, function: Compiled, recipe: Recipe) -> Lowering:
    """One of the block's functions at every form, for weights in `recipe`."""
    cast = [breccia.cast(weight, recipe) for weight in block.weights]
    low = function.lower(block.x, *cast, *block.rest)
    return Lowering(
        python=_source_of(function),
        recipe=recipe,
        forms=tuple((form, str(low.ir(form))) for form in FORMS),
        passes=tuple(low.passes()),
        source=str(low.source()),
        explain=str(low.explain()).replace(f"{Path(__file__).parent}{os.sep}", ""),  # file names are enough to read
    )


def _feed_forward_cast(recipe: Recipe) -> Compiled:
    @breccia.compile
    def feed_forward_cast(x: Any, up: Any, down: Any, up_bias: Any, down_bias: Any, weight: Any, bias: Any) -> Any:
        h = breccia.gelu(breccia.cast(x, recipe) @ up.T + up_bias)
        y = breccia.cast(h, recipe) @ down.T + down_bias
        return breccia.layer_norm(x + y, weight, bias, 1e-12)

    return feed_forward_cast


def _mlp_cast(recipe: Recipe) -> Compiled:
    @breccia.compile
    def mlp_cast(x: Any, up: Any, down: Any) -> Any:
        h = breccia.gelu(breccia.cast(x, recipe) @ up.T)
        return breccia.cast(h, recipe) @ down.T

    return mlp_cast


def _linear_cast(recipe: Recipe) -> Compiled:
    @breccia.compile
    def linear_cast(x: Any, weight: Any) -> Any:
        return breccia.cast(x, recipe) @ weight.T

    return linear_cast


def _array(value: Any) -> Array:
    return np.asarray(value, dtype=np.float32)


def _source_of(function: Any) -> str:
    """The decorated function as it stands in the file, without its type annotations."""
    text = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).rstrip()
    return text.replace(": Any", "").replace(" -> Any", "")
