r"""The NNGP kernel of one network, as it is: products of its outputs.

$$K_{ab}(x, x') = f_a(x) f_b(x')$$

Its average over initialisations is `nngp`. The members are those of the tangent kernel
(`ntk.py`) but for that by parameter, with the same arguments.
"""

from typing import Any, NamedTuple

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
from .ntk import ntk
from .reading import Member


class EmpiricalKernels(NamedTuple):
    """Both kernels of one network.

    Attributes:
        nngp: `empirical_nngp`, `(n1, n2)`.
        ntk: `ntk`, `(n1, n2)`.
    """

    nngp: PyTree
    ntk: PyTree


def empirical_nngp(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2"]]:
    """`f(x1) f(x2)` of one network, averaged over the output entries.

    Arguments and errors as `ntk`; `model` may be without parameters.

    Returns:
        `[i, j]` in outputs², on the same scale as `nngp` and `ntk`.
    """
    return kernel(
        Member("empirical_nngp", average=None, diagonal=None, of_outputs=True),
        model, x1, x2, batch_size,
        Settings(None, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def empirical_nngp_per_output(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2 *_out"]]:
    """The same of each output with itself; arguments as `ntk_per_output`."""
    return kernel(
        Member("empirical_nngp_per_output", average, diagonal=None, of_outputs=True),
        model, x1, x2, batch_size,
        Settings(None, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def empirical_nngp_full(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    diagonal: Axes = (),
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Directory = None,
) -> PyTree[Float[AnyArray, "n1 n2 *_out_out"]]:
    """The same of every output with every other; arguments and axes as `ntk_full`."""
    return kernel(
        Member("empirical_nngp_full", average, diagonal, of_outputs=True),
        model, x1, x2, batch_size,
        Settings(None, precision, progress, out, mesh, checkpoint),
    )  # fmt: skip


def empirical_nngp_diag(
    model: Model,
    x: Examples,
    batch_size: Integer = 32,
    *,
    precision: Text = "highest",
    progress: Progress = False,
) -> PyTree[Float[Array, " n"]]:
    """The diagonal of `empirical_nngp(model, x)`: mean squares of the outputs."""
    return kernel_of_each(
        Member("empirical_nngp_diag", average=None, diagonal=None, of_outputs=True),
        model, x, batch_size, Settings(None, precision, progress),
    )  # fmt: skip


def empirical_nngp_diag_full(
    model: Model,
    x: Examples,
    batch_size: Integer = 32,
    *,
    average: Axes = (),
    diagonal: Axes = (),
    precision: Text = "highest",
    progress: Progress = False,
) -> PyTree[Float[Array, " n *_out_out"]]:
    """`empirical_nngp_full` of each example with itself; arguments as there."""
    return kernel_of_each(
        Member("empirical_nngp_diag_full", average, diagonal, of_outputs=True),
        model, x, batch_size, Settings(None, precision, progress),
    )  # fmt: skip


def empirical_kernels(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    batch_size: Integer = 32,
    *,
    trainable: Trainable = None,
    precision: Text = "highest",
    progress: Progress = False,
    out: Text = "device",
) -> EmpiricalKernels:
    """Both kernels of one network; arguments and errors as `ntk`."""
    nngp = empirical_nngp(
        model, x1, x2, batch_size, precision=precision, progress=progress, out=out
    )
    tangent = ntk(
        model, x1, x2, batch_size,
        trainable=trainable, precision=precision, progress=progress, out=out,
    )  # fmt: skip
    return EmpiricalKernels(nngp, tangent)
