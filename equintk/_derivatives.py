"""The derivative along a direction, also where only a reverse rule is known."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxpr_as_fun, jaxprs_in_params


def directional(
    function: Callable[..., Sequence[Any]],
    primals: Sequence[Any],
    tangents: Sequence[Any],
) -> tuple[list[Any], list[Any]]:
    """`jax.jvp`, for functions with custom reverse rules as well.

    What `jax.custom_vjp` defines is transposed back: it is linear in the cotangent, or
    it is no derivative.

    Args:
        function: from inexact arrays to a list of arrays.
        primals: where.
        tangents: along what, of the shapes and dtypes of `primals`.

    Returns:
        The values, and their derivatives along `tangents`: `None` for what is not
        inexact.
    """
    closed = jax.make_jaxpr(function)(*primals)
    avals: Any = closed.out_avals
    inexact = [jnp.issubdtype(a.dtype, jnp.inexact) for a in avals]

    def traced(*primals: Any) -> tuple[list[Any], list[Any]]:
        values = list(zip(jaxpr_as_fun(closed)(*primals), inexact, strict=True))
        return [v for v, moves in values if moves], [v for v, _ in values]

    if any(_has_reverse_rule(closed.jaxpr)):
        value, pullback, values = jax.vjp(traced, *primals, has_aux=True)
        derivatives = _transposed(pullback, value, tangents)
    else:
        _, derivatives, values = jax.jvp(
            traced, tuple(primals), tuple(tangents), has_aux=True
        )
    moved = iter(derivatives)
    return values, [next(moved) if moves else None for moves in inexact]


def _transposed(
    pullback: Callable[..., Any], value: list[Any], tangents: Sequence[Any]
) -> list[Any]:
    try:
        (derivatives,) = jax.linear_transpose(pullback, value)(tuple(tangents))
    except Exception as error:
        error.add_note(
            "equintk took the derivative along a direction by transposing the reverse "
            "rules that `jax.custom_vjp` defines in the model. A rule must be linear "
            "in the cotangent, which clipping, for example, is not: no kernel and no "
            "linearisation belongs to such a rule."
        )
        raise
    return derivatives


def _has_reverse_rule(jaxpr: Jaxpr) -> Iterable[bool]:
    """Whether each equation is defined by `jax.custom_vjp`, at any depth of bodies."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        yield name.startswith("custom_vjp_call")
        if name != "custom_jvp_call":  # whose body is not what is differentiated
            for body in jaxprs_in_params(eqn.params):
                yield from _has_reverse_rule(getattr(body, "jaxpr", body))
