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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import equinox.nn as nn
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

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
        multipliers: of each leaf of `module`; `None` where there is none. Constants.
        scheme: the name of the parameterization, with its `W_std` and `b_std`.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
    """

    module: Any
    multipliers: PyTree[float | None]
    scheme: str = eqx.field(static=True)
    W_std: float = eqx.field(static=True)
    b_std: float = eqx.field(static=True)

    @property
    def effective(self) -> Any:
        """The user's module with its parameters multiplied."""
        return jtu.tree_map(
            lambda multiplier, raw: raw if multiplier is None else multiplier * raw,
            self.multipliers,
            self.module,
            is_leaf=lambda node: node is None,
        )

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
    roles: Mapping[str, Role] | None = None,
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
            `roles` that is no parameter, or a parameter without a role.
    """
    if scheme not in SCHEMES:
        raise ValueError(
            f"`scheme` must be one of {', '.join(map(repr, SCHEMES))}, but it is "
            f"{scheme!r}."
        )
    _checks.non_negative("W_std", W_std)
    _checks.non_negative("b_std", b_std)
    _inputs.random_key(key)
    if isinstance(model, Parameterized):
        model = model.module
    params, static = partition(model, None)
    output_struct(model, x)
    flat, treedef = jtu.tree_flatten_with_path(params)
    role_of = _roles(model, [jtu.keystr(path) for path, _ in flat], roles or {})
    weight, bias = SCHEMES[scheme]

    def redraw(key: Key, path: str, start: Array) -> tuple[Array, float | None]:
        role = role_of[path]
        if role == "gain":
            return start, None
        std, multiplier = bias(b_std) if role == "bias" else weight(W_std, role)
        return std * jr.normal(key, start.shape, start.dtype), multiplier

    drawn = [
        redraw(subkey, jtu.keystr(path), leaf)
        for subkey, (path, leaf) in zip(jr.split(key, len(flat)), flat, strict=True)
    ]
    raw, multipliers = (treedef.unflatten(part) for part in zip(*drawn, strict=True))
    return Parameterized(
        eqx.combine(raw, static), multipliers, scheme, float(W_std), float(b_std)
    )


def _roles(
    model: Model, paths: Sequence[str], roles: Mapping[str, Role]
) -> dict[str, Role]:
    """The role of each parameter, by its path below the model."""
    for path, role in roles.items():
        if path not in paths:
            raise ValueError(
                f"`roles` names {path!r}, which is no parameter of the model; its "
                f"parameters are {', '.join(map(repr, paths))}."
            )
        fan_in = isinstance(role, int) and not isinstance(role, bool) and role > 0
        if not (fan_in or role in ("bias", "gain")):
            raise ValueError(
                f"The role of {path!r} must be a weight's fan-in (a positive integer), "
                f'"bias" or "gain", but it is {role!r}.'
            )
    known = dict(_roles_from_layers(model)) | dict(roles)
    for path in paths:
        if path not in known:
            raise ValueError(
                f"The parameter `model{path}` sits in no layer of `equinox.nn` that "
                "`parameterize` knows, so its fan-in cannot be told. Say what it is: "
                f'`roles={{{path!r}: 64}}` for a weight of fan-in 64, `"bias"`, or '
                '`"gain"` to keep its start.'
            )
    return {path: known[path] for path in paths}


def _roles_from_layers(model: Model) -> Iterator[tuple[str, Role]]:
    kinds = tuple(_LAYERS)
    nodes = jtu.tree_leaves_with_path(model, is_leaf=lambda n: isinstance(n, kinds))
    for path, node in nodes:
        for kind, fields in _LAYERS.items():
            if isinstance(node, kind):
                for field, role in fields(node).items():
                    yield f"{jtu.keystr(path)}.{field}", role


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
