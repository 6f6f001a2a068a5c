"""The code in README.md and docs/ runs, and the generated tables are current.

Blocks fenced as `python` are run, those of one file in one namespace, top to bottom; `py` marks an illustration.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from breccia.recipes import all_recipes, find
from tests.optional import skipped_without_frameworks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """The line number and the code of each block to run."""
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in _BLOCK.finditer(text)]


def run_blocks(file: Path) -> dict[str, object]:
    """Run the blocks of `file` in one namespace, which is returned; errors show the file's own lines."""
    namespace: dict[str, object] = {"__name__": "__readme__"}
    for lines_before, code in python_blocks(file.read_text(encoding="utf-8")):
        exec(compile("\n" * lines_before + code, str(file), "exec"), namespace)
    return namespace


WITH_CODE = {
    page.relative_to(ROOT).as_posix(): page for page in PAGES if python_blocks(page.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", WITH_CODE)
def test_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with skipped_without_frameworks():
        run_blocks(WITH_CODE[name])


def test_the_readme_has_code_to_run() -> None:
    assert len(python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))) >= 2


def test_blocks_share_a_namespace_and_show_the_line_that_failed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# x\n```python\na = 1\n```\n```py\nnever run\n```\n```python\nb = a + 1\n```\n", encoding="utf-8")
    assert run_blocks(page)["b"] == 2
    page.write_text("# x\n\n```python\na = 1\n1 / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as error:
        run_blocks(page)
    assert (error.traceback[-1].path, error.traceback[-1].lineno) == (page, 4)  # counted from 0


# --- generated tables ---


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_tables", ROOT / "docs" / "generate_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_current(tables: ModuleType) -> None:
    for file in tables.FILES:
        text = file.read_text(encoding="utf-8")
        assert "<!-- begin " in text
        assert tables.with_tables(text) == text, f"{file.name} is out of date; run python docs/generate_tables.py"


def test_every_recipe_has_a_row_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in all_recipes() if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(
    ("name", "bits"),
    [("nvfp4", 4.5), ("mxfp8_e4m3", 8.25), ("int4_g128_f16", 4.125), ("uint4_g32_f16", 4.75), ("float8_tensor", 8.0)],
)
def test_bits_per_value(tables: ModuleType, name: str, bits: float) -> None:
    assert tables.bits_per_value(find(name)) == bits


def test_an_unknown_table_is_refused(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="no table is called 'x'; known: recipes"):
        tables.with_tables("<!-- begin x --><!-- end x -->")
