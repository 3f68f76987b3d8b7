"""What each parameter of a model is: a weight and of which fan-in, a bias or a gain.

Read from the one place where it meets activations. Where two places disagree, or a
place says nothing, an error names the parameter, the place and what to type.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path as File
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
import jaxtyping
import numpy as np
from jax.extend.core import JaxprEqn

from .._checks import is_traced
from .._parameters import partition
from .._types import Examples, Model, Trainable
from .flatten import Flat, aval, flatten, scan_parts
from .sources import Source, sources
from .uses import Path, Use, View, is_view, uses


class Role(NamedTuple):
    """What a parameter is.

    Attributes:
        kind: `"weight"`, `"bias"`, or `"gain"`, which is whatever multiplies or shifts
            what is normalised, and whatever else keeps its start.
        fan_in: over how many entries a weight sums: 1 for a row that is looked up, and
            for biases and gains.
        fan_out: how many entries it has for each of these.
        layer: `"hidden"` between other weights, `"input"` if no other weight feeds it,
            `"output"` if it feeds no other weight, `"single"` if neither. A weight that
            feeds itself, as a recurrent one, is hidden; one that sums over no units,
            as a convolution of each channel alone, is not hidden but an input weight.
        kept: whether it keeps its start: gains, and weights that are zero at the start.
    """

    kind: str
    fan_in: int
    fan_out: int
    layer: str
    kept: bool


class _Reading(NamedTuple):
    """What one use says of a parameter."""

    kind: str
    fan_in: int
    fan_out: int
    mixes: bool = True

    @property
    def role(self) -> int | str:
        """As a user says it."""
        return self.fan_in if self.kind == "weight" else self.kind


def roles(
    model: Model,
    x: Examples,
    given: Mapping[str, int | str] | None = None,
    drawn: Collection[str] = (),
    trainable: Trainable = None,
) -> dict[str, Role]:
    """The role of each parameter, by its path below the model.

    Args:
        model: any module.
        x: one example, of which shapes are read.
        given: roles that are not read: a weight's fan-in, `"bias"` or `"gain"`.
        drawn: the paths of parameters that are not at their start, even where zero.
        trainable: which leaves are parameters.

    Raises:
        ValueError: if a parameter has no role that can be read, or two.

    Costs one trace of the model; nothing is computed. Values are read where they are
    known, to see which parameters are zero.
    """
    given = {} if given is None else given
    params, static = partition(model, trainable)
    with_paths, treedef = jtu.tree_flatten_with_path(params)
    paths = [jtu.keystr(path) for path, _ in with_paths]
    leaves = [leaf for _, leaf in with_paths]
    flat = flat_model(leaves, treedef, static, x)
    trace = _Trace(flat, len(leaves))
    read = [
        _given(given[path], leaf.shape, trace.readings(i))
        if path in given
        else _agreed(path, trace.uses_of(i), trace.readings(i))
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
    ]
    weights = frozenset(i for i, one in enumerate(read) if one.kind == "weight")
    fed_by = [trace.fed_by(i) for i in range(len(leaves))]
    feeding = frozenset().union(*(fed_by[i] for i in weights))

    def role(i: int, path: str, leaf: Any) -> Role:
        one = read[i]
        layer = _LAYERS[bool(fed_by[i] & weights), i in feeding]
        sums_over_units = one.fan_in > 1 and one.mixes
        if one.kind == "weight" and layer == "hidden" and not sums_over_units:
            layer = "input"
        at_zero = path not in given and path not in drawn and _is_zero(leaf)
        kind = "gain" if one.kind == "bias" and at_zero else one.kind
        kept = kind == "gain" or at_zero
        return Role(kind, one.fan_in, one.fan_out, layer, kept)

    return {
        path: role(i, path, leaf)
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
    }


_LAYERS = {
    (False, False): "single",
    (False, True): "input",
    (True, False): "output",
    (True, True): "hidden",
}


def _is_zero(leaf: Any) -> bool:
    """Whether an array is known to be zero."""
    return not is_traced(leaf) and not np.asarray(leaf).any()


def flat_model(leaves: list[Any], treedef: Any, static: Any, x: Examples) -> Flat:
    """What the model does with its parameters (the leaves) and one example."""

    def is_input(leaf: Any) -> bool:
        return eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)

    def function(leaves: list[Any], dynamic: Any) -> list[Any]:
        model = eqx.combine(treedef.unflatten(leaves), static)
        out = model(eqx.combine(dynamic, fixed))
        return jtu.tree_leaves(eqx.filter(out, eqx.is_array))

    dynamic, fixed = eqx.partition(x, is_input)
    structs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return flatten(function, structs, dynamic)


class _Trace:
    """A model's jaxpr, with the sources of its operands and the uses of its leaves."""

    def __init__(self, flat: Flat, n_leaves: int):
        self._sources = sources(flat, n_leaves)
        self._uses = uses(flat, n_leaves, self._is_view)
        self._contractions = _contractions(flat, self._sources, self._uses)

    def uses_of(self, leaf: int) -> list[Use]:
        """Where what it is part of is contracted, and then where it is seen."""
        return [use for use, _ in self._contractions.get(leaf, [])] + self._uses[leaf]

    def readings(self, leaf: int) -> list[_Reading | str]:
        """What each of these says of it, or why it says nothing."""
        return [_PART] * len(self._contractions.get(leaf, [])) + [
            _reading(use, self._others(use), self._result_size(use))
            for use in self._uses[leaf]
        ]

    def fed_by(self, leaf: int) -> frozenset[int]:
        """The leaves that feed it, where it is used."""
        others = [other for use in self._uses[leaf] for other in self._others(use)]
        others += [
            o for _, several in self._contractions.get(leaf, []) for o in several
        ]
        return frozenset().union(*(other.fed_by for other in others))

    def _others(self, use: Use) -> list[Source]:
        operands = [] if use.eqn is None else self._sources[use.path]
        return [one for i, one in enumerate(operands) if i != use.operand]

    def _result_size(self, use: Use) -> int:
        return 0 if use.eqn is None else aval(use.eqn.outvars[0]).size

    def _is_view(self, eqn: JaxprEqn, operand: int, path: Path) -> bool:
        name = eqn.primitive.name
        others = [o for i, o in enumerate(self._sources[path]) if i != operand]
        if name == "broadcast_in_dim":
            return True
        if name == "dynamic_slice":  # a loop's own counter selects
            return operand == 0 and all(other.is_constant for other in others)
        return is_view(eqn, operand, path) and all(o.is_constant for o in others)


