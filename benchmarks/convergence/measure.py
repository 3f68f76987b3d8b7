"""One architecture's random kernels beside their limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import equintk as nt
from experiments.slopes import PowerLaw, fit_power_law

from .networks import Network

READOUTS = 16
"""Outputs whose products are averaged in one draw of the NNGP."""


@dataclass(frozen=True)
class Distance:
    """How single tangent kernels differ from their limit.

    Attributes:
        law: the relative root-mean-square error of one draw, in width.
        errors: per width, that of each draw.
    """

    law: PowerLaw
    errors: dict[int, np.ndarray]


@dataclass(frozen=True)
class Mean:
    """How the mean of many draws differs from the limit.

    Attributes:
        deviation: the largest difference of an entry, in its standard errors.
        noise: the largest standard error, relative to the largest entry.
    """

    deviation: float
    noise: float

    @classmethod
    def of(cls, draws: np.ndarray, limit: np.ndarray) -> "Mean":
        """Of kernels along the first axis."""
        error = draws.std(axis=0, ddof=1) / len(draws) ** 0.5
        away = np.abs(draws.mean(axis=0) - limit)
        return cls(float(np.max(away / error)), float(error.max() / limit.max()))


def distance(network: Network, widths: Sequence[int], seeds: int) -> Distance:
    """The errors of tangent kernels of one output, drawn `seeds` times each."""
    errors = {}
    for width in widths:
        limit = _limit(network, width).ntk
        draws = _drawn(network, width, 1, seeds, _tangent)
        square = np.mean((draws - limit) ** 2, axis=(1, 2)) / np.mean(limit**2)
        errors[width] = np.sqrt(square)
    x = np.repeat(list(errors), seeds)
    return Distance(fit_power_law(x, np.concatenate(list(errors.values()))), errors)


def means(network: Network, width: int, draws: int) -> tuple[Mean, Mean | None]:
    """Of tangent kernels and of products of outputs.

    The latter is `None` where outputs vanish with the width.
    """
    limit = _limit(network, width)
    ntk = Mean.of(_drawn(network, width, 1, draws, _tangent), limit.ntk)
    if network.scheme in ("mup", "mean_field"):
        return ntk, None
    products = _drawn(network, width, READOUTS, draws, _products)
    return ntk, Mean.of(products, limit.nngp)


def _limit(network: Network, width: int) -> nt.InfiniteKernels:
    """In float64, at this width: the tangent kernel of Equinox's own draw grows."""
    with jax.enable_x64(True):
        model = network.build(width, 1, jr.key(0))
        found = nt.infinite_kernels(
            model, network.examples(jr.key(0)), **network.options
        )
    return nt.InfiniteKernels(*map(np.asarray, found))


def _tangent(model: Any, x: Any) -> Any:
    return nt.ntk(model, x)


def _products(model: Any, x: Any) -> Any:
    y = jax.vmap(model)(x)
    return y @ y.T / y.shape[1]


def _drawn(
    network: Network, width: int, out: int, n: int, kernel: Callable[[Any, Any], Any]
) -> np.ndarray:
    """Kernels of networks drawn independently, one after another in one program."""
    options = dict(network.options)
    scheme = options.pop("parameterization", None)

    def one(key: Any) -> Any:
        mine, its = jr.split(key)
        x = network.examples(its)
        model = network.build(width, out, mine)
        if scheme is not None:
            first = jax.tree.map(lambda a: a[0], x)
            model = nt.parameterize(model, first, mine, scheme, **options)
        return kernel(model, x)

    run = jax.jit(lambda keys: jax.lax.map(one, keys))
    return np.asarray(run(jr.split(jr.key(width), n)), np.float64)
