"""Which training examples a prediction rests on: from sketched features and exactly.

    python examples/attribution.py

A small network learns digits; then the margin of each test image is regressed on the
tangent kernel, as in TRAK: the score of a training example is its coefficient. Sketched
features need no kernel of the training set, which is quadratic in its size. Prints how
the ranks of sketched scores agree with those of exact ones, and what both cost. Needs
the `experiments` extra.
"""

import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from scipy.stats import rankdata
from sklearn.datasets import load_digits

import equintk as nt


class Margin(eqx.Module):
    """How far the score of the true class is above the others: one number."""

    network: eqx.Module

    def __call__(self, example):
        """The logit of the true class's probability, for an image and its label."""
        image, label = example
        scores = self.network(image)  # pyright: ignore[reportCallIssue]
        others = jnp.where(jnp.arange(10) == label, -jnp.inf, scores)
        return scores[label] - jax.nn.logsumexp(others)


def main(
    n_train: int = 1000,
    n_test: int = 20,
    proj_dims: tuple[int, ...] = (64, 256),
    width: int = 64,
    steps: int = 300,
) -> dict:
    """Train, score and compare.

    Returns:
        for each `proj_dim`, the mean rank correlation of the scores with exact ones.
    """
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images / 16 - 0.5, jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    train, test = (
        (images[a:b], labels[a:b])
        for a, b in ((0, n_train), (n_train, n_train + n_test))
    )
    network = eqx.nn.MLP(64, 10, width, 2, dtype=jnp.float32, key=jr.key(0))
    network = _train(network, *train, steps)
    model = Margin(network)

    def exact():
        kernel, crossed = nt.ntk(model, train), nt.ntk(model, test, train)
        ridge = 1e-1 * jnp.mean(jnp.diag(kernel))
        return jnp.linalg.solve(kernel + ridge * jnp.eye(n_train), crossed.T).T, ridge

    (scores, ridge), seconds = _timed(exact)
    size = 4 * n_train * n_train
    print(f"exact:         {size:9,} bytes of kernel    {seconds:.2f} s")
    correlations = {}
    for proj_dim in proj_dims:

        def sketched(proj_dim=proj_dim):
            z_train, z_test = (
                nt.ntk_features(model, jr.key(1), x, proj_dim, "sketch")
                for x in (train, test)
            )
            # The same coefficients as with the kernel z z^T, from a matrix of proj_dim.
            gram = z_train.T @ z_train + ridge * jnp.eye(proj_dim)
            return z_test @ jnp.linalg.solve(gram, z_train.T)

        estimate, seconds = _timed(sketched)
        agreement = [
            np.corrcoef(rankdata(a), rankdata(b))[0, 1]
            for a, b in zip(estimate, scores, strict=True)
        ]
        correlations[proj_dim] = float(np.mean(agreement))
        size = 4 * n_train * proj_dim
        print(
            f"proj_dim {proj_dim:5}: {size:9,} bytes of features  {seconds:.2f} s  "
            f"rank correlation {correlations[proj_dim]:.2f}"
        )
    return correlations


def _train(network, images, labels, steps):
    """The network after steps of Adam on all examples."""
    params, static = eqx.partition(network, eqx.is_inexact_array)
    optimizer = optax.adam(3e-3)

    def loss(params):
        scores = jax.vmap(eqx.combine(params, static))(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return jnp.mean(losses)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return eqx.combine(params, static)


def _timed(call):
    """The result, and the seconds of a second call."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    return jax.block_until_ready(call()), time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
