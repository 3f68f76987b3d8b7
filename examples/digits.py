"""Handwritten digits by an infinitely wide network, beside two classical classifiers.

    python examples/digits.py

All 1797 images of 8x8 pixels, a quarter of them held out, in one NTK regression with a
ridge of 1e-4 of the kernel's mean diagonal; the others with the defaults of
scikit-learn. Expected: accuracies of 0.991, 0.987 and 0.982, within a minute.
"""

import time

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import equintk as nt
from equintk.estimators import KernelClassifier


def main() -> dict[str, float]:
    """Fit all three and print their accuracies on images that none has seen."""
    jax.config.update("jax_enable_x64", True)
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    x = images / 16.0
    # The digits come in the order of their writers: shuffled, in equal shares.
    parts = train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=0)
    x_train, x_test, y_train, y_test = map(np.asarray, parts)
    model = eqx.nn.MLP(64, 10, 64, 3, key=jr.key(0))

    def kernel(x1, x2):
        return nt.infinite_ntk(
            model, x1, x2, parameterization="ntk", W_std=2**0.5, b_std=0.1
        )

    classifiers = {
        "infinitely wide network": KernelClassifier(kernel, ridge_relative=1e-4),
        "support vector machine": SVC(),
        "random forest": RandomForestClassifier(random_state=0),
    }
    accuracy = {}
    print(f"{len(x_train)} images to learn from, {len(x_test)} to tell")
    for name, classifier in classifiers.items():
        began = time.perf_counter()
        classifier.fit(x_train, y_train)
        accuracy[name] = float(np.mean(classifier.predict(x_test) == y_test))
        print(f"{name:<24} {accuracy[name]:.4f}  {time.perf_counter() - began:6.2f} s")
    return accuracy


if __name__ == "__main__":
    main()
