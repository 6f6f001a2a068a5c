"""Source becomes a function; what goes wrong in it shows the line."""

from __future__ import annotations

import inspect
import linecache
import traceback

import numpy as np
import pytest

from breccia.errors import FormatError
from breccia.targets.numpy.emit import HEADER
from breccia.targets.numpy.launch import launch

SOURCE = (
    HEADER
    + '''

@runtime.quiet
def double(x, *, xp=np, rt=runtime):
    """double(x: [M] f32) -> [M] f32"""
    y = x + x.no_such_attribute
    return y
'''
)


def test_a_traceback_shows_the_emitted_line() -> None:
    with pytest.raises(AttributeError) as caught:
        launch(SOURCE, "double")(np.float32([1.0]))
    text = "".join(traceback.format_exception(caught.value))
    assert "y = x + x.no_such_attribute" in text
    linecache.checkcache()
    assert "no_such_attribute" in inspect.getsource(launch(SOURCE, "double"))


def test_the_same_source_is_compiled_once() -> None:
    assert launch(SOURCE, "double") is launch(str(SOURCE), "double")


def test_a_missing_function_is_named() -> None:
    with pytest.raises(FormatError, match="defines no function 'triple'; it defines double"):
        launch(SOURCE, "triple")