def _contractions(
    flat: Flat, found: dict[Path, list[Source]], of_leaves: list[list[Use]]
) -> dict[int, list[tuple[Use, list[Source]]]]:
    """Where a leaf is contracted as a part of something that is no view of it."""
    at = {(use.path, use.operand) for of_leaf in of_leaves for use in of_leaf}
    parts: dict[int, list[tuple[Use, list[Source]]]] = {}
    for path, eqn in _equations(flat, found):
        if eqn.primitive.name not in ("dot_general", "conv_general_dilated"):
            continue
        for operand, one in enumerate(found[path]):
            if (path, operand) in at:
                continue
            others = [o for i, o in enumerate(found[path]) if i != operand]
            for leaf in one.made_of:
                use = Use(View(leaf, ()), path, eqn, operand)
                parts.setdefault(leaf, []).append((use, others))
    return parts


def _equations(flat: Flat, found: Mapping[Path, Any]) -> list[tuple[Path, JaxprEqn]]:
    several: list[tuple[Path, JaxprEqn]] = []

    def walk(jaxpr: Any, path: Path) -> None:
        for number, eqn in enumerate(jaxpr.eqns):
            several.append(((*path, number), eqn))
            if eqn.primitive.name == "scan":
                walk(scan_parts(eqn).body.jaxpr, (*path, number))

    walk(flat.jaxpr, ())
    return several


_PART = (
    "what meets activations is made of it and of other arrays, as in weight "
    "normalisation, masked weights and low-rank updates"
)


def _reading(use: Use, others: list[Source], result_size: int) -> _Reading | str:
    """What a use says of a parameter, or why it says nothing."""
    name, eqn, shape = use.name, use.eqn, use.view.shape
    if eqn is None:
        return "the model returns it as it is"
    before = _before_copies(use.view)
    if name in ("dot_general", "conv_general_dilated"):
        if any(other.made_of for other in others):
            return "it is contracted with another parameter and not with activations"
        if before != shape:
            return "it is repeated along an axis before it is contracted"
        return _of_contraction(eqn, use.operand, shape)
    if name in ("gather", "dynamic_slice") and use.operand == 0:
        if not any(other.data for other in others):
            return "entries of it are taken at fixed places"
        row = [n for n in eqn.params["slice_sizes"] if n > 1]
        if len(row) > 1:
            return f"arrays of shape {tuple(row)} are looked up in it"
        return _Reading("weight", 1, math.prod(row))
    axes = [n for n in before if n > 1]
    if name in ("add", "sub"):
        if any(other.scaled for other in others):
            return _Reading("gain", 1, math.prod(axes))
        if len(axes) > 1:
            return (
                f"it is added with {len(axes)} axes, of shape {before}: a bias or a "
                "positional embedding"
            )
        return _Reading("bias", 1, math.prod(axes))
    if name in ("mul", "div"):
        (other,) = others
        if other.is_constant:
            return "it is multiplied by a constant array, as by a mask"
        if result_size > other.size:
            return (
                "it is multiplied by something smaller, which it spreads over more "
                "units: a weight of fan-in 1 or a gain"
            )
        return _Reading("gain", 1, math.prod(axes))
    if name == "scan":
        return "a loop starts from it"
    return "what that makes of it is not known"


