"""Learning rates of single parameters, for optimizers that rescale gradients."""

import math
from typing import Any

import jax.tree_util as jtu
from jaxtyping import PyTree

from ._parameterize import Parameterized
from ._parameters import partition
from ._trace.roles import Role
from ._types import Text


def learning_rate_multipliers(
    parameterized: Any, optimizer: Text = "adam"
) -> PyTree[float]:
    r"""Factors of the learning rate of each parameter that make it serve any width.

    Under gradient descent there are none: the parameterization itself is made for one
    learning rate. Adam moves each raw entry by about the learning rate, whatever its
    gradient, so that a parameter needs the factor that makes of this the right step of
    what multiplies activations, with $n$ the fan-in of a weight and $m$ the fan-out of
    a weight, or the size of a bias or a gain between weights:

    | effective step  | input weight, bias, gain | hidden weight    | output weight |
    |-----------------|--------------------------|------------------|---------------|
    | mup, mean_field | lr                       | lr / n           | lr / n        |
    | ntk, standard   | lr / sqrt(m)             | lr / (n sqrt(m)) | lr / n        |

    In all of them one step moves the outputs by the order of lr at any width. In `mup`
    it moves features as much, too; in `ntk` and `standard` by lr / sqrt(m), and
    training becomes linear. Biases and gains of the outputs, and weights that see
    inputs and are outputs, take steps of lr.

    Args:
        parameterized: what `nt.parameterize` returned.
        optimizer: `"adam"`, for all optimizers whose steps do not depend on the scale
            of gradients (AdamW, Lion, RMSProp), or `"sgd"`. Gradients of wide networks
            are small: so must be Adam's `eps`, or it divides by that.

    Returns:
        A PyTree like the parameters of `parameterized`, of one number for each array:
        multiply the optimizer's updates by it, as in
        `jax.tree.map(lambda factor, update: factor * update, factors, updates)`.

    Raises:
        ValueError: if the model is not parameterized, or the optimizer is not known.

    Source: for `mup` Yang et al., arXiv:2203.03466, table 8; for the others the same
    reasoning, with gradients by hidden units of order 1 / sqrt(m) in place of 1 / m.
    """
    if not isinstance(parameterized, Parameterized):
        raise ValueError(
            "`parameterized` must be what `nt.parameterize` returned, but it is a "
            f"{type(parameterized).__name__}."
        )
    if optimizer not in ("adam", "sgd"):
        raise ValueError(
            f"`optimizer` must be one of 'adam', 'sgd', but it is {optimizer!r}."
        )
    roles, multipliers = dict(parameterized.roles), dict(parameterized.multipliers)

    def factor(path: Any, _: Any) -> float:
        below = jtu.keystr(path[1:])  # after `.module`
        multiplier = multipliers.get(below, 1.0)
        if optimizer == "sgd" or multiplier == 0:
            return 1.0
        return _adam_step(parameterized.scheme, roles[below]) / multiplier

    params, _ = partition(parameterized, None)
    return jtu.tree_map_with_path(factor, params)


def _adam_step(scheme: str, role: Role) -> float:
    """The step of an effective entry, in learning rates."""
    # How much one hidden unit does to the outputs, relative to `mup`.
    between = role.layer in ("input", "hidden")
    if role.kind != "weight":
        between = role.layer == "hidden"
    lazy = scheme in ("ntk", "standard") and between
    step = 1 / math.sqrt(role.fan_out) if lazy else 1.0
    if role.kind == "weight" and role.layer in ("hidden", "output"):
        step /= role.fan_in
    return step
