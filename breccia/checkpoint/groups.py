"""Which tensors of a checkpoint make one weight, by their names and dtypes; and scales that belong to none.

A weight of a module is `<module>.weight` (or `.qweight`, `.weight_packed`) with what else has the module's name; fused
experts are `<name>` with `<name>_scale_inv` and the like, or `<name>_blocks` with `<name>_scales`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from breccia.checkpoint.config import QuantConfig
from breccia.checkpoint.sources import Tensor

_OF_MODULE = frozenset((
    "weight", "weight_packed", "weight_scale", "weight_scale_2", "weight_scale_inv", "weight_global_scale",
    "weight_zero_point", "weight_shape", "weight_g_idx", "qweight", "qzeros", "scales", "g_idx", "scale",
    "pre_quant_scale", "SCB",
))  # fmt: skip
_OF_WEIGHT = re.compile(
    r"(.+)\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$"
)
_NEEDS_ANOTHER = frozenset((
    "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "qzeros", "g_idx",
))  # fmt: skip
_FUSED = (
    ("_weight_scale_inv", "weight_scale_inv"), ("_scale_inv", "weight_scale_inv"),
    ("_weight_scale_2", "weight_scale_2"), ("_weight_scale", "weight_scale"), ("_blocks", "blocks"),
    ("_scales", "scales"),
)  # fmt: skip
"""Ends of names beside a fused weight, and what they are."""
_ACTIVATION = re.compile(r"(^|[._])(input|output|k|v|q|kv|attn|prob)_(scale|zero_point|global_scale|scale_inv)$")
_SCALE = re.compile(r"scale|zero_point|zeros|absmax|g_idx|SCB")
_WITHOUT_DOUBT = ("scale_weight", "weight_scale", "weight_scale_inv")
_FLOATS_BELOW_16 = ("F8_", "F4", "F6_")
_STORED_INTEGERS = ("I8", "U8", "I32", "U32", "I16", "U16", "I64", "U64")


@dataclass(frozen=True)
class Group:
    """The tensors of one weight, by their part, such as {"weight": ..., "weight_scale": ...}."""

    name: str
    convention: str
    parts: Mapping[str, str]
    module: str = ""
    problem: str | None = None


@dataclass
class _Found:
    modules: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    fused: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def add(self, where: dict[str, dict[str, str]], owner: str, part: str, name: str) -> None:
        where.setdefault(owner, {})[part] = name


def grouped(tensors: Mapping[str, Tensor], config: QuantConfig) -> list[Group]:
    """Every tensor in exactly one group, in the order of the files."""
    found = _collected(tensors)
    made: dict[str, Group] = {}
    taken: set[str] = set()
    for owners, is_fused in ((found.modules, False), (found.fused, True)):
        for owner, parts in owners.items():
            convention, problem = _convention(parts, tensors, config)
            if convention == "plain":
                continue
            name = owner if is_fused or not owner else f"{owner}.weight"
            group = Group(name, convention, _relevant(convention, parts), owner, problem)
            taken.update(group.parts.values())
            made[next(iter(group.parts.values()))] = group
    low = {group.module for group in made.values()}
    result: list[Group] = []
    for name in tensors:
        if name in made:
            result.append(made[name])
        elif name not in taken:
            result.append(Group(name, "plain", {"weight": name}, problem=_alone(tensors[name], low)))
    return result


def _collected(tensors: Mapping[str, Tensor]) -> _Found:
    found = _Found()
    for name in tensors:
        owner, _, last = name.rpartition(".")
        of_weight = _OF_WEIGHT.match(name)
        if of_weight is not None:
            found.add(found.modules, of_weight[1], of_weight[2], name)
        elif last in _OF_MODULE:
            found.add(found.modules, owner, last, name)
        else:
            for end, part in _FUSED:
                base = name.removesuffix(end)
                if base != name and (part in ("blocks", "scales") or base in tensors) and not _ACTIVATION.search(name):
                    found.add(found.fused, base, part, name)
                    break
    for base, parts in found.fused.items():
        if base in tensors and "blocks" not in parts:
            parts["weight"] = base
    return found


def _relevant(convention: str, parts: Mapping[str, str]) -> dict[str, str]:
    """The parts, the elements first."""
    first = next((p for p in ("weight", "qweight", "weight_packed", "blocks") if p in parts), None)
    order = sorted(parts, key=lambda part: (part != first, part))
    return {part: parts[part] for part in order if not (convention == "gpt_oss" and part not in ("blocks", "scales"))}


def _convention(parts: Mapping[str, str], tensors: Mapping[str, Tensor], config: QuantConfig) -> tuple[str, str | None]:
    """(convention, problem) of the tensors of one owner."""
    has = parts.keys()
    dtype = tensors[parts["weight"]].dtype if "weight" in parts else ""
    low = dtype.startswith(_FLOATS_BELOW_16) or dtype in _STORED_INTEGERS
    if "qweight" in has:
        return _gptq_or_awq(parts, tensors, config), None
    if "blocks" in has:
        return "gpt_oss", None if "scales" in has else f"{parts['blocks']} has no {_with(parts['blocks'])}"
    if "weight_packed" in has:
        missing = None if "weight_scale" in has else f"{parts['weight_packed']} has no weight_scale"
        return "compressed_tensors", missing
    if has & {"absmax", "quant_map", "SCB"}:
        return "bitsandbytes", None
    if "weight_scale_inv" in has or ("scale" in has and low):
        return "deepseek_v3", _lacks_weight(parts)
    if "weight_scale" in has:
        both = config.method == "compressed-tensors"
        return "compressed_tensors" if both else "modelopt", _lacks_weight(parts)
    unused = has & _NEEDS_ANOTHER
    if unused:
        return "unknown", f"{parts[min(unused)]} is used by no weight: its weight or weight_scale is missing"
    if has == {"scales"} and tensors[parts["scales"]].dtype in ("U8", "F8_E8M0"):
        return "unknown", f"{parts['scales']} is used by no weight: there are no blocks beside it"
    if low and "scales" in has:
        return "unknown", f"{parts['weight']} is {dtype} beside {parts['scales']}: MLX's packing, or one not known here"
    if low:
        return "unknown", _unscaled(tensors[parts["weight"]])
    return "plain", None


def _unscaled(tensor: Tensor) -> str:
    return (
        f"{tensor.name} is {tensor.dtype} and has no scale tensor (weight_scale, weight_scale_inv, ...): its values "
        "would be wrong by an unknown factor"
    )


def _with(blocks: str) -> str:
    return blocks.removesuffix("_blocks") + "_scales"


def _lacks_weight(parts: Mapping[str, str]) -> str | None:
    if "weight" in parts:
        return None
    return f"{next(iter(parts.values()))} is used by no weight: there is no weight beside it"


def _gptq_or_awq(parts: Mapping[str, str], tensors: Mapping[str, Tensor], config: QuantConfig) -> str:
    """GPTQ has as many columns in qweight as in scales, AWQ eight times fewer; the configuration need not say."""
    words, scales = tensors[parts["qweight"]].shape, tensors[parts["scales"]].shape if "scales" in parts else ()
    if len(words) == 2 and len(scales) == 2:
        if words[1] == scales[1]:
            return "gptq"
        if words[1] * 8 == scales[1]:
            return "awq"
    return config.method if config.method in ("gptq", "awq") else "gptq"


def _alone(tensor: Tensor, low: set[str]) -> str | None:
    """What is wrong with a tensor that is alone: a scale that nobody would apply, or codes that have none."""
    owner, _, last = tensor.name.rpartition(".")
    if tensor.dtype.startswith(_FLOATS_BELOW_16) and not _ACTIVATION.search(tensor.name):
        return _unscaled(tensor)
    if _ACTIVATION.search(tensor.name) or not _SCALE.search(last):
        return None
    fused = {f"{owner}.{last[: found.start()].rstrip('_')}" for found in _SCALE.finditer(last)}
    if ({owner, owner.removesuffix(".weight")} | fused) & low or last in _WITHOUT_DOUBT:
        return f"{tensor.name} is a scale that no known convention has beside this weight, so nobody would apply it"
    return None
