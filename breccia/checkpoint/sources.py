"""The files of a checkpoint as one set of named tensors: of a folder, an index, a safetensors file or a GGUF.

Headers alone are read. A tensor's bytes are a view of the mapped file, so that only what is looked at is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from breccia.bridges.gguf_file import GGUFFile
from breccia.bridges.safetensors_file import SafetensorsFile, load_json
from breccia.errors import FormatError, UnsupportedError

HostArray = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """A stored tensor. `dtype` is safetensors' name, or ggml's; `shape` is that of the array that `view` gives, except
    in a GGUF, where it counts values.
    """

    name: str
    dtype: str
    shape: Shape
    nbytes: int


class Source(Protocol):
    """Named tensors in files."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...
    def view(self, name: str) -> HostArray: ...
    def close(self) -> None: ...


class GGUFSource:
    """The tensors of one GGUF; raises UnsupportedError for one part of several, which alone is no checkpoint."""

    def __init__(self, path: Path) -> None:
        self.file = GGUFFile(path)
        parts = self.file.metadata.get("split.count", 1)
        if parts not in (0, 1):
            self.file.close()
            raise UnsupportedError(f"{path} is one of {parts} parts; join them first: llama-gguf-split --merge")
        self.tensors = {e.name: Tensor(e.name, e.kind, e.shape, e.nbytes) for e in self.file.entries.values()}

    def view(self, name: str) -> HostArray:
        return self.file.view(name)

    def close(self) -> None:
        self.file.close()


class SafetensorsSource:
    """The tensors of one or more safetensors files; raises FormatError where two have a tensor of the same name."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.files: list[SafetensorsFile] = []
        self.file_of: dict[str, SafetensorsFile] = {}
        self.tensors: dict[str, Tensor] = {}
        try:
            for path in paths:
                self._add(SafetensorsFile(path))
        except BaseException:
            self.close()
            raise

    def _add(self, file: SafetensorsFile) -> None:
        self.files.append(file)
        for name, entry in file.entries.items():
            if name in self.file_of:
                raise FormatError(f"{name!r} is in {self.file_of[name].path} and in {file.path}; which one holds?")
            self.file_of[name] = file
            self.tensors[name] = Tensor(name, entry.dtype, entry.stored_shape, entry.nbytes)

    def view(self, name: str) -> HostArray:
        return self.file_of[name].view(name)

    def close(self) -> None:
        for file in self.files:
            file.close()


def open_source(path: str | os.PathLike[str]) -> tuple[Source, Path]:
    """(tensors, folder where the configuration is) of a checkpoint.

    Raises FormatError for files that are not whole and well formed, or do not fit the index; FileNotFoundError.
    """
    given = Path(path)
    if given.is_dir():
        return _of_folder(given), given
    if not given.exists():
        raise FileNotFoundError(f"{given} does not exist; give a folder, an index, a .safetensors or a .gguf file")
    if not given.is_file():
        raise FormatError(f"{given} is no regular file; give a folder, an index, a .safetensors or a .gguf file")
    if given.suffix == ".json":
        return _of_index(given), given.parent
    with given.open("rb") as file:
        starts_as_gguf = file.read(4) == b"GGUF"
    if starts_as_gguf:
        return GGUFSource(given), given.parent
    return SafetensorsSource([given]), given.parent


def _of_folder(folder: Path) -> Source:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    chosen = folder / INDEX if folder / INDEX in indices else None
    if chosen is None and len(indices) == 1:
        chosen = indices[0]
    if chosen is not None:
        return _of_index(chosen)
    if indices:
        raise FormatError(f"{folder} has {len(indices)} indices; give the path of one, such as {indices[0]}")
    shards, ggufs = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*.gguf"))
    if shards and ggufs:
        raise FormatError(f"{folder} has safetensors and GGUF files; give the path of one, such as {ggufs[0]}")
    if shards:
        return SafetensorsSource(shards)
    if len(ggufs) == 1:
        return GGUFSource(ggufs[0])
    if ggufs:
        raise FormatError(f"{folder} has {len(ggufs)} GGUF files; give the path of one, such as {ggufs[0]}")
    raise FormatError(f"{folder} has no .safetensors and no .gguf file")


def _of_index(path: Path) -> SafetensorsSource:
    said = load_json(path.read_bytes(), str(path)).get("weight_map")
    if not isinstance(said, dict) or not all(isinstance(v, str) for v in said.values()):
        raise FormatError(f"{path} is no index: weight_map must be an object of file names by tensor")
    names = sorted(set(said.values()))
    for name in names:
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise FormatError(f"{path} names the shard {name[:100]!r}; shards lie beside the index")
        if not (path.parent / name).is_file():
            raise FormatError(f"{path} names the shard {name[:100]!r}, which is not there")
    source = SafetensorsSource(path.parent / name for name in names)
    try:
        for tensor, name in said.items():
            found = source.file_of.get(tensor)
            if found is None or found.path.name != name:
                where = "is in none" if found is None else f"is in {found.path.name}"
                raise FormatError(f"{path} says that {tensor!r} is in {name}; it {where}")
        left = sorted(source.file_of.keys() - said.keys())
        if left:
            holder = source.file_of[left[0]].path.name
            raise FormatError(f"{path} does not list {left[0]!r} ({len(left)} such tensors), which {holder} has")
    except FormatError:
        source.close()
        raise
    return source
