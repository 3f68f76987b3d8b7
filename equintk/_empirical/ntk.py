r"""The empirical neural tangent kernel: one network, at its current parameters.

$$\Theta_{ab}(x, x') = \sum_p \partial_p f_a(x)\, \partial_p f_b(x')$$

Source: Jacot, Gabriel and Hongler, arXiv:1806.07572, section 4.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._batch import pairwise
from .._parameters import output_struct, partition
from .._progress import reporter
from .._types import Examples, Integer, Model, Progress, Text, Trainable
from . import jacobian


def ntk(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> Float[Array, "n1 n2"]:
    """Empirical NTK averaged over the output entries.

    The trace over outputs divided by their number, so the scale on which each output
    of a wide network evolves. (Other tools sum: theirs is `out_size` times this.)

    Args:
        model: an `equinox.Module` that maps one example, without a batch axis, to one
            array of any rank.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again, and then only
            the upper triangle is computed.
        batch_size: the largest number of examples whose Jacobians are held at once for
            either side.
        trainable: which leaves are parameters: a filter function or a PyTree of bools
            as in `equinox.partition`. By default every inexact array outside
            `equinox.nn.State`; everything else is constant.
        precision: of the contractions, as in `jax.lax.Precision`.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `[i, j]` couples `x1[i]` to `x2[j]`, in outputs² per parameter². Under gradient
        flow on ½Σ(f - y)² an output moves at rate -Θ(f - y) per unit of flow time,
        i.e. of learning rate × steps.

    Raises:
        ValueError: for a model without parameters or one that couples examples, for
            inputs whose shapes do not match, and for NaN or infinity in the inputs or
            in the result.

    Holds two blocks of Jacobians, `2 * batch_size * out_size * n_params` numbers.
    """
    return _kernel(
        jacobian.averaged, jnp.transpose, (), model, x1, x2, batch_size,
        trainable=trainable, precision=precision, progress=progress,
    )  # fmt: skip


def ntk_per_output(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> Float[Array, "n1 n2 *out"]:
    """Empirical NTK of each output with itself: `ntk_full`'s diagonal over outputs.

    Arguments, errors and memory as `ntk`; `[i, j, a]` couples output `a` at `x1[i]` to
    the same output at `x2[j]`.
    """
    return _kernel(
        jacobian.per_output, lambda k: k.swapaxes(0, 1), ("out",),
        model, x1, x2, batch_size,
        trainable=trainable, precision=precision, progress=progress,
    )  # fmt: skip


def ntk_full(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> Float[Array, "n1 n2 *out_out"]:
    """Empirical NTK with its outputs coupled, of shape `(n1, n2, *out, *out)`.

    Arguments, errors and memory as `ntk`; `[i, j, a, b]` couples output `a` at `x1[i]`
    to output `b` at `x2[j]`.
    """
    return _kernel(
        jacobian.full, lambda k: k.transpose(1, 0, 3, 2), ("out", "out"),
        model, x1, x2, batch_size,
        trainable=trainable, precision=precision, progress=progress,
    )  # fmt: skip


def _kernel(
    contract: Callable[..., Array],
    flip: Callable[[Array], Array],
    out_axes: tuple[str, ...],
    model: Model,
    x1: Examples,
    x2: Examples | None,
    batch_size: Integer,
    *,
    trainable: Trainable,
    precision: Text,
    progress: Progress,
) -> Array:
    """The kernel whose blocks `contract` makes, with its output axes unravelled."""
    _checks.positive_integer("batch_size", batch_size)
    x1, x2 = _inputs.pair(x1, x2)
    params, static = partition(model, trainable)
    out = output_struct(model, _inputs.one_example(x1))
    kernel = pairwise(
        lambda block: ((), jacobian.features(params, static, block)),
        lambda _, one, two: contract(one, two, precision),
        flip, x1, x2, batch_size, reporter(progress, "ntk"),
    )  # fmt: skip
    kernel = kernel.reshape(kernel.shape[:2] + out.shape * len(out_axes))
    return _checks.finite_result("A kernel", kernel)
