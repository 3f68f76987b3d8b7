"""Where a model uses each of its parameters, and through what it sees them.

Walks a flat jaxpr once, forwards. A value that is a parameter seen through reshapes,
transposes, slices, casts and factors is a `View`; anything else that takes a view is a
`Use` of it. Nothing is assumed of a primitive that is not named here: it is a use.

A `Path` leads to an equation: its number, after those of the scans whose bodies it is
in.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from .flatten import Flat, aval, scan_parts

Path = tuple[int, ...]


class Step(NamedTuple):
    """One equation between a parameter and a view of it.

    Attributes:
        path: to the equation.
        eqn: the equation.
        operand: which of its operands the view is.
        result: which of its results the next view is.
    """

    path: Path
    eqn: JaxprEqn
    operand: int
    result: int

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.eqn.primitive.name

    @property
    def enters_scan(self) -> bool:
        """Whether the next view is what a scan hands to its body."""
        return self.name == "scan"


class View(NamedTuple):
    """A parameter leaf seen through some steps.

    Attributes:
        leaf: the number of the leaf.
        shape: of the view.
        steps: from the leaf to the view.
    """

    leaf: int
    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()

    @property
    def layout(self) -> tuple[Any, ...]:
        """Equal for views with the same entries in the same places, up to factors."""
        return tuple(
            (step.name, step.result, is_sliced(step))
            if step.enters_scan
            else (step.name, step.result, str(step.eqn.params))
            for step in self.steps
            if step.name not in FACTORS
        )

    @property
    def keeps_all_entries(self) -> bool:
        """Whether each entry of the leaf is in the view once, at one step of scans."""
        return not any(step.name in _SELECTIONS for step in self.steps)

    @property
    def scans(self) -> tuple[Step, ...]:
        """The steps into scans, outermost first."""
        return tuple(step for step in self.steps if step.enters_scan)


class Use(NamedTuple):
    """Where a view of a parameter enters an equation that is no view of it.

    Attributes:
        view: what enters.
        path: to the equation; to the jaxpr whose result it is, without one.
        eqn: the equation; `None` where a jaxpr returns the view as it is.
        operand: which of the equation's operands, or the jaxpr's results, the view is.
    """

    view: View
    path: Path
    eqn: JaxprEqn | None
    operand: int

    @property
    def name(self) -> str:
        """The primitive's name, or `"result"`."""
        return "result" if self.eqn is None else self.eqn.primitive.name


FACTORS = frozenset("mul div neg".split())
"""Steps that multiply a view by one number, or divide it."""

# Each entry once, in another place or another precision.
_BIJECTIONS = frozenset("reshape transpose squeeze expand_dims rev copy neg".split())

# Some of the entries, each at most once.
_SELECTIONS = frozenset("slice split".split())


def is_view(eqn: JaxprEqn, operand: int, path: Path) -> bool:
    """Whether an equation only moves, selects, casts or scales its one view."""
    del path
    name = eqn.primitive.name
    before, after = aval(eqn.invars[operand]), aval(eqn.outvars[0])
    if name in _BIJECTIONS or name in _SELECTIONS:
        return True
    if name == "convert_element_type":
        # From real to complex, or to integers, is a function of its own.
        return jnp.issubdtype(after.dtype, jnp.inexact) and (
            jnp.issubdtype(before.dtype, jnp.complexfloating)
            == jnp.issubdtype(after.dtype, jnp.complexfloating)
        )
    if name == "broadcast_in_dim":
        return after.size == before.size
    if name == "mul" or name == "div" and operand == 0:
        return aval(eqn.invars[1 - operand]).size == 1 and after.shape == before.shape
    return False


def uses(
    flat: Flat,
    n_leaves: int,
    is_view: Callable[[JaxprEqn, int, Path], bool] = is_view,
) -> list[list[Use]]:
    """The uses of each of the first `n_leaves` inputs of a flat jaxpr.

    `is_view` says of an equation, of which of its operands is the only view among them,
    and of the path to it, whether its results are views, too.
    """
    views = {
        var: View(i, aval(var).shape)
        for i, var in enumerate(flat.jaxpr.invars[:n_leaves])
    }
    found: list[list[Use]] = [[] for _ in range(n_leaves)]
    for use in _uses(flat.jaxpr, views, (), is_view):
        found[use.view.leaf].append(use)
    return found


def is_sliced(step: Step) -> bool:
    """Whether a step into a scan hands its body one slice of the view at a time."""
    _, n_consts, n_carry = scan_parts(step.eqn)
    return step.operand >= n_consts + n_carry


def _uses(
    jaxpr: Jaxpr,
    views: dict[Any, View],
    path: Path,
    is_view: Callable[[JaxprEqn, int, Path], bool],
) -> Iterable[Use]:
    """The uses, in one jaxpr, of views some of which are its inputs."""
    views = dict(views)
    for number, eqn in enumerate(jaxpr.eqns):
        seen = {
            i: views[atom]
            for i, atom in enumerate(eqn.invars)
            if not isinstance(atom, Literal) and atom in views
        }
        here = (*path, number)
        if len(seen) == 1 and is_view(eqn, next(iter(seen)), here):
            ((operand, view),) = seen.items()
            for result, var in enumerate(eqn.outvars):
                step = Step(here, eqn, operand, result)
                views[var] = View(view.leaf, aval(var).shape, (*view.steps, step))
        elif seen and eqn.primitive.name == "scan":
            yield from _uses_in_scan(eqn, seen, here, is_view)
        else:
            for operand, view in seen.items():
                yield Use(view, here, eqn, operand)
    for result, atom in enumerate(jaxpr.outvars):
        if not isinstance(atom, Literal) and atom in views:
            yield Use(views[atom], path, None, result)


def _uses_in_scan(
    eqn: JaxprEqn,
    seen: dict[int, View],
    here: Path,
    is_view: Callable[[JaxprEqn, int, Path], bool],
) -> Iterable[Use]:
    body, n_consts, n_carry = scan_parts(eqn)
    views = {}
    for operand, view in seen.items():
        if n_consts <= operand < n_consts + n_carry:
            yield Use(view, here, eqn, operand)  # another value at each step
            continue
        var = body.jaxpr.invars[operand]
        step = Step(here, eqn, operand, operand)
        views[var] = View(view.leaf, aval(var).shape, (*view.steps, step))
    yield from _uses(body.jaxpr, views, here, is_view)
