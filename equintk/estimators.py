"""Trained networks as scikit-learn estimators, around a kernel that is a function.

Not imported by `import equintk`, since it needs scikit-learn.
"""

from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "`equintk.estimators` needs scikit-learn 1.6 or newer, which is not installed. "
        "Type `pip install 'equintk[sklearn]'`."
    ) from error

from .predict.arguments import array
from .predict.flow import flow_filters, flow_times
from .predict.problem import Problem


class KernelRegressor(RegressorMixin, BaseEstimator):
    """The mean of wide networks trained by gradient flow on a squared loss.

    At the end of training, the default, it is kernel regression, or with a ridge the
    posterior mean of a Gaussian process.

    Args:
        kernel: `kernel(x1, x2)` gives `(n1, n2)` for arrays of `(n1, features)` and
            `(n2, features)`, such as `lambda x1, x2: nt.ntk(model, x1, x2)`. `None` is
            `1 + x1 @ x2.T / features`, of a linear model with a bias.
        t: how long to train, in learning rate times steps.
        c: the loss is (c/2) * sum (f - y)^2.
        ridge: the penalty ridge/2 * |theta - theta_0|^2 beside it.
        ridge_relative: instead of `ridge`, ridge / c as a multiple of the mean diagonal
            of the kernel.

    Attributes:
        dual_coef_: `(n, *out)`: predictions are `kernel(x, X_fit_) @ dual_coef_`.
        X_fit_: the training inputs.
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        t: Any = np.inf,
        c: Any = 1.0,
        ridge: Any = 0.0,
        ridge_relative: Any = 0.0,
    ):
        self.kernel = kernel
        self.t = t
        self.c = c
        self.ridge = ridge
        self.ridge_relative = ridge_relative

    def fit(self, X: Any, y: Any) -> "KernelRegressor":
        """Train on inputs `(n, features)` and targets `(n,)` or `(n, outputs)`."""
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        self.X_fit_ = X
        self.dual_coef_ = _train(self, X, np.asarray(y, np.float64))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Outputs at inputs `(m, features)`."""
        return _outputs(self, X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KernelClassifier(ClassifierMixin, BaseEstimator):
    """The same with one output for each class, trained on centred one-hot targets.

    Args:
        kernel: as in `KernelRegressor`, as all that follows.
        t: how long to train.
        c: scale of the loss.
        ridge: the penalty beside it.
        ridge_relative: the penalty in units of the mean diagonal of the kernel.

    Attributes:
        classes_: the classes, sorted.
        dual_coef_: `(n, n_classes)`.
        X_fit_: the training inputs.
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        t: Any = np.inf,
        c: Any = 1.0,
        ridge: Any = 0.0,
        ridge_relative: Any = 0.0,
    ):
        self.kernel = kernel
        self.t = t
        self.c = c
        self.ridge = ridge
        self.ridge_relative = ridge_relative

    def fit(self, X: Any, y: Any) -> "KernelClassifier":
        """Train on inputs `(n, features)` and one label for each."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        targets = np.eye(len(self.classes_))[labels] - 1 / len(self.classes_)
        self.X_fit_ = X
        self.dual_coef_ = _train(self, X, targets)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Outputs `(m, n_classes)`; of two classes, `(m,)`, positive for the second."""
        outputs = _outputs(self, X)
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest output."""
        outputs = _outputs(self, X)
        return self.classes_[np.argmax(outputs, axis=1)]


def _train(estimator: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of the training examples, in float64."""
    kernel = _evaluate(estimator, X, X)
    given = (estimator.c, estimator.ridge, estimator.ridge_relative)
    problem = Problem(kernel, y, *given)
    t = flow_times(estimator.t)
    if t.ndim:
        raise ValueError(f"`t` must be one time, but it has shape {t.shape}.")
    (decay,) = flow_filters(t, problem.c)
    coefficients = problem.basis.coefficients(decay, y.reshape(len(y), -1))
    return coefficients.reshape(y.shape)


def _outputs(estimator: Any, X: Any) -> np.ndarray:
    check_is_fitted(estimator)
    X = validate_data(estimator, X, dtype=np.float64, reset=False)
    return _evaluate(estimator, X, estimator.X_fit_) @ estimator.dual_coef_


def _evaluate(estimator: Any, x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """The kernel, in the precision that it has itself, which rounding floors need."""
    if estimator.kernel is None:
        return 1 + x1 @ x2.T / x1.shape[1]
    if not callable(estimator.kernel):
        raise ValueError(
            "`kernel` must be a function of two arrays of inputs, but it is "
            f"{estimator.kernel!r}. Type `lambda x1, x2: nt.ntk(model, x1, x2)`."
        )
    kernel = np.asarray(array("kernel(x1, x2)", estimator.kernel(x1, x2)))
    if kernel.shape != (len(x1), len(x2)):
        raise ValueError(
            f"`kernel(x1, x2)` must give {(len(x1), len(x2))}, one number for each "
            f"pair of inputs, but it gives {kernel.shape}."
        )
    return kernel
