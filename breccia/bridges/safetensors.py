"""`save_safetensors` and `load_safetensors`: ScaledTensors in files, with recipe, layout, shape and dtype.

Every safetensors reader reads the file. A tensor called `w` is stored as `w.data` (canonical storage: sub-byte codes
packed, the first one lowest), `w.scale` (innermost level), `w.scale.0`, `w.scale.1` ... (outer levels, outermost
first), `w.zero_point` and `w.offset`; what they mean is in the metadata entry `breccia`, whose JSON schema is
schemas/safetensors-1.json beside this file. Files of breccia 0.1 (one code a byte, an entry `w.config`) load too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from breccia._version import __version__
from breccia.arrays import library as library_of
from breccia.arrays import primitives_of
from breccia.bridges._common import host
from breccia.bridges._schema import (
    exactly,
    layout_from_json,
    layout_to_json,
    recipe_from_json,
    recipe_of_class,
    recipe_to_json,
)
from breccia.bridges.safetensors_file import SafetensorsFile, load_json, write_file
from breccia.errors import BrecciaError, FormatError, UnsupportedError
from breccia.layouts import BlockLayout
from breccia.recipes import Recipe
from breccia.scaling import INT4Scaling
from breccia.tensor import ScaledTensor

SCHEMA = "breccia.safetensors"
VERSION = 1
KEY = "breccia"
"""The metadata entry that holds it."""

_LIBRARIES = ("numpy", "torch", "jax", "mlx")


@dataclass(frozen=True)
class Stored:
    """How a ScaledTensor lies in a file: what it is, and the names of its arrays."""

    recipe: Recipe
    layout: BlockLayout
    shape: tuple[int, ...] | None
    """None in files of 0.1, where it is that of the data."""
    dtype: str
    library: str
    elements: str
    scales: tuple[str, ...]
    """Outermost first; of files of 0.1, the innermost alone."""
    zero_point: str | None
    offset: str | None

    @property
    def arrays(self) -> tuple[str, ...]:
        return (self.elements, *self.scales, *(n for n in (self.zero_point, self.offset) if n is not None))


def save_safetensors(
    scaled_tensors: Mapping[str, Any], path: str | os.PathLike[str], extra_metadata: Mapping[str, str] | None = None
) -> None:
    """Save ScaledTensors, and plain arrays, by name. The file appears whole or not at all.

    scaled_tensors: ScaledTensors of any library; plain arrays are stored as they are. extra_metadata: text to store
    beside them; the key "breccia" is taken.

    Raises FormatError for names that clash or a path that is no regular file, DTypeError for arrays that safetensors
    has no dtype for, OSError from the disk.

    >>> import tempfile, pathlib, breccia
    >>> st = breccia.cast(np.ones((2, 48), np.float32), breccia.recipes.nvfp4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors({"w": st, "bias": np.zeros(2)}, pathlib.Path(folder) / "a.safetensors")
    ...     again = load_safetensors(pathlib.Path(folder) / "a.safetensors")
    >>> again["w"] == st, again["bias"].tolist()
    (True, [0.0, 0.0])
    """
    arrays: dict[str, Any] = {}
    recipes: list[Any] = []
    indices: dict[int, int] = {}
    tensors: dict[str, Any] = {}
    plain: dict[str, str] = {}

    def put(name: str, x: Any) -> str:
        if name in arrays:
            raise FormatError(f"two tensors would be called {name!r} in {path}; rename one of them")
        arrays[name] = host(x)
        return name

    for name, value in scaled_tensors.items():
        if not isinstance(name, str):
            raise FormatError(f"names of tensors are text, got {name!r}")
        if not isinstance(value, ScaledTensor):
            plain[put(name, value)] = library_of(value)
            continue
        index = indices.setdefault(value.recipe.token, len(recipes))
        if index == len(recipes):
            recipes.append(recipe_to_json(value.recipe))
        outer = [put(f"{name}.scale.{i}", scale) for i, scale in enumerate(value.scales[:-1])]
        tensors[name] = {
            "recipe": index,
            "shape": list(value.shape),
            "dtype": value.dtype.name,
            "layout": layout_to_json(cast(BlockLayout, value.layout)),
            "library": value.library,
            "elements": put(f"{name}.data", value.data),
            "scales": [*outer, put(f"{name}.scale", value.scale)],
            "zero_point": None if value.zero_point is None else put(f"{name}.zero_point", value.zero_point),
            "offset": None if value.offset is None else put(f"{name}.offset", value.offset),
        }
    said = {
        "schema": SCHEMA, "version": VERSION, "writer": f"breccia {__version__}", "recipes": recipes,
        "tensors": tensors, "plain": plain,
    }  # fmt: skip
    metadata = dict(extra_metadata or {})
    if KEY in metadata:
        raise FormatError(f"the metadata key {KEY!r} is breccia's own; choose another")
    write_file(path, arrays, {**metadata, KEY: json.dumps(said)})


def load_safetensors(
    path: str | os.PathLike[str],
    *,
    library: str | None = None,
    device: Any = None,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """The ScaledTensors, and plain arrays, that `save_safetensors` wrote, or breccia 0.1 did.

    library: "numpy", "torch", "jax" or "mlx"; None for the one that a tensor was saved from (0.1: PyTorch), and NumPy
    where that is not installed. device: where to put them. names: read these alone; the file's other tensors are not
    touched. A file without breccia's metadata holds no ScaledTensor: the result is empty.

    Raises FormatError for a file that is damaged or says what does not fit together, naming the tensor.
    """
    with SafetensorsFile(path) as file:
        scaled, plain = described(file)
        known = [*scaled, *plain]
        wanted = known if names is None else list(names)
        missing = [name for name in wanted if name not in scaled and name not in plain]
        if missing:
            raise FormatError(f"{path} has no tensor {missing[0]!r}; it has: {', '.join(known[:20]) or 'none'}")
        made: dict[str, Any] = {}
        for name in wanted:
            if name in plain:
                made[name] = _moved(file.read(name), _chosen(library, plain[name]), device)
            else:
                made[name] = read_scaled(file, name, scaled[name], library, device)
        return made


def described(file: SafetensorsFile) -> tuple[dict[str, Stored], dict[str, str]]:
    """What a file says of its ScaledTensors, and the libraries of its plain arrays, both by name; no data is read.

    Raises FormatError where that is not as the schema has it, or names arrays that are not there.
    """
    if KEY in file.metadata:
        scaled, plain = _described(file)
    else:
        scaled, plain = _described_0_1(file), {}
    for name, stored in scaled.items():
        missing = [each for each in stored.arrays if each not in file]
        if missing:
            raise FormatError(f"{file.path}: {name!r} is incomplete: there is no tensor {missing[0]!r}")
    return scaled, plain


def read_scaled(
    file: SafetensorsFile, name: str, stored: Stored, library: str | None = None, device: Any = None
) -> ScaledTensor:
    """One ScaledTensor of a file; raises FormatError where its parts do not fit together."""
    where = _chosen(library, stored.library)

    def part(each: str) -> Any:
        x = file.read(each)
        # 0.1 wrote the elements of PyTorch tensors as F8_E4M3; canonical storage is bytes.
        return _moved(x.view(np.uint8) if x.dtype.itemsize == 1 and x.dtype != np.int8 else x, where, device)

    extra = [None if each is None else part(each) for each in (stored.zero_point, stored.offset)]
    scales = [part(each) for each in stored.scales]
    data = part(stored.elements)
    if len(scales) == len(stored.recipe.levels):
        given: dict[str, Any] = {"scales": scales}
    else:  # 0.1 had no outer level, which is 1 then
        given = {"scale": scales[-1]}
    try:
        return ScaledTensor(
            data, recipe=stored.recipe, layout=stored.layout, zero_point=extra[0], offset=extra[1],
            shape=stored.shape or tuple(data.shape), dtype=stored.dtype, **given,
        )  # fmt: skip
    except BrecciaError as error:
        raise FormatError(f"{file.path}: {name!r} does not fit together: {error}") from error


def _moved(x: Any, library: str, device: Any) -> Any:
    return x if library == "numpy" and device is None else primitives_of(library).from_numpy(x, device)


def _chosen(asked: str | None, saved: str) -> str:
    if asked is not None:
        primitives_of(asked)
        return asked
    try:
        primitives_of(saved)
    except UnsupportedError:  # written where another library is installed: the values are the same in NumPy
        return "numpy"
    return saved


# -- this version's files ----------------------------------------------------------------------------------------------


def _described(file: SafetensorsFile) -> tuple[dict[str, Stored], dict[str, str]]:
    where = f"{file.path}: the metadata {KEY!r}"
    said = load_json(file.metadata[KEY], where)
    version = said.get("version")
    if said.get("schema") != SCHEMA or type(version) is not int:
        raise FormatError(f"{where} is of the schema {said.get('schema')!r}, version {version!r}, not of {SCHEMA!r}")
    if version > VERSION:
        raise FormatError(
            f"{where} has version {version}, written by {said.get('writer')!r}; this breccia reads up to {VERSION}: "
            "install a newer one"
        )
    lists = said.get("recipes"), said.get("tensors"), said.get("plain")
    if not isinstance(lists[0], list) or not isinstance(lists[1], dict) or not isinstance(lists[2], dict):
        raise FormatError(f"{where} must have recipes (a list), tensors and plain (objects)")
    recipes = [_named(f"{where}, recipe {i}", recipe_from_json, each) for i, each in enumerate(lists[0])]
    tensors, plain = cast(dict[str, Any], lists[1]), cast(dict[str, str], lists[2])
    for name, saved in plain.items():
        if saved not in _LIBRARIES or name not in file:
            raise FormatError(f"{where} lists the plain tensor {name!r} of {saved!r}, which the file does not have")
    return {
        name: _named(f"{where}, tensor {name!r}", lambda each=each: _stored(each, recipes))
        for name, each in tensors.items()
    }, plain


def _stored(said: Any, recipes: list[Recipe]) -> Stored:
    names = {"recipe", "shape", "dtype", "layout", "library", "elements", "scales", "zero_point", "offset"}
    if not isinstance(said, dict) or set(cast(dict[str, Any], said)) != names:
        raise FormatError(f"it must have exactly {', '.join(sorted(names))}")
    index, shape, scales = said["recipe"], said["shape"], said["scales"]
    if type(index) is not int or not 0 <= index < len(recipes):
        raise FormatError(f"there is no recipe {index!r}; the file has {len(recipes)}")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in cast(list[Any], shape)):
        raise FormatError(f"the shape {str(shape)[:50]} must be a list of integers")
    recipe = recipes[index]
    if not isinstance(scales, list) or len(cast(list[Any], scales)) != len(recipe.levels):
        raise FormatError(f"{recipe!r} has {len(recipe.levels)} levels, and needs as many names of scales")
    given = [said["elements"], *cast(list[Any], scales)]
    given += [said[key] for key in ("zero_point", "offset") if said[key] is not None]
    if not all(isinstance(each, str) for each in given):
        raise FormatError("elements, scales, zero_point and offset must be names of tensors")
    for key, kind in (("zero_point", recipe.zero_point), ("offset", recipe.offset)):
        if (said[key] is None) != (kind is None):
            raise FormatError(f"{recipe!r} {'has no' if kind is None else 'needs a'} {key}")
    if said["library"] not in _LIBRARIES or not isinstance(said["dtype"], str):
        raise FormatError(f"the library {said['library']!r} or the dtype {said['dtype']!r} is unknown")
    return Stored(
        recipe, layout_from_json(said["layout"]), tuple(cast(list[int], shape)), said["dtype"], said["library"],
        said["elements"], tuple(cast(list[str], scales)), said["zero_point"], said["offset"],
    )  # fmt: skip


def _named(where: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except BrecciaError as error:
        raise FormatError(f"{where}: {error}") from error


# -- files of breccia 0.1 ----------------------------------------------------------------------------------------------


def _described_0_1(file: SafetensorsFile) -> dict[str, Stored]:
    made: dict[str, Stored] = {}
    for key, text in file.metadata.items():
        name = key.removesuffix(".config")
        if key == name or not {f"{name}.data", f"{name}.scale", f"{name}.zero_point"} & set(file.entries):
            continue
        said = _named(f"{file.path}: the metadata {key!r} of tensor {name!r}", load_json, text, "it")
        if {"recipe", "layout"} <= set(said):  # else another writer's
            made[name] = _named(f"{file.path}: tensor {name!r}", lambda n=name, s=said: _stored_0_1(file, n, s))
    return made


def _stored_0_1(file: SafetensorsFile, name: str, said: dict[str, Any]) -> Stored:
    exactly(said["recipe"], "a recipe", {"name", "fields"})
    recipe = recipe_of_class(said["recipe"]["name"], said["recipe"]["fields"])
    layout = layout_from_json(said["layout"])
    scale = f"{name}.scale"
    if isinstance(recipe, INT4Scaling) and recipe.scale_dtype == "bf16" and scale in file:
        if file.entry(scale).dtype == "F32":  # 0.1 stored what it called bfloat16 in float32, unrounded
            recipe = recipe_of_class(recipe.name, recipe.parameters | {"scale_dtype": "fp32"})
    zero_point = f"{name}.zero_point" if recipe.zero_point is not None or f"{name}.zero_point" in file else None
    return Stored(recipe, layout, None, "float32", "torch", f"{name}.data", (scale,), zero_point, None)
