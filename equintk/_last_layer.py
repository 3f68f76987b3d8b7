"""The parameters of a model's last layer, read from what the model does with them.

Of each place where parameters meet activations it is asked what comes after it: the
last layer is what meets them where no other weight follows. Roles are not needed, so a
model of any kind before its last layer will do.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.tree_util as jtu
from jax.extend.core import DropVar, Jaxpr, JaxprEqn, Literal
from jaxtyping import PyTree

from ._parameters import is_state, output_structs, partition
from ._trace.flatten import scan_parts
from ._trace.roles import flat_model
from ._trace.sources import ACTIVATIONS, Source, sources
from ._trace.uses import Path
from ._types import Examples, Model, Trainable


def last_layer(model: Model, x: Examples, trainable: Trainable = None) -> PyTree[bool]:
    """Which parameters are those of the last layer, for `trainable=`.

    `nt.ntk(model, xs, trainable=nt.last_layer(model, xs[0]))` is the last-layer kernel,
    also called the conjugate kernel: for a dense readout the Gram matrix of its inputs,
    plus 1 for its bias.

    The last layer are the weights that no other weight follows, each head's its own,
    and what shifts or scales their results. A weight is what is contracted with
    activations or looked up in them, and what multiplies them after a nonlinearity.

    Args:
        model: an `equinox.Module` that maps one example to an array or a PyTree of
            arrays.
        x: **one** example, without a batch axis (or `jax.ShapeDtypeStruct`s); only its
            shape is read.
        trainable: which leaves are parameters, as in `ntk`; others are left out.

    Returns:
        The model's PyTree with `True` for these parameters and `False` elsewhere.

    Raises:
        ValueError: if no weight is last, as where a recurrent loop ends the model; if
            one of them is used before the last layer, too (tied weights), which no
            choice of parameters can tell apart; if it cannot be seen what is done with
            one; and if `trainable` selects none of them.

    Costs one trace of the model; nothing is computed.
    """
    output_structs(model, x)
    params, static = partition(model, None)
    with_paths, treedef = jtu.tree_flatten_with_path(params)
    paths = [jtu.keystr(path) for path, _ in with_paths]
    flat = flat_model([leaf for _, leaf in with_paths], treedef, static, x)
    last = {paths[i] for i in _last(_meetings(flat, len(paths)), paths)}
    selected, _ = partition(model, trainable)
    chosen = {jtu.keystr(path) for path, _ in jtu.tree_leaves_with_path(selected)}
    if not last & chosen:
        raise ValueError(
            "`trainable` selects no parameter of the last layer, which has "
            f"{_names(last)}. Select one of them, or leave `trainable` out."
        )
    return jtu.tree_map_with_path(
        lambda path, _: jtu.keystr(path) in last & chosen, model, is_leaf=is_state
    )


class _Meeting(NamedTuple):
    """An equation in which parameters meet what depends on the input.

    Attributes:
        kind: `"weight"`, `"shift"` (or a scale), or the name of what is not known.
        leaves: the numbers of these parameters.
        before: the meetings whose results enter it.
    """

    kind: str
    leaves: frozenset[int]
    before: frozenset[Path]


class _Past(NamedTuple):
    """Meetings before a value; whether a nonlinearity came after the last weight."""

    meetings: frozenset[Path] = frozenset()
    is_activation: bool = False


def _last(meetings: dict[Path, _Meeting], paths: Sequence[str]) -> frozenset[int]:
    """The leaves of the last layer."""
    of_weights = {at for at, one in meetings.items() if one.kind != "shift"}
    followed = frozenset().union(*(meetings[at].before for at in of_weights))
    ends = {at: one for at, one in meetings.items() if at not in followed}
    weights = [one for one in ends.values() if one.kind != "shift"]
    shifts = [
        one
        for one in ends.values()
        if one.kind == "shift" and not one.before.isdisjoint(of_weights)
    ]
    last = frozenset().union(*(one.leaves for one in weights + shifts))
    say = (
        "Say which parameters you mean: `eqx.tree_at(lambda m: m.readout.weight, "
        "jax.tree.map(lambda _: False, model), True)` is such a `trainable`."
    )
    if not weights:
        raise ValueError(
            "`model` has no last layer that can be seen: there is no weight that no "
            f"other weight follows, or itself in a loop. {say}"
        )
    for one in weights:
        if one.kind != "weight":
            named = _names({paths[i] for i in one.leaves})
            raise ValueError(
                "The last layer of `model` cannot be seen: what "
                f"`{one.kind}` does with {named} is not known. {say}"
            )
    earlier = frozenset().union(
        *(one.leaves for at, one in meetings.items() if at in followed)
    )
    if tied := last & earlier:
        raise ValueError(
            f"{_names({paths[i] for i in tied})} is used in the last layer and before "
            "it, too, so its tangent kernel is not that of the last layer alone. Give "
            "the readout an array of its own, as by `eqx.tree_at` with a copy of it."
        )
    return last


def _names(paths: set[str]) -> str:
    return ", ".join(f"`model{path}`" for path in sorted(paths))


def _meetings(flat: Any, n_leaves: int) -> dict[Path, _Meeting]:
    """Where parameters meet what depends on the input, in scans too."""
    found: dict[Path, _Meeting] = {}
    inputs = [_Past()] * len(flat.jaxpr.invars)
    _walk(flat.jaxpr, inputs, (), sources(flat, n_leaves), found)
    return found


def _walk(
    jaxpr: Jaxpr,
    inputs: Sequence[_Past],
    path: Path,
    operands_at: dict[Path, list[Source]],
    found: dict[Path, _Meeting],
) -> list[_Past]:
    """The pasts of a jaxpr's results; its meetings go into `found`."""
    known = dict.fromkeys(jaxpr.constvars, _Past())
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Past:
        return _Past() if isinstance(atom, Literal) else known[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        here = (*path, number)
        pasts = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name == "scan":
            results = _through_scan(eqn, pasts, here, operands_at, found)
        else:
            past = _after(eqn, operands_at[here], pasts, here, found)
            results = [past] * len(eqn.outvars)
        for var, result in zip(eqn.outvars, results, strict=True):
            if not isinstance(var, DropVar):
                known[var] = result
    return [read(atom) for atom in jaxpr.outvars]


def _through_scan(
    eqn: JaxprEqn,
    pasts: list[_Past],
    here: Path,
    operands_at: dict[Path, list[Source]],
    found: dict[Path, _Meeting],
) -> list[_Past]:
    body, n_consts, n_carry = scan_parts(eqn)
    carries = slice(n_consts, n_consts + n_carry)
    inputs = list(pasts)
    while True:
        results = _walk(body.jaxpr, inputs, here, operands_at, found)
        pairs = zip(inputs[carries], results[:n_carry], strict=True)
        joined = [_joined(pair) for pair in pairs]
        if joined == inputs[carries]:
            return results
        inputs[carries] = joined


def _joined(several: Sequence[_Past]) -> _Past:
    return _Past(
        frozenset().union(*(one.meetings for one in several)),
        any(one.is_activation for one in several),
    )


_PRODUCTS = frozenset("mul div dot_general conv_general_dilated".split())
_LOOK_UPS = frozenset("gather dynamic_slice".split())
_SHIFTS = frozenset("add add_any sub concatenate select_n".split())


def _after(
    eqn: JaxprEqn,
    operands: Sequence[Source],
    pasts: Sequence[_Past],
    here: Path,
    found: dict[Path, _Meeting],
) -> _Past:
    """The past of an equation's result; a meeting goes into `found`."""
    name = eqn.primitive.name
    past = _joined(pasts)
    n_data = sum(one.data for one in operands)
    if n_data and (name in ACTIVATIONS or name in _PRODUCTS and n_data > 1):
        past = past._replace(is_activation=True)
    alone = [one.leaves for one in operands if not one.data]
    leaves = frozenset().union(*alone)
    if not (n_data and leaves):
        return past
    if name in _SHIFTS or name in ("mul", "div") and not past.is_activation:
        kind = "shift"
    elif name in _PRODUCTS or name in _LOOK_UPS and operands[0].leaves == leaves:
        kind = "weight"
    else:
        kind = name
    found[here] = _Meeting(kind, leaves, past.meetings)
    is_activation = past.is_activation and kind == "shift"
    return _Past(past.meetings | {here}, is_activation)
