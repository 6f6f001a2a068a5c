"""`breccia conform`: what it runs, prints and saves, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from breccia.cli import conform as command
from breccia.cli.main import app
from breccia.target import find
from breccia.testing import load_table

ONE = ("--recipe", "float8_row", "--shape", "3x40x8")


def printed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["conform", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_it_counts_and_saves(tmp_path: Path) -> None:
    text = printed("numpy", *ONE, "--epilogue", "bias", "--place", "a laptop", "--output", str(tmp_path / "t.json"))
    table = load_table(tmp_path / "t.json")
    assert table.passed
    assert table.place == "a laptop"
    assert {(row.program.recipe, row.program.shape) for row in table.rows} == {("float8_row", (3, 40, 8))}
    assert table.summary() in text
    assert "dequantize " not in text


def test_every_row_is_printed_where_it_is_asked_for() -> None:
    assert "\ndequantize   float8_row" in printed("numpy", *ONE, "--rows")


def test_a_target_that_cannot_run_here_does_not_pass() -> None:
    text = printed("metal:apple", *ONE, code=1)
    assert "0 of " in text
    assert "nothing could run here, so nothing has passed" in text


def test_a_claim_that_fails_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = find("numpy")
    broken = type(numpy)(
        "numpy", "1", numpy.rows, emitter=lambda m: numpy.emit(m).replace("xp.matmul(", "2 * xp.matmul("),
        launcher=numpy.launcher, arrays=numpy.arrays,
    )  # fmt: skip
    monkeypatch.setattr(command, "find", lambda name: broken)
    text = printed("numpy", *ONE, code=1)
    assert "claims do not hold" in text
    assert "FAILED" in text
    assert "coarse inputs" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cuda",), "unknown target 'cuda'"),
        (("numpy", "--recipe", "fp7"), "unknown recipe 'fp7'"),
        (("numpy", "--shape", "5x5"), "'5x5' is no shape; give the sizes M, K and N of a product, such as 5x160x24"),
        (("numpy", "--epilogue", "gelu"), "unknown epilogue 'gelu'; known: none, bias, quantize"),
    ],
)
def test_what_is_unknown_is_an_error(arguments: tuple[str, ...], message: str) -> None:
    assert message in printed(*arguments, code=2)
