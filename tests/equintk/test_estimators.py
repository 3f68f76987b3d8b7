"""Estimators: scikit-learn's own checks, and the predictions they stand for."""

import importlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from equintk.estimators import KernelClassifier, KernelRegressor
from equintk.predict import GradientFlow
from tests.helpers import assert_close

RNG = np.random.default_rng(0)


class Rbf:
    """A kernel whose name, and with it a test's, is the same in every process."""

    def __call__(self, x1, x2):
        distances = ((x1[:, None] - x2[None]) ** 2).mean(-1)
        return np.exp(-distances / 2)

    def __repr__(self):
        return "rbf"


rbf = Rbf()


@pytest.mark.filterwarnings("default")
@parametrize_with_checks(
    [
        KernelRegressor(),
        KernelRegressor(rbf, ridge=0.1),
        KernelClassifier(),
        KernelClassifier(rbf, ridge_relative=0.1),
    ]
)
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("t", [0.7, np.inf])
def test_a_regressor_is_gradient_flow_from_zero(t):
    x, x_test = RNG.normal(size=(9, 3)), RNG.normal(size=(4, 3))
    y = RNG.normal(size=(9, 2))
    given = {"c": 0.5, "ridge": 0.2}
    flow = GradientFlow(rbf(x, x), y, **given)
    expected = flow.test(t, rbf(x_test, x), np.zeros((9, 2)), np.zeros((4, 2)))
    for targets, right in ((y, expected), (y[:, 0], expected[:, 0])):
        got = KernelRegressor(rbf, t=t, **given).fit(x, targets).predict(x_test)
        assert_close(got, right)


def test_models_are_selected_on_real_data():
    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), KernelRegressor(rbf)),
        {"kernelregressor__ridge": [0.1, 1.0, 10.0]},
        cv=3,
    )
    search.fit(x[:200], (y[:200] - y[:200].mean()) / y[:200].std())
    assert search.best_score_ > 0.35
    x, y = (np.asarray(part) for part in load_iris(return_X_y=True))
    classifier = make_pipeline(StandardScaler(), KernelClassifier(rbf, ridge=0.1))
    assert cross_val_score(classifier, x, y, cv=5).mean() > 0.93


def test_kernels_of_scikit_learn_and_of_jax_are_kernels_too():
    x, y = RNG.normal(size=(6, 2)), RNG.normal(size=6)
    for kernel in (RBF(), lambda x1, x2: 1 + jnp.asarray(x1) @ jnp.asarray(x2).T):
        regressor = KernelRegressor(kernel, ridge=0.1).fit(x, y)
        assert regressor.predict(x).shape == (6,)


REFUSED = {
    "no function": (
        KernelRegressor("rbf"),
        r"must be a function.*'rbf'.*`lambda x1, x2: nt.ntk\(model, x1, x2\)`",
    ),
    "another shape": (
        KernelRegressor(lambda x1, x2: x1 @ x1.T @ x1),
        r"must give \(4, 4\).*but it gives \(4, 2\)",
    ),
    "a list of times": (KernelRegressor(t=[1.0, 2.0]), "`t` must be one time"),
    "negative ridge": (KernelClassifier(ridge=-1.0), "`ridge` must be a finite number"),
    "no kernel": (KernelRegressor(lambda x1, x2: -x1 @ x2.T), "positive semi-definite"),
}


@pytest.mark.parametrize(("estimator", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_parameters_are_refused_when_fitting(estimator, text):
    x = np.arange(8.0).reshape(4, 2) ** 2
    with pytest.raises(ValueError, match=text):
        estimator.fit(x, [0, 1, 0, 1])


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "equintk.estimators")
    with pytest.raises(ImportError, match=r"pip install 'equintk\[sklearn\]'"):
        importlib.import_module("equintk.estimators")
