"""All float32 inputs of the FP8 casts: a sample in every run, all 2**32 in `make exhaustive`."""

from __future__ import annotations

import pytest

from benchmarks import exhaustive
from tests.optional import MODULES, need


def differences(library: str, name: str, log2: int) -> int:
    need(library)
    return exhaustive.differences(library, None, name, log2)


@pytest.mark.parametrize("name", exhaustive.FORMATS)
@pytest.mark.parametrize("library", MODULES)
def test_a_sample_of_float32(library: str, name: str) -> None:
    assert differences(library, name, 20) == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", exhaustive.FORMATS)
@pytest.mark.parametrize("library", MODULES)
def test_all_float32(library: str, name: str) -> None:
    assert differences(library, name, 32) == 0
