"""One network, one set of weights: neural-tangents 0.6.5 in float64 agrees."""

from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.helpers import relative_error

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parent.parent / "golden" / "neural_tangents_mlp.npz"
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model(golden):
    erf = jax.scipy.special.erf
    model = eqx.nn.MLP(5, 3, 32, 2, activation=erf, key=jr.key(0))
    values = [golden[f"{name}{i}"] for i in range(3) for name in ("weight", "bias")]
    where = lambda m: [a for layer in m.layers for a in (layer.weight, layer.bias)]
    return eqx.tree_at(where, model, values)


def test_kernels_agree(golden, model):
    x1, x2 = golden["x1"], golden["x2"]
    for kernel, name in ((nt.ntk_full, "full"), (nt.ntk, "averaged")):
        assert relative_error(kernel(model, x1), golden[f"{name}_train"]) < 1e-14
        assert relative_error(kernel(model, x2, x1), golden[f"{name}_test"]) < 1e-14


def test_predictions_agree_where_its_mean_loss_is_named(golden, model):
    x1, x2, y = golden["x1"], golden["x2"], golden["y"]
    c = nt.loss_scale("mean", y)
    got = nt.ntk_predict(model, x1, y, x2, golden["times"], ridge=0.0, c=c)
    assert relative_error(got, golden["predicted"]) < 1e-12
