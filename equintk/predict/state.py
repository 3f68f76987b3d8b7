"""Where training stands: what every dynamic can carry on from."""

from typing import Any

import equinox as eqx


class State(eqx.Module):
    """A linearised network in training, as seen from its training examples.

    Its parameters have moved by the sum of each example's gradient times its
    coefficient, so outputs anywhere have moved by K_*t times the coefficients. Give it
    in place of `f0_train`, and the outputs on the test inputs where it stands in place
    of `f0_test`, to go on with another learning rate, momentum, ridge, loss or targets
    on the same kernel.

    Attributes:
        f_train: outputs on the training inputs, `(n, *out)`.
        coefficients: `(n, *out)`; a ridge pulls them to zero.
        velocity: the same of the momentum buffer of the optimizer, in the convention
            of `optax.sgd`; zeros without momentum.
    """

    f_train: Any
    coefficients: Any
    velocity: Any
