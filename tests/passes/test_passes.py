"""Passes are found by file name, and the pipeline is put together from names."""

from __future__ import annotations

import pytest

from breccia.errors import PassError
from breccia.passes import LAID_OUT, TILED, TRACED, default_pipeline, find, pass_names, pipeline_names
from tests.passes.examples import UPPER, capabilities


def test_upper_passes_are_found() -> None:
    assert set(UPPER) <= set(pass_names())
    for name in UPPER:
        assert find(name).name == name


def test_contracts() -> None:
    assert {n: find(n).contract for n in UPPER} == dict.fromkeys(UPPER, "exact") | {
        "place-scales": "reassociates", "fold-exponents": "reassociates", "fold-exponents-bounded": "changes_value",
    }  # fmt: skip


def test_unknown_pass() -> None:
    with pytest.raises(PassError, match=r"unknown pass 'plcae-scales'; known passes: .*place-scales"):
        find("plcae-scales")


def test_order_for_whole_arrays_and_for_tiles() -> None:
    numpy, triton = capabilities("numpy"), capabilities("triton:sm_90")
    assert pipeline_names(numpy) == (*TRACED, *LAID_OUT, *TILED, "coarsen")
    tiles = ("split-decode", "swap-operands", "legalize-windows", "insert-masks")
    assert pipeline_names(triton) == (*TRACED, *LAID_OUT, *TILED, *tiles)


def test_default_pipeline_holds_passes_in_order() -> None:
    numpy = capabilities("numpy")
    missing = [n for n in pipeline_names(numpy) if n not in pass_names()]
    if missing:
        with pytest.raises(PassError, match=missing[0]):
            default_pipeline(numpy)
    else:
        assert [p.name for p in default_pipeline(numpy)] == list(pipeline_names(numpy))


def test_every_pass_states_its_purpose_and_shows_ir() -> None:
    from importlib import import_module

    for name in UPPER:
        doc = import_module(f"breccia.passes.{name.replace('-', '_')}").__doc__ or ""
        first = doc.splitlines()[0]
        assert f"Contract: {find(name).contract}." in first, name
        assert "%" in doc, name
        assert "->" in doc, name
