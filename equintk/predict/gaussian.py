"""A normal distribution of outputs: mean, covariance, draws."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks
from .._linalg import flatten_kernel, root


class Gaussian(eqx.Module):
    """Outputs at some inputs, jointly normal.

    Attributes:
        mean: `(m, *out)`, or `(n_times, m, *out)` where several times were asked for.
        covariance: of the same kind as the kernels: `(m, m)`, the same for each output
            and none between outputs, or `(m, m, *out, *out)`. A time axis is in front.
        rounding: how far below zero its eigenvalues may be by rounding.
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]
    rounding: Any
    over_times: bool = eqx.field(static=True)

    @property
    def variance(self) -> Float[Array, "..."]:
        """Of each output at each input alone, at least 0, in the shape of the mean."""
        shape = self._shape

        def diagonal(covariance):
            if self._coupled:
                flat = flatten_kernel(covariance, len(shape) - 1)
                return jnp.diagonal(flat).reshape(shape)
            variance = jnp.diagonal(covariance).reshape(-1, *[1] * (len(shape) - 1))
            return jnp.broadcast_to(variance, shape)

        each = jax.vmap(diagonal) if self.over_times else diagonal
        return jnp.maximum(each(self.covariance), 0)

    def sample(self, key: Any, n_samples: Any) -> Float[Array, "..."]:
        """Draws of the outputs at all inputs together.

        Args:
            key: a JAX random key.
            n_samples: how many.

        Returns:
            `(n_samples, m, *out)`, or `(n_samples, n_times, m, *out)`: at several times
            drawn of one noise, each right by itself.

        Raises:
            ValueError: if the covariance has a negative eigenvalue beyond rounding, or
                `n_samples < 1`.

        Cost: one eigendecomposition of the covariance for each time.
        """
        n_samples = _checks.positive_integer("n_samples", n_samples)
        shape, dtype = self._shape, self.mean.dtype
        columns = (-1, 1) if self._coupled else (shape[0], -1)
        noise = jax.random.normal(key, (n_samples, *shape), dtype)
        noise = noise.reshape(n_samples, *jnp.empty(shape).reshape(columns).shape)

        def draw(mean, covariance):
            if self._coupled:
                covariance = flatten_kernel(covariance, len(shape) - 1)
            factor = jnp.asarray(root(covariance, self.rounding), dtype)
            moved = jnp.einsum("ij,sjp->sip", factor, noise, precision="highest")
            return mean[None] + moved.reshape(n_samples, *shape)

        if not self.over_times:
            return draw(self.mean, self.covariance)
        pairs = zip(self.mean, self.covariance, strict=True)
        return jnp.stack([draw(*pair) for pair in pairs], axis=1)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the mean at one time."""
        return self.mean.shape[1:] if self.over_times else self.mean.shape

    @property
    def _coupled(self) -> bool:
        return self.covariance.ndim - self.over_times > 2
