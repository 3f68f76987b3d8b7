"""Mean and standard error, over initialisations, of any function of a model."""

import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PyTree

from .. import _checks, _inputs
from .._progress import reporter
from .._types import Integers, Key, ModelFn, Progress, Transform


class MonteCarlo(eqx.Module):
    """What `monte_carlo` returns.

    Attributes:
        mean: like the kernel's result; where several sample counts were asked for,
            each leaf has them as its first axis.
        standard_error: of the mean, alike: the sample standard deviation over
            `sqrt(n_samples)`. Infinite for a single sample, which says nothing of it.
        n_samples: the number of draws, or the increasing numbers of draws.
    """

    mean: PyTree
    standard_error: PyTree
    n_samples: int | tuple[int, ...] = eqx.field(static=True)


def monte_carlo(
    kernel: Transform,
    model_fn: ModelFn,
    key: Key,
    n_samples: Integers,
    *,
    progress: Progress = False,
) -> MonteCarlo:
    """Average a function of a model over models drawn independently.

    Args:
        kernel: any function of a model that returns floating-point arrays, such as
            `lambda model: nt.ntk(model, x)`.
        model_fn: builds a model from a key, and from nothing else. It is compiled,
            since drawing is often most of the work.
        key: draw number `i` is `model_fn(jax.random.fold_in(key, i))`.
        n_samples: the number of draws, or an increasing list of such numbers, which
            gives the running means of the same draws.
        progress: `True` for lines on stderr, or a function of (draws done, draws).

    Raises:
        ValueError: if `model_fn` or `kernel` is no function, `n_samples` is not
            positive and increasing, if two keys give the same model, or a draw gives
            NaN or infinity.

    Holds the mean and the sum of squares, whatever the number of draws. Sums are
    updated by Welford's recurrence, so that a small spread about a large mean survives.

    Source: Novak et al., arXiv:1810.05148, section 4 (the Monte Carlo kernel).
    """
    for name, function in (("kernel", kernel), ("model_fn", model_fn)):
        if not callable(function):
            raise ValueError(
                f"`{name}` must be a function, but it is {type(function).__name__}. "
                "Type `monte_carlo(lambda m: nt.ntk(m, x), model_fn, key, 100)`."
            )
    _inputs.random_key(key)
    counts = _counts(n_samples)
    report = reporter(progress, "monte_carlo")
    # Compiled also so that a function made inside `model_fn`, such as an activation, is
    # one and the same in all draws: what is compiled for one then serves all.
    draw_model = eqx.filter_jit(model_fn)
    _check_depends_on_its_key(draw_model, key, counts[-1])
    mean = squares = None
    results = []
    for i in range(counts[-1]):
        draw = jtu.tree_map(jnp.asarray, kernel(draw_model(jr.fold_in(key, i))))
        _checks.finite(f"kernel(model) of draw {i}", draw)
        if mean is None:
            mean, squares = draw, jtu.tree_map(jnp.zeros_like, draw)
        else:
            mean, squares = _welford(mean, squares, draw, jnp.asarray(i + 1))
        if i + 1 in counts:
            results.append((mean, _standard_error(squares, i + 1)))
        report(i + 1, counts[-1])
    if isinstance(n_samples, Sequence):
        mean, error = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *results)
        return MonteCarlo(mean, error, tuple(counts))
    mean, error = results[0]
    return MonteCarlo(mean, error, counts[0])


def _check_depends_on_its_key(draw_model: Any, key: Key, n_samples: int) -> None:
    """Randomness that is not JAX's would be drawn once, at compilation."""
    if n_samples == 1:
        return
    one, two = (
        jtu.tree_leaves(
            eqx.filter(draw_model(jr.fold_in(key, i)), eqx.is_inexact_array)
        )
        for i in (0, 1)
    )
    if (
        one
        and not _checks.is_traced(one)
        and all(jnp.array_equal(a, b) for a, b in zip(one, two, strict=True))
    ):
        raise ValueError(
            "`model_fn` gives the same model for two keys, so there is nothing to "
            "average over. Draw all random parameters from the key with `jax.random`; "
            "NumPy's and Python's randomness is drawn once."
        )


@jax.jit
def _welford(
    mean: PyTree, squares: PyTree, draw: PyTree, n: Any
) -> tuple[PyTree, PyTree]:
    new_mean = jtu.tree_map(lambda m, d: m + (d - m) / n.astype(m.dtype), mean, draw)
    new_squares = jtu.tree_map(
        lambda s, m, new, d: s + (d - m) * (d - new), squares, mean, new_mean, draw
    )
    return new_mean, new_squares


def _standard_error(squares: PyTree, n: int) -> PyTree:
    if n == 1:
        return jtu.tree_map(lambda s: jnp.full_like(s, jnp.inf), squares)
    return jtu.tree_map(lambda s: jnp.sqrt(s / (n * (n - 1))), squares)


def _counts(n_samples: Integers) -> list[int]:
    # Text is a sequence too, but its characters are no integers.
    asked = n_samples if isinstance(n_samples, Sequence) else [n_samples]
    try:
        counts = [operator.index(n) for n in asked]
    except TypeError:
        counts = []
    increasing = all(a < b for a, b in zip(counts, counts[1:], strict=False))
    if not counts or counts[0] < 1 or not increasing:
        raise ValueError(
            "`n_samples` must be a positive integer or an increasing list of positive "
            f"integers, but it is {n_samples!r}."
        )
    return counts
