"""Kernels of infinite networks as classifiers, beside others, on small data sets.

Hyperparameters are chosen on one half of the data against the other; what was chosen is
judged by cross-validation on all of it.

Source: Arora et al., arXiv:1910.01663, section 4; the protocol is that of
Fernandez-Delgado et al., JMLR 15 (2014), 3133-3181.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments import datasets
from experiments.schema import (
    ClassificationConfig,
    Classifier,
    Config,
    ConfigError,
)

# Accuracy of a classifier trained on some examples, on others.
Score = Callable[[np.ndarray, np.ndarray], float]

_C = 10.0 ** np.arange(-2, 5)  # of the support vector machines
_GAMMA = 10.0 ** np.arange(-3, 2)  # times 1 / in_dim, of the Gaussian kernel
_N_TREES = 200


def run(config: Config) -> dict[str, Any]:
    """The columns of `summary.csv` of one classifier on one data set.

    Raises:
        ConfigError: if the data set has no classes, or a class too few examples.
    """
    began, task = time.monotonic(), config.task
    assert isinstance(task, ClassificationConfig)
    data = datasets.build(config.dataset)
    if data.classes is None:
        raise ConfigError(
            f"task=classification needs classes, but `{data.name}` is a regression. "
            "Type dataset=iris, wine, breast_cancer or digits10."
        )
    x = np.concatenate([data.x_train, data.x_test])
    labels = np.concatenate([data.labels("train"), data.labels("test")])
    if np.bincount(labels).min() < task.n_folds:
        raise ConfigError(
            f"task.n_folds={task.n_folds} needs as many examples of each class, but "
            f"one of `{data.name}` has {np.bincount(labels).min()}. Give more examples."
        )
    from sklearn.model_selection import StratifiedKFold, train_test_split

    parts = train_test_split(
        np.arange(len(x)), test_size=0.5, stratify=labels, random_state=config.seed
    )
    half, other = map(np.asarray, parts)
    tried = _candidates(task, x, labels, config.seed)
    _, best, score = max(
        ((score(half, other), name, score) for name, score in tried),
        key=lambda candidate: candidate[0],  # of equals the first
    )
    folds = StratifiedKFold(task.n_folds, shuffle=True, random_state=config.seed)
    accuracies = [score(train, test) for train, test in folds.split(x, labels)]
    return {
        "accuracy_folds": float(np.mean(accuracies)),
        "tuned": best,
        "seconds": round(time.monotonic() - began, 3),
    }


def relu_kernel(x: np.ndarray, depth: int, n_frozen: int) -> np.ndarray:
    """The tangent kernel of an infinite ReLU network without biases, variance 2.

    Args:
        x: `(n, in_dim)`.
        depth: hidden layers.
        n_frozen: how many layers do not train, from the input on; `depth` of them leave
            the readout, whose kernel is the NNGP.

    Returns:
        `(n, n)`.

    Source: Cho and Saul, NIPS 2009, section 2.1, and Arora et al., arXiv:1910.01663,
    section 3.
    """
    nngp = 2 * x @ x.T / x.shape[1]
    # Each layer of weights adds the kernel of what it sees; what follows multiplies.
    ntk = nngp if n_frozen == 0 else np.zeros_like(nngp)
    for layer in range(1, depth + 1):
        norm = np.sqrt(np.diag(nngp))
        product = np.outer(norm, norm)
        # An input of zeros has no angle, and a kernel of zero with all.
        ratio = np.divide(nngp, product, out=np.zeros_like(nngp), where=product > 0)
        cosine = np.clip(ratio, -1, 1)  # rounding can push it past 1
        angle = np.arccos(cosine)
        slope = (np.pi - angle) / np.pi
        nngp = product * (np.sin(angle) / np.pi + slope * cosine)
        ntk = ntk * slope + (nngp if layer >= n_frozen else 0)
    return ntk


def _candidates(
    task: ClassificationConfig, x: np.ndarray, labels: np.ndarray, seed: int
) -> Iterator[tuple[str, Score]]:
    """All settings of a classifier, named, with how well each does."""
    depths = range(1, task.max_depth + 1)
    match task.classifier:
        case Classifier.ntk:
            for depth in depths:
                for n_frozen in range(depth):
                    name = f"depth={depth} frozen={n_frozen}"
                    yield from _machines(name, relu_kernel(x, depth, n_frozen), labels)
        case Classifier.nngp:
            for depth in depths:
                kernel = relu_kernel(x, depth, depth)
                yield from _machines(f"depth={depth}", kernel, labels)
        case Classifier.svm:
            squares = np.sum((x[:, None] - x[None]) ** 2, axis=-1) / x.shape[1]
            for gamma in _GAMMA:
                kernel = np.exp(-gamma * squares)
                yield from _machines(f"gamma={gamma:g}/in_dim", kernel, labels)
        case Classifier.random_forest:
            for fraction in (None, "sqrt", 0.5):
                yield f"max_features={fraction}", _forest(x, labels, fraction, seed)


def _machines(
    name: str, kernel: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, Score]]:
    """Support vector machines around a kernel, one for each C."""
    kernel = kernel / np.mean(np.diag(kernel))  # so that C is on one scale
    for c in _C:
        yield f"{name} C={c:g}", _machine(kernel, labels, c)


def _machine(kernel: np.ndarray, labels: np.ndarray, c: float) -> Score:
    from sklearn.svm import SVC

    def score(train: np.ndarray, test: np.ndarray) -> float:
        machine = SVC(C=c, kernel="precomputed")
        machine.fit(kernel[np.ix_(train, train)], labels[train])
        return float(machine.score(kernel[np.ix_(test, train)], labels[test]))

    return score


def _forest(x: np.ndarray, labels: np.ndarray, max_features: Any, seed: int) -> Score:
    from sklearn.ensemble import RandomForestClassifier

    def score(train: np.ndarray, test: np.ndarray) -> float:
        forest = RandomForestClassifier(
            _N_TREES, max_features=max_features, random_state=seed
        )
        forest.fit(x[train], labels[train])
        return float(forest.score(x[test], labels[test]))

    return score
