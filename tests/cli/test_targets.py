"""`breccia targets`: every target, whether it runs here, and all that one can do."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from breccia.cli.main import app
from breccia.ir.capabilities import Capabilities
from breccia.target import find, names
from tests.test_target import GOOD, announce


def printed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["targets", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_every_target_has_a_row() -> None:
    rows = {line.split()[0]: line.split() for line in printed().splitlines() if line}
    for name in names():
        target = find(name)
        assert rows[name][1:4] == ["breccia", *("yes" if x else "no" for x in (target.emits, not target.unavailable))]


def test_it_says_why_a_target_does_not_run_here() -> None:
    text = printed()
    for reason in {find(name).unavailable for name in names()} - {""}:
        assert re.search(rf"^not here: .*: {re.escape(reason)}$", text, re.MULTILINE)
    assert all(name in text for name in names())


def test_all_capabilities_of_one() -> None:
    text = printed("triton:sm_100")
    assert [f.name for f in fields(Capabilities)[1:] if f"\n{f.name} " not in text] == []
    assert "f4E2M1FN * f4E2M1FN scale f8E4M3FN block 16" in text
    assert "1024" not in printed("numpy")


def test_plug_ins_are_listed_and_those_that_do_not_load_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    announce(tmp_path, "mine", GOOD.format(name="mine"))
    announce(tmp_path, "broken", "1 / 0")
    text = printed()
    assert re.search(r"^mine +breccia-mine +no +no ", text, re.MULTILINE)
    assert re.search(r"^skipped: .*'broken'.*ZeroDivisionError", text, re.MULTILINE)


def test_an_unknown_target_is_an_error() -> None:
    result = CliRunner().invoke(app, ["targets", "cuda"])
    assert result.exit_code == 2
    assert "unknown target 'cuda'; known targets: " in result.output
