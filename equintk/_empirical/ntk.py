r"""The empirical neural tangent kernel: one network, at its current parameters.

$$\Theta_{ab}(x, x') = \sum_p \partial_p f_a(x)\, \partial_p f_b(x')$$

Source: Jacot, Gabriel and Hongler, arXiv:1806.07572, section 4.
"""

from typing import Any

from jaxtyping import Array, Float, PyTree

from .._types import (
    AnyArray,
    Axes,
    Directory,
    Examples,
    Integer,
    Model,
    Progress,
    Text,
    Trainable,
)
from .kernel import Settings, kernel, kernel_of_each
from .reading import Member


def ntk(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2"]]:
    """Empirical NTK averaged over the output entries.

    The trace over outputs divided by their number, so the scale on which each output
    of a wide network evolves. (Other tools sum: theirs is `out_size` times this.)

    Args:
        model: an `equinox.Module` that maps one example, without a batch axis, to an
            array of any rank or a PyTree of arrays. Complex parameters and outputs
            count as pairs of real ones. It is taken to be pure, as under `jax.jit`: it
            is called once for all models of one structure (the same but for the entries
            of arrays), and what it reads from elsewhere, or does, is not seen again.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again, and then only
            the upper triangle is computed.
        batch_size: the largest number of examples that are differentiated at once; it
            bounds memory. One that holds all examples is faster where memory allows: on
            a processor 256 of them with 100 outputs take three quarters of the time.
        trainable: which leaves are parameters: a filter function or a PyTree of bools
            as in `equinox.partition`. By default every inexact array outside
            `equinox.nn.State`; everything else is constant.
        precision: of the contractions, as in `jax.lax.Precision`.
        progress: `True` for lines on stderr, or a function of (tiles done, tiles).
        out: `"device"`, or `"host"` for a NumPy array in the host's memory, for kernels
            larger than the device.
        mesh: a `jax.sharding.Mesh` over whose devices the tiles are spread; the result
            is on the first of them. Of several processes all must make the same call,
            and all get the whole kernel.
        checkpoint: a directory that keeps finished tiles, so that the same call after
            an interruption goes on where it was. One kernel, one directory.

    Returns:
        `[i, j]` couples `x1[i]` to `x2[j]`, in outputs² per parameter². Under gradient
        flow on ½Σ(f - y)² an output moves at rate -Θ(f - y) per unit of flow time,
        i.e. of learning rate × steps. For a PyTree of outputs a PyTree of kernels.

    Raises:
        ValueError: for a model without parameters or one that couples examples, for
            inputs whose shapes do not match, for NaN or infinity in the inputs or in
            the result, and for a `checkpoint` of another kernel.

    Each example is differentiated once where the features of all examples fit
    (`_schedule.FEATURE_BYTES`); beside them and the kernel it holds the temporaries of
    one block of `batch_size` examples. What a layer's features are, and which of two
    exact ways is cheaper for it, is decided from the model's jaxpr: see
    `docs/architecture.md`.
    """
    return kernel(
        Member("ntk", average=None, diagonal=None), model, x1, x2, batch_size,
        Settings(trainable, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def ntk_per_output(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2 *_out"]]:
    """Empirical NTK of each output with itself: `ntk_full`'s diagonal over outputs.

    Arguments, errors and memory as `ntk`; `[i, j, a]` couples output `a` at `x1[i]` to
    the same output at `x2[j]`. `average` names output axes to average over, which the
    result then lacks; negative ones count from the last.
    """
    return kernel(
        Member("ntk_per_output", average, diagonal=None), model, x1, x2, batch_size,
        Settings(trainable, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def ntk_full(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    diagonal: Axes = (),
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2 *_out_out"]]:
    """Empirical NTK with its outputs coupled, of shape `(n1, n2, *out, *out)`.

    Arguments, errors and memory as `ntk`; `[i, j, a, b]` couples output `a` at `x1[i]`
    to output `b` at `x2[j]`. Of the output axes named in `average` the kernel's
    diagonal is averaged, of those in `diagonal` it is kept, and all others are coupled:
    the result has the axes `(n1, n2, *diagonal, *others, *others)`. A complex output
    counts as a real one with one more axis, of (real, imaginary), at the end.
    """
    return kernel(
        Member("ntk_full", average, diagonal), model, x1, x2, batch_size,
        Settings(trainable, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def ntk_by_parameter(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2"]]:
    """The part of `ntk` that each parameter leaf has: their sum is `ntk`.

    Arguments and errors as `ntk`; holds as many kernels as there are leaves.

    Returns:
        The model's PyTree of parameters (`None` elsewhere), a kernel `(n1, n2)` in the
        place of each leaf.
    """
    return kernel(
        Member("ntk_by_parameter", average=None, diagonal=None, by_leaf=True),
        model, x1, x2, batch_size,
        Settings(trainable, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def ntk_diag(
    model: Model,
    x: Examples,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> PyTree[Float[Array, " n"]]:
    """The diagonal of `ntk(model, x)`, without the rest: arguments and errors as there.

    `[i]` is the squared norm of the gradient at `x[i]`, averaged over output entries.
    """
    return kernel_of_each(
        Member("ntk_diag", average=None, diagonal=None), model, x, batch_size,
        Settings(trainable, precision, progress),
    )  # fmt: skip


def ntk_diag_full(
    model: Model,
    x: Examples,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    diagonal: Axes = (),
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
) -> PyTree[Float[Array, " n *_out_out"]]:
    """`ntk_full` of each example with itself, `(n, *out, *out)`: arguments as there."""
    return kernel_of_each(
        Member("ntk_diag_full", average, diagonal), model, x, batch_size,
        Settings(trainable, precision, progress),
    )  # fmt: skip
