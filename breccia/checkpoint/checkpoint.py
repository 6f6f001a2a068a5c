"""`open_checkpoint`, and what it opens: every weight described and checked at once, read when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from breccia.bridges.gguf_file import PLAIN
from breccia.bridges.safetensors import Stored, described, read_scaled
from breccia.bridges.safetensors_file import SafetensorsFile
from breccia.checkpoint.config import CONVENTIONS as METHODS
from breccia.checkpoint.config import QuantConfig, read_config
from breccia.checkpoint.conventions import CONVENTIONS, Given, gguf_meaning, read_gguf
from breccia.checkpoint.groups import Group, grouped
from breccia.checkpoint.sources import GGUFSource, SafetensorsSource, Source, Tensor, open_source
from breccia.errors import BrecciaError, FormatError
from breccia.recipes import Recipe
from breccia.tensor import ScaledTensor

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
_SHOWN = 8
"""Problems that an error lists."""


@dataclass(frozen=True)
class Weight:
    """One weight of a checkpoint, or another tensor of it, as far as names, shapes and dtypes tell."""

    name: str
    convention: str
    """"breccia", "deepseek_v3", "compressed_tensors", "gpt_oss", "modelopt", "gptq", "awq", "bitsandbytes", "gguf" or
    "plain"; "unknown" where nothing fits."""
    recipe: Recipe | None
    """None for plain arrays, and for ggml's types that no recipe holds."""
    shape: Shape
    """The logical shape, (..., out, in); of what has a problem, that of its first tensor."""
    dtype: str
    """Of the stored elements, as the file spells it: "F8_E4M3", "I32", "Q4_K"."""
    tensors: tuple[str, ...]
    """The stored tensors that it is made of, the elements first."""
    nbytes: int
    problem: str | None = None
    """Why it cannot be read; None for a sound weight."""

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def bits_per_value(self) -> float:
        """Stored bits of all its tensors for each value."""
        return 8 * self.nbytes / self.size if self.size else 0.0


def open_checkpoint(path: str | os.PathLike[str], *, strict: bool = True) -> Checkpoint:
    """A checkpoint, opened for reading: headers are read and checked, no data.

    path: a folder of safetensors (with an index or without) or with one GGUF, an index, or a single file of either
    kind; `config.json` beside it says which quantization it has. strict: raise FormatError where a tensor cannot be
    what its names say: scales that are missing, that nobody uses or that do not fit, a configuration that says
    otherwise. With False these are in `problems`, and only reading such a weight raises.

    Raises FormatError, naming the tensors; FileNotFoundError or another OSError where files cannot be opened.

    >>> import tempfile, pathlib, breccia
    >>> st = breccia.cast(np.ones((2, 64), np.float32), breccia.recipes.mxfp4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     breccia.save_safetensors({"w": st, "bias": np.zeros(2)}, pathlib.Path(folder) / "model.safetensors")
    ...     with open_checkpoint(folder) as checkpoint:
    ...         weight = checkpoint.weights["w"]
    ...         print(weight.recipe, weight.shape, weight.bits_per_value, checkpoint["w"] == st)
    <recipe mxfp4> (2, 64) 4.25 True
    """
    source, folder = open_source(path)
    try:
        config = QuantConfig() if isinstance(source, GGUFSource) else read_config(folder)
        made = Checkpoint(source, config, os.fspath(path))
    except BaseException:
        source.close()
        raise
    if strict and made.problems:
        made.close()
        more = f"\n  and {len(made.problems) - _SHOWN} more" if len(made.problems) > _SHOWN else ""
        raise FormatError(
            f"{os.fspath(path)} is not sound:\n  " + "\n  ".join(made.problems[:_SHOWN]) + more
            + "\nopen_checkpoint(..., strict=False), or `breccia inspect`, shows what else is there"
        )  # fmt: skip
    return made


