"""What a checkpoint's configuration says of its quantization: config.json, hf_quant_config.json, quantize_config.json.

Only what is needed to read weights; each writer has its own words for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from breccia.bridges.safetensors_file import load_json
from breccia.errors import FormatError, UnsupportedError

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "fp8": ("deepseek_v3",), "compressed-tensors": ("compressed_tensors",), "modelopt": ("modelopt",),
    "gptq": ("gptq",), "awq": ("awq",), "bitsandbytes": ("bitsandbytes",), "mxfp4": ("gpt_oss",),
}  # fmt: skip
"""The conventions that go with each `quant_method`."""
_LONGEST = 64 << 20


@dataclass(frozen=True)
class QuantConfig:
    """The quantization that a configuration announces. `method` is None where there is none."""

    method: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    source: str = ""
    """The file that says so."""

    def integer(self, *names: str, default: int) -> int:
        """The first of these fields that is there; raises FormatError where it is no integer."""
        for name in names:
            found = self.fields.get(name)
            if found is not None:
                if type(found) is not int:
                    raise FormatError(f"{self.source}: {name} must be an integer, got {found!r}")
                return found
        return default

    @property
    def block(self) -> int:
        """The side of the blocks of "fp8"."""
        size = self.fields.get("weight_block_size")
        if size is None:
            return 128
        if not isinstance(size, list) or len(size) != 2 or size[0] != size[1] or type(size[0]) is not int:
            raise UnsupportedError(f"{self.source}: weight_block_size must be two equal integers, got {size!r}")
        return size[0]

    def arguments(self, module: str) -> Mapping[str, Any]:
        """compressed-tensors' arguments of the weight of a module; raises FormatError where none, or two, fit."""
        groups = self.fields.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise FormatError(f"{self.source or 'config.json'} has no config_groups, which say what the weights are")
        found: list[dict[str, Any]] = []
        for key, group in cast(dict[str, Any], groups).items():
            if not isinstance(group, dict) or not isinstance(group.get("targets") or [], list):
                raise FormatError(f"{self.source}: the group {key!r} must be an object whose targets are a list")
            if isinstance(group.get("weights"), dict):
                found.append(cast(dict[str, Any], group))
        named = [g for g in found if any(_names(t, module) for t in g.get("targets") or ())]
        by_class = [g for g in found if any(_is_class(t) for t in g.get("targets") or ())]
        fits = named or by_class
        if len({repr(g["weights"]) for g in fits}) != 1:
            raise FormatError(
                f"{self.source}: {len(fits)} config_groups with different weights fit the module {module!r}; one must"
            )
        made = cast(Mapping[str, Any], fits[0]["weights"])
        for name, kind in (("num_bits", int), ("group_size", int), ("type", str), ("strategy", str)):
            if made.get(name) is not None and type(made[name]) is not kind:
                raise FormatError(f"{self.source}: {name} of the weights is {made[name]!r}; allowed: {kind.__name__}")
        return made


def _is_class(target: Any) -> bool:
    """Whether a target is the name of a class, such as Linear, which the tensors' names do not tell."""
    return isinstance(target, str) and not target.startswith("re:") and "." not in target and target[:1].isupper()


def _names(target: Any, module: str) -> bool:
    if not isinstance(target, str) or _is_class(target):
        return False
    if target.startswith("re:"):
        try:
            return re.match(target[3:], module) is not None
        except re.error:
            return False
    return module == target or module.endswith(f".{target}")


def read_config(folder: Path) -> QuantConfig:
    """The quantization that the files in a folder announce; raises FormatError for files that are no JSON objects."""
    config = _json(folder / "config.json")
    for holder in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            said = cast(dict[str, Any], holder).get(key) if isinstance(holder, dict) else None
            if isinstance(said, dict):
                return _of_hugging_face(cast(dict[str, Any], said), str(folder / "config.json"))
    own = _json(folder / "hf_quant_config.json")
    if isinstance(own.get("quantization"), dict):
        return QuantConfig("modelopt", own["quantization"], str(folder / "hf_quant_config.json"))
    old = _json(folder / "quantize_config.json")
    if old:
        awq = "w_bit" in old or old.get("quant_method") == "awq"
        return QuantConfig("awq" if awq else "gptq", old, str(folder / "quantize_config.json"))
    return QuantConfig()


def _of_hugging_face(said: dict[str, Any], source: str) -> QuantConfig:
    method = said.get("quant_method")
    if method is None and "config_groups" in said:
        method = "compressed-tensors"
    if method is None and (said.get("load_in_4bit") or said.get("_load_in_4bit")):
        method = "bitsandbytes"
    if not isinstance(method, str):
        raise FormatError(f"{source}: quantization_config has no quant_method; known: {', '.join(CONVENTIONS)}")
    return QuantConfig(method, said, source)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _LONGEST:
        raise FormatError(f"{path} has {path.stat().st_size} bytes; a configuration has at most {_LONGEST}")
    return load_json(path.read_bytes(), str(path))
