"""What the whole suite shares: golden files, libraries taken away, and hypothesis' profile."""

from __future__ import annotations

import atexit
import difflib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# The machine may be busy, so no deadlines; in CI the same examples every time, so that a red run can be repeated.
hypothesis.settings.register_profile("breccia", deadline=None, print_blob=True, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("breccia")

# Compiled code is kept for this run alone: tests neither find what another version left, nor fill the user's cache.
os.environ["BRECCIA_CACHE_DIR"] = tempfile.mkdtemp(prefix="breccia-tests-")
atexit.register(shutil.rmtree, os.environ["BRECCIA_CACHE_DIR"], ignore_errors=True)

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"

CheckGolden = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing with them"
    )
    parser.addoption(
        "--without", action="append", default=[], metavar="LIBRARY",
        help="run as if LIBRARY (torch, jax or mlx) were not installed; may be given more than once",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Take libraries away before any test is collected: importing one then raises ModuleNotFoundError."""
    for name in _without(config):
        if name in sys.modules:
            raise pytest.UsageError(f"--without {name}: a plugin has imported it already")
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]


def pytest_report_header(config: pytest.Config) -> str:
    names = _without(config)
    return f"as if not installed: {', '.join(names)}" if names else ""


def _without(config: pytest.Config) -> list[str]:
    return config.getoption("--without") or []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --update-golden, run only the tests that have golden files."""
    if config.getoption("--update-golden"):
        others = [item for item in items if "golden" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> CheckGolden:
    """Compare text with a file under tests/golden/: `golden(text)`, or `golden(text, "gemm.py")` for a chosen name.

    The file lies at the path of the test module, and is named after the test unless told. A missing file fails;
    `pytest --update-golden` (or `make golden`) writes it.
    """
    path: Path = request.node.path
    folder = GOLDEN / path.relative_to(TESTS).with_suffix("")
    default = re.sub(r"[^\w.=+-]+", "-", request.node.name).strip("-") + ".txt"
    update = bool(request.config.getoption("--update-golden"))

    def check(text: str, name: str = default) -> None:
        __tracebackhide__ = True
        compare_golden(text, folder / name, update=update)

    return check


def compare_golden(text: str, file: Path, *, update: bool) -> None:
    """Fail with a unified diff unless `file` holds `text`; with `update`, write it."""
    __tracebackhide__ = True
    text = text if text.endswith("\n") else text + "\n"
    if update:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    if not file.exists():
        pytest.fail(f"no golden file {_shown(file)}; look at the text below, then run `make golden`\n\n{text}")
    expected = file.read_text(encoding="utf-8")
    if expected != text:
        diff = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), f"{_shown(file)} (golden)", "this run", lineterm="", n=4
        )
        pytest.fail("text differs from its golden file; if that is meant, run `make golden`\n\n" + "\n".join(diff))


def _shown(file: Path) -> str:
    return file.relative_to(TESTS.parent).as_posix() if file.is_relative_to(TESTS.parent) else file.name
