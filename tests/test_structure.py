"""The repository's own rules, as tests: each replaces a page of policy."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from breccia.recipes import all_recipes
from tests.optional import FRAMEWORKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "breccia"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
EDGES = (
    "arrays/torch.py",
    "arrays/torch_encode.py",
    "arrays/torch_quantize.py",
    "arrays/jax.py",
    "arrays/jax_blocks.py",
    "arrays/jax_tiles.py",
    "arrays/mlx.py",
    "arrays/*_trace.py",
    "arrays/namespaces/*.py",
    "targets/*/launch.py",
    "targets/pallas/tiles.py",
    "targets/triton/_descriptors.py",
    "targets/triton/hopper.py",
    "targets/triton/timing.py",
    "targets/triton/worker.py",
    "bridges/*.py",
    "integrations/**/*.py",
)
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.}-])/(?:work|root|tmp|home/\w+|Users/\w+)/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=file.name)


def shown(file: Path, node: ast.AST | None = None) -> str:
    line = f":{getattr(node, 'lineno', 0)}" if node is not None else ""
    return file.relative_to(ROOT).as_posix() + line


def found(rule: Callable[[ast.Module], Iterator[ast.AST]]) -> list[str]:
    """Where `rule` finds something in breccia/, as `file:line`."""
    return [shown(file, node) for file in SOURCES for node in rule(tree_of(file))]


def is_edge(file: Path) -> bool:
    """True for the files that may import a framework."""
    return any(file.match(f"breccia/{pattern}") for pattern in EDGES) or (PACKAGE / "integrations") in file.parents


# --- size and shape ---


def test_files_are_short() -> None:
    lengths = {shown(file): len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{shown(file, node)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in SOURCES
        for node in ast.walk(tree_of(file))
        if isinstance(node, Function)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_every_module_has_a_docstring() -> None:
    assert [shown(file) for file in SOURCES if not ast.get_docstring(tree_of(file))] == []


# --- what goes with what ---


def test_every_pass_has_a_filecheck_file() -> None:
    missing: list[str] = []
    for file in (PACKAGE / "passes").glob("[!_]*.py"):
        folder = ROOT / "tests" / "filecheck" / "passes"
        if not any((folder / f"{name}.mlir").is_file() for name in (file.stem, file.stem.replace("_", "-"))):
            missing.append(shown(file))
    assert missing == []


def test_every_target_has_its_four_files() -> None:
    """Two of them in a target that only lowers: then it says so by having no emitter."""
    from breccia.target import built_in, find, names

    emits = {name.partition(":")[0] for name in names() if find(name).emits}
    both = ("__init__.py", "schedule.py")
    wanted = {name: (*both, "emit.py", "launch.py") if name in emits else both for name in built_in()}
    folders = {name: PACKAGE / "targets" / name for name in wanted}
    missing = [
        shown(folders[n] / file) for n, files in wanted.items() for file in files if not (folders[n] / file).is_file()
    ]
    assert missing == []


def test_every_folder_of_golden_files_belongs_to_a_test() -> None:
    folders = {file.parent for file in (ROOT / "tests" / "golden").rglob("*") if file.is_file()}
    modules = {folder: ROOT / "tests" / folder.relative_to(ROOT / "tests" / "golden") for folder in folders}
    assert [shown(folder) for folder, module in modules.items() if not module.with_suffix(".py").is_file()] == []


# --- what code may not do ---


def frameworks_imported(tree: ast.Module) -> Iterator[ast.AST]:
    """Imports of a framework, also inside functions and under TYPE_CHECKING, and by `import_module("torch")`."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
        if any(name.partition(".")[0] in FRAMEWORKS for name in names):
            yield node


def test_frameworks_are_imported_only_at_the_edges() -> None:
    inside = [file for file in SOURCES if not is_edge(file)]
    assert [shown(file, node) for file in inside for node in frameworks_imported(tree_of(file))] == []


