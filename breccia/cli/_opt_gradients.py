"""`--gradients x,w`: the module's function becomes its forward and its backward function, before any pass."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from breccia.autodiff import differentiate
from breccia.errors import GradientError, RecipeError
from breccia.ir.rewriting import functions
from breccia.training import TrainingRecipe, named


@dataclass(frozen=True)
class Gradients:
    """The arguments whose gradients are wanted, by name, and the name of the recipe by which products are encoded."""

    arguments: tuple[str, ...]
    recipe: str | None = None


def both(module: ModuleOp, wanted: Gradients) -> ModuleOp:
    """One module with the forward and the backward function.

    Raises GradientError for a name that no argument has and RecipeError for a training recipe that there is none of.
    """
    recipe = None if wanted.recipe is None else _recipe(wanted.recipe)
    found = list(functions(module))
    names = [a.name_hint or str(i) for i, a in enumerate(found[0].body.block.args)] if found else []
    for name in wanted.arguments:
        if name not in names:
            raise GradientError(
                f"--gradients {name}: there is no such argument; arguments: {', '.join(names) or 'none'}"
            )
    made = differentiate(module, [names.index(name) for name in wanted.arguments], recipe)
    for function in list(made.backward.ops):
        function.detach()
        made.forward.body.block.add_op(function)
    made.forward.verify()
    return made.forward


def _recipe(name: str) -> TrainingRecipe:
    known = named()
    if name not in known:
        raise RecipeError(f"--training {name}: unknown training recipe; known: {', '.join(known)}")
    return known[name]
