"""Closed forms: neural-tangents 0.6.5 in float64 agrees to rounding."""

from pathlib import Path

import numpy as np
import pytest

from equintk._infinite.kernels import infinite_kernels
from tests.equintk.infinite.architectures import IMAGES, STANDARD, TOKENS, VECTORS

CASES = {
    **{name: ("vector", make, "ntk") for name, make in VECTORS.items()},
    **{name: ("vector", make, "standard") for name, make in STANDARD.items()},
    **{name: ("image", make, "ntk") for name, make in IMAGES.items()},
    **{name: ("token", make, "ntk") for name, make in TOKENS.items()},
}


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parent.parent.parent / "golden"
    with np.load(path / "neural_tangents_infinite.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_incumbent(name, golden):
    kind, make, scheme = CASES[name]
    x1, x2 = golden[f"{kind}/x1"], golden[f"{kind}/x2"]
    if kind == "image":
        x1, x2 = (np.moveaxis(x, -1, 1) for x in (x1, x2))
    options = {"parameterization": scheme, "W_std": 1.3, "b_std": 0.2}
    both = infinite_kernels(make(), x1, np.concatenate([x1, x2]), **options)
    for suffix, part in (("same", slice(0, 4)), ("cross", slice(4, None))):
        for which in ("nngp", "ntk"):
            expected = golden[f"{name}/{suffix}/{which}"]
            got = np.asarray(getattr(both, which))[:, part]
            if got.ndim == 6:  # the incumbent's axes are interleaved
                got = got.transpose(0, 1, 2, 4, 3, 5)
            assert got.shape == expected.shape
            if suffix == "same":
                # Where inputs are equal the incumbent's correlations are one but for
                # rounding, of which kinks take the root; or its result is NaN.
                tolerance = 1e-8
                diagonal = np.arange(4), np.arange(4)
                if name == "rectified monomial 2":
                    assert np.isnan(expected[diagonal]).all()
                else:
                    size = np.abs(expected).max()
                    worst = np.abs((got - expected)[diagonal]).max()
                    assert worst < tolerance * size, (which, worst / size)
                got, expected = np.array(got), np.array(expected)
                got[diagonal] = expected[diagonal] = 0
            error = np.abs(got - expected).max() / np.abs(expected).max()
            assert error < 1e-10, (suffix, which, error)


def test_every_row_of_the_documentation_is_tested():
    text = Path(__file__).parents[3] / "docs" / "from_neural_tangents.md"
    section = text.read_text(encoding="utf-8").split("## stax\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    named = {row.rstrip(" |").split(" | ")[-1] for row in rows}
    assert len(rows) == 30
    assert named <= set(CASES)


def test_the_code_of_the_documentation_runs(capsys):
    text = Path(__file__).parents[3] / "docs" / "infinite_width.md"
    code = text.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert capsys.readouterr().out == "(4, 4) (4, 4)\n"
