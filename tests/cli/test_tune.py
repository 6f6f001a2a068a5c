"""`breccia tune`: what it is asked for, what it writes and prints, and where it cannot work."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from rich.console import Console  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from breccia.cli import tune as command  # noqa: E402
from breccia.cli._tune_inputs import PRODUCTS, Input, InputError, cases, on_device, parse_input  # noqa: E402
from breccia.cli.main import app  # noqa: E402
from breccia.cli.tune import Options, Result, Row, run  # noqa: E402
from breccia.errors import RecipeError  # noqa: E402
from breccia.frontend.tables import read  # noqa: E402
from breccia.frontend.tuning import Bench, Job  # noqa: E402
from breccia.recipes import find  # noqa: E402
from breccia.tensor import ScaledTensor  # noqa: E402
from tests.frontend.tuning.device import DEVICE, pretend  # noqa: E402
from tests.frontend.tuning.fakes import FakeBench  # noqa: E402

ARCH = "sm_80"
SCRIPT = """
import numpy as np
import breccia

def double(x):
    return x + x

@breccia.compile
def scaled(x, factor=2.0):
    return x * factor

def broken(x):
    return undefined(x)

def inputs():
    return [(np.ones((8, 64), np.float32),), (np.ones((8, 128), np.float32),)]
"""


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRECCIA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "layers_to_tune.py"
    file.write_text(SCRIPT)
    return file


def by_warps(source: str) -> float:
    return 8.0 + sum(int(n) for n in re.findall(r"num_warps=(\d+)", source))


def tuned(monkeypatch: pytest.MonkeyPatch, options: Options, **bench: Any) -> tuple[Result, str]:
    """What the command gives and prints on a made-up device."""
    pretend(monkeypatch, ARCH)
    made: list[FakeBench] = []

    def make(_: Job) -> Bench:
        made.append(FakeBench(by_warps, **bench))
        return made[-1]

    out = io.StringIO()
    result = run(options, Console(file=out, width=200), device=("cpu", ARCH), make_bench=make)
    return result, out.getvalue()


# --- what is asked for ---


def test_inputs_are_read() -> None:
    assert parse_input("x=bf16[4096, 7168]") == Input("x", "bf16", (4096, 7168))
    one = parse_input("w=f32[512,256]:float8_128x128@0")
    assert (one.shape, one.recipe, one.axis) == ((512, 256), find("float8_128x128"), 0)
    assert parse_input("n=i32[]").shape == ()


@pytest.mark.parametrize("text", ["x", "x=bf16", "x=bf16[3]]", "x=bf16[a]", "x=f8[3]", "=f32[3]"])
def test_inputs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--input"):
        parse_input(text)
    with pytest.raises(RecipeError):
        parse_input("x=bf16[32]:none")


def test_inputs_are_made_on_the_device() -> None:
    place = on_device("cpu")
    plain = parse_input("x=bf16[4,32]").make(place, 0)
    assert (plain.dtype, tuple(plain.shape), 0.5 < float(plain.float().std()) < 2) == (torch.bfloat16, (4, 32), True)
    encoded = parse_input("x=f32[4,32]:mxfp8_e4m3").make(place, 0)
    assert isinstance(encoded, ScaledTensor)
    assert (encoded.library, encoded.shape) == ("torch", (4, 32))
    assert parse_input("x=i64[3]").make(place, 0).tolist() == [0, 0, 0]


def test_the_list_of_products_is_the_issues() -> None:
    assert len(PRODUCTS) == len(set(PRODUCTS)) == 22
    assert {m for m, n, k in PRODUCTS if (n, k) == (2112, 7168)} == {64, 128, 4096}
    named = [case.name for case in cases("hopper", (), on_device("cpu"))]
    assert {"4096x28672x8192", "16x8192x8192", "8192x8192x8192"} <= set(named)


def test_a_product_multiplies_by_the_transposed_weight() -> None:
    from breccia.cli._tune_inputs import product_case

    case = product_case((4, 128, 256), on_device("cpu"))
    a, w = case.arguments()
    assert (a.shape, w.shape) == ((4, 256), (128, 256))
    wanted = a.dequantize("float32") @ w.dequantize("float32").t()
    assert torch.allclose(case.function(a, w).float(), wanted, atol=0.5)


def test_a_files_own_inputs_are_moved(script: Path) -> None:
    one, two = cases(f"{script}:double", (), on_device("cpu"))
    assert [one.name, two.name] == ["double 0", "double 1"]
    (x,) = two.arguments()
    assert isinstance(x, torch.Tensor)
    assert tuple(x.shape) == (8, 128)


def test_inputs_go_by_the_names_of_parameters(script: Path) -> None:
    (case,) = cases(f"{script}:scaled", ("x=f32[2,32]",), on_device("cpu"))
    (x,) = case.arguments()
    assert tuple(x.shape) == (2, 32)
    (case,) = cases(f"{script}:double", ("y=f32[2,32]",), on_device("cpu"))
    with pytest.raises(InputError, match="gives y; the function takes x"):
        case.arguments()


@pytest.mark.parametrize(
    ("what", "inputs", "reason"),
    [
        ("double", (), "neither path.py:function nor"),
        ("layers_to_tune.py", (), "neither path.py:function nor"),
        ("hopper", ("x=f32[2]",), "goes with path.py:function"),
        ("{script}:triple", (), "no function 'triple'"),
        ("{folder}/none.py:f", (), "no file"),
        ("{folder}/empty.py:f", (), r"no function inputs\(\)"),
        ("{folder}/wrong.py:f", (), "gave int"),
    ],
)
def test_what_cannot_be_found_is_said(script: Path, what: str, inputs: tuple[str, ...], reason: str) -> None:
    (script.parent / "empty.py").write_text("def f(): ...")
    (script.parent / "wrong.py").write_text("def f(): ...\ndef inputs(): return 3")
    with pytest.raises(InputError, match=reason):
        cases(what.format(script=script, folder=script.parent), inputs, on_device("cpu"))


# --- what it does ---


def test_a_files_function_is_tuned_for_its_calls(script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    result, text = tuned(monkeypatch, Options(f"{script}:double", output=out))
    assert [row.case for row in result.rows] == ["double 0", "double 1"]
    assert result.failed == []
    table = read(out, DEVICE)
    assert table is not None
    (section,) = table.sections.values()
    assert len(section) == 2
    assert "double 0: " in text
    assert f"kept in {out}\n" in text
    assert re.search(r"default schedules have 0\.\d{3}|default schedules have 1\.000", text)
    assert not (tmp_path / "cache" / "tuned").exists()


def test_what_is_known_is_shown_and_not_measured(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = tuned(monkeypatch, Options(f"{script}:double"))
    again, text = tuned(monkeypatch, Options(f"{script}:double"))
    assert [row.tried for row in again.rows] == ["known", "known"]
    assert again.share == pytest.approx(first.share, rel=1e-3)
    assert "known" in text


def test_only_some_cases(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = tuned(monkeypatch, Options(f"{script}:double", only=(" 1",)))
    assert [row.case for row in result.rows] == ["double 1"]


def test_what_fails_is_said_and_the_rest_goes_on(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with script.open("a") as file:
        file.write("\ndef picky(x):\n    assert x.shape[1] == 128\n    return x + x\n")
    result, text = tuned(monkeypatch, Options(f"{script}:broken"))
    assert [name for name, _ in result.failed] == ["broken 0", "broken 1"]
    assert "not tuned: broken 0: " in text
    result, _ = tuned(monkeypatch, Options(f"{script}:picky"))
    assert [name for name, _ in result.failed] == ["picky 0"]
    assert [row.case for row in result.rows] == ["picky 1"]


def test_dropped_schedules_are_counted_by_reason(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsteady(FakeBench):
        def build(self, source: str) -> str:
            super().build(source)
            return "too many registers" if len(self.built) > 1 else ""

    pretend(monkeypatch, ARCH)
    out = io.StringIO()
    run(
        Options(f"{script}:double", only=("0",)), Console(file=out, width=200), device=("cpu", ARCH),
        make_bench=lambda _: Unsteady(by_warps),
    )  # fmt: skip
    assert re.search(r"dropped in double 0: \d+ schedules, too many registers", out.getvalue())


def test_an_interruption_shows_and_keeps_what_there_is(
    script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, _ = tuned(monkeypatch, Options(f"{script}:double", output=tmp_path / "t.json"), interrupt_after=4)
    assert result.interrupted
    table = read(tmp_path / "t.json", DEVICE)
    assert table is not None
    assert [len(section) for section in table.sections.values()] == [1]


def test_the_mean_is_geometric() -> None:
    rows = [Row("a", "k", 100.0, 50.0, {}, ""), Row("b", "k", 100.0, 100.0, {}, "")]
    assert Result(rows).share == pytest.approx(0.5**0.5)
    assert Result().share == 1.0


# --- the command line ---


def test_without_a_gpu_it_says_what_is_needed() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    done = CliRunner().invoke(app, ["tune", "hopper"])
    assert done.exit_code == 2
    assert re.search(r"measured on a GPU, and PyTorch .* sees none here; run this on a machine with", done.output)


def test_exit_codes(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []

    def answer(result: Result) -> int:
        monkeypatch.setattr(command, "run", lambda options, _: (given.append(options), result)[1])
        return (
            CliRunner()
            .invoke(app, ["tune", f"{script}:double", "--seconds", "5", "--only", "a", "--only", "b"])
            .exit_code
        )

    assert answer(Result()) == 0
    assert answer(Result(failed=[("a", "b")])) == 1
    assert answer(Result(interrupted=True)) == 130
    assert given[0] == Options(f"{script}:double", (), 5.0, None, False, ("a", "b"))


def test_without_pytorch_it_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from breccia.cli.main import app; app(['tune', 'hopper'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "torch is not installed: pip install 'breccia[torch,triton]'" in done.stderr


def test_numpys_arrays_alone_are_moved() -> None:
    kept = torch.ones(3)
    from breccia.cli._tune_inputs import _moved

    one, (two,), three = _moved((kept, [np.ones(2)], 3.0), on_device("cpu"))
    assert one is kept
    assert isinstance(two, torch.Tensor)
    assert three == 3.0
