"""What the arguments of a kernel say of each parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .. import _checks
from .._checks import is_traced
from .._parameterize import Parameterized
from .._scalings import SCHEMES, scaling, vanishes
from .._trace.roles import Role, roles
from . import priors


class Arguments(NamedTuple):
    """Those of `infinite_kernels`, as given."""

    parameterization: Any = None
    W_std: Any = None
    b_std: Any = None
    learning_rate: Any = None
    finite: Any = ()
    roles: Any = None
    batch_size: Any = 256
    tolerance: Any = None


class Numbers(NamedTuple):
    """What kernels may be differentiated by."""

    W_std: Any
    b_std: Any
    rates: tuple[Any, ...]


class Uses(NamedTuple):
    """What sets of parameters are, by their numbers; the program depends on it.

    Attributes:
        kept: those that keep their start.
        still: those whose variance is zero.
        frozen: those that do not move.
        finite: those whose own axes do not go to infinity.
        grows: whether the tangent kernel is wanted, and grows as the width.
    """

    kept: frozenset[int]
    still: frozenset[int]
    frozen: frozenset[int]
    finite: frozenset[int]
    grows: bool


@dataclass(frozen=True)
class Reading:
    """What is read off a model once: how it is drawn, and what its parameters are.

    Attributes:
        paths: of the parameters.
        roles: of the parameters.
        scheme: the parameterization, or `None` for Equinox's own initialisation.
        written: whether multipliers are in the model's own code.
        own: the standard deviations that Equinox's layers draw with.
    """

    paths: tuple[str, ...]
    roles: tuple[Role, ...]
    scheme: str | None
    written: bool
    own: tuple[float, ...] | None

    def prior(self, leaf: int, numbers: Numbers) -> tuple[Any, Any]:
        """Variance of a parameter, and the rate at which it moves."""
        rate = numbers.rates[leaf]
        if self.scheme is None:
            assert self.own is not None
            return self.own[leaf] ** 2, rate
        role = self.roles[leaf]
        std, multiplier = scaling(self.scheme, role, numbers.W_std, numbers.b_std)
        std = 0.0 if role.kept else std
        if self.written:
            return std**2, rate
        return (std * multiplier) ** 2, multiplier**2 * rate

    @property
    def vanishing(self) -> frozenset[int]:
        """The parameters whose variance counts for the tangent kernel alone."""
        if self.scheme is None:
            return frozenset()
        return frozenset(
            i for i, role in enumerate(self.roles) if vanishes(self.scheme, role)
        )

    def uses(self, numbers: Numbers, arguments: Arguments, tangent: bool) -> Uses:
        """What each parameter is for these arguments."""
        kept = frozenset(i for i, role in enumerate(self.roles) if role.kept)
        still = kept | {
            i
            for i, role in enumerate(self.roles)
            if self.scheme
            and _is_zero(numbers.W_std if role.kind == "weight" else numbers.b_std)
        }
        finite = frozenset(_named("finite", arguments.finite, self.paths))
        frozen = frozenset(i for i, r in enumerate(numbers.rates) if _is_zero(r))
        grows = tangent and self.scheme in (None, "standard")
        return Uses(kept, still, frozen, finite, grows)


def read_model(model: Any, params: Any, x: Any, arguments: Arguments) -> Reading:
    """What a model's parameters are, and how they are drawn.

    Raises:
        ValueError: if that cannot be read.
    """
    if not isinstance(model, Parameterized) and any(
        map(_is_parameterized, _parts(model))
    ):
        raise ValueError(
            "A part of the model was made by `nt.parameterize`, and the rest was not: "
            "what the whole converges to is not known from that part. Pass the model "
            "to `nt.parameterize` as a whole, or that part alone to this function."
        )
    paths = paths_of(params)
    scheme, *_ = deviations(model, arguments)
    if isinstance(model, Parameterized):
        role_of = {f".module{path}": role for path, role in model.roles}
    else:
        role_of = roles(model, x, _checked_roles(arguments.roles, paths))
    found = tuple(role_of[path] for path in paths)
    own = None if scheme else tuple(_own_deviations(model, paths, found))
    return Reading(paths, found, scheme, isinstance(model, Parameterized), own)


def _is_parameterized(node: Any) -> bool:
    return isinstance(node, Parameterized)


def _parts(model: Any) -> list[Any]:
    return jtu.tree_leaves(model, is_leaf=_is_parameterized)


def paths_of(params: Any) -> tuple[str, ...]:
    """Of the parameters, below the model."""
    return tuple(jtu.keystr(p) for p, _ in jtu.tree_flatten_with_path(params)[0])


def numbers(model: Any, params: Any, arguments: Arguments, dtype: Any) -> Numbers:
    """The numbers among the arguments, in the precision of the kernel."""
    _, W_std, b_std = deviations(model, arguments)
    rates = _rates(arguments.learning_rate, paths_of(params))

    def made(number: Any) -> Any:
        if number is None:
            return None
        # NumPy's, where that is possible: they cost nothing to hand over.
        return (jnp if is_traced(number) else np).asarray(number, dtype)

    return Numbers(made(W_std), made(b_std), tuple(map(made, rates)))


def _own_deviations(
    model: Any, paths: tuple[str, ...], found: tuple[Role, ...]
) -> list[float]:
    own = priors.own_deviations(model)
    deviations = []
    for path, role in zip(paths, found, strict=True):
        if not role.kept and path not in own:
            raise ValueError(
                f"How the parameter `model{path}` is drawn is not known: it sits in no "
                "layer of `equinox.nn` with an initialisation of its own. Pass "
                '`parameterization="ntk"` or another, with `W_std` and `b_std`.'
            )
        deviations.append(0.0 if role.kept else own[path])
    return deviations


def _is_zero(number: Any) -> bool:
    return not is_traced(number) and float(number) == 0


def deviations(model: Any, arguments: Arguments) -> tuple[Any, Any, Any]:
    """The parameterization, and the standard deviations that belong to it.

    Raises:
        ValueError: if they do not go together.
    """
    scheme, W_std, b_std = arguments[:3]
    for name, value in (("W_std", W_std), ("b_std", b_std)):
        if value is not None:
            _checks.non_negative(name, value)
    if isinstance(model, Parameterized):
        if (scheme, arguments.roles) != (None, None):
            raise ValueError(
                "The model was made by `parameterize`, which says how it is drawn: "
                "leave `parameterization` and `roles` out, or pass `model.module`."
            )
        scheme = model.scheme
        W_std = model.W_std if W_std is None else W_std
        b_std = model.b_std if b_std is None else b_std
        if (W_std, b_std) != (model.W_std, model.b_std):
            raise ValueError(
                "The model was made by `parameterize`, with its own `W_std` and "
                "`b_std`: leave them out, or pass `model.module`."
            )
        return scheme, W_std, b_std
    if scheme is None:
        if W_std is not None or b_std is not None:
            raise ValueError(
                "`W_std` and `b_std` belong to a parameterization: pass "
                f"`parameterization` with them, one of {', '.join(map(repr, SCHEMES))}."
            )
        return None, None, None
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(
            f"`parameterization` must be one of {', '.join(map(repr, SCHEMES))} or "
            f"`None`, but it is {scheme!r}."
        )
    return scheme, 1.0 if W_std is None else W_std, 0.0 if b_std is None else b_std


def _checked_roles(given: Any, paths: Sequence[str]) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            "`roles` must map the paths of parameters to their roles, such as "
            f'`{{".scale": "gain"}}`, but it is {type(given).__name__}.'
        )
    _named("roles", given, paths)
    return given


def _rates(learning_rate: Any, paths: Sequence[str]) -> list[Any]:
    if learning_rate is None:
        return [1.0] * len(paths)
    if isinstance(learning_rate, Mapping):
        _named("learning_rate", learning_rate, paths)
        for path, rate in learning_rate.items():
            _checks.non_negative(f"learning_rate[{path!r}]", rate)
        return [learning_rate.get(path, 1.0) for path in paths]
    _checks.non_negative("learning_rate", learning_rate)
    return [learning_rate] * len(paths)


def _named(name: str, given: Any, paths: Sequence[str]) -> list[int]:
    if isinstance(given, str):
        given = (given,)
    for path in given:
        if path not in paths:
            raise ValueError(
                f"`{name}` names {path!r}, which is no parameter of the model; its "
                f"parameters are {', '.join(map(repr, paths))}."
            )
    return [i for i, path in enumerate(paths) if path in given]
