"""Kernels at infinite width of models of which expectations have no closed form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .. import _checks, _inputs
from .._batch import pairwise
from .._parameters import partition, wide_dtype
from .._programs import Programs
from .._progress import reporter
from .._types import Examples, Integer, Key, Model, Progress
from .arguments import Arguments, numbers, read_model
from .functions.hermite import ORDERS
from .identities import identities
from .kernels import checked_tolerance, too_large
from .numbers.sampling import shifts
from .pair import flipped
from .program import read


class EstimatedKernels(NamedTuple):
    """Both kernels of an architecture, and how far they may be off.

    Attributes:
        nngp: `E[f f']`, the covariance of an output over initialisations.
        ntk: the tangent kernel of an output.
        nngp_error: the standard error of each entry.
        ntk_error: the same of the tangent kernel.
    """

    nngp: Any
    ntk: Any
    nngp_error: Any
    ntk_error: Any


def estimate_infinite_kernels(
    model: Model,
    key: Key,
    x1: Examples,
    x2: Examples | None = None,
    *,
    n_points: Integer = 1024,
    n_repeats: Integer = 8,
    progress: Progress = False,
    **options: Any,
) -> EstimatedKernels:
    """Kernels at infinite width where some of their expectations must be sampled.

    What `infinite_kernels` refuses as a nonlinear function of several Gaussians, or of
    several places: LSTM and GRU cells, attention as it is shipped, max pooling, a
    nonlinearity after a sum of activations. Expectations that have a closed form keep
    it; the others are means over a lattice of points, shifted at random.

    Args:
        model: an `equinox.Module`, as for `infinite_kernels`.
        key: draws the shifts, the same for all pairs of examples.
        x1: the examples that index the rows.
        x2: the examples that index the columns; `None` means `x1` again.
        n_points: the number of points of each expectation; powers of 2 are best.
        n_repeats: the number of shifts, 2 at least.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).
        **options: the other arguments of `infinite_kernels`.

    Returns:
        The means over the shifts and their standard errors, all like the results of
        `infinite_kernels`. An expectation within another is biased by the order of
        the squared error of the inner one, which does not show.

    Raises:
        NoLimitError: if the limit is not known, or an expectation is over more
            Gaussians than `equintk._infinite.numbers.sampling.DIMENSIONS`.
        ValueError: for bad arguments.

    Costs `n_repeats * n_points` evaluations of what is between two matrix products for
    each pair of examples, and of its derivatives; the number of Gaussians grows with
    time steps and places. No derivatives by inputs, `W_std` or `b_std`.

    Source: as of `equintk/_infinite/numbers/sampling.py`.
    """
    _inputs.random_key(key)
    _checks.positive_integer("n_points", n_points)
    _checks.positive_integer("n_repeats", n_repeats)
    if n_repeats < 2 or n_points < 16:
        raise ValueError(
            "`n_repeats` must be 2 at least, for there to be an error, and `n_points` "
            f"16, but they are {n_repeats} and {n_points}."
        )
    arguments = Arguments(**({"batch_size": 8} | options))
    _checks.positive_integer("batch_size", arguments.batch_size)
    x1, x2 = _inputs.pair(x1, x2)
    params, static = partition(model, None)
    example = _inputs.one_example(x1)
    leaves = jtu.tree_leaves(params)
    given = numbers(model, params, arguments, wide_dtype(leaves))
    reading = read_model(model, params, example, arguments)
    uses = reading.uses(given, arguments, True)
    starts = {i: leaves[i] for i in uses.kept}
    program = read(params, static, example, starts, uses, True)
    tolerance = checked_tolerance(arguments.tolerance, program.dtype)
    of_one, of_two = identities(x1, x2)
    x1, x2 = (of_one, x1), None if x2 is None else (of_two, x2)
    report = reporter(progress, "estimated infinite kernels")

    def kernel(shared: Any, one: Any, two: Any) -> Any:
        given, shift = shared
        prior = lambda leaf: reading.prior(leaf, given)

        def of_pair(one: Any, two: Any) -> Any:
            (mine, a), (its, b) = one, two
            inputs = (jtu.tree_leaves(a), jtu.tree_leaves(b))
            points = (int(n_points), shift)
            return program.pair(
                prior, inputs, mine == its, ORDERS[-1], True, points, reading.vanishing
            )

        return jax.vmap(jax.vmap(of_pair, (None, 0)), (0, None))(one, two)

    flip = lambda kernels: jtu.tree_map(flipped, kernels)
    programs = Programs(lambda shared, block: (shared, block), kernel, flip)
    found = []
    for shift in shifts(key, int(n_repeats), program.dtype):
        shared = (given, shift)
        nngp, ntk, error = pairwise(
            programs, shared, x1, x2, arguments.batch_size, report
        )
        if error is not None and not bool(jnp.max(error[..., -1]) <= tolerance):
            raise ValueError(too_large(f"{float(jnp.max(error)):.1e}", tolerance))
        found.append((nngp, ntk))
    several = jtu.tree_map(lambda *a: np.stack([np.asarray(k) for k in a]), *found)
    mean = jtu.tree_map(lambda a: jnp.asarray(a.mean(axis=0)), several)
    error = jtu.tree_map(
        lambda a: jnp.asarray(a.std(axis=0, ddof=1) / np.sqrt(n_repeats)), several
    )
    for leaf in jtu.tree_leaves(mean):
        _checks.finite_result("A kernel", leaf)
    return EstimatedKernels(*mean, *error)
