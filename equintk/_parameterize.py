r"""How a model's weights are drawn and multiplied, so that widths can be compared.

A leaf with role "weight" and fan-in $n$, or role "bias", becomes multiplier × raw:

| scheme   | weight: raw std | weight: multiplier | bias: raw std | its multiplier |
|----------|-----------------|--------------------|---------------|----------------|
| ntk      | 1               | W_std / sqrt(n)    | 1             | b_std          |
| standard | W_std / sqrt(n) | 1                  | b_std         | 1              |

Source: Jacot, Gabriel and Hongler, arXiv:1806.07572, section 2; Sohl-Dickstein et al.,
arXiv:2001.07301.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import equinox.nn as nn
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from . import _checks, _inputs
from ._parameters import output_struct, partition
from ._types import Examples, Key, Model, Number, Text

Role = int | str
"""A weight's fan-in, or "bias", or "gain" (which keeps its start)."""

Scaling = tuple[float, float]
"""Standard deviation of the raw parameter, and its multiplier."""

SCHEMES: dict[str, tuple[Callable[..., Scaling], Callable[..., Scaling]]] = {
    "ntk": (lambda W_std, n: (1.0, W_std / math.sqrt(n)), lambda b_std: (1.0, b_std)),
    "standard": (
        lambda W_std, n: (W_std / math.sqrt(n), 1.0),
        lambda b_std: (b_std, 1.0),
    ),
}


