"""Sums over axes: of one array, or of the product of two."""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from ..._trace.flatten import aval
from ..arrays import data as deterministic, fields
from ..arrays.algebra import check_vanishing, filled, zero_mean
from ..arrays.contraction import contracted, convolved
from ..arrays.sums import overlap, summed
from ..errors import NoLimitError
from ..nodes import Data, Field, Par, Term
from ..reader import Reader, rule


@rule("reduce_sum")
def _reduce_sum(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    axes = tuple(int(a) for a in eqn.params["axes"])
    if isinstance(values[0], Par):
        raise NoLimitError("a sum over the entries of a parameter")
    if not axes:
        return values
    return [summed(reader.atoms, values[0], axes)]


@rule("dot_general")
def _dot_general(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    (one_c, two_c), (one_b, two_b) = eqn.params["dimension_numbers"]
    one, two = values
    if isinstance(one, Par) and isinstance(two, Par):
        raise NoLimitError("a product of two parameters")
    if isinstance(one, Par) or isinstance(two, Par):
        first = isinstance(one, Par)
        par, other = (one, two) if first else (two, one)
        assert isinstance(par, Par) and isinstance(other, Data | Field)
        pairs = [
            list(zip(one_c, two_c, strict=True)),
            list(zip(one_b, two_b, strict=True)),
        ]
        if not first:
            pairs = [[(j, i) for i, j in p] for p in pairs]
        if isinstance(other, Data):
            if deterministic.scalar_of(other) == 0:
                # A state that starts at zero; the axes of the result go to infinity.
                if other.average:
                    check_vanishing(reader.atoms)
                other = fields.from_data(other)
                made = contracted(reader.drawer, par, other, *pairs, par_first=first)
                return [
                    fields.with_terms(made, [Term(filled(0.0, len(made.sizes)), ())])
                ]
            other = fields.from_data(other)
        return [contracted(reader.drawer, par, other, *pairs, par_first=first)]
    return [_product(reader, eqn, one, two)]


def _product(reader: Reader, eqn: JaxprEqn, one: Any, two: Any) -> Any:
    """A contraction of two arrays that are no parameters: their product, summed."""
    (one_c, two_c), (one_b, two_b) = eqn.params["dimension_numbers"]
    one_f = [i for i in range(len(one.shape)) if i not in (*one_c, *one_b)]
    two_f = [i for i in range(len(two.shape)) if i not in (*two_c, *two_b)]
    batch = [one.shape[i] for i in one_b]
    left, right = [one.shape[i] for i in one_f], [two.shape[i] for i in two_f]
    inner = [one.shape[i] for i in one_c]
    whole = (*batch, *left, *right, *inner)

    def multiplied(a: Any, b: Any) -> Any:
        a = jnp.transpose(a, (*one_b, *one_f, *one_c))
        b = jnp.transpose(b, (*two_b, *two_f, *two_c))
        n, l, r, c = len(batch), len(left), len(right), len(inner)
        a = lax.broadcast_in_dim(
            a, whole, (*range(n + l), *range(n + l + r, n + l + r + c))
        )
        b = lax.broadcast_in_dim(b, whole, (*range(n), *range(n + l, n + l + r + c)))
        return a * b

    (product,) = reader.traced(multiplied, one, two)
    axes = tuple(range(len(whole) - len(inner), len(whole)))
    if not axes:
        return product
    if isinstance(product, Data):
        (result,) = reader.traced(lambda a: jnp.sum(a, axes), product)
        return result
    wide = any(f.kind == "wide" for i in axes for f in product.axes[i])
    if (
        wide
        and zero_mean(product.terms)
        and all(isinstance(v, Field) for v in (one, two))
    ):
        return overlap(product, axes, reader.atoms)
    return summed(reader.atoms, product, axes)


@rule("conv_general_dilated")
def _convolution(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    x, kernel = values
    if not isinstance(kernel, Par) or isinstance(x, Par):
        raise NoLimitError("a convolution whose kernel is no parameter")
    if isinstance(x, Data):
        x = fields.from_data(x)
    return [convolved(reader.drawer, kernel, x, eqn, aval(eqn.outvars[0]))]
