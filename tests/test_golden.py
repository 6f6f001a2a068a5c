"""The golden fixture itself: it must fail on a difference, and on a missing file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import compare_golden

SUITE = """
def test_text(golden): golden({text!r})
def test_named(golden): golden("second", "chosen.py")
def test_other(): raise RuntimeError("runs without --update-golden alone")
"""


def test_equal_text_passes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n", encoding="utf-8")
    compare_golden("one\ntwo\n", file, update=False)
    compare_golden("one\ntwo", file, update=False)  # a last line break is added


def test_a_difference_fails_with_a_diff(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)run `make golden`.*-two\n\+2"):
        compare_golden("one\n2\n", file, update=False)
    assert file.read_text(encoding="utf-8") == "one\ntwo\n"


def test_a_missing_file_fails_and_update_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    with pytest.raises(pytest.fail.Exception, match=r"no golden file a\.txt"):
        compare_golden("one", file, update=False)
    assert not file.exists()
    compare_golden("one", file, update=True)
    assert file.read_text(encoding="utf-8") == "one\n"


@pytest.mark.filterwarnings("default")
def test_the_fixture_finds_its_file_by_the_test(pytester: pytest.Pytester) -> None:
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_it=SUITE.format(text="first"))
    run = pytester.runpytest_inprocess
    run("-p", "no:cacheprovider").assert_outcomes(failed=3)
    run("--update-golden").assert_outcomes(passed=2, deselected=1)
    folder = pytester.path / "golden" / "test_it"
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "test_text.txt": "first\n",
        "chosen.py": "second\n",
    }
    run().assert_outcomes(passed=2, failed=1)
    pytester.makepyfile(test_it=SUITE.format(text="changed"))
    run().assert_outcomes(passed=1, failed=2)
