r"""Heavy-ball momentum at one eigenvalue: powers of its recursion, and differences.

In the convention of optax, $v \leftarrow \beta v + g$ and
$\theta \leftarrow \theta - \text{lr}\, v$. With $x = \text{lr}\, c\, \lambda$ the
residual $\rho$, the velocity $\mu$ and the way $a$ that the coefficients have gone, in
units of 1, c and lr c, follow

$$\mu' = \beta \mu + \rho, \quad a' = a + \mu', \quad \rho' = \rho - x \mu'.$$

Powers of this matrix come from repeated squaring, which needs no case for modes that
oscillate, creep or are critically damped. What is kept is the power minus the
identity: slow modes would be lost in the last digits of 1 - x.

Source: Polyak, USSR Comput. Math. Math. Phys. 4 (1964), section 2.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._decay import AbstractDecay, AbstractFilter

RESIDUAL, VELOCITY, WAY = range(3)
MOST_STEPS = 2.0**63


class HeavyBall(AbstractDecay):
    """What is left of a residual that starts at rest."""

    rate: Any
    momentum: Any
    steps: Any
    ended: Any

    @property
    def duration(self) -> Any:
        """The flow time that as many steps are late in training."""
        return self.rate * self.steps / (1 - self.momentum)

    def slope(self, larger: Any, smaller: Any) -> Any:
        """-E[larger, smaller]."""
        difference = _power_difference(self, larger, smaller)
        return -self.rate * difference[RESIDUAL, RESIDUAL]

    def curve(self, larger: Any, smaller: Any) -> Any:
        """-E[larger, smaller, 0]."""
        # The way is what a starting residual of 1 has lost, divided by x.
        return self.rate**2 * _power_difference(self, larger, smaller)[WAY, RESIDUAL]


class Response(AbstractFilter):
    """An entry of the power of the recursion: where `column` starts and `row` ends."""

    decay: HeavyBall
    scale: Any
    ended: Any
    row: int = eqx.field(static=True)
    column: int = eqx.field(static=True)

    def __init__(self, decay: HeavyBall, scale: Any, row: int, column: int):
        self.decay, self.scale, self.ended = decay, scale, decay.ended
        self.row, self.column = row, column

    @property
    def duration(self) -> Any:
        """As the decay's."""
        return self.decay.duration

    def value(self, eigenvalues: Any) -> Any:
        """The entry, scaled; at the end nothing is left of how training started."""
        power = _power(self.decay, eigenvalues)[self.row, self.column]
        power = power + 1 if self.row == self.column else power
        return self._unless_ended(self.scale * power)

    def difference(self, larger: Any, smaller: Any) -> Any:
        """Its divided difference."""
        power = _power_difference(self.decay, larger, smaller)[self.row, self.column]
        return self._unless_ended(self.scale * self.decay.rate * power)

    def product_difference(self, larger: Any, smaller: Any, shift: Any) -> Any:
        """That of its product with the kernel's own eigenvalue."""
        beside = (larger - shift) * self.difference(larger, smaller)
        return self.value(smaller) + beside

    def _unless_ended(self, value: Any) -> Any:
        return value.__array_namespace__().where(self.ended, 0, value)


def _power(decay: HeavyBall, eigenvalues: Any) -> Any:
    """The recursion's power minus the identity, but its last column, which is 0."""
    after = lambda a, b: _bounded(a + b + _product(a, b))
    return _repeated(after, _recursion(decay, eigenvalues), decay.steps)


def _power_difference(decay: HeavyBall, larger: Any, smaller: Any) -> Any:
    """The divided difference of the power, by x.

    A^s - B^s is a sum of A^k (A - B) B^(s - 1 - k): a corner of the power of a
    triangular matrix, which repeated squaring gives without subtracting.
    """
    xp = larger.__array_namespace__()

    def after(a, b):
        (left_a, right_a, both_a), (left_b, right_b, both_b) = a, b
        both = both_a + both_b + _product(both_a, right_b) + _product(left_a, both_b)
        left = left_a + left_b + _product(left_a, left_b)
        right = right_a + right_b + _product(right_a, right_b)
        return tuple(_bounded(power) for power in (left, right, both))

    ones, zeros = xp.ones_like(larger), xp.zeros_like(larger)
    by_x = xp.stack(
        [
            xp.stack([-ones, -decay.momentum * ones]),
            xp.stack([zeros, zeros]),
            xp.stack([zeros, zeros]),
        ]
    )
    step = (_recursion(decay, larger), _recursion(decay, smaller), by_x)
    return _repeated(after, step, decay.steps)[2]


def _recursion(decay: HeavyBall, eigenvalues: Any) -> Any:
    """One step minus the identity, `(3, 2, *eigenvalues)`: nothing depends on a."""
    xp = eigenvalues.__array_namespace__()
    x, ones = decay.rate * eigenvalues, xp.ones_like(eigenvalues)
    beta = decay.momentum * ones
    return xp.stack(
        [
            xp.stack([-x, -x * beta]),
            xp.stack([ones, beta - 1]),
            xp.stack([ones, beta]),
        ]
    )


def _product(a: Any, b: Any) -> Any:
    """Matrix products, entry by entry; the last column of both is 0."""
    return a[:, :1] * b[:1] + a[:, 1:] * b[1:2]


def _bounded(power: Any) -> Any:
    """Beyond the stable learning rate powers stop growing before they overflow."""
    xp = power.__array_namespace__()
    largest = float(jnp.finfo(power.dtype).max) ** 0.5 / 8
    return xp.clip(power, -largest, largest)


def _repeated(after: Any, step: Any, steps: Any) -> Any:
    """The step taken `steps` times, minus the identity, from its binary digits."""
    xp = steps.__array_namespace__()

    def double(_, carried):
        power, taken, left = carried
        odd = xp.mod(left, 2) == 1
        longer = after(power, taken)
        taken = jax.tree.map(lambda a, b: xp.where(odd, a, b), longer, taken)
        return after(power, power), taken, xp.floor(left / 2)

    carried = (step, jax.tree.map(xp.zeros_like, step), steps)
    if not isinstance(steps, np.ndarray | np.generic):
        return jax.lax.fori_loop(0, 64, double, carried)[1]
    for digit in range(int(steps).bit_length()):
        carried = double(digit, carried)
    return carried[1]