class Checkpoint(Mapping[str, "ScaledTensor | HostArray"]):
    """Weights by name: `checkpoint[name]` is a ScaledTensor, or a NumPy array where the tensor is plain.

    Arrays are views of the mapped files wherever a bridge keeps buffers: read-only, and valid after `close`. Values
    have the logical dtype that their bridge gives; `st.to("torch")` moves them. Use as a context manager.

    Whoever cuts a file short while its views are in use makes looking at them fatal (SIGBUS): copy what must outlive
    a file that others write.
    """

    def __init__(self, source: Source, config: QuantConfig, path: str) -> None:
        self._source, self.config, self.path = source, config, path
        self._stored: dict[str, tuple[SafetensorsFile, Stored]] = {}
        self._plain: set[str] = set()
        self._groups: dict[str, Group] = {}
        weights: dict[str, Weight] = {}
        own = self._own(source.files) if isinstance(source, SafetensorsSource) else ()
        found = self._gguf() if isinstance(source, GGUFSource) else [*own, *self._others()]
        for weight in found:
            if weight.name in weights:
                raise FormatError(f"{path}: two weights would be called {weight.name!r}")
            weights[weight.name] = weight
        self.weights: Mapping[str, Weight] = MappingProxyType(weights)
        """All weights and other tensors, without their data."""
        self.problems = (*self._of_config(), *(w.problem for w in weights.values() if w.problem))
        """What is not as names and configuration say, a line for each."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def close(self) -> None:
        """Close the files."""
        self._source.close()

    @property
    def conventions(self) -> tuple[str, ...]:
        """The conventions that its weights follow, sorted."""
        return tuple(sorted({weight.convention for weight in self.weights.values()}))

    def __getitem__(self, name: str) -> ScaledTensor | HostArray:
        """The weight called `name`. Raises KeyError for an unknown name, FormatError or UnsupportedError for a weight
        that cannot be read.
        """
        weight = self.weights[name]
        if weight.problem:
            raise FormatError(f"{self.path}: {name!r} cannot be read: {weight.problem}")
        if name in self._stored:
            file, stored = self._stored[name]
            return read_scaled(file, name, stored, "numpy")
        if weight.convention == "plain":
            return self._source.view(weight.tensors[0])
        group = self._groups[name]
        if weight.convention == "gguf":
            read: Any = read_gguf(weight.dtype, self._views(group))
        else:
            read = CONVENTIONS[weight.convention].read(Given(group, self._views(group), self.config))
        if isinstance(read, ScaledTensor) and (read.recipe, read.shape) != (weight.recipe, weight.shape):
            raise FormatError(
                f"{self.path}: {name!r} is {read.recipe!r} of shape {read.shape}; its header promised "
                f"{weight.recipe!r} of shape {weight.shape}"
            )
        return read

    def _views(self, group: Group) -> dict[str, HostArray]:
        return {part: self._source.view(name) for part, name in group.parts.items()}

    # -- finding out what is there -------------------------------------------------------------------------------------

    def _own(self, files: list[SafetensorsFile]) -> Iterator[Weight]:
        """The tensors that breccia wrote, plain ones too: of those it says itself that they have no scale."""
        for file in files:
            scaled, plain = described(file)
            for name in plain:
                entry = file.entry(name)
                self._plain.add(name)
                yield Weight(name, "plain", None, entry.stored_shape, entry.dtype, (name,), entry.nbytes)
            for name, stored in scaled.items():
                self._stored[name] = file, stored
                shape = stored.shape or file.entry(stored.elements).shape
                nbytes = sum(file.entry(each).nbytes for each in stored.arrays)
                dtype = file.entry(stored.elements).dtype
                yield Weight(name, "breccia", stored.recipe, shape, dtype, stored.arrays, nbytes)

    def _others(self) -> Iterator[Weight]:
        """The tensors of all other conventions."""
        own = self._plain | {name for _, stored in self._stored.values() for name in stored.arrays}
        tensors = {name: tensor for name, tensor in self._source.tensors.items() if name not in own}
        for group in grouped(tensors, self.config):
            self._groups[group.name] = group
            yield self._described(group, tensors)

    def _described(self, group: Group, tensors: Mapping[str, Tensor]) -> Weight:
        names = tuple(group.parts.values())
        first, problem = tensors[names[0]], group.problem
        recipe, shape = None, first.shape
        odd = [name for name in names if tensors[name].dtype in ("BOOL", "C64")]
        if problem is None and group.convention in CONVENTIONS and odd:
            problem = f"{odd[0]} is {tensors[odd[0]].dtype}, which no part of a weight is"
        if problem is None and group.convention in CONVENTIONS:
            try:
                recipe, shape = CONVENTIONS[group.convention].describe(Given(group, self._views(group), self.config))
            except BrecciaError as error:
                problem = f"{group.name}: {error}"
        nbytes = sum(tensors[name].nbytes for name in names)
        return Weight(group.name, group.convention, recipe, shape, first.dtype, names, nbytes, problem)

    def _gguf(self) -> Iterator[Weight]:
        tensors = self._source.tensors
        scale_of = {
            name: scale
            for name, tensor in tensors.items()
            if tensor.dtype == "NVFP4"
            for scale in (f"{name}.scale", f"{name.removesuffix('.weight')}.scale")
            if scale in tensors
        }
        used = set(scale_of.values())
        for name, tensor in tensors.items():
            if name in used:
                continue
            parts = {"weight": name} | ({"scale": scale_of[name]} if name in scale_of else {})
            plain = tensor.dtype in PLAIN
            self._groups[name] = Group(name, "plain" if plain else "gguf", parts)
            meaning = gguf_meaning(tensor.dtype, tensor.shape, name in scale_of)
            nbytes = sum(tensors[each].nbytes for each in parts.values())
            yield Weight(
                name, self._groups[name].convention, None if meaning is None else meaning.recipe, tensor.shape,
                tensor.dtype, tuple(parts.values()), nbytes,
            )  # fmt: skip

    def _of_config(self) -> list[str]:
        """Where the configuration and the tensors tell of different quantizations."""
        method = self.config.method
        found = {w.convention for w in self.weights.values()} - {"plain", "unknown", "breccia", "gguf"}
        if method is None:
            return []
        if method not in METHODS:
            return [f"{self.config.source}: quant_method {method!r} is not known; known: {', '.join(METHODS)}"]
        other = found - set(METHODS[method])
        if other:
            example = next(w.name for w in self.weights.values() if w.convention in other)
            said = f"{self.config.source} says quant_method {method!r}"
            return [f"{said}, but {example} has the tensors of {', '.join(sorted(other))}"]
        if not found:
            return [f"{self.config.source} says quant_method {method!r}, but no weight has the tensors of it"]
        return []
