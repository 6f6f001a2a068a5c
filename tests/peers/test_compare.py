"""The comparison itself: it must find what is planted, and every record must be of a case."""

from __future__ import annotations

import importlib
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from breccia import recipes
from breccia.tensor import cast_array
from tests.peers.compare import ROOT, Case, Parts, check, differences, parts, same
from tests.peers.inputs import DTYPES, KINDS, given

MODULES = sorted(path.stem for path in (ROOT / "tests" / "peers").glob("test_*.py") if path.stem != "test_compare")


def honest(x: np.ndarray) -> Parts:
    return parts(cast_array(x, recipes.nvfp4))


def one_code_wrong(x: np.ndarray) -> Parts:
    made = honest(x)
    made["elements"][3, 5] ^= 1
    return made


def case(peer: Any, differs: dict[str, str]) -> Case:
    return Case("toy", "toy", recipes.nvfp4, peer, differs, ("float32",), ("normal", "zeros"))


def test_equal_parts_are_counted_as_equal() -> None:
    records: list[str] = []
    check(case(honest, {}), "toy 1", lambda text, name: records.append(text))
    assert json.loads(records[0])["differences"]["zeros"] == {
        "float32": "0 of 4096 scales, 0 of 1 outer scales, 0 of 65536 elements"
    }


def test_one_wrong_code_is_counted_and_must_be_explained() -> None:
    with pytest.raises(AssertionError, match=r"differs on \['normal', 'zeros'\], said to on \[\]"):
        check(case(one_code_wrong, {}), "toy 1", lambda text, name: None)
    found = differences(case(one_code_wrong, {}), given("normal", "float32"))
    assert found == [("scales", 0, 4096), ("outer scales", 0, 1), ("elements", 1, 65536)]


def test_a_difference_that_is_gone_must_be_struck_off() -> None:
    with pytest.raises(AssertionError, match=r"differs on \[\], said to on \['zeros'\]"):
        check(case(honest, {"zeros": "it did once"}), "toy 1", lambda text, name: None)


def test_elements_count_again_where_a_nan_scale_is_on_one_side_alone() -> None:
    def with_finite_scales(x: np.ndarray) -> Parts:
        made = honest(x)
        made["scales"][made["scales"] == 0x7F] = 0
        made["elements"] ^= 1
        return made

    x = given("nan", "float32")
    counts = {name: n for name, n, _ in differences(case(with_finite_scales, {}), x)}
    bad = int(np.isnan(x).reshape(256, 16, 16).any(-1).sum())
    assert counts == {"scales": bad, "outer scales": 0, "elements": 65536}


def test_zeros_of_both_signs_are_two_and_nan_is_one() -> None:
    a, b = np.float32([0.0, np.nan, 1.0]), np.float32([-0.0, -np.nan, 1.0])
    assert same(a, b).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_hold_what_they_are_named_for(kind: str, dtype: str) -> None:
    x = given(kind, dtype).astype(np.float32)
    if kind == "subnormal":
        assert np.abs(x).max() <= float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
        assert np.count_nonzero(x) > x.size / 2
    elif kind == "huge":
        assert np.abs(x).max() == float(ml_dtypes.finfo(DTYPES[dtype]).max)
        assert np.isfinite(x).all()
    elif kind == "zeros":
        assert (np.signbit(x) & (x == 0)).any()
        assert not x[200].any()
    elif kind in ("nan", "inf"):
        blocks = (~np.isfinite(x)).reshape(256, 16, 16).any(-1)
        assert 0 < blocks.sum() < blocks.size / 10
    else:
        assert np.isfinite(x).all()
        assert x.any() == (kind != "nothing")


@pytest.mark.parametrize("name", MODULES)
def test_every_record_is_of_a_case(name: str) -> None:
    cases = {f"{case.name}.json" for case in importlib.import_module(f"tests.peers.{name}").CASES}
    assert {path.name for path in (ROOT / "tests" / "golden" / "peers" / name).iterdir()} == cases
