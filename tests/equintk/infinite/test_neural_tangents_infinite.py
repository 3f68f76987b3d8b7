"""Closed forms: neural-tangents 0.6.5 in float64 agrees to rounding."""

from pathlib import Path

import numpy as np
import pytest

from tests.equintk.infinite.cases import CASES, STANDARD_CASES, kernels_of

NAN_WHERE_EQUAL = {"rectified monomial 2", "rectified monomial 3", "elementwise"}
# The most expensive of those that show what others show as well.
SLOW = {
    "conv circular", "conv layer norm", "average pool circular", "sum pool same",
    "resize nearest", "conv transpose VALID", "conv transpose CIRCULAR", "identity",
    "layer norm over pixels", "conv index", "cos scaled", "sin scaled", "rbf scaled",
    "erf scaled", "attention abs", "aggregate sparse", "dot general scalar", "repeat",
    "dot general", "average pool same", "gaussian scaled", "exp scaled", "elementwise",
    "resize linear", "aggregate", "masked", "sigmoid like", "monomial 0", "flatten",
}  # fmt: skip


def arrays(suffix):
    path = Path(__file__).parent.parent.parent / "golden"
    with np.load(path / f"neural_tangents_infinite{suffix}.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def golden():
    return arrays("")


@pytest.fixture(scope="module")
def golden_standard():
    return arrays("_standard")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in CASES
    ],
)
def test_kernels_agree_with_the_incumbent(name, golden):
    check(CASES[name], name, golden)


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDARD_CASES)
def test_kernels_agree_in_the_standard_parameterization(name, golden_standard):
    check(STANDARD_CASES[name], name, golden_standard)


def check(case, name, golden):
    for suffix, which, got, expected in kernels_of(case, name, golden):
        assert got.shape == expected.shape
        if suffix == "same":
            # Where inputs are equal the incumbent's correlations are one but for
            # rounding, of which kinks take the root; or its result is NaN.
            diagonal = np.arange(4), np.arange(4)
            if name in NAN_WHERE_EQUAL:
                assert np.isnan(expected[diagonal]).any()
            else:
                size = np.abs(expected).max()
                worst = np.abs((got - expected)[diagonal]).max()
                assert worst < 1e-8 * size, (which, worst / size)
            got, expected = np.array(got), np.array(expected)
            got[diagonal] = expected[diagonal] = 0
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error < 1e-10, (suffix, which, error)


def test_every_row_of_the_documentation_is_tested():
    text = Path(__file__).parents[3] / "docs" / "from_neural_tangents.md"
    section = text.read_text(encoding="utf-8").split("## stax\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    named = [
        name for row in rows for name in row.rstrip(" |").split(" | ")[-1].split(", ")
    ]
    elsewhere = {"an integral", "a registered expectation", "refused"}
    assert set(named) - elsewhere <= set(CASES), set(named) - set(CASES)
    assert set(CASES) <= set(named), set(CASES) - set(named)


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(capsys):
    text = Path(__file__).parents[3] / "docs" / "infinite_width.md"
    _, *blocks = text.read_text(encoding="utf-8").split("```python\n")
    names = {}
    for block in blocks:
        exec(block.split("```")[0], names)
    assert capsys.readouterr().out == "(4, 4) (4, 4)\n" * len(blocks)
