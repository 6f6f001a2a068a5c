"""One model, any recipe, two libraries: train in MXFP8, ship in NVFP4.

    python examples/02_recipe_portable_training.py torch        # or: jax
    python examples/02_recipe_portable_training.py jax --train float8_128x128 --ship int4_g32_f16

The model predicts the next character of Python's own documentation, which every Python carries. Its code names neither
a library nor a recipe: `forward` is trained with PyTorch or JAX and evaluated on NumPy, with weights that are rounded
as they are used (training) or stored in a few bits (shipped). What is shipped by one library is the same bytes in all.
"""

from __future__ import annotations

import argparse
import importlib
import pydoc_data.topics

import numpy as np

import breccia
from breccia import Recipe, ScaledTensor

ALPHABET = 96  # printable ASCII; all else becomes the last letter
CONTEXT, EMBEDDING, HIDDEN = 16, 32, 256
BATCH = 256

# -- the model ---------------------------------------------------------------------------------------------------------


def linear(x, w, recipe: Recipe | None):
    """`x @ w`, both rounded as `recipe` would store them; the gradient passes straight through the rounding."""
    if recipe is None:
        return breccia.matmul(x, w)
    if not isinstance(w, ScaledTensor):
        w = breccia.cast_ste(w, recipe, axis=0)
    return breccia.matmul(breccia.cast_ste(x, recipe), w)


def forward(weights: dict, x, recipe: Recipe | None = None):
    """Logits [N, ALPHABET] of contexts x [N, CONTEXT * ALPHABET] of one-hot letters."""
    x = breccia.reshape(x, -1, ALPHABET) @ weights["embedding"]
    h = breccia.rms_norm(breccia.reshape(x, -1, CONTEXT * EMBEDDING))
    h = breccia.gelu(linear(h, weights["up"], recipe))
    h = h + breccia.gelu(linear(breccia.rms_norm(h), weights["middle"], recipe))
    return breccia.rms_norm(h) @ weights["letters"]


def initial_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def normal(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    return {
        "embedding": normal(ALPHABET, EMBEDDING),
        "up": normal(CONTEXT * EMBEDDING, HIDDEN),
        "middle": normal(HIDDEN, HIDDEN),
        "letters": normal(HIDDEN, ALPHABET),
    }


def ship(weights: dict, recipe: Recipe) -> dict:
    """The large weights stored by `recipe`, with blocks along the axis that products sum over; the others as is."""
    return {name: breccia.cast(w, recipe, axis=0) if name in ("up", "middle") else w for name, w in weights.items()}


# -- training, once for each library -----------------------------------------------------------------------------------


def train_torch(weights: dict[str, np.ndarray], batches, recipe: Recipe, rate: float):
    import torch

    def cross_entropy(weights, x, y):
        return torch.nn.functional.cross_entropy(forward(weights, x, recipe), y)

    parameters = {name: torch.nn.Parameter(torch.from_numpy(w.copy())) for name, w in weights.items()}
    optimizer = torch.optim.AdamW(parameters.values(), rate, weight_decay=0.0)
    for x, y in batches:
        optimizer.zero_grad()
        loss = cross_entropy(parameters, torch.from_numpy(x), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        yield loss.item(), {name: p.detach() for name, p in parameters.items()}


def train_jax(weights: dict[str, np.ndarray], batches, recipe: Recipe, rate: float):
    import jax
    import jax.numpy as jnp

    def cross_entropy(weights, x, y):
        logits = jax.nn.log_softmax(forward(weights, x, recipe))
        return -jnp.take_along_axis(logits, y[:, None], 1).mean()

    @jax.jit
    def step(weights, first, second, count, x, y):
        """One step of Adam."""
        loss, gradient = jax.value_and_grad(cross_entropy)(weights, x, y)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        a, b = 1 - 0.9**count, 1 - 0.999**count
        weights = jax.tree.map(lambda w, m, v: w - rate * (m / a) / (jnp.sqrt(v / b) + 1e-8), weights, first, second)
        return weights, first, second, loss

    now = jax.tree.map(jnp.asarray, weights)
    first = second = jax.tree.map(jnp.zeros_like, now)
    for count, (x, y) in enumerate(batches, start=1):
        now, first, second, loss = step(now, first, second, float(count), x, y)
        yield float(loss), now


# -- data --------------------------------------------------------------------------------------------------------------


def text() -> np.ndarray:
    """Python's documentation of its language, as letters 0 to 95."""
    joined = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    letters = np.frombuffer(joined.encode("ascii", "replace"), np.uint8).astype(np.int64) - 32
    return np.where((letters < 0) | (letters >= ALPHABET), ALPHABET - 1, letters)


def examples_at(letters: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-hot contexts that end before `places`, and the letters there."""
    context = letters[places[:, None] - np.arange(CONTEXT, 0, -1)]
    one_hot = (context[..., None] == np.arange(ALPHABET)).astype(np.float32)
    return one_hot.reshape(len(places), -1), letters[places]


def evaluate(weights: dict, x: np.ndarray, y: np.ndarray, recipe: Recipe | None = None) -> float:
    """Mean cross entropy on NumPy, in nats a letter."""
    logits = forward(weights, x, recipe)
    logits = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).mean())


# -- everything together -----------------------------------------------------------------------------------------------


def main(library: str, train: Recipe, shipped: Recipe, steps: int, rate: float = 3e-3) -> None:
    letters = text()
    split = len(letters) * 9 // 10
    rng = np.random.default_rng(1)
    batches = (examples_at(letters[:split], rng.integers(CONTEXT, split, BATCH)) for _ in range(steps))
    x, y = examples_at(letters[split:], rng.integers(CONTEXT, len(letters) - split, 4096))

    start = initial_weights()
    print(f"{library}: {steps} steps with {train}; before: {evaluate(start, x, y):.3f} nats a letter on unseen text")
    trainer = {"torch": train_torch, "jax": train_jax}[library]
    weights: dict = start
    for step, found in enumerate(trainer(start, batches, train, rate), start=1):
        loss, weights = found
        if step % max(1, steps // 6) == 0:
            print(f"  step {step:4}  loss {loss:.3f}")

    # What is shipped, in the library that trained it, on its device.
    small = ship(weights, shipped)
    there = {name: w.to("numpy") if isinstance(w, ScaledTensor) else np.asarray(w) for name, w in small.items()}
    full = {name: np.asarray(w) for name, w in weights.items()}

    for other in {"torch", "jax"} - {library}:
        try:
            importlib.import_module(other)
        except ModuleNotFoundError:
            continue
        moved = {name: w.to(other).to("numpy") for name, w in there.items() if isinstance(w, ScaledTensor)}
        assert all(moved[name] == there[name] for name in moved), "every library holds the same bytes"
    assert there["up"] == breccia.cast(full["up"], shipped, axis=0), "and makes the same bytes of the same values"

    print(f"  float32 weights          {evaluate(full, x, y):.3f} nats   32 bits a weight")
    for what, weights_, recipe in (
        ("as trained", ship(full, train), train),
        ("shipped", there, None),
        ("shipped, rounded inputs", there, shipped),
    ):
        bits = weights_["up"].bits_per_value
        print(f"  {what:24} {evaluate(weights_, x, y, recipe):.3f} nats   {bits:.4g} bits a weight")


if __name__ == "__main__":
    recipes = breccia.all_recipes()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["torch", "jax"])
    parser.add_argument("--train", default="mxfp8_e4m3", choices=recipes)
    parser.add_argument("--ship", default="nvfp4", choices=recipes)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    main(given.library, recipes[given.train], recipes[given.ship], given.steps)
