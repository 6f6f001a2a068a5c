"""What emitters ask of kernels: the symbols they mention, and how a symbol follows from a shape."""

from __future__ import annotations

from breccia.codegen.lines import Sizes, kernel_symbols, solve
from breccia.ir import dims
from breccia.ir.dims import Sym
from breccia.ir.pipeline import Pipeline
from breccia.ir.rewriting import kernels
from breccia.passes.explode import Explode
from breccia.passes.schedule import Schedule
from breccia.passes.tile import Tile
from tests.passes.kernel_cases import CASES


def symbols(case: str) -> list[str]:
    source = CASES[case]()
    Pipeline([Explode(), Schedule(), Tile()]).run(source)
    return kernel_symbols(kernels(source)[0])


def test_every_symbol_of_a_kernel_and_no_dimension_of_its_grid() -> None:
    assert symbols("quantize 1x128") == ["M"]
    assert symbols("mxfp6@operand x mxfp6.T@operand MxKxN") == ["K", "M", "N"]
    assert symbols("grouped") == ["E", "T"]
    assert symbols("softmax, batched") == ["B", "M", "N"]


def test_a_symbol_is_solved_from_a_size_that_is_linear_in_it() -> None:
    m = Sym("M")
    for dim in (m, dims.mul(m, 3), dims.add(m, 1), dims.sub(m, 2), dims.add(dims.mul(m, 2), 4)):
        solved = solve(dim, "size")
        assert solved is not None
        assert solved[0] == "M"
        assert eval(solved[1], {"size": dims.evaluate(dim, {"M": 11})}) == 11
    assert solve(dims.ceildiv(m, 2), "size") is None
    assert solve(dims.add(m, Sym("N")), "size") is None


def test_symbols_that_are_asked_for_are_counted_and_grid_dimensions_are_not() -> None:
    sizes = Sizes()
    sizes.symbol("M", "m_1")
    sizes.grid("k", "k")
    assert (sizes["M"], sizes["k"]) == ("m_1", "k")
    assert sizes.used == {"M"}
    assert "N" not in sizes
    assert sorted(sizes) == ["M", "k"]
    assert len(sizes) == 2
