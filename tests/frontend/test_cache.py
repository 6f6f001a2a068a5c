"""The disk cache: hits without xDSL, misses, corrupt entries, and folders that cannot or must not be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import breccia
from breccia.frontend import cache
from breccia.frontend.cache import CacheError, CacheWarning

X = np.ones((3, 8), np.float32)

SCRIPT = """
import sys
import numpy as np
import breccia
from breccia import recipes

RECIPE = recipes.mxfp8_e4m3
BIAS = np.arange(32, dtype=np.float32)

def helper(x):
    return breccia.silu(x) * 1.0

def make(k):
    @breccia.compile
    def f(x, w):
        y = helper(breccia.matmul(breccia.cast(x, RECIPE), w)) * k + BIAS
        return {"y": y, "q": breccia.cast(y, RECIPE)}
    return f

rng = np.random.default_rng(0)
w = breccia.cast(rng.standard_normal((64, 32), np.float32), RECIPE, axis=0)
x = rng.standard_normal((5, 64), np.float32)
out = make(2.0)(x, w)
more = make(2.0)(x[:2], w)
eager = breccia.matmul(x, w)
loaded = sorted({m.partition(".")[0] for m in sys.modules} & {"xdsl", "networkx"})
print(loaded, float(out["y"].sum()), out["q"].shape, out["q"] == breccia.cast(out["y"], RECIPE), more["q"].shape)
"""


def run_script(folder: Path, *changes: tuple[str, str], **environment: str) -> str:
    """Run the script, with some of its text replaced, in a process of its own; give what it printed."""
    text = SCRIPT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    env = {**os.environ, "BRECCIA_CACHE_DIR": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache folder that one process has filled, and what that process printed."""
    folder = tmp_path_factory.mktemp("first") / "cache"
    return folder, run_script(folder)


@pytest.fixture
def cold(first: tuple[Path, str], cache_folder: Path) -> str:
    """What the process printed that filled this test's cache folder."""
    shutil.copytree(first[0], cache_folder)
    return first[1]


def test_a_warm_process_imports_no_xdsl_and_gives_the_same(cold: str, cache_folder: Path) -> None:
    warm = run_script(cache_folder)
    assert cold.startswith("['xdsl'] ")
    assert warm.startswith("[] ")
    assert cold.removeprefix("['xdsl'] ") == warm.removeprefix("[] ")
    assert "(5, 32) True (2, 32)" in warm


@pytest.mark.parametrize(
    "change",
    [
        ("* 1.0", "* 3.0"),
        ("make(2.0)", "make(4.0)"),
        ("RECIPE = recipes.mxfp8_e4m3", "RECIPE = recipes.mxfp8_e5m2"),
        ("BIAS = np.arange(32,", "BIAS = 2 * np.arange(32,"),
        ("import breccia\n", "import breccia\nfrom breccia import _version\n_version.__version__ = '9'\n"),
    ],
    ids=["helper", "closure", "recipe", "array", "version"],
)
def test_what_changes_the_code_misses(cold: str, cache_folder: Path, change: tuple[str, str]) -> None:
    changed = run_script(cache_folder, change)
    assert changed.startswith("['xdsl'] ")
    assert (changed.split()[1] == cold.split()[1]) == ("version" in change[1])


def test_the_cache_can_be_turned_off(cold: str, cache_folder: Path) -> None:
    before = sorted(cache_folder.iterdir())
    assert run_script(cache_folder, BRECCIA_CACHE="0").startswith("['xdsl'] ")
    assert sorted(cache_folder.iterdir()) == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "garbage": lambda data: b"garbage\n{}",
    "cut": lambda data: data[: len(data) // 2],
    "changed": lambda data: data.replace(b"return", b"retunr").replace(b"entry", b"enrty"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_entries_are_compiled_again(cold: str, cache_folder: Path, name: str) -> None:
    for file in cache_folder.iterdir():
        file.write_bytes(DAMAGE[name](file.read_bytes()))
    assert run_script(cache_folder) == cold


def test_a_damaged_entry_is_written_anew(cold: str, cache_folder: Path) -> None:
    for file in cache_folder.iterdir():
        file.write_bytes(b"")
    assert run_script(cache_folder) == cold
    assert run_script(cache_folder).startswith("[] ")


def test_entries_do_not_stand_for_one_another(cache_folder: Path) -> None:
    cache.write("code-a", {"source": "1"})
    (cache_folder / "code-b").write_bytes((cache_folder / "code-a").read_bytes())
    assert cache.read("code-a") == {"source": "1"}
    assert cache.read("code-b") is None
    assert cache.read("code-c") is None


def test_a_folder_with_too_many_entries_loses_the_oldest(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 4)
    cache_folder.mkdir()
    for i in range(6):
        (cache_folder / f"code-{i}").write_text("")
        os.utime(cache_folder / f"code-{i}", (i, i))
    cache.write("code-new", {})
    assert sorted(file.name for file in cache_folder.iterdir()) == ["code-4", "code-5", "code-new"]


def test_nothing_is_left_behind_by_a_failed_write(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    cache._warn_once.cache_clear()
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.warns(CacheWarning, match="No space left on device"):
        cache.write("code-a", {})
    assert list(cache_folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_warns_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    cache._warn_once.cache_clear()
    with pytest.warns(CacheWarning, match="compiled code lives in memory only") as caught:  # noqa: PT031 - two calls, one warning
        np.testing.assert_array_equal(breccia.compile(lambda x: x + 1)(X), X + 1)
        np.testing.assert_array_equal(breccia.compile(lambda x: x + 2)(X), X + 2)
    assert len(caught) == 1


def test_a_folder_that_everybody_can_write_is_refused(cache_folder: Path) -> None:
    cache_folder.mkdir()
    cache_folder.chmod(0o777)
    with pytest.raises(CacheError, match=r"everybody can write to the cache folder .* chmod o-w"):
        breccia.compile(lambda x: x + 1)(X)


def test_a_folder_of_another_user_is_refused(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: cache_folder.stat().st_uid + 1)
    with pytest.raises(CacheError, match=r"belongs to user .* set BRECCIA_CACHE_DIR"):
        breccia.compile(lambda x: x + 1)(X)


def test_new_folders_are_the_users_alone(cache_folder: Path) -> None:
    breccia.compile(lambda x: x + 1)(X)
    assert cache_folder.stat().st_mode & 0o077 == 0
    assert {file.name.partition("-")[0] for file in cache_folder.iterdir()} == {"code", "plan"}


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "breccia"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.default_folder() == Path.home() / ".cache" / "breccia"


def test_the_same_code_is_stored_once_for_functions_with_one_text(cache_folder: Path) -> None:
    breccia.compile(lambda x: x * 2 + 1)(X)
    breccia.compile(lambda y: y * 2 + 1)(X[:, :8])
    breccia.compile(lambda x: x * 2 + 1)(X.astype(np.float16))
    assert len(list(cache_folder.glob("code-*"))) == 3  # the second has another argument name


def test_what_has_no_fingerprint_is_found_by_its_text(cache_folder: Path) -> None:
    class Model:
        k = 2.0

        def forward(self, x: np.ndarray) -> np.ndarray:
            return x * self.k

    breccia.compile(Model().forward)(X)
    assert [f.name.partition("-")[0] for f in cache_folder.iterdir()] == ["code"]
    entry = next(iter(cache_folder.iterdir()))
    before = entry.stat().st_mtime_ns
    breccia.compile(Model().forward)(X)
    assert entry.stat().st_mtime_ns == before


def test_no_warning_in_ordinary_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        breccia.compile(lambda x: x + 1)(X)
