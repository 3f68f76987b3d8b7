r"""From what a Krylov space leaves over to the error of a prediction.

The coefficients $\alpha = w(A) B$ of a flow solve $\dot\alpha = B - A \alpha$; those of
a Krylov space solve it up to a residual $\rho$, which is known. So the difference is
$\int_0^\tau e^{-A (\tau - s)} \rho(s)\, ds$, and a product with $K$, or with
$K^{1/2}$, is no larger than the largest $|\rho|$ times

$$\int_0^\tau \sup_\lambda \lambda\, e^{-(\lambda + \sigma) u}\, du, \qquad
\int_0^\tau \sup_\lambda \lambda^{1/2} e^{-(\lambda + \sigma) u}\, du.$$

The first bounds the outputs on the training inputs; with the second, the output at any
input is off by no more than $K(x, x)^{1/2}$ times it, by Cauchy and Schwarz. Descent
has sums in place of the integrals.

Source: Hochbruck and Lubich, SIAM J. Numer. Anal. 34 (1997), for residuals of Krylov
approximations to exponentials; Botchev, Grimm and Hochbruck, SIAM J. Sci. Comput. 35
(2013).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._decay import AbstractFilter, weights
from .._matrix_free.krylov import KrylovSpace

_PER_DECADE = 4


class Pace(NamedTuple):
    """How training goes.

    Attributes:
        decay_at: what one moment of it makes of a residual.
        unit: how long one unit of time is, or one step, in c times flow time.
        in_steps: whether it goes in steps.
    """

    decay_at: Callable[[Any], AbstractFilter]
    unit: float
    in_steps: bool


class Spectrum(NamedTuple):
    """What is known of a kernel.

    Attributes:
        largest: its largest eigenvalue.
        shift: what a ridge adds to each.
        floor: below it they are rounding, and left out at the end of training.
        diagonal: the mean of its diagonal.
        noise: the norm of the errors of its products, for a unit vector.
        negative: how far below zero the rounding of its entries may leave eigenvalues,
            all of which count as zero.
    """

    largest: float
    shift: float
    floor: float
    diagonal: float
    noise: float
    negative: float


class Errors(NamedTuple):
    """Norms of errors at some times, over all examples and outputs.

    Attributes:
        train: `(n_times,)`, on the training inputs, for want of a larger basis.
        test: on as many other inputs, whose K(x, x) have the same mean.
        train_noise: by the rounding of products.
        test_noise: by the same.
    """

    train: np.ndarray
    test: np.ndarray
    train_noise: np.ndarray
    test_noise: np.ndarray


def filtered(
    space: KrylovSpace, spectrum: Spectrum, pace: Pace, time: Any
) -> np.ndarray:
    """The coefficients of one moment in the eigenvectors of the space, `(rank, p)`."""
    given = space.values, spectrum.shift, spectrum.floor
    weight = weights(pace.decay_at(np.float64(time)), *given, times_kernel=False)
    return weight[:, None] * space.start


def errors(
    space: KrylovSpace,
    spectrum: Spectrum,
    pace: Pace,
    times: np.ndarray,
    solved: tuple[float, float] | None = None,
) -> Errors:
    """The errors of all predictions from a space, at times `(n_times,)`.

    Args:
        space: the space.
        spectrum: of the kernel.
        pace: how training goes.
        times: the times.
        solved: where the end of training does not come from the space, the norms of
            its residual and of its coefficients.
    """
    moments = np.unique(np.concatenate([times, _earlier(spectrum, pace, times)]))
    ways = [filtered(space, spectrum, pace, time) for time in moments]
    left = np.array([np.linalg.norm(space.coupling @ way) for way in ways])
    wrong = spectrum.noise * np.array([np.linalg.norm(way) for way in ways])
    if solved is not None:
        left[np.isinf(moments)] = solved[0]
        wrong[np.isinf(moments)] = spectrum.noise * solved[1]
    for norms in (left, wrong):  # the end is a solution by itself, after no others
        before = np.isfinite(moments)
        norms[before] = np.maximum.accumulate(norms[before])
    asked = np.searchsorted(moments, times)
    factors = np.array([_factors(spectrum, pace, time) for time in times]).T
    on_train, on_test = factors[0], factors[1] * math.sqrt(spectrum.diagonal)
    left, wrong = left[asked], wrong[asked]
    # Where nothing is left over, nothing is wrong, however far training diverges.
    times_norm = lambda factor, norm: np.where(norm > 0, factor, 0.0) * norm
    return Errors(
        train=times_norm(on_train, left),
        test=times_norm(on_test, left),
        train_noise=times_norm(on_train, wrong),
        test_noise=times_norm(on_test, wrong),
    )


def _earlier(spectrum: Spectrum, pace: Pace, times: np.ndarray) -> np.ndarray:
    """Times before the last, by which the residual may have been larger."""
    if spectrum.largest <= 0:
        return times[:0]
    durations = pace.unit * times[np.isfinite(times)]
    last = durations.max(initial=0.0)
    if np.isinf(times).any():
        last = max(last, 10 / max(spectrum.shift, spectrum.floor))
    decades = math.log10(max(1.0, last * spectrum.largest))
    grid = np.geomspace(1, 10**decades, 1 + int(_PER_DECADE * decades))
    grid = grid / (spectrum.largest * pace.unit)
    return np.ceil(grid) if pace.in_steps else grid


def _factors(spectrum: Spectrum, pace: Pace, time: float) -> tuple[float, float]:
    """What multiplies a residual in outputs on the training inputs, and on others."""
    ended = math.isinf(time)
    duration = 0.0 if ended else pace.unit * time
    train = on_train(spectrum, duration, ended)
    test = on_test(spectrum, duration, ended)
    if pace.in_steps and not ended and spectrum.largest > 0:
        more = of_steps(spectrum, pace.unit, time)
        train, test = train + more, test + more / math.sqrt(spectrum.largest)
    return train, test


def on_train(spectrum: Spectrum, duration: float, ended: bool) -> float:
    """What multiplies the residual in outputs on the training inputs."""
    if ended:
        return 1.0
    largest, shift = spectrum.largest, spectrum.shift
    decays = 1 / shift if shift else math.inf
    x = largest * min(duration, decays)
    early = x if x <= 1 / math.e else (2 + math.log(x)) / math.e
    return early + (0.25 / math.e if duration > decays else 0.0)


def on_test(spectrum: Spectrum, duration: float, ended: bool) -> float:
    """What multiplies it, and the root of K(x, x), in outputs on other inputs."""
    largest, shift, floor = spectrum.largest, spectrum.shift, spectrum.floor
    kept = 1 / math.sqrt(floor)
    if ended:
        return min(kept, 0.5 / math.sqrt(shift)) if shift else kept
    bounds = [kept, duration * math.sqrt(largest), math.sqrt(2 * duration / math.e)]
    if shift:
        bounds.append(math.sqrt(math.pi / (2 * math.e * shift)))
    return min(bounds)


def of_steps(spectrum: Spectrum, rate: float, steps: float) -> float:
    """What steps add to `on_train` of a flow; over the root of `largest`, to `on_test`.

    The first step, which a flow has no counterpart of; and the modes that a step
    carries past their target, of which the largest is the slowest.
    """
    speed = rate * (spectrum.largest + spectrum.shift)
    first = rate * spectrum.largest
    if speed <= 1:
        return first
    q = speed - 1
    if math.isinf(steps):
        return first + (first / (1 - q) if q < 1 else math.inf)
    with_log = min(steps * math.log(q), 700.0) if q > 0 else -math.inf
    rounds = steps if q == 1 else math.expm1(with_log) / (q - 1)
    return first * (1 + rounds)