class Parameterized(eqx.Module):
    """A module whose parameters are multiplied before use.

    Attributes:
        module: the user's module, holding raw parameters: what is trained.
        multipliers: pairs of a leaf's path below `module` and its multiplier. No leaves
            of this PyTree, so that no transformation can take them for parameters.
        scheme: the name of the parameterization, with its `W_std` and `b_std`.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
    """

    module: Any
    multipliers: tuple[tuple[str, float], ...] = eqx.field(static=True)
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

    Args:
        model: an `equinox.Module`; its weights must sit in layers of `equinox.nn`, or
            `roles` must say what they are.
        x: **one** example, without a batch axis (or `jax.ShapeDtypeStruct`s); only its
            shape is read.
        key: draws the raw parameters.
        scheme: `"ntk"` or `"standard"`; both have weights of variance `W_std²/fan-in`
            and biases of variance `b_std²`, but gradients of different scale. In
            `"ntk"` the tangent kernel has a limit at infinite width, in `"standard"` it
            grows.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
        roles: the path of a leaf below the model, such as `".scale"`, and its role:
            a weight's fan-in as an integer, `"bias"`, or `"gain"`. It overrides what
            the layer types say. Gains, as normalisation layers have, keep their start.

    Returns:
        A module of the same signature. `nt.ntk` of it is the kernel by its raw
        parameters.

    Raises:
        ValueError: for an unknown scheme, a negative standard deviation, a path in
            `roles` that is no parameter, a parameter without a role or, where it is
            tied, with two, or a layer that normalises its weight.
    """
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(
            f"`scheme` must be one of {', '.join(map(repr, SCHEMES))}, but it is "
            f"{scheme!r}."
        )
    _checks.non_negative("W_std", W_std)
    _checks.non_negative("b_std", b_std)
    _inputs.random_key(key)
    model = jtu.tree_map(
        lambda node: node.module if isinstance(node, Parameterized) else node,
        model,
        is_leaf=lambda node: isinstance(node, Parameterized),
    )
    params, static = partition(model, None)
    output_struct(model, x)
    flat, treedef = jtu.tree_flatten_with_path(params)
    paths = [jtu.keystr(path) for path, _ in flat]
    role_of = _roles(model, dict(zip(paths, (a for _, a in flat), strict=True)), roles)
    weight, bias = SCHEMES[scheme]

    def redraw(key: Key, path: str, start: Array) -> tuple[Array, float | None]:
        role = role_of[path]
        if role == "gain":
            return start, None
        std, multiplier = bias(b_std) if role == "bias" else weight(W_std, role)
        return std * jr.normal(key, start.shape, start.dtype), multiplier

    drawn = [
        redraw(subkey, path, leaf)
        for subkey, path, (_, leaf) in zip(
            jr.split(key, len(flat)), paths, flat, strict=True
        )
    ]
    raw, multipliers = zip(*drawn, strict=True)
    return Parameterized(
        eqx.combine(treedef.unflatten(raw), static),
        tuple(
            (path, multiplier)
            for path, multiplier in zip(paths, multipliers, strict=True)
            if multiplier is not None
        ),
        scheme,
        float(W_std),
        float(b_std),
    )


def _roles(model: Model, params: Mapping[str, Any], roles: Any) -> dict[str, Role]:
    """The role of each parameter, by its path below the model."""
    given = _checked_roles(roles, params)
    path_of = {id(leaf): path for path, leaf in params.items()}
    known: dict[str, Role] = {}
    for layer_path, layer in _layers(model):
        for field, role in _fields(layer_path, layer).items():
            path = f"{layer_path}.{field}"
            if path not in params:  # a weight tied to one that lives elsewhere
                path = path_of.get(id(getattr(layer, field, None)))
            if path is None or path in given:
                continue
            if known.setdefault(path, role) != role:
                raise ValueError(
                    f"The parameter `model{path}` is used with the roles "
                    f"{known[path]!r} and {role!r} (fan-in, or kind). Say which: "
                    f"`roles={{{path!r}: {role!r}}}`."
                )
    known |= given
    for path in params:
        if path not in known:
            raise ValueError(
                f"The parameter `model{path}` sits in no layer of `equinox.nn` that "
                "`parameterize` knows, so its fan-in cannot be told. Say what it is: "
                f'`roles={{{path!r}: 64}}` for a weight of fan-in 64, `"bias"`, or '
                '`"gain"` to keep its start.'
            )
    return known


def _checked_roles(roles: Any, params: Mapping[str, Any]) -> dict[str, Role]:
    if roles is None:
        return {}
    if not isinstance(roles, Mapping):
        raise ValueError(
            "`roles` must map the paths of parameters to their roles, such as "
            f'`{{".scale": "gain"}}`, but it is {type(roles).__name__}.'
        )
    checked: dict[str, Role] = {}
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


def _layers(model: Model) -> list[tuple[str, Any]]:
    """Layers that say what their parameters are; tied weights are put in each."""
    model = jtu.tree_map(
        lambda node: node() if isinstance(node, nn.Shared) else node,
        model,
        is_leaf=lambda node: isinstance(node, nn.Shared),
    )
    kinds = (*_LAYERS, nn.SpectralNorm, nn.WeightNorm)
    nodes = jtu.tree_leaves_with_path(model, is_leaf=lambda n: isinstance(n, kinds))
    return [(jtu.keystr(p), node) for p, node in nodes if isinstance(node, kinds)]


def _fields(path: str, layer: Any) -> dict[str, Role]:
    for kind, fields in _LAYERS.items():
        if isinstance(layer, kind):
            return fields(layer)
    raise ValueError(
        f"`model{path}` is a {type(layer).__name__}, which normalises the weight it "
        "holds, so that no scaling of it has an effect. Parameterize a model without."
    )


def _affine(fan_in: int) -> dict[str, Role]:
    return {"weight": fan_in, "bias": "bias"}


def _convolution(layer: Any) -> dict[str, Role]:
    return _affine(layer.in_channels // layer.groups * math.prod(layer.kernel_size))


def _cell(layer: Any) -> dict[str, Role]:
    return {
        "weight_ih": layer.input_size,
        "weight_hh": layer.hidden_size,
        "bias": "bias",
        "bias_n": "bias",
    }


def _normalisation(layer: Any) -> dict[str, Role]:
    return {"weight": "gain", "bias": "gain"}


_LAYERS: dict[type, Callable[[Any], dict[str, Role]]] = {
    nn.Linear: lambda layer: _affine(
        1 if layer.in_features == "scalar" else layer.in_features
    ),
    nn.Conv: _convolution,
    nn.ConvTranspose: _convolution,
    nn.Embedding: lambda layer: {"weight": 1},
    nn.GRUCell: _cell,
    nn.LSTMCell: _cell,
    nn.LayerNorm: _normalisation,
    nn.RMSNorm: _normalisation,
    nn.GroupNorm: _normalisation,
    nn.BatchNorm: _normalisation,
    nn.PReLU: lambda layer: {"negative_slope": "gain"},
}
