import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from experiments import classification
from experiments.classification import relu_kernel
from experiments.schema import Classifier, ConfigError

from .commands import config

IRIS = ("task=classification", "dataset=iris", "task.max_depth=2")


def network():
    return eqx.nn.MLP(
        3, 1, 8, 2, jax.nn.relu, use_bias=False, use_final_bias=False, dtype=float,
        key=jr.key(0),
    )  # fmt: skip


@pytest.mark.parametrize("n_frozen", [0, 1, 2])
def test_the_kernel_is_that_of_the_infinite_network_with_frozen_layers(n_frozen):
    x = np.random.default_rng(0).standard_normal((5, 3))
    rates = {f".layers[{i}].weight": float(i >= n_frozen) for i in range(3)}
    expected = nt.infinite_ntk(
        network(), x, parameterization="ntk", W_std=2**0.5, learning_rate=rates
    )
    # 1e-6: the angle of an input with itself is the root of a rounding error
    np.testing.assert_allclose(relu_kernel(x, 2, n_frozen), expected, rtol=1e-6)


def test_an_input_of_zeros_has_a_kernel_of_zero_with_all():
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    kernel = relu_kernel(x, 3, 0)
    assert np.isfinite(kernel).all() and not kernel[0].any() and kernel[1, 1] > 0


@pytest.mark.parametrize("classifier", Classifier)
def test_every_classifier_knows_the_flowers(classifier, monkeypatch):
    monkeypatch.setattr(classification, "_N_TREES", 10)
    found = classification.run(config(*IRIS, f"task.classifier={classifier.name}"))
    assert found["accuracy_folds"] > 0.9
    assert found["tuned"]


def test_a_classifier_is_tuned_on_halves_and_judged_on_folds(monkeypatch):
    asked = []

    def candidates(task, x, labels, seed):
        assert len(x) == len(labels) == 150
        for name, goodness in (("a", 0.5), ("b", 0.9), ("c", 0.9)):

            def score(train, test, name=name, goodness=goodness):
                asked.append((name, len(train), len(test)))
                assert not set(train) & set(test)
                return goodness

            yield name, score

    monkeypatch.setattr(classification, "_candidates", candidates)
    found = classification.run(config(*IRIS, "task.n_folds=3"))
    assert asked[:3] == [(name, 75, 75) for name in "abc"]
    assert asked[3:] == [("b", 100, 50)] * 3
    assert found["accuracy_folds"] == pytest.approx(0.9) and found["tuned"] == "b"


def test_what_has_no_classes_or_too_few_examples_of_one_is_refused():
    with pytest.raises(ConfigError, match="`diabetes` is a regression. Type dataset="):
        classification.run(config(*IRIS, "dataset=diabetes"))
    with pytest.raises(ConfigError, match="n_folds=4 needs as many.*one of `iris` has"):
        few = ("dataset.n_train=5", "dataset.n_test=4")
        classification.run(config(*IRIS, *few))
