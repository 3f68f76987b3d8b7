"""The NNGP and the tangent kernel of an architecture at infinite width."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _inputs
from .._batch import pairwise
from .._cache import remembered, signature
from .._checks import is_traced
from .._parameters import partition, wide_dtype
from .._progress import reporter
from .._types import Examples, Integer, Model, Number, Progress, Text
from .arguments import Arguments, numbers, read_model
from .functions.hermite import ORDERS
from .identities import identities
from .pair import Pair, digest, pair_of
from .program import read
from .reader import DUALS, GIVEN

_PILOT = 8
_FEW_PAIRS = 4096
_BLOCK_BYTES = 2**25  # of the features of a block, while they are computed
# Tiles are this much smaller than memory allows: passes over their numbers are fastest
# where these stay in a cache.
_HELD = 16


class InfiniteKernels(NamedTuple):
    """Both kernels of an architecture.

    Attributes:
        nngp: `E[f f']`, the covariance of an output over initialisations.
        ntk: the tangent kernel of an output.
        error: the largest bound of the relative error of an expectation that is a
            series, or of its derivative; 0 where all have closed forms. What later
            layers make of it is not in it.
    """

    nngp: Any
    ntk: Any
    error: Any


def infinite_kernels(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    *,
    parameterization: Text | None = None,
    W_std: Number | None = None,
    b_std: Number | None = None,
    learning_rate: Any = None,
    finite: Any = (),
    roles: Any = None,
    batch_size: Integer = 256,
    tolerance: Number | None = None,
    progress: Progress = False,
) -> InfiniteKernels:
    r"""NNGP and tangent kernel of a module's architecture as its widths go to infinity.

    The module is taken as it is; what it does is read from its jaxpr. An axis that a
    parameter produces goes to infinity, its size in the given module being used as a
    ratio only; the axes of the input stay. What is not understood raises, and nothing
    is approximated beyond `tolerance`.

    Args:
        model: an `equinox.Module` that maps one example, without a batch axis, to an
            array or a PyTree of arrays.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again.
        parameterization: `"ntk"`, or another of `parameterize`. `None` means
            that of a model which `parameterize` made, and otherwise Equinox's own
            initialisation, at the widths of the module: the tangent kernel grows with
            them. There weights are taken as Gaussians of the same variance, which in a
            first layer of few inputs they are not.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
        learning_rate: of parameters, relative to one another: a number, or a mapping
            from the paths of parameters below the model, such as
            `".layers[0].weight"`, to numbers; 0 is frozen, what is not named has 1.
        finite: the paths of parameters whose own axes do not go to infinity, such as
            those of a layer over whose outputs the model averages.
        roles: what parameters are, as in `parameterize`, where it cannot be read.
        batch_size: the largest number of examples of either side at once.
        tolerance: the largest relative error, by its bound, of expectations without a
            closed form, from Hermite series; by default 1e-8, or 1e-4 in float32.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `.nngp` and `.ntk`, arrays `(n1, n2, *space, *space)`, where `space` are those
        axes of the output that do not go to infinity; of an output vector, `(n1, n2)`;
        and `.error`, a number that bounds the error of series among expectations.
        PyTrees of arrays where the model returns a PyTree. Scales and units are those
        of `nt.nngp` and `nt.ntk`. Where the output is a nonlinear function, the kernel
        of one network stays random, and these are the means.

    Raises:
        NoLimitError: if the limit is not known; the operation and the line are named.
        ValueError: for bad arguments, or where a series does not reach `tolerance`.

    Time and memory are quadratic in the number of examples, and in the places of an
    example where the model pools over places or mixes them.

    Source: Yang, arXiv:1910.12478, for which architectures have a limit; Cho and Saul,
    arXiv:1112.3712, and Daniely et al., arXiv:1602.05897, for the expectations.
    """
    arguments = Arguments(
        parameterization,
        W_std,
        b_std,
        learning_rate,
        finite,
        roles,
        batch_size,
        tolerance,
    )
    return _kernels(model, x1, x2, arguments, progress, True)


def infinite_nngp(
    model: Model, x1: Examples, x2: Examples | None = None, **options: Any
) -> PyTree:
    """The NNGP of `infinite_kernels`, whose arguments it takes; no derivative."""
    progress = options.pop("progress", False)
    return _kernels(model, x1, x2, Arguments(**options), progress, False).nngp


def infinite_ntk(
    model: Model, x1: Examples, x2: Examples | None = None, **options: Any
) -> PyTree:
    """The tangent kernel of `infinite_kernels`, whose arguments it takes."""
    progress = options.pop("progress", False)
    return _kernels(model, x1, x2, Arguments(**options), progress, True).ntk


def _kernels(
    model: Model,
    x1: Examples,
    x2: Examples | None,
    arguments: Arguments,
    progress: Progress,
    tangent: bool,
) -> InfiniteKernels:
    _checks.positive_integer("batch_size", arguments.batch_size)
    x1, x2 = _inputs.pair(x1, x2)
    compiled = _Compiled(model, x1, arguments, tangent)
    tolerance = checked_tolerance(arguments.tolerance, compiled.dtype)
    report = reporter(progress, "infinite kernels")
    one, two = identities(x1, x2)
    x1, x2 = (one, x1), None if x2 is None else (two, x2)
    run = lambda order, one, two, report: _run(
        compiled, order, one, two, arguments.batch_size, report
    )
    if is_traced(x1, x2, compiled.numbers):
        nngp, ntk, error = run(ORDERS[-1], x1, x2, report)
        if error is not None:
            nngp, ntk = eqx.error_if(
                (nngp, ntk), ~(jnp.max(error[..., -1]) <= tolerance),
                too_large("larger", tolerance),
            )  # fmt: skip
        return InfiniteKernels(nngp, ntk, _worst(error, compiled.dtype))
    order = _order(compiled, run, x1, x2, tolerance)
    nngp, ntk, error = run(order, x1, x2, report)
    worst = float(_worst(error, compiled.dtype))
    if not worst <= tolerance and order < ORDERS[-1]:
        nngp, ntk, error = run(ORDERS[-1], x1, x2, report)
        worst = float(_worst(error, compiled.dtype))
    if not worst <= tolerance:
        raise ValueError(too_large(f"{worst:.1e}", tolerance))
    for leaf in jtu.tree_leaves((nngp, ntk)):
        _checks.finite_result("A kernel", leaf)
    return InfiniteKernels(nngp, ntk, _worst(error, compiled.dtype))


class _Compiled:
    """A model and arguments, and what was compiled for their like.

    Attributes:
        numbers: those among the arguments.
        dtype: of kernels.
    """

    def __init__(self, model: Model, x: Examples, arguments: Arguments, tangent: bool):
        params, static = partition(model, None)
        leaves = jtu.tree_leaves(params)
        self.dtype = wide_dtype(leaves)
        self.numbers = numbers(model, params, arguments, self.dtype)
        self._example = _inputs.one_example(x)
        self._tangent = tangent
        # Arrays that are no parameters count by their values: what is read depends on
        # them. Some are not known under a transformation; then nothing is kept.
        constants = [digest(a) for a in jtu.tree_leaves(static) if eqx.is_array(a)]
        self._key = None
        if None not in constants:
            self._key = (
                "infinite width", signature((model, self._example)).key,
                tuple(constants), arguments.parameterization, tuple(GIVEN.items()),
                tuple(DUALS.items()),
                None if arguments.roles is None else tuple(arguments.roles.items()),
            )  # fmt: skip
        make = lambda: read_model(model, params, self._example, arguments)
        self._reading = self._kept(self._key, make)
        uses = self._reading.uses(self.numbers, arguments, tangent)
        starts = {i: leaves[i] for i in sorted(uses.kept)}
        values = tuple(digest(start) for start in starts.values())
        if None in values:
            self._key = None
        self._key = self._key and (self._key, uses, values)
        self._program = self._kept(
            self._key, lambda: read(params, static, self._example, starts, uses)
        )

    def _kept(self, key: Any, make: Any) -> Any:
        """What is made, or was for an equal key."""
        if key is None:
            return make()
        return remembered(key, make, lambda made: getattr(made, "held_bytes", 0))

    def __call__(self, order: int) -> Pair:
        """The kernels of a pair of blocks, with series of this length."""
        key = None if self._key is None else (self._key, order, self._tangent)
        make = lambda: pair_of(
            self._program, self._reading, self._example, self.numbers,
            order, self._tangent,
        )  # fmt: skip
        return self._kept(key, make)


def _order(compiled: _Compiled, run: Any, x1: Any, x2: Any, tolerance: float) -> int:
    """The shortest series that will do, where a shorter one saves time."""
    n1 = _inputs.count(x1)
    n_pairs = n1 * (n1 if x2 is None else _inputs.count(x2))
    if n_pairs <= _FEW_PAIRS or compiled(ORDERS[-1]).exact:
        return ORDERS[-1]
    few = jtu.tree_map(lambda a: a[:_PILOT], x1)
    error = run(ORDERS[-1], few, None, lambda done, total: None)[2]
    worst = np.max(np.asarray(error), axis=(0, 1))
    # some way below, since other examples may need more than these few
    enough = [k for k, w in zip(ORDERS, worst, strict=True) if w <= tolerance / 10]
    return enough[0] if enough else ORDERS[-1]


def _worst(error: Any, dtype: Any) -> Any:
    """The largest bound, a number that is not differentiated."""
    if error is None:
        return jnp.zeros((), dtype)
    return jax.lax.stop_gradient(jnp.max(jnp.asarray(error)[..., -1]))


def too_large(worst: str, tolerance: float) -> str:
    """What is said of a series that does not converge in time."""
    return (
        "An expectation over Gaussians has no closed form here, and the bound of the "
        f"relative error of its Hermite series is {worst}, above the tolerance "
        f"{tolerance:.1e}. Functions with jumps or kinks away from zero, and steep "
        "ones at large variances, converge slowly: pass a larger `tolerance`, or "
        "smaller inputs, `W_std` or `b_std`."
    )


def checked_tolerance(tolerance: Any, dtype: Any) -> float:
    """The tolerance given, or what a precision allows."""
    if tolerance is None:
        return 1e-8 if jnp.finfo(dtype).eps < 1e-10 else 1e-4
    return float(_checks.positive("tolerance", tolerance))


def _run(
    compiled: _Compiled, order: int, x1: Any, x2: Any, batch_size: int, report: Any
) -> tuple[Any, Any, Any]:
    pair = compiled(order)
    block = max(1, min(batch_size, _BLOCK_BYTES // pair.example_bytes))
    return pairwise(
        pair.programs, (np.bool_(True), compiled.numbers), x1, x2, block, report,
        pair_bytes=_HELD * pair.bytes,
    )  # fmt: skip
