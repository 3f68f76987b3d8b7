"""Predict the progress of diabetes with error bars that are right, by evidence.

    python examples/calibrated_uncertainty.py

An infinitely wide network with one hidden layer of ReLU is a Gaussian process. Its
weight and bias variances, and the noise, are fitted by ascending the log marginal
likelihood of the training set; then as many test patients as expected lie inside the
error bars. Needs the `experiments` extra.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

import equintk as nt


def relu_nngp(x1, x2, weight, bias):
    """Covariance of the outputs of one wide hidden layer of ReLU (Cho and Saul 2009).

    Args:
        x1: inputs, `(n1, features)`.
        x2: inputs, `(n2, features)`.
        weight: variance of the weights of either layer, times their number.
        bias: variance of the biases.
    """
    features = x1.shape[1]
    k12 = weight * x1 @ x2.T / features + bias
    k1, k2 = (weight * jnp.sum(x**2, axis=1) / features + bias for x in (x1, x2))
    norms = jnp.sqrt(k1[:, None] * k2[None, :])
    # Strictly inside: at 1 the slope of arccos is infinite.
    limit = 1 - 4 * jnp.finfo(norms.dtype).eps
    cosine = jnp.clip(k12 / norms, -limit, limit)
    angle = jnp.arccos(cosine)
    rectified = norms * (jnp.sin(angle) + (jnp.pi - angle) * cosine) / (2 * jnp.pi)
    return weight * rectified + bias


def main(n_train: int = 120, n_test: int = 100, steps: int = 40) -> dict[str, float]:
    """Fit, predict and count.

    Returns:
        the log evidence per patient before and after the fit, in nats; the root of the
        mean squared error in units of the error bars, 1 if they are right; how many of
        the test patients lie inside the 90 % interval; and the mean squared error in
        units of the targets' variance.
    """
    data: Any = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(data[1]))[: n_train + n_test]
    x, y = (np.asarray(part)[order] for part in data)
    x = x / x.std(axis=0)
    y = (y - y[:n_train].mean()) / y[:n_train].std()
    x, x_test, y, y_test = x[:n_train], x[n_train:], y[:n_train], y[n_train:]

    def process(parameters):
        weight, bias, noise = jnp.exp(parameters)
        kernel = relu_nngp(x, x, weight, bias)
        return nt.predict.GaussianProcess(kernel, y, ridge=noise)

    def loss(parameters):
        return -process(parameters).log_marginal_likelihood() / n_train

    step = jax.jit(jax.value_and_grad(loss))
    optimizer = optax.sgd(1.0, momentum=0.8)
    parameters = jnp.log(jnp.array([2.0, 0.1, 0.05]))
    state, evidence = optimizer.init(parameters), []
    for _ in range(steps):
        value, gradient = step(parameters)
        change, state = optimizer.update(gradient, state)
        parameters = jnp.asarray(optax.apply_updates(parameters, change))
        evidence.append(-float(value))

    weight, bias, noise = jnp.exp(parameters)
    predicted = process(parameters).test(
        relu_nngp(x_test, x, weight, bias), relu_nngp(x_test, x_test, weight, bias)
    )
    z = (y_test - predicted.mean) / jnp.sqrt(predicted.variance + noise)
    return {
        "evidence_before": evidence[0],
        "evidence_after": evidence[-1],
        "rms_z": float(jnp.mean(z**2) ** 0.5),
        "inside_90": float(jnp.mean(jnp.abs(z) < 1.645)),
        "mse": float(jnp.mean((y_test - predicted.mean) ** 2) / np.var(y_test)),
    }


if __name__ == "__main__":
    for name, number in main().items():
        print(f"{name:16} {number:.3f}")
