"""A model redrawn and multiplied so that widths can be compared, in any scheme."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from . import _checks, _inputs
from ._parameters import output_struct, partition
from ._scalings import SCHEMES, scaling
from ._trace.roles import Role, roles as read_roles
from ._types import Examples, Key, Model, Number, Text


class Parameterized(eqx.Module):
    """A module whose parameters are multiplied before use.

    Attributes:
        module: the user's module, holding raw parameters: what is trained.
        multipliers: pairs of a leaf's path below `module` and its multiplier. No leaves
            of this PyTree, so that no transformation can take them for parameters.
        roles: pairs of a leaf's path and what it was read to be.
        scheme: the name of the parameterization, with its `W_std` and `b_std`.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
    """

    module: Any
    multipliers: tuple[tuple[str, float], ...] = eqx.field(static=True)
    roles: tuple[tuple[str, Role], ...] = eqx.field(static=True)
    scheme: str = eqx.field(static=True)
    W_std: float = eqx.field(static=True)
    b_std: float = eqx.field(static=True)

    @property
    def effective(self) -> Any:
        """The user's module with its parameters multiplied."""
        multipliers = dict(self.multipliers)

        def multiplied(path: Any, raw: Any) -> Any:
            multiplier = multipliers.get(jtu.keystr(path))
            return raw if multiplier is None else multiplier * raw

        return jtu.tree_map_with_path(multiplied, self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the user's module with its parameters multiplied."""
        return self.effective(*args, **kwargs)


def parameterize(
    model: Model,
    x: Examples,
    key: Key,
    scheme: Text = "ntk",
    W_std: Number = 1.0,
    b_std: Number = 0.0,
    roles: Any = None,
) -> Parameterized:
    """Redraw a model in a parameterization that makes widths comparable.

    What each parameter is, a weight of which fan-in, a bias or a gain, is read from
    what the model does with it, so any module will do.

    Args:
        model: any `equinox.Module`.
        x: **one** example, without a batch axis (or `jax.ShapeDtypeStruct`s); only its
            shape is read.
        key: draws the raw parameters.
        scheme: how a parameter depends on the raw one, which is what is trained. In
            all of them weights have variance `W_std²/fan-in` and biases `b_std²`,
            but for the output weights of `"mup"`: theirs is `W_std²/fan-in²`.

            - `"ntk"`: the tangent kernel has a limit at infinite width, and features
              move less and less.
            - `"standard"`: the tangent kernel grows with width.
            - `"mup"`: features move at any width, as much as they can, under gradient
              descent with one learning rate for all layers; outputs vanish at the
              start. The scale of attention is the model's own: use `1/d`.
            - `"mean_field"`: the same of one hidden layer.

        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
        roles: the path of a leaf below the model, such as `".scale"`, and its role:
            a weight's fan-in as an integer (1 for an embedding), `"bias"`, or `"gain"`.
            It overrides what is read. Gains, which are what multiplies activations and
            what is added to that, keep their start, and so does what is zero, unless it
            is named here: a weight with the multiplier of its scheme, a bias with that
            of a gain.

    Returns:
        A module of the same signature. `nt.ntk` of it is the kernel by its raw
        parameters. For other optimizers than gradient descent see
        `nt.learning_rate_multipliers`.

    Raises:
        ValueError: for an unknown scheme, a negative standard deviation, a path in
            `roles` that is no parameter, a parameter whose role cannot be read or that
            has two, or `"mean_field"` for a model with weights between hidden layers.
            Under a transformation that hides values, a parameter that turns out to be
            zero raises when the transformed function runs.

    Source: the tables of `equintk/_scalings.py` name theirs.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(
            f"`scheme` must be one of {', '.join(map(repr, SCHEMES))}, but it is "
            f"{scheme!r}."
        )
    _checks.non_negative("W_std", W_std)
    _checks.non_negative("b_std", b_std)
    _inputs.random_key(key)
    model, drawn_before = _unwrapped(model)
    params, static = partition(model, None)
    output_struct(model, x)
    flat, treedef = jtu.tree_flatten_with_path(params)
    leaves = {jtu.keystr(path): leaf for path, leaf in flat}
    given = _checked_roles(roles, leaves)
    role_of = read_roles(model, x, given, drawn_before)
    if scheme == "mean_field":
        _one_hidden_layer(role_of)
    scalings = {
        path: scaling(scheme, role, float(W_std), float(b_std))
        for path, role in role_of.items()
    }
    raw, multipliers = [], []
    keys = jr.split(key, len(leaves))
    for subkey, (path, leaf) in zip(keys, leaves.items(), strict=True):
        role, (std, multiplier) = role_of[path], scalings[path]
        if not role.kept:
            raw.append(std * jr.normal(subkey, leaf.shape, leaf.dtype))
        elif role.kind == "gain" and multiplier != 1:
            raw.append(leaf / multiplier)
        else:
            raw.append(leaf)
        if not (role.kept and multiplier == 1):
            multipliers.append((path, multiplier))
    hidden = {
        path: leaf
        for path, leaf in leaves.items()
        if _checks.is_traced(leaf)
        and not (role_of[path].kept or path in given or path in drawn_before)
    }
    raw = _refuse_zeros(raw, hidden)
    return Parameterized(
        eqx.combine(treedef.unflatten(raw), static),
        tuple(multipliers),
        tuple(role_of.items()),
        scheme,
        float(W_std),
        float(b_std),
    )


def _unwrapped(model: Model) -> tuple[Any, frozenset[str]]:
    """A model that is parameterized nowhere, and the paths of what was drawn before.

    What kept its start gets it back. Zeros that were drawn are no start.
    """
    drawn: set[str] = set()

    def unwrap(path: Any, node: Any) -> Any:
        if not isinstance(node, Parameterized):
            return node
        inner, deeper = _unwrapped(node.module)
        here = jtu.keystr(path)
        roles, multipliers = dict(node.roles), dict(node.multipliers)
        drawn.update(here + below for below in deeper)
        drawn.update(here + below for below, role in node.roles if not role.kept)

        def restored(below: Any, raw: Any) -> Any:
            role = roles.get(jtu.keystr(below))
            is_gain = role is not None and role.kind == "gain"
            return raw * multipliers.get(jtu.keystr(below), 1.0) if is_gain else raw

        return jtu.tree_map_with_path(restored, inner)

    unwrapped = jtu.tree_map_with_path(
        unwrap, model, is_leaf=lambda node: isinstance(node, Parameterized)
    )
    return unwrapped, frozenset(drawn)


def _one_hidden_layer(role_of: Mapping[str, Role]) -> None:
    """Refuse what the mean-field limit is not known of."""
    between = [
        f"`model{path}`"
        for path, role in role_of.items()
        if role.kind == "weight" and role.layer == "hidden"
    ]
    if between:
        raise ValueError(
            '`scheme="mean_field"` is that of one hidden layer, but other weights feed '
            f"{', '.join(between)} and are fed by it: in a deeper network the units of "
            "a layer would all compute the same, and gradients vanish. Type "
            '`scheme="mup"`, which is the same for one hidden layer and right for more.'
        )


def _refuse_zeros(raw: list[Array], hidden: Mapping[str, Array]) -> list[Array]:
    """The raw parameters, if none was drawn in place of hidden values that are zero.

    Whether a parameter starts at zero decides what becomes of it, and a transformation
    such as `jax.jit` around the model's own construction hides it.
    """
    if not hidden:
        return raw
    zero = jnp.stack([~jnp.any(leaf != 0) for leaf in hidden.values()])
    texts = [
        f"The parameter `model{path}` starts at zero, which keeps its start, but a "
        "transformation hid that. Build the model outside of it and call "
        "`nt.parameterize(model, x, key)` inside, or say what it is: "
        f'`roles={{{path!r}: "bias"}}` to draw it, or a fan-in, or `"gain"` to keep it.'
        for path in hidden
    ]
    return eqx.branched_error_if(raw, jnp.any(zero), jnp.argmax(zero), texts)


def _checked_roles(roles: Any, params: Mapping[str, Any]) -> dict[str, int | str]:
    if roles is None:
        return {}
    if not isinstance(roles, Mapping):
        raise ValueError(
            "`roles` must map the paths of parameters to their roles, such as "
            f'`{{".scale": "gain"}}`, but it is {type(roles).__name__}.'
        )
    checked: dict[str, int | str] = {}
    for path, role in roles.items():
        if path not in params:
            raise ValueError(
                f"`roles` names {path!r}, which is no parameter of the model; its "
                f"parameters are {', '.join(map(repr, params))}."
            )
        is_fan_in = isinstance(role, int | np.integer) and not isinstance(role, bool)
        if not (role in ("bias", "gain") or is_fan_in and role > 0):
            raise ValueError(
                f"The role of {path!r} must be a weight's fan-in (a positive integer), "
                f'"bias" or "gain", but it is {role!r}.'
            )
        checked[path] = role if isinstance(role, str) else int(role)
    return checked
