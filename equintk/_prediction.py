"""What a network's own tangent kernel predicts: a kernel handed to gradient flow."""

from typing import Any

from jaxtyping import Array, Float

from . import _checks, _inputs
from ._empirical.ntk import ntk, ntk_full
from ._empirical.outputs import outputs
from ._empirical.sketch import averaged_product, coupled_product, ntk_features
from ._parameters import output_struct, partition
from ._types import (
    Examples,
    Integer,
    Key,
    Model,
    Number,
    Progress,
    Targets,
    Times,
    Trainable,
)  # fmt: skip
from .predict.arguments import array
from .predict.flow import GradientFlow, flow_times


def ntk_predict(
    model: Model,
    x_train: Examples,
    y_train: Targets,
    x_test: Examples,
    t: Times,
    batch_size: Integer = 32,
    ridge: Number = 1e-6,
    coupled: bool = True,
    *,
    c: Number = 1.0,
    trainable: Trainable = None,
    progress: Progress = False,
) -> Float[Array, "..."]:
    """Outputs on `x_test` after training for flow time `t`, predicted from the kernel.

    Exact for the network linearised about its parameters, under gradient flow on
    `(c/2) * sum (f - y)² + ridge/2 * |theta - theta_0|²`, from its own outputs.

    Args:
        model: an `equinox.Module` that maps one example to one array of any rank.
        x_train: the training inputs; the first axis counts them.
        y_train: their targets, `(n_train, *out)`.
        x_test: the inputs to predict at.
        t: learning rate × steps: a number, or several; `jnp.inf` is the end.
        batch_size: the largest number of examples whose Jacobians are held at once.
        ridge: pull towards the initial parameters; 0 is allowed at any time.
        coupled: the full kernel, or, where `False`, the kernel averaged over outputs,
            which is an approximation for finite networks and `out_size²` times smaller.
        c: scale of the loss, such as `nt.loss_scale("mean", y_train)`.
        trainable: which leaves are parameters, as in `ntk`.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `(n_test, *out)`, with a time axis in front where `t` holds several times.

    Raises:
        ValueError: for a model or inputs that `ntk` refuses, targets that are not of
            the outputs' shape, and a negative `t` or `ridge`; before anything is
            computed.

    Cost: the kernels, and one eigendecomposition of order `(n_train * out_size)³`.

    Source: Lee et al., arXiv:1902.06720, equations 8 to 11.
    """
    x_train, y_train, x_test = _check(
        model, x_train, y_train, x_test, t, ridge, c, trainable
    )
    kernel = ntk_full if coupled else ntk
    given = {"batch_size": batch_size, "trainable": trainable, "progress": progress}
    k_train_train = kernel(model, x_train, **given)
    k_test_train = kernel(model, x_test, x_train, **given)
    flow = GradientFlow(k_train_train, y_train, c=c, ridge=ridge)
    f0_train, f0_test = (outputs(model, x, batch_size) for x in (x_train, x_test))
    return flow.test(t, k_test_train, f0_train, f0_test)


def mc_ntk_predict(
    model: Model,
    key: Key,
    x_train: Examples,
    y_train: Targets,
    x_test: Examples,
    t: Times,
    proj_dim: Integer = 100,
    ridge: Number = 1e-6,
    coupled: bool = True,
    batch_size: Integer = 32,
    *,
    c: Number = 1.0,
    trainable: Trainable = None,
    progress: Progress = False,
) -> Float[Array, "..."]:
    """As `ntk_predict`, with the kernel of random projections.

    One draw serves train-train and test-train, as it must. At late times the prediction
    needs `proj_dim * out_size` well above `n_train * out_size`, or a ridge: near
    equality the error is largest.

    Args:
        model: as in `ntk_predict`, as all that is not named here.
        key: draws the projection.
        x_train: the training inputs.
        y_train: their targets, `(n_train, *out)`.
        x_test: the inputs to predict at.
        t: learning rate × steps: a number, or several; `jnp.inf` is the end.
        proj_dim: the number of random directions.
        ridge: pull towards the initial parameters.
        coupled: the full kernel, or the one averaged over outputs.
        batch_size: the largest number of examples differentiated at once.
        c: scale of the loss.
        trainable: which leaves are parameters.
        progress: `True`, or a function of (blocks done, blocks).

    Returns:
        `(n_test, *out)`, with a time axis in front where `t` holds several times.

    Raises:
        ValueError: as `ntk_predict` and `mc_ntk`.
    """
    x_train, y_train, x_test = _check(
        model, x_train, y_train, x_test, t, ridge, c, trainable
    )
    given = {"batch_size": batch_size, "trainable": trainable, "progress": progress}
    z_train, z_test = (
        ntk_features(model, key, x, proj_dim, **given) for x in (x_train, x_test)
    )
    contract = coupled_product if coupled else averaged_product
    flow = GradientFlow(contract(z_train, z_train), y_train, c=c, ridge=ridge)
    f0_train, f0_test = (outputs(model, x, batch_size) for x in (x_train, x_test))
    return flow.test(t, contract(z_test, z_train), f0_train, f0_test)


def _check(
    model: Model,
    x_train: Examples,
    y_train: Targets,
    x_test: Examples,
    t: Times,
    ridge: Number,
    c: Number,
    trainable: Trainable,
) -> tuple[Examples, Any, Examples]:
    """Inputs and targets as arrays; every refusal comes before the first kernel."""
    _inputs.examples("x_test", x_test)
    x_train, x_test = _inputs.pair(x_train, x_test, ("x_train", "x_test"))
    partition(model, trainable)
    out = output_struct(model, _inputs.one_example(x_train)).shape
    targets: Any = array("y_train", y_train)
    needed = (_inputs.count(x_train), *out)
    if targets.shape != needed:
        hint = ""
        if targets.shape == needed[::-1]:
            hint = " Type `y_train.T`."
        elif [n for n in targets.shape if n > 1] == [n for n in needed if n > 1]:
            hint = f" Type `y_train.reshape({needed})`."
        raise ValueError(
            "`y_train` must hold one target, of the shape of an output, for each "
            f"example of `x_train`: {needed}. But it has shape {targets.shape}.{hint}"
        )
    _checks.non_negative("ridge", ridge)
    _checks.positive("c", c)
    flow_times(t)
    return x_train, targets, x_test
