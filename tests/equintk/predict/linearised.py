"""A linear network, trained step by step with optax: what predictions are held to."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

N_TRAIN, N_TEST, OUT, N_PARAMS = 7, 4, 3, 60


class Linearised(NamedTuple):
    """Outputs f0 + gradients @ theta, with the kernels of those gradients."""

    gradients: np.ndarray
    test_gradients: np.ndarray
    f0_train: np.ndarray
    f0_test: np.ndarray

    @property
    def k_train_train(self):
        return np.einsum("iap,jbp->ijab", self.gradients, self.gradients)

    @property
    def k_test_train(self):
        return np.einsum("iap,jbp->ijab", self.test_gradients, self.gradients)

    def train(self, loss, optimizer, steps, ridge=0.0):
        """Outputs on train and test after each number of steps, in rising order.

        `loss(f, step)` is that of a step, and ridge/2 * |theta|^2 is beside it.
        """

        def objective(theta, step):
            f = self.f0_train + self.gradients @ theta
            return loss(f, step) + ridge / 2 * jnp.sum(theta**2)

        @jax.jit
        def update(theta, state, step):
            gradient = jax.grad(objective)(theta, step)
            change, state = optimizer.update(gradient, state)
            return optax.apply_updates(theta, change), state

        theta: Any = jnp.zeros(self.gradients.shape[-1])
        state = optimizer.init(theta)
        train, test = [], []
        for step in range(max(steps) + 1):
            if step in steps:
                train.append(self.f0_train + self.gradients @ theta)
                test.append(self.f0_test + self.test_gradients @ theta)
            theta, state = update(theta, state, step)
        return np.stack(train), np.stack(test)


def draw(seed=0, n_train=N_TRAIN, out=OUT):
    rng = np.random.default_rng(seed)
    normal = lambda n, *rest: rng.normal(size=(n, out, *rest))
    return Linearised(
        normal(n_train, N_PARAMS) / 7,
        normal(N_TEST, N_PARAMS) / 7,
        normal(n_train),
        normal(N_TEST),
    )
