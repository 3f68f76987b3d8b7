"""Intervals of 95 % for means over runs, and for how two means compare.

Means of eight runs and more are resampled, which asks nothing of their distribution;
resamples of fewer cannot lie outside the few values seen and their intervals are far
too short, so those are Student's.
"""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOOTSTRAP, STUDENT, NONE = METHODS = ("bootstrap", "t", "none")
_ENOUGH = 8  # runs to resample
_N_RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate and the ends of its interval, NaN where there is none."""

    estimate: float
    low: float
    high: float
    method: str  # one of `METHODS`


def mean_interval(sample: "NDArray") -> Interval:
    """The mean of a sample `[n]`; one value, or one that is infinite, has no interval.

    Source of the percentiles' correction for small n: Hesterberg (2015), "What teachers
    should know about the bootstrap", section 5.3.
    """
    import numpy as np

    if not np.isfinite(sample).all() or len(sample) < 2:
        return _no_interval(sample.mean() if len(sample) else np.nan)
    mean, n = sample.mean(), len(sample)
    if n >= _ENOUGH:
        low, high = _percentiles(_resampled_means(sample, stream=0), n)
        return Interval(float(mean), low, high, BOOTSTRAP)
    half = _t(n - 1) * sample.std(ddof=1) / np.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half), STUDENT)


def difference_interval(one: "NDArray", other: "NDArray") -> Interval:
    """The mean of one sample minus that of another, drawn independently."""
    import numpy as np

    estimate = _mean(one) - _mean(other)
    if not _comparable(one, other) or not np.isfinite(estimate):
        return _no_interval(estimate)
    if min(len(one), len(other)) >= _ENOUGH:
        draws = _resampled_means(one, 0) - _resampled_means(other, 1)
        low, high = _percentiles(draws, min(len(one), len(other)))
        return Interval(float(estimate), low, high, BOOTSTRAP)
    half = _welch(one.var(ddof=1), other.var(ddof=1), len(one), len(other))
    return Interval(
        float(estimate), float(estimate - half), float(estimate + half), STUDENT
    )


def ratio_interval(one: "NDArray", other: "NDArray") -> Interval:
    """The mean of one sample over that of another, both positive.

    For few runs Student's interval of the ratio's logarithm, to first order.
    """
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.float64(_mean(one)) / _mean(other)
    positive = estimate > 0 and np.isfinite(estimate) and _mean(one) > 0
    if not _comparable(one, other) or not positive:
        return _no_interval(estimate)
    if min(len(one), len(other)) >= _ENOUGH:
        with np.errstate(divide="ignore"):
            draws = _resampled_means(one, 0) / _resampled_means(other, 1)
        low, high = _percentiles(draws, min(len(one), len(other)))
        return Interval(float(estimate), low, high, BOOTSTRAP)
    a, b = (x.var(ddof=1) / x.mean() ** 2 for x in (one, other))
    factor = np.exp(_welch(a, b, len(one), len(other)))
    return Interval(
        float(estimate), float(estimate / factor), float(estimate * factor), STUDENT
    )


def _mean(sample: "NDArray") -> float:
    import numpy as np

    return float(sample.mean()) if len(sample) else np.nan


def _comparable(one: "NDArray", other: "NDArray") -> bool:
    import numpy as np

    return all(len(x) > 1 and bool(np.isfinite(x).all()) for x in (one, other))


def _no_interval(estimate: float) -> Interval:
    nan = float("nan")
    return Interval(float(estimate), nan, nan, NONE)


def _resampled_means(sample: "NDArray", stream: int) -> "NDArray":
    """Means of resamples; the same for the same sample, so that tables repeat."""
    return sample[_choices(len(sample), stream)].mean(axis=1)


@cache
def _choices(n: int, stream: int) -> "NDArray":
    import numpy as np

    return np.random.default_rng([n, stream]).integers(0, n, (_N_RESAMPLES, n))


def _percentiles(draws: "NDArray", n: int) -> tuple[float, float]:
    """Ends of 95 %, moved out as far as Student's t is beyond the normal at this n."""
    import numpy as np
    from scipy.special import ndtr

    tail = ndtr(-np.sqrt(n / (n - 1)) * _t(n - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _welch(variance: float, other_variance: float, n: int, other_n: int) -> float:
    """Half the interval of a difference of two means of samples of these variances."""
    import numpy as np

    a, b = variance / n, other_variance / other_n
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (other_n - 1))
    return float(_t(freedom) * np.sqrt(a + b))


def _t(freedom: float) -> float:
    """The 97.5 % point of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