def _of_contraction(
    eqn: JaxprEqn, operand: int, shape: tuple[int, ...]
) -> _Reading | str:
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        contracted, batch = numbers[0][operand], numbers[1][operand]
        free = set(range(len(shape))) - {*contracted, *batch}
        fan_in, fan_out = (math.prod(shape[i] for i in s) for s in (contracted, free))
        return _Reading("weight", fan_in, fan_out)
    if operand != 1 or eqn.params["batch_group_count"] != 1:
        return "it is convolved as an image and not as a kernel"
    out, channels, *window = numbers.rhs_spec
    fan_in = shape[channels] * math.prod(shape[i] for i in window)
    mixes = shape[channels] > 1 or eqn.params["feature_group_count"] == 1
    return _Reading("weight", fan_in, shape[out], mixes)


def _before_copies(view: View) -> tuple[int, ...]:
    """The shape of a view before it was repeated along some axis."""
    for step in view.steps:
        before = aval(step.eqn.invars[step.operand])
        if (
            step.name == "broadcast_in_dim"
            and before.size < aval(step.eqn.outvars[0]).size
        ):
            return before.shape
    return view.shape


def _given(
    role: int | str, shape: tuple[int, ...], readings: list[_Reading | str]
) -> _Reading:
    """A role that the user gives; what it does not say is taken from the uses."""
    kind = role if isinstance(role, str) else "weight"
    fan_in = role if isinstance(role, int) else 1
    alike = [r for r in readings if isinstance(r, _Reading) and r.kind == kind]
    # Of rows, as positional embeddings are, the last axis counts units.
    guess = math.prod(shape[-1:] if role == 1 else shape) // fan_in
    fan_out = max((r.fan_out for r in alike), default=max(1, guess))
    return _Reading(kind, fan_in, fan_out, all(r.mixes for r in alike))


def _agreed(path: str, of_leaf: list[Use], readings: list[_Reading | str]) -> _Reading:
    """What all uses of a parameter say.

    Raises:
        ValueError: if they say nothing, or two things.
    """
    says = (
        f"Say what it is: `roles={{{path!r}: 64}}` for a weight of fan-in 64 (1 for "
        'an embedding), `"bias"`, or `"gain"` to keep its start.'
    )
    if not readings:
        raise ValueError(
            f"The parameter `model{path}` has no role that can be read: it is not used "
            f"for this example. {says}"
        )
    for use, reading in zip(of_leaf, readings, strict=True):
        if isinstance(reading, str):
            raise ValueError(
                f"The parameter `model{path}` has no role that can be read: {reading} "
                f"({_place(use)}). {says}"
            )
    first, *rest = (r for r in readings if isinstance(r, _Reading))
    for use, other in zip(of_leaf[1:], rest, strict=True):
        if other.role != first.role:
            raise ValueError(
                f"The parameter `model{path}` is used with the roles {first.role!r} "
                f"and {other.role!r} (fan-in, or kind): {_place(of_leaf[0])} and "
                f"{_place(use)}. Say which: `roles={{{path!r}: {other.role!r}}}`."
            )
    fan_out = max(r.fan_out for r in (first, *rest))
    return first._replace(fan_out=fan_out)


_NOT_THE_USERS = tuple(
    str(File(str(package.__file__)).parent) for package in (jax, eqx, jaxtyping)
) + (str(File(__file__).parent.parent),)


def _place(use: Use) -> str:
    """The primitive, and the user's line that called it."""
    frames = getattr(getattr(use.eqn, "source_info", None), "traceback", None)
    for frame in getattr(frames, "frames", []):
        name = frame.file_name
        if not name.startswith(("<", *_NOT_THE_USERS)):
            return f"`{use.name}` at {File(name).name}:{frame.line_num}"
    return f"`{use.name}`"
