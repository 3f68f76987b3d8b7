"""Mean and standard error, over initialisations, of any function of a model."""

import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _inputs
from .._compiled import jit
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
        model_fn: builds a model from a key. Where drawing is most of the work,
            `equinox.filter_jit(model_fn)` draws faster, and functions made inside it
            are the same for all draws, so that what is compiled for one serves all.
        key: draw number `i` is `model_fn(jax.random.fold_in(key, i))`.
        n_samples: the number of draws, or an increasing list of such numbers, which
            gives the running means of the same draws.
        progress: `True` for lines on stderr, or a function of (draws done, draws).

    Raises:
        ValueError: if `model_fn` or `kernel` is no function, `n_samples` is not
            positive and increasing, or a draw gives NaN or infinity.

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
    mean = squares = None
    results = []
    for i in range(counts[-1]):
        draw = jtu.tree_map(_float, kernel(_draw(model_fn, jr.fold_in(key, i))))
        draw = _checks.finite(f"kernel(model) of draw {i}", draw)
        if not jtu.tree_leaves(draw):
            raise ValueError(
                "`kernel(model)` must return arrays, but it returned none."
            )
        if mean is None:
            mean, squares = draw, jtu.tree_map(jnp.zeros_like, draw)
        else:
            mean, squares = _welford(mean, squares, draw, jnp.asarray(i + 1))
        if i + 1 in counts:
            results.append((mean, _standard_error(squares, i + 1)))
        report(i + 1, counts[-1])
    if _is_several(n_samples):
        mean, error = jtu.tree_map(lambda *leaves: jnp.stack(leaves), *results)
        return MonteCarlo(mean, error, tuple(counts))
    mean, error = results[0]
    return MonteCarlo(mean, error, counts[0])


def _draw(model_fn: ModelFn, key: Key) -> Any:
    try:
        return model_fn(key)
    except Exception as error:
        error.add_note(
            "equintk called `model_fn(key)`, which must build a model from a key, "
            "such as `lambda key: nt.parameterize(model, x[0], key)`."
        )
        raise


def _float(leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return leaf.astype(jnp.result_type(float))


@jit
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


def _is_several(n_samples: Any) -> bool:
    # Text is a sequence too, but its characters are no integers.
    return isinstance(n_samples, Sequence) or np.ndim(n_samples) == 1


def _counts(n_samples: Integers) -> list[int]:
    given: Any = n_samples
    asked: list[Any] = list(given) if _is_several(given) else [given]
    try:
        counts = [operator.index(n) for n in asked if not isinstance(n, bool)]
    except TypeError:
        counts = []
    increasing = all(a < b for a, b in zip(counts, counts[1:], strict=False))
    if len(counts) < len(asked) or not counts or counts[0] < 1 or not increasing:
        raise ValueError(
            "`n_samples` must be a positive integer or an increasing list of positive "
            f"integers, but it is {n_samples!r}."
        )
    return counts
