"""Kernels of wide networks, drawn many times, beside what is said of their limit."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

import equintk as nt

STD = (1.2, 0.3)
FEW = 32  # outputs of which the tangent kernel is taken
BIAS = 0.02  # that wide networks may differ by from their limit, relative


class Drawn(NamedTuple):
    """A kernel, averaged over draws, and the standard error of its entries."""

    mean: np.ndarray
    error: np.ndarray


class Comparison(NamedTuple):
    """A limit beside networks.

    Attributes:
        width: of the networks.
        distance: of the limit from their mean, relative to the limit.
        noise: the standard error of that.
    """

    width: int
    distance: float
    noise: float

    def agrees(self, noise: float) -> bool:
        """Whether an error would have been seen through this noise, and there is none.

        Noise of 0.0075 shows an error of 5 %.
        """
        return self.noise < noise and self.distance < 4 * self.noise + BIAS

    @property
    def differs(self) -> bool:
        """Whether the limit is wrong by more than chance and width explain."""
        return self.distance > 5 * self.noise + 2 * BIAS


def draw(
    build: Callable[[int, Any], Any],
    scheme: str,
    x: Any,
    n: int,
    draws: int,
    seed: int,
    rates: tuple[float, ...] = (),
    roles: Mapping[str, int | str] | None = None,
) -> tuple[Drawn, Drawn]:
    """Both kernels of networks of a width, of these learning rates of the layers."""
    wide = build(n, jr.key(0))

    @jax.jit
    def one(key: Any) -> Any:
        model = nt.parameterize(wide, x[0], key, scheme, *STD, roles)
        y = jax.vmap(model)(x).reshape(len(x), -1)
        return y @ y.T / y.shape[1], _tangent(_First(model), x, rates)

    keys = jr.split(jr.key(seed, impl="unsafe_rbg"), draws)
    nngp, ntk = (np.stack(several) for several in zip(*map(one, keys), strict=True))
    return _summary(nngp), _summary(ntk)


def _tangent(model: Any, x: Any, rates: tuple[float, ...]) -> Any:
    """The tangent kernel, or the sum of those of layers times their rates."""
    if not rates:
        return nt.ntk(model, x)
    of_layers = nt.ntk_by_parameter(model, x).model.module.layers
    return sum(
        rate * k
        for rate, layer in zip(rates, of_layers, strict=True)
        for k in jax.tree.leaves(eqx.filter(layer, eqx.is_inexact_array))
        if k.ndim == 2
    )


class _First(eqx.Module):
    """A model's first outputs, which are as good as any others."""

    model: Any

    def __call__(self, x: Any) -> Any:
        return self.model(x)[:FEW]


def _summary(several: np.ndarray) -> Drawn:
    return Drawn(several.mean(axis=0), several.std(axis=0) / len(several) ** 0.5)


def compared(limit: Any, found: Drawn, n: int) -> Comparison:
    """How far a limit is from what was drawn."""
    size = np.linalg.norm(limit)
    distance = np.linalg.norm(found.mean - limit) / size
    return Comparison(n, float(distance), float(np.linalg.norm(found.error) / size))


def verdicts(
    kernels: Callable[[int], tuple[Any, Any]],
    build: Callable[[int, Any], Any],
    scheme: str,
    x: Any,
    plan: tuple[tuple[int, int], ...],
    noise: float,
    rates: tuple[float, ...] = (),
    roles: Mapping[str, int | str] | None = None,
) -> list[Comparison]:
    """Of NNGP and tangent kernel, on wider networks and more draws until it is clear.

    Args:
        kernels: of a width, the NNGP and the tangent kernel in the limit.
        build: a model of a width, from a key.
        scheme: the parameterization.
        x: the examples.
        plan: widths and numbers of draws.
        noise: relative, up to which it is clear.
        rates: learning rates of the layers and of the readout; empty for ones.
        roles: of parameters, where they cannot be read.
    """
    found: list[Comparison] = []
    for seed, (n, draws) in enumerate(plan):
        drawn = draw(build, scheme, x, n, draws, seed, rates, roles)
        both = zip(kernels(n), drawn, strict=True)
        found = [compared(np.asarray(k), d, n) for k, d in both]
        if all(c.agrees(noise) for c in found):
            break
    return found