def decided_by_recipe_name(tree: ast.Module) -> Iterator[ast.AST]:
    """Comparisons, look-ups, matches and string tests on the name of a recipe."""

    def is_name(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "name" and "recipe" in ast.unparse(node.value).lower()

    names = set(all_recipes())
    for node in ast.walk(tree):
        operands: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            if any(
                isinstance(part, ast.Constant) and part.value in names for each in operands for part in ast.walk(each)
            ):
                yield node
                continue
        elif isinstance(node, ast.Subscript):
            operands = [node.slice]
        elif isinstance(node, ast.Match):
            operands = [node.subject]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func.attr
            operands = [node.func.value] if called.startswith(("startswith", "endswith", "find", "split")) else []
            operands += node.args if called == "get" else []
        if any(is_name(operand) for operand in operands):
            yield node


def test_nothing_branches_on_the_name_of_a_recipe() -> None:
    outside = [file for file in SOURCES if file != PACKAGE / "recipes.py"]
    assert [shown(file, node) for file in outside for node in decided_by_recipe_name(tree_of(file))] == []


def asserts_without_message(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Assert) and node.msg is None)


def test_asserts_have_messages() -> None:
    assert found(asserts_without_message) == []


def raises_without_message(tree: ast.Module) -> Iterator[ast.AST]:
    """`raise SomeError` and `raise SomeError()`; a bare `raise` passes on what there is.

    `raise NotImplementedError` is what an abstract method says; nobody sees it.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        called = isinstance(node.exc, ast.Call)
        name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc).rpartition(".")[2]
        empty = called and isinstance(node.exc, ast.Call) and not node.exc.args and not node.exc.keywords
        if name.endswith(("Error", "Exception")) and name != "NotImplementedError" and (empty or not called):
            yield node


def test_errors_have_messages() -> None:
    assert found(raises_without_message) == []


# --- the repository ---


def files_of_the_repository() -> list[Path]:
    """Files that git tracks, or would; all files where this is no git checkout."""
    if not (ROOT / ".git").exists():
        return [
            file for folder in ("breccia", "tests", "docs") for file in (ROOT / folder).rglob("*") if file.is_file()
        ]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [file for name in listed.split("\0") if name and (file := ROOT / name).is_file()]


def test_every_command_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE)) - {"help", "clean"}
    assert len(commands) == 8
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [command for command in sorted(commands) if f"| `make {command}` |" not in guide] == []


def test_no_file_names_a_path_of_one_machine() -> None:
    hits: list[str] = []
    for file in files_of_the_repository():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if PATH_OF_A_MACHINE.search(line):
                hits.append(f"{shown(file)}:{number}: {line.strip()[:80]}")
    assert hits == []


# --- the rules themselves ---


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (frameworks_imported, "def f():\n    import torch.nn"),
        (frameworks_imported, "from jax import numpy"),
        (frameworks_imported, "importlib.import_module('mlx.core')"),
        (decided_by_recipe_name, "if recipe.name == 'mine': pass"),
        (decided_by_recipe_name, "x = kind == 'nvfp4'"),
        (decided_by_recipe_name, "x = kind in ('a', 'mxfp4')"),
        (decided_by_recipe_name, "x = table[q.recipe.name]"),
        (decided_by_recipe_name, "x = table.get(recipe.name)"),
        (decided_by_recipe_name, "x = self.recipe.name.startswith('mx')"),
        (decided_by_recipe_name, "match recipe.name:\n    case _: pass"),
        (asserts_without_message, "assert x"),
        (raises_without_message, "raise ValueError"),
        (raises_without_message, "raise errors.ShapeError()"),
    ],
)
def test_rules_find_what_they_forbid(rule: Callable[[ast.Module], Iterator[ast.AST]], text: str) -> None:
    assert len(list(rule(ast.parse(text)))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (frameworks_imported, "import torchlike, numpy"),
        (decided_by_recipe_name, "print(recipe.name, op.name == 'quantize')"),
        (asserts_without_message, "assert x, 'why'"),
        (raises_without_message, "raise"),
        (raises_without_message, "raise error from None"),
        (raises_without_message, "raise NotImplementedError"),
        (raises_without_message, "raise ShapeError('what')"),
    ],
)
def test_rules_allow_the_rest(rule: Callable[[ast.Module], Iterator[ast.AST]], text: str) -> None:
    assert list(rule(ast.parse(text))) == []


def test_the_edges_are_few() -> None:
    assert is_edge(PACKAGE / "targets" / "triton" / "launch.py")
    assert is_edge(PACKAGE / "integrations" / "torch" / "nn.py")
    assert not is_edge(PACKAGE / "targets" / "triton" / "emit.py")
    assert not is_edge(PACKAGE / "arrays" / "numpy.py")
